"""One captured graph with gates in it: preemption points inside one TensorRT engine.

EXPERIMENTAL: one kind of GPU has run this so far, the H200.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np

from preempt_runtime.backends.cuda import DeviceMemory, GraphExec, PinnedMemory, Stream, copy_async
from preempt_runtime.backends.cuda_graph import CudaGraph
from preempt_runtime.backends.gate_board import GateBoard
from preempt_runtime.backends.graph_shape import Stretch, stretches
from preempt_runtime.errors import DeviceError, GatesError
from preempt_runtime.gated_device import StretchTimes


class Stamps:
    """Where the gates of one job write down when they were reached and passed."""

    def __init__(self, num_gates: int) -> None:
        num_bytes = 8 * (2 * num_gates + 1)
        with ExitStack() as stack:
            self._device = stack.enter_context(DeviceMemory(num_bytes))
            self._host = stack.enter_context(PinnedMemory(num_bytes))
            self._stack = stack.pop_all()

    def address(self, gate: int) -> int:
        """Of a gate's two words, by its number; behind those of the last one is the end's."""
        pointer: int = self._device.pointer
        return pointer + 16 * gate

    def copy(self, stream: Stream) -> None:
        """Enqueue that the host gets them."""
        copy_async(self._host.pointer, self._device.pointer, self._device.num_bytes, stream)

    def read(self) -> StretchTimes:
        """What the last copy brought, by the device's clock; it must have completed."""
        values = self._host.array.view(np.uint64).tolist()
        return StretchTimes(
            arrived_ns=tuple(values[0:-1:2]), passed_ns=tuple(values[1:-1:2]), end_ns=values[-1]
        )

    def close(self) -> None:
        """Release the memory."""
        self._stack.close()

    def __enter__(self) -> "Stamps":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
        stamps: where they do, instead of memory of its own; `first_gate` is the number of the first
            one there.
        is_last: whether the job ends with this graph; else its next one begins at a gate, too.

    Raises:
        GatesError: gates cannot be put into this graph, with the reason.
        DeviceError: the driver refused.
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
        stamps: Stamps | None = None,
        first_gate: int = 0,
        is_last: bool = True,
    ) -> None:
        self._shape = captured.shape()
        if reason := self._shape.unfit():
            raise GatesError(f"no gates: {reason}; run this network by segments")
        pieces = stretches(self._shape, cuts)
        self.slot = slot
        self.num_gates = len(pieces)
        self._stream = stream
        with ExitStack() as stack:
            if is_timed:
                stamps = stack.enter_context(Stamps(self.num_gates))
            self._stamps = stamps
            with captured.clone() as clone:
                self._insert(clone, pieces, board, first_gate, is_last=is_last)
                self.graph: GraphExec = stack.enter_context(clone.instantiate())
            self.graph.upload(stream)
            stream.synchronize()
            self._stack = stack.pop_all()

    def launch(self, stream: Stream) -> None:
        """Enqueue all of it; the job's key must have been raised on this stream before."""
        self.graph.launch(stream)

    def times(self) -> StretchTimes:
        """The times of the last run, which must have completed.

        Raises:
            DeviceError: the graph was made without.
        """
        if self._stamps is None:
            raise DeviceError("gates: this graph writes no times down; make it with is_timed=True")
        self._stamps.copy(self._stream)
        self._stream.synchronize()
        return self._stamps.read()

    def close(self) -> None:
        """Release it; it must not run any more."""
        self._stack.close()

    def __enter__(self) -> "GatedGraph":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _insert(
        self,
        clone: CudaGraph,
        pieces: Sequence[Stretch],
        board: GateBoard,
        first_gate: int,
        *,
        is_last: bool,
    ) -> None:
        """Let every stretch wait for a gate, and the gate for the stretch before it.

        The first one of a job, whose graphs count on, is another than the others.
        """
        piece_of = {idx: at for at, piece in enumerate(pieces) for idx in piece.nodes}
        clone.remove_edges(lambda start, end: piece_of[start] != piece_of[end])
        before: tuple[int, ...] = ()
        for number, piece in enumerate(pieces, first_gate):
            args = board.kernel_args(self.slot, self._stamp_address(number))
            kernel = board.gate if number else board.first_gate
            gate = self._add_behind(clone, before, kernel.node_params(args), board)
            clone.add_edges([(gate, clone.nodes[idx]) for idx in piece.sources])
            before = piece.sinks
        if is_last:
            args = board.kernel_args(self.slot, self._stamp_address(first_gate + len(pieces)))
            self._add_behind(clone, before, board.clear.node_params(args, block=1), board)

    def _add_behind(
        self, clone: CudaGraph, before: Sequence[int], params: object, board: GateBoard
    ) -> object:
        """A kernel of the board behind those nodes, early where it stands behind one kernel."""
        kinds = [self._shape.nodes[idx].kind for idx in before]
        is_early = board.starts_early and kinds == ["kernel"]
        return clone.add_kernel(params, [clone.nodes[idx] for idx in before], is_early=is_early)

    def _stamp_address(self, gate: int) -> int:
        return 0 if self._stamps is None else self._stamps.address(gate)


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
