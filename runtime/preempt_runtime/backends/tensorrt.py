"""TensorRT on an NVIDIA GPU: one engine per segment, launched as one captured CUDA graph."""

import threading
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal

from preempt_runtime.backends.cuda import CudaContext, Event, Stream, open_cuda
from preempt_runtime.backends.gpu_hazards import hazards
from preempt_runtime.backends.trt_bind import bind
from preempt_runtime.backends.trt_buffers import TrtBuffers
from preempt_runtime.backends.trt_context import (
    Scratch,
    new_context,
    scratch_bytes,
    weights_bytes,
)
from preempt_runtime.backends.trt_engines import PlanEngines, load_engines, loaded_memory
from preempt_runtime.backends.trt_library import (
    EngineLogger,
    deserialize,
    library,
    library_version,
    local_fields,
)
from preempt_runtime.bundle import Bundle, choose_plan
from preempt_runtime.device import MAX_DEPTH, JobBuffers, check_open
from preempt_runtime.errors import DeviceError
from preempt_runtime.manifest import SegmentSpec
from preempt_runtime.network_memory import NetworkMemory

__all__ = [
    "EngineLogger",
    "Scratch",
    "TrtBuffers",
    "TrtDevice",
    "TrtNetwork",
    "bind",
    "deserialize",
    "hazards",
    "library",
    "library_version",
    "local_fields",
    "new_context",
    "scratch_bytes",
    "weights_bytes",
]


class TrtNetwork:
    """A plan whose segments are engines, deserialised once: weights are not copied per job."""

    def __init__(self, loaded: PlanEngines, context: CudaContext, *, zero_copy: bool) -> None:
        self.name = loaded.name
        self.graph = loaded.graph
        self.plan = loaded.plan
        self._loaded = loaded
        self._context = context
        self._zero_copy = zero_copy
        try:
            self._scratch = Scratch(loaded.engines)
        except DeviceError as err:
            raise DeviceError(f"{self.name}: scratch memory of its segments: {err}") from err

    @property
    def segments(self) -> tuple[SegmentSpec, ...]:
        """The plan's segments in the order in which they run."""
        return self.plan.segments

    def new_buffers(self) -> TrtBuffers:
        """Buffers for one more job in flight; jobs in others may run meanwhile.

        Raises:
            InputError: the network is closed.
            DeviceError: no memory, or TensorRT or the driver refused.
        """
        check_open(self.name, self._loaded.engines)
        self._context.make_current()
        with Stream(priority="low") as stream:  # one that jobs run on would capture their launches
            return bind(
                self._loaded.engines,
                self._loaded.interfaces,
                self.graph,
                self.plan.boundaries,
                self.name,
                self._scratch,
                stream,
                zero_copy=self._zero_copy,
            )

    def memory(self) -> NetworkMemory:
        """What it takes, once and for each job, as TensorRT and the plan tell it.

        `measure_memory` of trt_memory asks the driver instead.
        """
        return loaded_memory(
            self._loaded, scratch_bytes=self._scratch.num_bytes, zero_copy=self._zero_copy
        )

    def close(self) -> None:
        """Release the engines and the scratch memory; no job may be in flight."""
        self._loaded = replace(self._loaded, engines=())
        self._scratch.close()


@dataclass(slots=True)
class _Lane:
    """A stream, and an event for work on it that no launch has marked the end of.

    `is_stale`: there may be such work.
    """

    stream: Stream
    event: Event
    is_stale: bool = False


