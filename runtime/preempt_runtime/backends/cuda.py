"""CUDA by the driver's API: the context, streams, events, memory and captured graphs.

Every handle is a context manager, and nothing is released before its `close`. `close` never
raises: what the driver then says goes to the log, so that the rest can still be closed.
"""

import ctypes
import logging
import time
from abc import abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from preempt_runtime.backends.cuda_driver import (
    GpuProperties,
    call,
    capture_mode,
    driver_version,
    error_text,
    gpu_properties,
    raw_call,
)
from preempt_runtime.errors import DeviceError
from preempt_runtime.units import fmt_bytes

__all__ = [
    "CudaContext",
    "DeviceMemory",
    "Event",
    "GpuProperties",
    "GraphExec",
    "PinnedMemory",
    "Stream",
    "capture",
    "copy_async",
    "driver_version",
    "gpu_properties",
    "open_cuda",
]

_log = logging.getLogger("preempt_runtime.backends.cuda")
_SPIN_NS = 200_000
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING
_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE
_NOT_READY = 600  # CUDA_ERROR_NOT_READY
_LEGACY_STREAM = 0


class _Handle:
    """Something of the driver's that must be given back, once, from any thread."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._is_open = True
        self._home = call("cuCtxGetCurrent")

    @abstractmethod
    def _destroy(self) -> None: ...

    def close(self) -> None:
        """Give it back; without effect the second time."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            if not int(call("cuCtxGetCurrent")):
                raw_call("cuCtxSetCurrent", self._home)
            self._destroy()
        except DeviceError as err:
            _log.warning("closing a %s: %s", type(self).__name__, err)

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class CudaContext(_Handle):
    """The primary context of device 0, which TensorRT and other libraries use too."""

    def __init__(self) -> None:
        self.properties = gpu_properties()
        self._device = call("cuDeviceGet", 0)
        super().__init__(call("cuDevicePrimaryCtxRetain", self._device))
        try:
            self.make_current()
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """The GPU's name."""
        return self.properties.name

    @property
    def num_sms(self) -> int:
        """Its number of streaming multiprocessors."""
        return self.properties.num_sms

    @property
    def compute_capability(self) -> str:
        """Such as `9.0`."""
        return self.properties.compute_capability

    @property
    def total_bytes(self) -> int:
        """Its memory."""
        return self.properties.total_bytes

    @property
    def is_integrated(self) -> bool:
        """It shares the memory of the CPU, as on a Jetson."""
        return self.properties.is_integrated

    def free_bytes(self) -> int:
        """Memory that nobody has allocated now."""
        return int(call("cuMemGetInfo")[0])

    def make_current(self) -> None:
        """Let the calling thread use it."""
        call("cuCtxSetCurrent", self._raw)

    def _destroy(self) -> None:
        if int(call("cuCtxGetCurrent")) == int(self._raw):
            raw_call("cuCtxSetCurrent", self._home)  # what was current before
        call("cuDevicePrimaryCtxRelease", self._device)


def open_cuda() -> CudaContext:
    """The primary context of device 0, current in the calling thread.

    Raises:
        DeviceError: no bindings, no driver or no GPU.
    """
    return CudaContext()


class Stream(_Handle):
    """A stream of the highest or lowest priority that does not wait for the default stream."""

    def __init__(self, *, priority: Literal["high", "low"]) -> None:
        lowest, highest = call("cuCtxGetStreamPriorityRange")
        value = int(highest if priority == "high" else lowest)
        self.priority = priority
        super().__init__(call("cuStreamCreateWithPriority", _NON_BLOCKING, value))
        self.handle = int(self._raw)

    def __cuda_stream__(self) -> tuple[int, int]:
        """The protocol of cuda.core: version and handle."""
        return 0, self.handle

    def synchronize(self) -> None:
        """Return when all its work has completed.

        Raises:
            DeviceError: some of it failed.
        """
        call("cuStreamSynchronize", self._raw)

    def wait_for(self, event: "Event") -> None:
        """Let what is enqueued from now on wait for the event."""
        call("cuStreamWaitEvent", self._raw, event._raw, 0)

    def _destroy(self) -> None:
        call("cuStreamDestroy", self._raw)


