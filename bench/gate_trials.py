"""What is tried with gates on a GPU, from small risks to greater ones; also run on a fake driver.

Nothing here waits without a limit, see gate_workshop. No captured kernel runs by itself or out of
order.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random

import numpy as np

from bench.gate_workshop import PATIENCE_S, Hang, Workshop, finish
from preempt_runtime.backends.cuda import DeviceMemory, Event, PinnedMemory, Stream, copy_async
from preempt_runtime.backends.gate_board import GateBoard
from preempt_runtime.backends.gates import GatedGraph, run_gated
from preempt_runtime.gate_keys import key_of, priority_rank
from preempt_runtime.gated_device import StretchTimes


def pass_idle(board: GateBoard, stream: Stream) -> int:
    """Nanoseconds that a gate takes to pass where nobody is raised, by the device's clock."""
    slot = board.take_slot()
    with DeviceMemory(16) as memory, PinnedMemory(16) as host:
        board.gate.launch(stream, board.kernel_args(slot, memory.pointer))
        copy_async(host.pointer, memory.pointer, 16, stream)
        board.clear_slot(slot, stream)
        finish(stream)
        arrived, passed = (int(each) for each in host.array.view(np.uint64))
    board.return_slot(slot)
    assert 0 < arrived <= passed
    return passed - arrived


def run_chain(
    shop: Workshop, board: GateBoard, stream: Stream, cuts_every: int
) -> tuple[StretchTimes, bool]:
    """A short chain with a gate before every n-th step: its times, and whether outputs agree."""
    slot = board.take_slot()
    with ExitStack() as stack:
        chain = stack.enter_context(shop.chain(range(1, shop.sizes.num_short + 1)))
        cuts = chain.captured.shape().cuts()[cuts_every - 1 :: cuts_every]
        graph = GatedGraph(chain.captured, cuts, board, slot, stream, is_timed=True)
        stack.enter_context(graph)
        is_right = True
        for seed in range(3):
            key = key_of("real-time", priority_rank(1, seed), slot)

            def copy_in(seed: int = seed) -> None:
                chain.write(seed, stream)

            run_gated(graph, board, key, stream, before=copy_in)
            finish(stream)
            is_right &= bool(np.array_equal(chain.read(), chain.expected(seed)))
        times = graph.times()
    board.return_slot(slot)
    return times, is_right


@dataclass(frozen=True)
class Preemption:
    """One urgent job beside a long one, by the device's clock."""

    urgent: StretchTimes
    long: StretchTimes
    is_right: bool

    @property
    def is_preemption(self) -> bool:
        """The long job had begun, and was not done, when the urgent one came."""
        return self.long.passed_ns[0] < self.urgent.arrived_ns[0] < self.long.end_ns

    @property
    def late_starts(self) -> int:
        """Stretches of the long job that passed while the urgent one was there."""
        start, end = self.urgent.arrived_ns[0], self.urgent.end_ns
        return sum(start < passed < end for passed in self.long.passed_ns)

    @property
    def overlap_ns(self) -> int:
        """How long stretches of both ran at once.

        In `exclusive` mode a microsecond or two is none: a job that gets the GPU at its first try
        writes down when it came, which may be just before the other reached its gate.
        """
        total = 0
        for start, taken in zip(self.urgent.passed_ns, self.urgent.stretch_ns, strict=True):
            for other, span in zip(self.long.passed_ns, self.long.stretch_ns, strict=True):
                total += max(0, min(start + taken, other + span) - max(start, other))
        return total


def preempt(
    shop: Workshop, board: GateBoard, low: Stream, high: Stream, num_rounds: int = 1
) -> list[Preemption]:
    """Raise an urgent job while a long one runs, again and again, each time somewhere else in it.

    Inputs are on the device before, so that the long job runs and the urgent one comes at once.
    """
    sizes, rng = shop.sizes, Random(1)
    slots = board.take_slot(), board.take_slot()
    found = []
    with (
        shop.chain(range(1, sizes.num_long + 1), sizes.duration_ns) as long,
        shop.chain(range(1, sizes.num_short + 1), sizes.duration_ns // 10) as urgent,
        GatedGraph(
            long.captured, long.captured.shape().cuts(), board, slots[0], low, is_timed=True
        ) as slow,
        GatedGraph(
            urgent.captured, urgent.captured.shape().cuts(), board, slots[1], high, is_timed=True
        ) as fast,
        Event(timing=False) as begun,
    ):
        for _ in range(num_rounds):
            long.write(7, low)
            urgent.write(8, high)
            finish(low, high)
            begun.record(low)
            run_gated(slow, board, key_of("best-effort", 0, slots[0]), low)
            wait_ns = sizes.num_long * sizes.duration_ns * rng.uniform(0.2, 0.5)
            _look_for(begun, round(wait_ns))
            run_gated(fast, board, key_of("real-time", 0, slots[1]), high)
            finish(high, low)
            is_right = np.array_equal(long.read(), long.expected(7)) and np.array_equal(
                urgent.read(), urgent.expected(8)
            )
            found.append(
                Preemption(urgent=fast.times(), long=slow.times(), is_right=bool(is_right))
            )
    for slot in slots:
        board.return_slot(slot)
    return found


def _look_for(event: Event, wait_ns: int) -> None:
    """Look at an event for that long: a fake driver makes progress by that alone."""
    until_ns = time.perf_counter_ns() + wait_ns
    num_looks = 0
    while num_looks < 6 or time.perf_counter_ns() < until_ns:
        event.is_done()
        num_looks += 1


def run_many(shop: Workshop, board: GateBoard, streams: Sequence[Stream], seed: int) -> int:
    """Jobs of random urgency on every stream; how many had the right output.

    Each stream has one job at a time, raised again when the last one has ended.
    """
    rng, sizes = Random(seed), shop.sizes
    slots = [board.take_slot() for _ in streams]
    with ExitStack() as stack:
        chains = [
            stack.enter_context(
                shop.chain(range(1, rng.randint(2, sizes.num_short) + 1), sizes.duration_ns // 5)
            )
            for _ in streams
        ]
        graphs = [
            stack.enter_context(
                GatedGraph(chain.captured, chain.captured.shape().cuts(), board, slot, stream)
            )
            for chain, slot, stream in zip(chains, slots, streams, strict=True)
        ]
        events = [stack.enter_context(Event(timing=False)) for _ in streams]
        pending: dict[int, int] = {}
        num_right = num_done = num_begun = 0
        until = time.monotonic() + PATIENCE_S * 6
        while num_done < sizes.num_jobs:
            if time.monotonic() > until:
                raise Hang(f"{num_done} of {sizes.num_jobs} jobs done after {6 * PATIENCE_S:g} s")
            for idx, stream in enumerate(streams):
                if idx in pending and events[idx].is_done():
                    job = pending.pop(idx)
                    num_right += np.array_equal(chains[idx].read(), chains[idx].expected(job))
                    num_done += 1
                if idx not in pending and num_begun < sizes.num_jobs:
                    tier = rng.choice(("real-time", "best-effort"))
                    rank = priority_rank(rng.randint(0, 3), num_begun)
                    key = key_of(tier, rank, slots[idx])  # type: ignore[arg-type]

                    def copy_in(idx: int = idx, job: int = num_begun) -> None:
                        chains[idx].write(job, streams[idx])

                    run_gated(graphs[idx], board, key, stream, before=copy_in)
                    events[idx].record(stream)
                    pending[idx] = num_begun
                    num_begun += 1
    for slot in slots:
        board.return_slot(slot)
    return num_right
