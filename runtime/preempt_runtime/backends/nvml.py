"""The edge to NVML, NVIDIA's management library: whatever it refuses becomes an `Unknown`.

NVML makes no context and takes no device memory. Older drivers lack functions, and an integrated
GPU supports few of them.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from preempt_runtime.unknown import Unknown

try:
    import pynvml
except ImportError:  # part of the extra [gpu]; without it less can be told
    pynvml = None

SM_DOMAIN, MEMORY_DOMAIN = 1, 2  # NVML_CLOCK_SM, NVML_CLOCK_MEM
_TOO_LARGE = 2**64
_INSTALL = "NVML is not asked: pip install nvidia-ml-py"


class Nvml:
    """One GPU, as NVML knows it."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def ask(self, *functions: str, args: tuple[object, ...] = ()) -> Any:
        """What the first of the functions that this driver has says of the GPU, or an `Unknown`.

        Args:
            functions: names without `nvmlDeviceGet`, the newest first.
            args: what the function takes beside the GPU.
        """
        found: Any = Unknown("")
        for function in functions:
            found = _call(f"nvmlDeviceGet{function}", self._handle, *args)
            if found is None:
                found = Unknown(f"nvmlDeviceGet{function}: nothing")
            if not isinstance(found, Unknown):
                return found
        return found

    def number(self, *functions: str, args: tuple[object, ...] = ()) -> int | Unknown:
        """Like `ask`, of what is a whole number and not negative."""
        return whole_number(self.ask(*functions, args=args), functions[0])

    def driver(self) -> str | Unknown:
        """The driver's version."""
        found = _call("nvmlSystemGetDriverVersion")
        if isinstance(found, bytes):  # of older nvidia-ml-py
            return found.decode(errors="replace")
        return found if isinstance(found, Unknown) else str(found)

    def used_bytes(self) -> int | Unknown:
        """Device memory that processes have taken, without what the driver keeps for itself."""
        version = getattr(pynvml, "nvmlMemory_v2", None)
        if version is None:
            return Unknown("nvidia-ml-py is too old")
        found = self.ask("MemoryInfo", args=(version,))
        return whole_number(getattr(found, "used", found), "MemoryInfo")


def whole_number(value: Any, what: str) -> int | Unknown:
    """What NVML gave as a number, if it is one that NVML could give; an `Unknown` stays one."""
    if isinstance(value, Unknown):
        return value
    if isinstance(value, int) and 0 <= value < _TOO_LARGE:
        return int(value)
    return Unknown(f"NVML's {what} is {type(value).__name__}, or out of range")


@contextlib.contextmanager
def open_nvml(pci_bus_id: str | Unknown) -> Iterator[Nvml | Unknown]:
    """NVML's view of the GPU at that address, or why there is none."""
    if pynvml is None:
        yield Unknown(_INSTALL)
        return
    if isinstance(pci_bus_id, Unknown):
        yield pci_bus_id
        return
    begun = _call("nvmlInit")
    if isinstance(begun, Unknown):
        yield begun
        return
    try:
        handle = _call("nvmlDeviceGetHandleByPciBusId", pci_bus_id)
        yield handle if isinstance(handle, Unknown) else Nvml(handle)
    finally:
        _call("nvmlShutdown")


def _call(function: str, *args: object) -> Any:
    """The function's result, or an `Unknown` with NVML's own text."""
    try:
        return getattr(pynvml, function)(*args)
    except Exception as err:  # NVMLError, and what ctypes and old drivers make of the rest
        text = " ".join(str(err).split()) or type(err).__name__
        return Unknown(f"{function}: {text}")