class Event(_Handle):
    """A point in a stream that can be asked for and waited for."""

    def __init__(self, *, timing: bool) -> None:
        super().__init__(call("cuEventCreate", 0 if timing else _DISABLE_TIMING))

    def record(self, stream: Stream | int) -> None:
        """Mark the end of what the stream, or that of a foreign handle, holds now."""
        raw = stream._raw if isinstance(stream, Stream) else stream
        call("cuEventRecord", self._raw, raw)

    def is_done(self) -> bool:
        """Whether what was recorded has completed.

        Raises:
            DeviceError: it failed.
        """
        (code,) = raw_call("cuEventQuery", self._raw)
        if int(code) not in (0, _NOT_READY):
            raise DeviceError(f"cuEventQuery failed: {error_text(code)}")
        return int(code) == 0

    def wait(self) -> None:
        """Return when what was recorded has completed; short waits are polled.

        A longer wait is the driver's, which spins or sleeps as suits the machine.

        Raises:
            DeviceError: it failed.
        """
        until_ns = time.perf_counter_ns() + _SPIN_NS
        while not self.is_done():
            if time.perf_counter_ns() > until_ns:
                call("cuEventSynchronize", self._raw)
                return

    def elapsed_ns(self, since: "Event") -> int:
        """Time on the device between two events that have completed and were made with timing."""
        return round(float(call("cuEventElapsedTime", since._raw, self._raw)) * 1e6)

    def _destroy(self) -> None:
        call("cuEventDestroy", self._raw)


class DeviceMemory(_Handle):
    """A block of device memory, aligned to 256 bytes; its content is undefined."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        super().__init__(_allocate("device", num_bytes, "cuMemAlloc"))
        self.pointer = int(self._raw)

    def fill(self, byte: int) -> None:
        """Set every byte, and return when that is done."""
        if self.num_bytes:
            call("cuMemsetD8", self._raw, byte, self.num_bytes)
            call("cuStreamSynchronize", _LEGACY_STREAM)  # what no other stream waits for

    def _destroy(self) -> None:
        call("cuMemFree", self._raw)


class PinnedMemory(_Handle):
    """Host memory that the device can copy from and to without the CPU.

    `array` is a view; whoever keeps a view of it must drop it before `close`.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        super().__init__(_allocate("pinned host", num_bytes, "cuMemHostAlloc", _PORTABLE))
        self.pointer = int(self._raw)
        block = (ctypes.c_uint8 * max(1, num_bytes)).from_address(self.pointer)
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array(block)[:num_bytes]

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


def copy_async(dst: int, src: int, num_bytes: int, stream: Stream) -> None:
    """Enqueue a copy between device or pinned host addresses, in either direction."""
    if num_bytes:
        call("cuMemcpyAsync", dst, src, num_bytes, stream._raw)


class GraphExec(_Handle):
    """A captured sequence of work that one call launches."""

    def __init__(self, raw: Any, num_nodes: int) -> None:
        super().__init__(raw)
        self.num_nodes = num_nodes

    def launch(self, stream: Stream) -> None:
        """Enqueue all of it."""
        call("cuGraphLaunch", self._raw, stream._raw)

    def upload(self, stream: Stream) -> None:
        """Bring it to the device, so that the first launch is like every other."""
        call("cuGraphUpload", self._raw, stream._raw)

    def _destroy(self) -> None:
        call("cuGraphExecDestroy", self._raw)


def capture(stream: Stream, enqueue: Callable[[], None]) -> GraphExec:
    """A graph of what `enqueue` puts on the stream, none of which runs.

    Other threads may go on using the device meanwhile.

    Raises:
        DeviceError: something in it cannot be captured; the stream can be used again.
    """
    call("cuStreamBeginCapture", stream._raw, capture_mode("THREAD_LOCAL"))
    try:
        enqueue()
    except BaseException:
        _, graph = raw_call("cuStreamEndCapture", stream._raw)
        if graph is not None and int(graph):  # none where what failed has spoilt the capture
            raw_call("cuGraphDestroy", graph)
        raise
    graph = call("cuStreamEndCapture", stream._raw)
    try:
        _, num_nodes = call("cuGraphGetNodes", graph)
        return GraphExec(call("cuGraphInstantiate", graph, 0), int(num_nodes))
    finally:
        raw_call("cuGraphDestroy", graph)
