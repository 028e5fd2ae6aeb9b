"""Whether a gate that waits in one stream holds up another: streams share hardware queues."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from preempt_runtime.backends.cuda import Event, PinnedMemory, Stream, copy_async
from preempt_runtime.backends.gate_board import GateBoard
from preempt_runtime.gate_keys import BARRIER

TIMEOUT_NS = 1_000_000


def held_up(
    board: GateBoard,
    streams: Sequence[Stream],
    *,
    timeout_ns: int = TIMEOUT_NS,
    now_ns: Callable[[], int] = time.perf_counter_ns,
) -> tuple[tuple[int, int], ...]:
    """Pairs of streams, by index: while a gate waits in the first, the second does not go on.

    A gate is made to wait in each stream in turn, and a tiny kernel and a copy are sent to all the
    others. Where even what ends the wait is held up, the gate gives up at its limit (50 ms). No
    job may be in flight; what the gates recorded meanwhile is dropped.

    Raises:
        DeviceError: the driver's own text, or no slots are left.
    """
    with ExitStack() as stack:
        barrier, waiting, other = (_slot(board, stack) for _ in range(3))
        words = stack.enter_context(PinnedMemory(16))
        events = [stack.enter_context(Event(timing=False)) for _ in streams]
        control = stack.enter_context(Stream(priority="high"))
        for stream in (control, *streams):  # loads the kernels; a gate of an idle board passes
            board.gate.launch(stream, board.kernel_args(waiting))
            board.clear_slot(waiting, stream)
            stream.synchronize()
        found = []
        for held, stream in enumerate(streams):
            board.raise_key(BARRIER | barrier, control)
            control.synchronize()
            board.gate.launch(stream, board.kernel_args(waiting))
            others = [idx for idx in range(len(streams)) if idx != held]
            for idx in others:
                board.clear_slot(other, streams[idx])
                copy_async(words.pointer, words.pointer + 8, 8, streams[idx])
                events[idx].record(streams[idx])
            until_ns = now_ns() + timeout_ns
            left = set(others)
            while left and now_ns() < until_ns:
                left = {idx for idx in left if not events[idx].is_done()}
            found += [(held, idx) for idx in sorted(left)]
            board.clear_slot(barrier, control)
            board.clear_slot(waiting, stream)
            for each in (control, *streams):
                each.synchronize()
        board.give_ups()
    return tuple(found)


def _slot(board: GateBoard, stack: ExitStack) -> int:
    slot = board.take_slot()
    stack.callback(board.return_slot, slot)
    return slot
