"""preempt-runtime: load bundles and run them so that the most urgent job gets the device next."""

__version__ = "0.1.0"
