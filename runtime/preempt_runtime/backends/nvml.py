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
            if not isinstance(found, Unknown):
                return found
        return found

    def driver(self) -> str | Unknown:
        """The driver's version."""
        found = _call("nvmlSystemGetDriverVersion")
        return found if isinstance(found, Unknown) else str(found)

    def used_bytes(self) -> int | Unknown:
        """Device memory that processes have taken, without what the driver keeps for itself."""
        version = getattr(pynvml, "nvmlMemory_v2", None)
        if version is None:
            return Unknown("nvidia-ml-py is too old")
        found = self.ask("MemoryInfo", args=(version,))
        return found if isinstance(found, Unknown) else int(found.used)


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
    refusals = [pynvml.NVMLError, AttributeError, OSError, ValueError]
    if hasattr(pynvml, "NVMLLibraryMismatchError"):  # no NVMLError: the driver is too old
        refusals.append(pynvml.NVMLLibraryMismatchError)
    try:
        return getattr(pynvml, function)(*args)
    except tuple(refusals) as err:
        text = " ".join(str(err).split()) or type(err).__name__
        return Unknown(f"{function}: {text}")
