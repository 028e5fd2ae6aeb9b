"""One job behind gates: its tensors, its slot, its stream, and its graphs with gates in them.

EXPERIMENTAL: one kind of GPU has run this so far, the H200.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack

from preempt_runtime.backends.cuda import Event, Stream
from preempt_runtime.backends.device_arrays import DeviceArray
from preempt_runtime.backends.gate_board import GateBoard
from preempt_runtime.backends.gates import GatedGraph, Stamps
from preempt_runtime.backends.trt_bind import bind
from preempt_runtime.backends.trt_buffers import TrtBuffers
from preempt_runtime.backends.trt_context import Scratch
from preempt_runtime.backends.trt_engines import PlanEngines
from preempt_runtime.device import Array
from preempt_runtime.errors import GatesError
from preempt_runtime.gated_device import StretchTimes
from preempt_runtime.manifest import PlanSpec, SegmentSpec


class GatedBuffers:
    """One job in flight: its tensors, its slot, and graphs with gates in them.

    A plan of gates is one graph, a plan of segments one for each, with a gate before it. Jobs
    interleave, so each has scratch memory and a stream of its own. `opened` lets all gates pass
    where something is made that waits for all work. `retire` is given them when they are closed,
    and calls `release` where no gate can wait.
    """

    def __init__(
        self,
        loaded: PlanEngines,
        board: GateBoard,
        lock: threading.RLock,
        opened: Callable[[], AbstractContextManager[None]],
        retire: "Callable[[GatedBuffers], None]",
        *,
        zero_copy: bool,
    ) -> None:
        self.is_urgent = False
        self.stream: Stream | None = None
        self._board = board
        self._board_lock = lock
        self._opened = opened
        self._retire = retire
        self._is_open = True
        self._is_in_flight = self._is_withdrawn = False
        with ExitStack() as stack, Stream(priority="low") as stream:
            with lock:
                self.slot = board.take_slot()
                stack.callback(self._return_slot)
            scratch = stack.enter_context(Scratch(loaded.engines))
            self._job: TrtBuffers = stack.enter_context(
                bind(
                    loaded.engines,
                    loaded.interfaces,
                    loaded.graph,
                    loaded.plan.boundaries,
                    loaded.name,
                    scratch,
                    stream,
                    zero_copy=zero_copy,
                    captures=False,
                )
            )
            self._job.warm_up(stream)  # once more: some kernels are loaded by the second run
            self._stamps = stack.enter_context(Stamps(len(loaded.plan.segments)))
            self._ended = stack.enter_context(Event(timing=False))
            self._stamped = stack.enter_context(Event(timing=False))
            self._withdrawn = stack.enter_context(Event(timing=False))
            self._graphs = _gated_graphs(self._job, loaded, board, self, stream, stack)
            longest_ns = max(map(_segment_ns, loaded.plan.segments))
            board.set_limit(self.slot, _cost_ns(loaded.plan), stretch_ns=longest_ns)
            self._stack = stack.pop_all()

    @property
    def is_open(self) -> bool:
        """It has not been closed."""
        return self._is_open

    @property
    def stamps(self) -> Stamps:
        """Where its gates write down when they were reached and passed."""
        return self._stamps

    def write_inputs(self, inputs: Mapping[str, Array]) -> None:
        """As `TrtBuffers.write_inputs`."""
        self._job.write_inputs(inputs)

    def input_pieces(self, inputs: Mapping[str, Array]) -> Iterator[None]:
        """As `TrtBuffers.input_pieces`."""
        return self._job.input_pieces(inputs)

    def read_outputs(self) -> dict[str, Array]:
        """Copies of the outputs, owned by the caller; the job must have ended."""
        return self._job.read_outputs()

    def leave_outputs(self) -> None:
        """Copy no outputs to the host from now on."""
        self._job.leave_outputs()

    def outputs_on_device(self, owner: object = None) -> dict[str, DeviceArray]:
        """The outputs where they are; overwritten by the next job."""
        return self._job.outputs_on_device(owner or self)

    def start(self, key: int) -> None:
        """Raise the key, then enqueue copies of inputs, all graphs, copies of outputs.

        Inputs in device memory are waited for first: who waits for others must not be waited for.

        Raises:
            DeviceError: the driver's own text; others wait for this job no longer.
        """
        stream = self.stream
        assert stream is not None, "the device gave it one"
        if self._is_withdrawn:  # what took the last job's key back must not take this one's
            stream.wait_for(self._withdrawn)
            self._is_withdrawn = False
        self._job.await_inputs(stream)
        self._board.raise_key(key, stream)
        try:
            self._job.copy_inputs(stream)
            for graph in self._graphs:
                graph.launch(stream)
        except BaseException:
            self._board.clear_slot(self.slot, stream)
            raise
        self._job.copy_outputs(stream)
        self._ended.record(stream)
        self._stamps.copy(stream)  # whoever waits for the outputs need not wait for it
        self._stamped.record(stream)
        self._is_in_flight = True

    def is_done(self) -> bool:
        """Whether the job that was started has ended.

        Raises:
            DeviceError: it failed.
        """
        self._is_in_flight = not self._ended.is_done()
        return not self._is_in_flight

    def times(self) -> StretchTimes:
        """When the job that has ended was where, by the device's clock.

        Raises:
            DeviceError: they could not be copied to the host.
        """
        self._stamped.wait()
        return self._stamps.read()

    def announce(self, key: int) -> None:
        """Let others wait for the next job; in the order of its stream, that is before its raise.

        Raises:
            DeviceError: the driver's own text.
        """
        self._board.announce(key, self.stream)

    def withdraw(self) -> None:
        """Have the job go on as the least urgent, or take an announcement back.

        Raises:
            DeviceError: the driver's own text.
        """
        if not self._is_in_flight:
            self._board.withdraw(self.slot, self.stream)
            return
        self._board.withdraw(self.slot)
        self._withdrawn.record(self._board.control)
        self._is_withdrawn = True

    def use_stream(self, *, is_urgent: bool) -> None:
        """Run on a stream of that priority from now on; no job may be in these buffers.

        Raises:
            DeviceError: the driver refused.
        """
        if self.stream is not None and self.is_urgent == is_urgent:
            return
        with self._opened():  # what the old stream held has ended then
            old = self.stream
            self.stream = self._stack.enter_context(Stream(priority="high" if is_urgent else "low"))
            self.is_urgent = is_urgent
            if old is not None:
                old.close()

    def close(self) -> None:
        """Have all of it released; without effect the second time."""
        if self._is_open:
            self._is_open = False
            self._retire(self)

    def release(self) -> None:
        """Release all of it, which may wait for every job: no gate may wait then."""
        self._graphs = ()
        self._stack.close()
        self.stream = None

    def _return_slot(self) -> None:
        with self._board_lock:
            self._board.return_slot(self.slot)


def _gated_graphs(
    job: TrtBuffers,
    loaded: PlanEngines,
    board: GateBoard,
    buffers: GatedBuffers,
    stream: Stream,
    stack: ExitStack,
) -> tuple[GatedGraph, ...]:
    """One graph for each engine, with a gate before it and before each later stretch of a plan."""
    plan = loaded.plan
    graphs: list[GatedGraph] = []
    num_gates = 0
    for idx in range(len(loaded.engines)):
        with job.capture_segment(idx, stream) as captured:
            cuts: tuple[int, ...] = ()
            if plan.gates is not None:
                found = captured.shape().fingerprint()
                if found != plan.gates.fingerprint:
                    raise GatesError(
                        f"{loaded.name}: plan {plan.id!r} places gates in a graph of fingerprint"
                        f" {plan.gates.fingerprint}, this driver captures {found}; plan it again:"
                        " preemptc build"
                    )
                cuts = tuple(segment.range[0] for segment in plan.segments[1:])
            try:
                graph = GatedGraph(
                    captured,
                    cuts,
                    board,
                    buffers.slot,
                    stream,
                    stamps=buffers.stamps,
                    first_gate=num_gates,
                    is_last=idx == len(loaded.engines) - 1,
                )
            except GatesError as err:
                raise GatesError(f"{loaded.name}: plan {plan.id!r}: {err}") from err
            graphs.append(stack.enter_context(graph))
            num_gates += graphs[-1].num_gates
    return tuple(graphs)


def _cost_ns(plan: PlanSpec) -> int:
    """What a job takes, as far as it is known."""
    if plan.chained is not None:
        return plan.chained.max_ns
    return sum(map(_segment_ns, plan.segments))


def _segment_ns(segment: SegmentSpec) -> int:
    return segment.predicted_ns if segment.latency is None else segment.latency.max_ns
