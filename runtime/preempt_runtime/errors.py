"""Every error that preemptc and preempt-runtime raise on purpose.

A message says what, where, what was found against what is allowed, and what to do. There is one
class per reaction of the caller; anything else that escapes is a bug of ours.
"""


class PreemptError(Exception):
    """Root of all errors raised on purpose; the command line prints it as one line, exit 1."""


class ModelError(PreemptError):
    """The ONNX model cannot be used as it is: mend the model or its shapes."""


class InfeasibleError(PreemptError):
    """No plan keeps the asked bound: raise the bound or change the network."""


class BuildError(PreemptError):
    """A segment could not be built, or its output is not the network's output."""


class BundleError(PreemptError):
    """A bundle is damaged, foreign, or made for another schema or device: compile it again."""


class DeviceError(PreemptError):
    """The device or its library refused; the driver's own text is part of the message."""


class GatesError(DeviceError):
    """Gates cannot be used here, and the reason: run by segments, which works everywhere."""


class InputError(PreemptError):
    """An input, a task set or an option has the wrong name, type, shape or value: correct it."""


class AdmissionError(PreemptError):
    """A task was not admitted: with it, a deadline might be missed. The others are unharmed."""


class JobCancelledError(PreemptError):
    """The job was cancelled, or skipped for a newer one, before it produced a result."""
