"""preemptc: compile ONNX networks into bundles with preemption points."""

__version__ = "0.1.0"