class TrtDevice:
    """The GPU: real-time work on a stream of high priority, the other on one of low priority.

    Segments run in the order of their launches all the same. Each has an event of its own, so
    that the host can wait for the oldest while the next ones are in flight.

    Args:
        zero_copy: whether inputs and outputs lie in host memory that the GPU reaches, instead of
            being copied; None: if they share one memory, as on a Jetson.
    """

    max_depth = MAX_DEPTH

    def __init__(self, *, zero_copy: bool | None = None) -> None:
        self._thread: int | None = None
        self._in_flight: deque[Event] = deque()
        self._unused: list[Event] = []
        with ExitStack() as stack:
            self._context = stack.enter_context(open_cuda())
            integrated = self._context.is_integrated
            self.is_zero_copy = integrated if zero_copy is None else zero_copy
            self._urgent = _open_lane(stack, "high")
            self._other = _open_lane(stack, "low")
            self._last = self._other
            self._stack = stack.pop_all()
        self.name = self._context.name

    def load(self, bundle: Bundle, plan_id: str | None = None) -> TrtNetwork:
        """Load the first plan that fits this machine, or the one named.

        No engine is deserialised before its key and the hashes of all files of that key were
        found right.

        Raises:
            BundleError: no plan fits, or a file is damaged.
            DeviceError: TensorRT refused an engine, or there is no memory.
        """
        plan = choose_plan(bundle, local_fields(), plan_id=plan_id)
        self._context.make_current()
        loaded = load_engines(bundle, plan)
        return TrtNetwork(loaded, self._context, zero_copy=self.is_zero_copy)

    def launch(self, buffers: JobBuffers, segment_idx: int, *, is_urgent: bool) -> None:
        """Enqueue the segment's graph, behind whatever is in flight.

        What was launched last on the other stream is waited for, on the device. So a record says
        truly when a segment ran; and jobs of one network share its scratch memory.

        Raises:
            DeviceError: the driver's own text.
        """
        assert isinstance(buffers, TrtBuffers)
        self._make_current()
        lane = self._urgent if is_urgent else self._other
        if self._in_flight and self._last is not lane:
            lane.stream.wait_for(self._in_flight[-1])
        lane.is_stale = True
        self._last = lane
        buffers.launch(segment_idx, lane.stream)
        event = self._unused.pop() if self._unused else self._new_event()
        event.record(lane.stream)
        lane.is_stale = False
        self._in_flight.append(event)

    def wait(self, num_left: int = 0) -> None:
        """Return when all but the last `num_left` segments have completed.

        With 0 everything on both streams has, the callables' work too.

        Raises:
            DeviceError: something failed; after most such errors CUDA needs a new process.
        """
        error: DeviceError | None = None
        while len(self._in_flight) > num_left:
            event = self._in_flight.popleft()
            self._unused.append(event)
            try:
                event.wait()
            except DeviceError as err:
                error = err
        for lane in (self._urgent, self._other) if num_left == 0 else ():
            try:
                _wait_for(lane)
            except DeviceError as err:
                error = err
        if error is not None:
            raise DeviceError(
                f"{self.name}: launched work failed: {error};"
                " if this repeats, start the process again"
            ) from error

    def free_bytes(self) -> int:
        """Memory of the whole GPU that nobody has allocated, once all work has completed.

        Raises:
            DeviceError: the driver's own text.
        """
        self._make_current()
        self._context.synchronize()
        num_bytes: int = self._context.free_bytes()
        return num_bytes

    def stream(self, *, is_urgent: bool) -> Stream:
        """The stream that pre and post callables enqueue on, as `handle`."""
        self._make_current()
        self._thread = None  # the callable may make another context current
        lane = self._urgent if is_urgent else self._other
        lane.is_stale = True
        return lane.stream

    def close(self) -> None:
        """Release streams and context; without effect the second time."""
        self._stack.close()

    def _new_event(self) -> Event:
        event: Event = self._stack.enter_context(Event(timing=False))
        return event

    def _make_current(self) -> None:
        if self._thread != (thread := threading.get_ident()):
            self._context.make_current()
            self._thread = thread


def _open_lane(stack: ExitStack, priority: Literal["high", "low"]) -> _Lane:
    return _Lane(
        stream=stack.enter_context(Stream(priority=priority)),
        event=stack.enter_context(Event(timing=False)),
    )


def _wait_for(lane: _Lane) -> None:
    if lane.is_stale:
        lane.is_stale = False
        lane.event.record(lane.stream)
        lane.event.wait()
