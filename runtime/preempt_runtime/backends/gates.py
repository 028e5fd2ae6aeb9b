"""One captured graph with gates in it: preemption points inside one TensorRT engine.

EXPERIMENTAL: no GPU has run this yet. Nothing in the runtime uses it, and no bundle can ask for it.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from preempt_runtime.backends.cuda import DeviceMemory, GraphExec, PinnedMemory, Stream, copy_async
from preempt_runtime.backends.cuda_graph import CudaGraph
from preempt_runtime.backends.gate_board import GateBoard
from preempt_runtime.backends.graph_shape import GraphShape, Stretch, stretches
from preempt_runtime.errors import DeviceError


@dataclass(frozen=True, slots=True, kw_only=True)
class GateTimes:
    """By the device's clock: when the job came to each gate, when it passed, when it ended."""

    arrived_ns: tuple[int, ...]
    passed_ns: tuple[int, ...]
    end_ns: int

    @property
    def stretch_ns(self) -> tuple[int, ...]:
        """How long each stretch took, the way to the next gate included."""
        ends = (*self.arrived_ns[1:], self.end_ns)
        return tuple(end - start for start, end in zip(self.passed_ns, ends, strict=True))

    @property
    def waited_ns(self) -> tuple[int, ...]:
        """How long the job stood at each gate."""
        pairs = zip(self.arrived_ns, self.passed_ns, strict=True)
        return tuple(passed - arrived for arrived, passed in pairs)


class GatedGraph:
    """A captured graph with a gate before each stretch and a clear at its end.

    The first gate stands before the first node, so that a less urgent job does not even begin.
    One job at a time runs it, in the slot that was given when it was made.

    Args:
        captured: the graph, which is left as it is.
        cuts: positions in its order before which gates stand, each one of `shape.cuts()`.
        board: the gates' memory and kernels; must outlive this.
        slot: the job's, from `board.take_slot()`.
        stream: any; nothing stays on it.
        is_timed: whether gates write down when they were reached and passed.

    Raises:
        DeviceError: gates cannot be put into this graph, with the reason; or the driver refused.
    """

    def __init__(
        self,
        captured: CudaGraph,
        cuts: Sequence[int],
        board: GateBoard,
        slot: int,
        stream: Stream,
        *,
        is_timed: bool = False,
    ) -> None:
        shape = captured.shape()
        if reason := shape.unfit():
            raise DeviceError(f"no gates: {reason}; run this network by segments")
        pieces = stretches(shape, cuts)
        self.slot = slot
        self.num_gates = len(pieces)
        self._stream = stream
        with ExitStack() as stack:
            self._times: tuple[DeviceMemory, PinnedMemory] | None = None
            if is_timed:
                num_bytes = 8 * (2 * self.num_gates + 1)
                self._times = (
                    stack.enter_context(DeviceMemory(num_bytes)),
                    stack.enter_context(PinnedMemory(num_bytes)),
                )
            with captured.clone() as clone:
                self._insert(clone, shape, pieces, board)
                self.graph: GraphExec = stack.enter_context(clone.instantiate())
            self.graph.upload(stream)
            stream.synchronize()
            self._stack = stack.pop_all()

    def launch(self, stream: Stream) -> None:
        """Enqueue all of it; the job's key must have been raised on this stream before."""
        self.graph.launch(stream)

    def times(self) -> GateTimes:
        """The times of the last run, which must have completed.

        Raises:
            DeviceError: the graph was made without.
        """
        if self._times is None:
            raise DeviceError("gates: this graph writes no times down; make it with is_timed=True")
        device, host = self._times
        copy_async(host.pointer, device.pointer, device.num_bytes, self._stream)
        self._stream.synchronize()
        values = [int(value) for value in host.array.view(np.uint64)]
        return GateTimes(
            arrived_ns=tuple(values[0:-1:2]), passed_ns=tuple(values[1:-1:2]), end_ns=values[-1]
        )

    def close(self) -> None:
        """Release it; it must not run any more."""
        self._stack.close()

    def __enter__(self) -> "GatedGraph":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _insert(
        self, clone: CudaGraph, shape: GraphShape, pieces: Sequence[Stretch], board: GateBoard
    ) -> None:
        """Let every stretch wait for a gate, and the gate for the stretch before it."""
        piece_of = {idx: at for at, piece in enumerate(pieces) for idx in piece.nodes}
        clone.remove_edges(lambda start, end: piece_of[start] != piece_of[end])
        before: list[object] = []
        for at, piece in enumerate(pieces):
            args = board.kernel_args(self.slot, self._stamp_address(2 * at))
            gate = clone.add_kernel(board.gate.node_params(args), before)
            clone.add_edges([(gate, clone.nodes[idx]) for idx in piece.sources])
            before = [clone.nodes[idx] for idx in piece.sinks]
        args = board.kernel_args(self.slot, self._stamp_address(2 * len(pieces)))
        clone.add_kernel(board.clear.node_params(args, block=1), before)

    def _stamp_address(self, idx: int) -> int:
        return 0 if self._times is None else self._times[0].pointer + 8 * idx


def run_gated(
    graph: GatedGraph,
    board: GateBoard,
    key: int,
    stream: Stream,
    *,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Enqueue one job: raise its key, copy its inputs, run its graph, copy its outputs.

    Args:
        graph: nobody else's job may be in it.
        board: where the key is raised.
        key: of the graph's slot.
        stream: of this job alone: behind a gate that waits, nothing else must stand. Whatever the
            inputs come from has been waited for before, so that no raised job waits for another.
        before: enqueues the copies of inputs.
        after: enqueues the copies of outputs.

    Raises:
        DeviceError: the driver's own text; others wait for this job no longer.
    """
    board.raise_key(key, stream)
    try:
        before()
        graph.launch(stream)
    except BaseException:
        board.clear_slot(graph.slot, stream)
        raise
    after()
