"""Memory by the CUDA driver: of the device, and of the host where the device can reach it."""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preempt_runtime.backends.cuda_driver import call
from preempt_runtime.backends.cuda_handle import Handle
from preempt_runtime.errors import DeviceError
from preempt_runtime.units import fmt_bytes

_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE
_DEVICEMAP = 2  # CU_MEMHOSTALLOC_DEVICEMAP
_LEGACY_STREAM = 0


class DeviceMemory(Handle):
    """A block of device memory, aligned to 256 bytes; its content is undefined."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        super().__init__(_allocate("device", num_bytes, "cuMemAlloc"))
        self.pointer = self.device_pointer = int(self._raw)

    def fill(self, byte: int) -> None:
        """Set every byte, and return when that is done."""
        if self.num_bytes:
            call("cuMemsetD8", self._raw, byte, self.num_bytes)
            call("cuStreamSynchronize", _LEGACY_STREAM)  # what no other stream waits for

    def _destroy(self) -> None:
        call("cuMemFree", self._raw)


class PinnedMemory(Handle):
    """Host memory that the device can copy from and to without the CPU.

    `array` is a view; whoever keeps a view of it must drop it before `close`. Where it is mapped,
    kernels read and write it at `device_pointer`: what the CPU wrote before a launch is seen by
    it, and what a kernel wrote is seen once its end was waited for. A GPU that shares the CPU's
    memory does not cache it (CUDA for Tegra), so what is read again and again is slower there.
    """

    def __init__(self, num_bytes: int, *, is_mapped: bool = False) -> None:
        self.num_bytes = num_bytes
        self.is_mapped = is_mapped
        flags = _PORTABLE | (_DEVICEMAP if is_mapped else 0)
        super().__init__(_allocate("pinned host", num_bytes, "cuMemHostAlloc", flags))
        self.pointer = self.device_pointer = int(self._raw)
        self.array: NDArray[np.uint8] = np.empty(0, np.uint8)
        try:
            if is_mapped:
                self.device_pointer = int(call("cuMemHostGetDevicePointer", self._raw, 0))
        except BaseException:
            self.close()
            raise
        block = (ctypes.c_uint8 * max(1, num_bytes)).from_address(self.pointer)
        self.array = np.ctypeslib.as_array(block)[:num_bytes]

    def fill(self, byte: int) -> None:
        """Set every byte."""
        self.array.fill(byte)

    def _destroy(self) -> None:
        self.array = np.empty(0, np.uint8)
        call("cuMemFreeHost", self._raw)


def _allocate(kind: str, num_bytes: int, function: str, *args: object) -> Any:
    try:
        return call(function, max(1, num_bytes), *args)
    except (DeviceError, OverflowError) as err:  # by how far it exceeds the memory
        raise DeviceError(
            f"no {kind} memory for {fmt_bytes(num_bytes)} ({err});"
            " run fewer or smaller networks, or free what other processes hold"
        ) from err
