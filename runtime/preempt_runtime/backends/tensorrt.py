"""TensorRT on an NVIDIA GPU: one engine per segment, launched as one captured CUDA graph."""

import threading
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

from preempt_runtime.backends.cuda import CudaContext, Event, Stream, open_cuda
from preempt_runtime.backends.trt_buffers import TrtBuffers, bind
from preempt_runtime.backends.trt_context import Scratch, new_context
from preempt_runtime.backends.trt_library import (
    EngineLogger,
    deserialize,
    library,
    library_version,
    local_fields,
)
from preempt_runtime.bundle import Bundle, choose_plan
from preempt_runtime.device import JobBuffers
from preempt_runtime.errors import BundleError, DeviceError
from preempt_runtime.manifest import GraphSpec, PlanSpec, SegmentSpec

__all__ = [
    "EngineLogger",
    "Scratch",
    "TrtBuffers",
    "TrtDevice",
    "TrtNetwork",
    "bind",
    "deserialize",
    "library",
    "library_version",
    "local_fields",
    "new_context",
]


class TrtNetwork:
    """A plan whose segments are engines, deserialised once: weights are not copied per job."""

    def __init__(
        self,
        *,
        name: str,
        graph: GraphSpec,
        plan: PlanSpec,
        engines: tuple[Any, ...],
        context: CudaContext,
        stream: Stream,
    ) -> None:
        self.name = name
        self.graph = graph
        self.plan = plan
        self._engines = engines
        self._context = context
        self._stream = stream
        self._scratch = Scratch(engines)

    @property
    def segments(self) -> tuple[SegmentSpec, ...]:
        """The plan's segments in the order in which they run."""
        return self.plan.segments

    def new_buffers(self) -> TrtBuffers:
        """Buffers for one more job in flight.

        Raises:
            DeviceError: no memory, or TensorRT or the driver refused.
        """
        self._context.make_current()
        interfaces = [(segment.inputs, segment.outputs) for segment in self.plan.segments]
        return bind(
            self._engines,
            interfaces,
            self.graph,
            self.plan.boundaries,
            self.name,
            self._scratch,
            self._stream,
        )

    def close(self) -> None:
        """Release the engines and the scratch memory; no job may be in flight."""
        self._engines = ()
        self._scratch.close()


@dataclass(slots=True)
class _Lane:
    """A stream, and the event behind what was launched on it.

    `is_stale`: there may be work behind the event. `is_pending`: nobody has waited for it yet.
    """

    stream: Stream
    event: Event
    is_stale: bool = False
    is_pending: bool = False


class TrtDevice:
    """The GPU: real-time work on a stream of high priority, the other on one of low priority."""

    def __init__(self) -> None:
        self._thread: int | None = None
        with ExitStack() as stack:
            self._context = stack.enter_context(open_cuda())
            self._urgent = _open_lane(stack, "high")
            self._other = _open_lane(stack, "low")
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
        if plan.key is None:
            raise BundleError(f"{bundle.root}: plan {plan.id!r} has nothing built for a GPU")
        for artefact in bundle.artefacts_for(plan.key):
            bundle.verified_path(artefact.path)
        self._context.make_current()
        name = bundle.root.name
        engines = tuple(
            deserialize(bundle.read_bytes(segment.path), f"{name}: {segment.path}")
            for segment in plan.segments
        )
        return TrtNetwork(
            name=name,
            graph=next(graph for graph in bundle.manifest.graphs if graph.id == plan.graph),
            plan=plan,
            engines=engines,
            context=self._context,
            stream=self._other.stream,
        )

    def launch(self, buffers: JobBuffers, segment_idx: int, *, is_urgent: bool) -> None:
        """Enqueue the segment's graph.

        Jobs of one network share its scratch memory, and a job its tensors: what was last
        launched on the other stream with the same scratch is waited for, on the device.

        Raises:
            DeviceError: the driver's own text.
        """
        assert isinstance(buffers, TrtBuffers)
        self._make_current()
        lane, other = self._lanes(is_urgent)
        if other.is_pending and buffers.scratch.last_stream is other.stream:
            lane.stream.wait_for(other.event)
        lane.is_stale = True
        buffers.scratch.last_stream = lane.stream
        buffers.launch(segment_idx, lane.stream)
        lane.event.record(lane.stream)
        lane.is_stale = False
        lane.is_pending = True

    def wait(self) -> None:
        """Return when everything on both streams has completed, the callables' work too.

        Raises:
            DeviceError: something failed; after most such errors CUDA needs a new process.
        """
        error: DeviceError | None = None
        for lane in (self._urgent, self._other):
            try:
                _wait_for(lane)
            except DeviceError as err:
                error = err
        if error is not None:
            raise DeviceError(
                f"{self.name}: launched work failed: {error};"
                " if this repeats, start the process again"
            ) from error

    def stream(self, *, is_urgent: bool) -> Stream:
        """The stream that pre and post callables enqueue on, as `handle`."""
        self._make_current()
        self._thread = None  # the callable may make another context current
        lane, _ = self._lanes(is_urgent)
        lane.is_stale = True
        return lane.stream

    def close(self) -> None:
        """Release streams and context; without effect the second time."""
        self._stack.close()

    def _lanes(self, is_urgent: bool) -> tuple[_Lane, _Lane]:
        return (self._urgent, self._other) if is_urgent else (self._other, self._urgent)

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
        lane.is_pending = True
        lane.event.record(lane.stream)
    if lane.is_pending:
        lane.is_pending = False
        lane.event.wait()
