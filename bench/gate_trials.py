"""What is tried with gates on a GPU, from small risks to greater ones; also run on a fake driver.

Nothing here waits without a limit: every board lets its gates pass after a fifth of a second, and
whatever is waited for on the host has seconds. No captured kernel runs by itself or out of order.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from preempt_runtime.backends.cuda import DeviceMemory, Event, PinnedMemory, Stream, copy_async
from preempt_runtime.backends.cuda_graph import CudaGraph, capture_graph
from preempt_runtime.backends.cuda_module import Kernel, Module, pointer_arg, uint32_arg
from preempt_runtime.backends.gate_board import GateBoard, Mode, Raising
from preempt_runtime.backends.gates import GatedGraph, run_gated
from preempt_runtime.device import Array
from preempt_runtime.gate_keys import key_of, priority_rank
from preempt_runtime.gated_device import StretchTimes

PTX = Path(__file__).parent / "kernels" / "work.ptx"
MAX_WAIT_NS = 200_000_000
PATIENCE_S = 5.0


@dataclass
class Sizes:
    """How much a trial does: on the fake, every access takes a while."""

    count: int = 4096
    block: int = 128
    duration_ns: int = 50_000
    num_long: int = 100
    num_short: int = 8
    num_jobs: int = 200


class Hang(AssertionError):
    """Something was not done in seconds: the process should end, and the GPU with it."""


def finish(*streams: Stream, patience_s: float = PATIENCE_S) -> None:
    """Return when the streams have completed, by polling; never wait in the driver."""
    for stream in streams:
        with Event(timing=False) as event:
            event.record(stream)
            until = time.monotonic() + patience_s
            while not event.is_done():
                if time.monotonic() > until:
                    raise Hang(f"a stream was not done after {patience_s:g} s")


@contextmanager
def open_board(mode: Mode, raising: Raising | None = None) -> Iterator[GateBoard]:
    """A board whose gates wait for no longer than a fifth of a second."""
    with GateBoard(mode=mode, raising=raising, max_wait_ns=MAX_WAIT_NS) as board:
        yield board


class Workshop:
    """The kernels of work.cu, and arrays on which they leave what order they ran in."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self._stack = ExitStack()
        module = self._stack.enter_context(Module(PTX))
        self._long: Kernel = module.kernel("long_step")
        self._stamp: Kernel = module.kernel("stamp")
        self._stream = self._stack.enter_context(Stream(priority="low"))

    def close(self) -> None:
        """Release it, after its chains."""
        self._stack.close()

    def chain(self, numbers: Sequence[int], duration_ns: int = 0) -> "Chain":
        """A chain of its own array, which the caller closes; every step takes that long."""
        return Chain(self, numbers, duration_ns)

    def side_by_side(self, left: "Chain", right: "Chain") -> CudaGraph:
        """Both chains as the two branches of one graph, which the caller closes."""

        def enqueue() -> None:
            for chain in (left, right):
                chain.enqueue()

        captured: CudaGraph = capture_graph(self._stream, enqueue)
        num_left = len(left.numbers)
        captured.remove_edges(lambda start, end: start < num_left <= end)
        return captured

    def stamp(self, address: int, stream: Stream) -> None:
        """Enqueue that the device's time is written there; it takes a place on an SM."""
        self._stamp.launch(stream, [pointer_arg(address)], block=1)

    def stamp_params(self, address: int) -> Any:
        """The same as a node of a graph."""
        return self._stamp.node_params([pointer_arg(address)], block=1)

    def timer_steps_ns(self, number: int = 64) -> list[int]:
        """Differences of the device's clock between kernels, ascending."""
        with DeviceMemory(8 * number) as memory, PinnedMemory(8 * number) as host:
            for idx in range(number):
                self._stamp.launch(self._stream, [pointer_arg(memory.pointer + 8 * idx)], block=1)
            copy_async(host.pointer, memory.pointer, 8 * number, self._stream)
            finish(self._stream)
            times = host.array.view(np.uint64).astype(np.int64).copy()
        return sorted(int(each) for each in np.diff(times))


