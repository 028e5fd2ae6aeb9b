"""CUDA by the driver's API: the context, streams, events, memory and captured graphs.

Every handle is a context manager, and nothing is released before its `close`. `close` never
raises: what the driver then says goes to the log, so that the rest can still be closed.
"""

import time
from collections.abc import Callable
from typing import Any, Literal

from preempt_runtime.backends.cuda_driver import (
    GpuProperties,
    call,
    capture_mode,
    driver_version,
    error_text,
    gpu_properties,
    raw_call,
)
from preempt_runtime.backends.cuda_handle import Handle
from preempt_runtime.backends.cuda_memory import DeviceMemory, PinnedMemory
from preempt_runtime.errors import DeviceError

__all__ = [
    "CudaContext",
    "DeviceMemory",
    "Event",
    "GpuProperties",
    "GraphExec",
    "PinnedMemory",
    "Stream",
    "capture",
    "captured",
    "copy_async",
    "driver_version",
    "gpu_properties",
    "open_cuda",
]

_SPIN_NS = 200_000
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING
_NOT_READY = 600  # CUDA_ERROR_NOT_READY


class CudaContext(Handle):
    """The primary context of device 0, which TensorRT and other libraries use too."""

    def __init__(self) -> None:
        self.properties = gpu_properties()
        self._device = call("cuDeviceGet", 0)
        super().__init__(_retain(self._device, self.properties.name))
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
        """Memory that nobody has allocated now, on the device as a whole."""
        return int(call("cuMemGetInfo")[0])

    def synchronize(self) -> None:
        """Return when all work in this context has completed.

        Raises:
            DeviceError: some of it failed.
        """
        call("cuCtxSynchronize")

    def make_current(self) -> None:
        """Let the calling thread use it."""
        call("cuCtxSetCurrent", self._raw)

    def _destroy(self) -> None:
        if int(call("cuCtxGetCurrent")) == int(self._raw):
            raw_call("cuCtxSetCurrent", self._home)  # what was current before
        call("cuDevicePrimaryCtxRelease", self._device)


def _retain(device: Any, name: str) -> Any:
    try:
        return call("cuDevicePrimaryCtxRetain", device)
    except DeviceError as err:
        raise DeviceError(
            f"{name}: no CUDA context: {err}; see with `nvidia-smi` which processes hold its"
            " memory, and whether it may be shared"
        ) from err


def open_cuda() -> CudaContext:
    """The primary context of device 0, current in the calling thread.

    Raises:
        DeviceError: no bindings, no driver or no GPU.
    """
    return CudaContext()


class Stream(Handle):
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


class Event(Handle):
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


def copy_async(dst: int, src: int, num_bytes: int, stream: Stream) -> None:
    """Enqueue a copy between device or pinned host addresses, in either direction."""
    if num_bytes:
        call("cuMemcpyAsync", dst, src, num_bytes, stream._raw)


class GraphExec(Handle):
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
    graph = captured(stream, enqueue)
    try:
        _, num_nodes = call("cuGraphGetNodes", graph)
        return GraphExec(call("cuGraphInstantiate", graph, 0), int(num_nodes))
    finally:
        raw_call("cuGraphDestroy", graph)


def captured(stream: Stream, enqueue: Callable[[], None]) -> Any:
    """The driver's handle of such a graph before it is instantiated; the caller destroys it.

    Raises:
        DeviceError: as `capture` does.
    """
    call("cuStreamBeginCapture", stream._raw, capture_mode("THREAD_LOCAL"))
    try:
        enqueue()
    except BaseException:
        _, graph = raw_call("cuStreamEndCapture", stream._raw)
        if graph is not None and int(graph):  # none where what failed has spoilt the capture
            raw_call("cuGraphDestroy", graph)
        raise
    return call("cuStreamEndCapture", stream._raw)
