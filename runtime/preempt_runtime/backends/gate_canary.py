"""Whether a gate that waits in one stream holds up another: streams share hardware queues."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from preempt_runtime.backends.cuda import DeviceMemory, Event, PinnedMemory, Stream, copy_async
from preempt_runtime.backends.cuda_wait import await_streams
from preempt_runtime.backends.gate_board import GateBoard
from preempt_runtime.gate_keys import BARRIER

TIMEOUT_NS = 10_000_000
"""For kernels and copies that take microseconds each; a stream that is held up is so for 50 ms."""
_LEAST_LOOKS = 20
"""However long the host was kept from looking meanwhile: that is no fault of the streams."""
_BARRIER, _WAITING, _OTHER = 0, 1, 2  # slots, which jobs may own: none is in flight


def held_up(
    board: GateBoard,
    streams: Sequence[Stream],
    *,
    others: Sequence[Stream] = (),
    timeout_ns: int = TIMEOUT_NS,
    now_ns: Callable[[], int] = time.perf_counter_ns,
) -> tuple[tuple[int, int], ...]:
    """Pairs of streams, by index: while a gate waits in the first, the second does not go on.

    A gate is made to wait in each stream in turn, with copies both ways behind it as a job has
    them, and a tiny kernel and such copies are sent to all the others. In the second place may
    also be `others`, which no gate holds, and last the board's own stream; they count on from
    `streams`. Where even what ends the wait is held up, the gate gives up after 50 ms. No job may
    be in flight; what the gates recorded meanwhile is dropped.

    Raises:
        HangError: the GPU does not come to an end with them.
        DeviceError: the driver's own text.
    """
    control = board.control
    every = (*streams, *others, control)
    with ExitStack() as stack:
        host = stack.enter_context(PinnedMemory(16))
        memory = stack.enter_context(DeviceMemory(16))
        events = [stack.enter_context(Event(timing=False)) for _ in every]

        def copy_both_ways(stream: Stream) -> None:
            copy_async(memory.pointer, host.pointer, 8, stream)
            copy_async(host.pointer + 8, memory.pointer + 8, 8, stream)

        for stream in every:  # loads the kernels; a gate of an idle board passes
            board.first_gate.launch(stream, board.kernel_args(_WAITING))
            board.gate.launch(stream, board.kernel_args(_WAITING))
            board.clear_slot(_WAITING, stream)
            copy_both_ways(stream)
        _finish(board, every)
        stack.enter_context(board.short_limits())
        found = []
        for held, stream in enumerate(streams):
            board.raise_key(BARRIER | _BARRIER, control)
            _finish(board, [control])
            board.gate.launch(stream, board.kernel_args(_WAITING))
            copy_both_ways(stream)
            left = {idx for idx in range(len(every)) if idx != held}
            for idx in sorted(left):
                board.clear_slot(_OTHER, every[idx])
                copy_both_ways(every[idx])
                events[idx].record(every[idx])
            until_ns = now_ns() + timeout_ns
            num_looks = 0
            while left and (num_looks < _LEAST_LOOKS or now_ns() < until_ns):
                num_looks += 1
                left = {idx for idx in left if not events[idx].is_done()}
            found += [(held, idx) for idx in sorted(left)]
            board.clear_slot(_BARRIER, control)
            board.clear_slot(_WAITING, stream)
            _finish(board, every)
        board.give_ups()
    return tuple(found)


def _finish(board: GateBoard, streams: Sequence[Stream]) -> None:
    what = "kernels and copies that try which streams share a hardware queue"
    await_streams(streams, limit_ns=board.patience_ns, what=what)