class Chain:
    """Steps that run one after another on an array; another order gives other numbers."""

    def __init__(self, shop: Workshop, numbers: Sequence[int], duration_ns: int) -> None:
        sizes = shop.sizes
        self.shop, self.numbers = shop, tuple(numbers)
        self._stream = shop._stream
        self._duration_ns = duration_ns
        self._num_bytes = 4 * sizes.count
        with ExitStack() as stack:
            self._memory = stack.enter_context(DeviceMemory(self._num_bytes))
            self._host = stack.enter_context(PinnedMemory(self._num_bytes))
            self.enqueue()  # the first launch of a kernel loads it, which cannot be captured
            finish(shop._stream)
            self.captured: CudaGraph = stack.enter_context(
                capture_graph(shop._stream, self.enqueue)
            )
            self._stack = stack.pop_all()

    def enqueue(self) -> None:
        """Put all steps on the workshop's stream."""
        sizes = self.shop.sizes
        for number in self.numbers:
            args = [
                pointer_arg(self._memory.pointer),
                uint32_arg(sizes.count),
                uint32_arg(number),
                pointer_arg(self._duration_ns),
            ]
            grid = -(-sizes.count // sizes.block)
            self.shop._long.launch(self._stream, args, grid=grid, block=sizes.block)

    def write(self, seed: int, stream: Stream) -> None:
        """Enqueue the copy of an input."""
        self._host.array.view(np.uint32)[:] = self.input(seed)
        copy_async(self._memory.pointer, self._host.pointer, self._num_bytes, stream)

    def read(self) -> Array:
        """The array as it is now."""
        copy_async(self._host.pointer, self._memory.pointer, self._num_bytes, self._stream)
        finish(self._stream)
        found: Array = self._host.array.view(np.uint32).copy()
        return found

    def input(self, seed: int) -> Array:
        """Random numbers that a seed chooses."""
        rng = np.random.default_rng(seed)
        return rng.integers(0, 1 << 32, self._num_bytes // 4, dtype=np.uint32)

    def expected(self, seed: int) -> Array:
        """What the steps make of the input, by numpy."""
        value: Array = self.input(seed)
        for number in self.numbers:
            value = value * np.uint32(3) + np.uint32(number)
        return value

    def close(self) -> None:
        """Release it; no job may be in it."""
        self._stack.close()

    def __enter__(self) -> "Chain":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
    def late_starts(self) -> int:
        """Stretches of the long job that passed while the urgent one was there."""
        start, end = self.urgent.arrived_ns[0], self.urgent.end_ns
        return sum(start < passed < end for passed in self.long.passed_ns)

    @property
    def overlap_ns(self) -> int:
        """How long stretches of both ran at once."""
        total = 0
        for start, taken in zip(self.urgent.passed_ns, self.urgent.stretch_ns, strict=True):
            for other, span in zip(self.long.passed_ns, self.long.stretch_ns, strict=True):
                total += max(0, min(start + taken, other + span) - max(start, other))
        return total


def preempt(shop: Workshop, board: GateBoard, low: Stream, high: Stream) -> Preemption:
    """Raise an urgent job while a long one runs."""
    sizes = shop.sizes
    slots = board.take_slot(), board.take_slot()
    with (
        shop.chain(range(1, sizes.num_long + 1), sizes.duration_ns) as long,
        shop.chain(range(1, sizes.num_short + 1), sizes.duration_ns // 10) as urgent,
        GatedGraph(
            long.captured, long.captured.shape().cuts(), board, slots[0], low, is_timed=True
        ) as slow,
        GatedGraph(
            urgent.captured, urgent.captured.shape().cuts(), board, slots[1], high, is_timed=True
        ) as fast,
    ):
        best_effort = key_of("best-effort", 0, slots[0])
        run_gated(slow, board, best_effort, low, before=lambda: long.write(7, low))
        with Event(timing=False) as begun:
            begun.record(low)
            for _ in range(20):  # some hundred us on a GPU: the long job runs by then
                begun.is_done()
        real_time = key_of("real-time", 0, slots[1])
        run_gated(fast, board, real_time, high, before=lambda: urgent.write(8, high))
        finish(high, low)
        is_right = np.array_equal(long.read(), long.expected(7)) and np.array_equal(
            urgent.read(), urgent.expected(8)
        )
        result = Preemption(urgent=fast.times(), long=slow.times(), is_right=bool(is_right))
    for slot in slots:
        board.return_slot(slot)
    return result


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
