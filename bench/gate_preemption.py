"""How long preempting takes, by the device's clock: from the raise to where what runs has parked.

When a key is raised is written down on the device, in one of two ways. Raised by a kernel: that
kernel reads the clock right after it has written the key. Raised by a memory operation, which has
no clock: a kernel before it in the same stream reads the clock, so the latency counts the way from
that kernel to the operation, too. Either kernel needs a place on an SM: beside a job that fills the
GPU the raise comes when a block of it ends.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

from bench.gate_bundles import gated_bundle
from bench.gate_engine import GatedEngine, gated_engine, open_gates
from bench.gate_networks import CASES, QUICK_CASES, stretches_of
from bench.gate_parts import PartFile, Parts
from bench.gate_workshop import MAX_WAIT_NS, Chain, Hang, Sizes, Workshop, finish
from bench.intervals import quantiles_of
from bench.paired import is_bitwise_equal
from preempt_runtime.backends.cuda import DeviceMemory, Event, PinnedMemory, Stream, copy_async
from preempt_runtime.backends.gate_board import GateBoard, Mode, Raising
from preempt_runtime.backends.gates import GatedGraph, run_gated
from preempt_runtime.gate_keys import key_of, priority_rank
from preempt_runtime.gated_device import StretchTimes
from preempt_runtime.inputs import random_inputs

WAYS: tuple[tuple[Mode, Raising], ...] = (
    ("exclusive", "kernel"),
    ("exclusive", "write"),
    ("overlap", "kernel"),
    ("overlap", "write"),
)
CHAINS = {
    "chain": Sizes(count=1 << 15, block=256, duration_ns=40_000, num_long=60, num_short=3),
    "full": Sizes(count=1 << 21, block=256, duration_ns=10_000, num_long=40, num_short=3),
}
"""At most a block on each SM, for 40 us; blocks that fill the GPU several times, for 10 us each."""
_MAX_GAP_S = 300e-6
_ALONE_RUNS = 50
_URGENT_NS = 2_000
SLACK_NS = 10_000
"""How much longer than the longest stretch a preemption may take."""


def add_preempt_options(parser: argparse.ArgumentParser) -> None:
    """How many preemptions, of what."""
    parser.add_argument("--preemptions", type=int, default=10_000, help="of each row (10,000)")
    victims = (*CHAINS, "engine")
    parser.add_argument("--only", nargs="+", choices=victims, default=victims)


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """What is preempted: a job of best effort, and whether its outputs are right in the end."""

    graph: GatedGraph
    stream: Stream
    start: Callable[[int], None]
    is_right: Callable[[], bool]


@dataclass(slots=True)
class Tally:
    """What was found of preemptions; `parked_ns` from the raise to the gate that holds the job.

    `start_ns` is from the raise to where the urgent job passed its first gate. `num_unparked`
    counts urgent jobs that ended before the other came to a gate, `late_starts` is how many
    stretches began after a raise at most.
    """

    parked_ns: list[int] = field(default_factory=list)
    start_ns: list[int] = field(default_factory=list)
    num_unparked: int = 0
    late_starts: int = 0
    num_victims: int = 0
    num_right: int = 0

    def add(self, raised_ns: int, urgent: StretchTimes, victim: StretchTimes) -> None:
        """One urgent job, if the other ran when it was raised."""
        if not victim.passed_ns[0] <= raised_ns < victim.end_ns:
            return
        late = sum(raised_ns < passed < urgent.passed_ns[0] for passed in victim.passed_ns[1:])
        self.late_starts = max(self.late_starts, late)
        parked_ns = parked_at(raised_ns, victim)
        if parked_ns > urgent.end_ns:
            self.num_unparked += 1
            return
        self.parked_ns.append(parked_ns - raised_ns)
        self.start_ns.append(urgent.passed_ns[0] - raised_ns)


def parked_at(raised_ns: int, victim: StretchTimes) -> int:
    """When a job came to the first gate after the raise at which it had to wait, or ended.

    >>> times = StretchTimes(arrived_ns=(0, 10, 20), passed_ns=(0, 10, 35), end_ns=45)
    >>> parked_at(5, times), parked_at(25, times), parked_at(40, times)
    (20, 25, 45)
    """
    for arrived_ns, passed_ns in zip(victim.arrived_ns, victim.passed_ns, strict=True):
        if passed_ns > max(raised_ns, arrived_ns):
            return max(arrived_ns, raised_ns)
    return victim.end_ns


class Urgent:
    """A short job that is raised again and again, with the time of each raise."""

    def __init__(self, shop: Workshop, chain: Chain, board: GateBoard, stack: ExitStack) -> None:
        self._shop, self._board = shop, board
        self._stream = stack.enter_context(Stream(priority="high"))
        self._word = stack.enter_context(DeviceMemory(8))
        self._host = stack.enter_context(PinnedMemory(8))
        self._ended = stack.enter_context(Event(timing=False))
        slot = board.take_slot()
        stack.callback(board.return_slot, slot)
        self._graph = stack.enter_context(
            GatedGraph(chain.captured, (), board, slot, self._stream, is_timed=True)
        )
        self._key = key_of("real-time", 0, slot)

    def run(self, patience_s: float = 5.0) -> tuple[int, StretchTimes]:
        """Raise it and wait for its end: when it was raised, and where it was when."""
        board, stream = self._board, self._stream
        if board.raising == "kernel":
            board.raise_key(self._key, stream, stamp=self._word.pointer)
        else:
            self._shop.stamp(self._word.pointer, stream)
            board.raise_key(self._key, stream)
        try:
            self._graph.launch(stream)
        except BaseException:
            board.clear_slot(self._graph.slot, stream)
            raise
        copy_async(self._host.pointer, self._word.pointer, 8, stream)
        self._ended.record(stream)
        until = time.monotonic() + patience_s
        while not self._ended.is_done():
            if time.monotonic() > until:
                raise Hang(f"an urgent job was not done after {patience_s:g} s")
        return int(self._host.array.view(np.uint64)[0]), self._graph.times()


def preempt_often(victim: Victim, urgent: Urgent, *, number: int, until: float, seed: int) -> Tally:
    """Run the victim again and again, and the urgent job at random times beside it."""
    rng, tally = Random(seed), Tally()
    with Event(timing=False) as ended:
        while len(tally.parked_ns) < number and time.monotonic() < until:
            victim.start(tally.num_victims)
            ended.record(victim.stream)
            found = []
            while not ended.is_done():
                next_raise = time.perf_counter() + rng.uniform(0, _MAX_GAP_S)
                while time.perf_counter() < next_raise:
                    pass
                found.append(urgent.run())
            times = victim.graph.times()
            for raised_ns, ran in found:
                tally.add(raised_ns, ran, times)
            tally.num_victims += 1
            tally.num_right += victim.is_right()
    return tally


def preempt(options: argparse.Namespace, parts: Parts) -> None:
    """A part for each victim, with a row for each mode and way of raising."""
    for name in options.only:
        if (part := parts.open(f"preempt-{name}")) is None:
            continue
        with part.keeping(victim=name):
            _preempt(name, options, parts, part)


def _preempt(name: str, options: argparse.Namespace, parts: Parts, part: PartFile) -> None:
    rows: list[dict[str, Any]] = []
    case = QUICK_CASES[0] if options.quick else CASES[1]
    path = gated_bundle(case, options)[0] if name == "engine" else None
    sizes = CHAINS.get(name, CHAINS["chain"])
    for idx, (mode, raising) in enumerate(WAYS):
        seconds = parts.budget.left_s / (len(WAYS) - idx) * 0.9
        with ExitStack() as stack:
            stack.enter_context(open_gates(mode))  # CUDA, before a board of another way of raising
            board = stack.enter_context(
                GateBoard(mode=mode, raising=raising, max_wait_ns=MAX_WAIT_NS)
            )
            shop = Workshop(sizes)
            stack.callback(shop.close)
            short = range(1, sizes.num_short + 1)
            urgent = Urgent(shop, stack.enter_context(shop.chain(short, _URGENT_NS)), board, stack)
            if path is None:
                victim = stack.enter_context(chain_victim(shop, board))
            else:
                victim = engine_victim(stack.enter_context(gated_engine(path, board)))
            alone = [_run_alone(victim, order) for order in range(_ALONE_RUNS)]
            until = time.monotonic() + seconds
            tally = preempt_often(victim, urgent, number=options.preemptions, until=until, seed=idx)
            rows.append(
                {
                    "mode": mode,
                    "raising": raising,
                    "asked": options.preemptions,
                    **tally_figures(tally, alone),
                    "give_ups": len(board.give_ups()),
                }
            )
        figures = {"victim": name, "network": case.name if path else None, "rows": rows}
        part.write(figures, is_complete=len(rows) == len(WAYS))
        print(f"{name}: {rows[-1]}", flush=True)


def tally_figures(tally: Tally, alone: Sequence[StretchTimes]) -> dict[str, Any]:
    """Quantiles of both latencies, and of the longest stretch of runs alone."""
    found: dict[str, Any] = {
        "preemptions": len(tally.parked_ns),
        "unparked": tally.num_unparked,
        "late_starts": tally.late_starts,
        "victims": tally.num_victims,
        "right": tally.num_right,
        "stretches": stretches_of(alone),
    }
    for name, times in (("parked_ns", tally.parked_ns), ("start_ns", tally.start_ns)):
        if times:
            each = quantiles_of(times)
            found[name] = {"p50": each.p50_ns, "p99": each.p99_ns, "max": each.max_ns}
    return found


def _run_alone(victim: Victim, order: int) -> StretchTimes:
    victim.start(order)
    finish(victim.stream)
    return victim.graph.times()


@contextmanager
def chain_victim(shop: Workshop, board: GateBoard) -> Iterator[Victim]:
    """A chain of kernels with a gate before each."""
    sizes = shop.sizes
    slot = board.take_slot()
    with (
        Stream(priority="low") as stream,
        shop.chain(range(1, sizes.num_long + 1), sizes.duration_ns) as chain,
        GatedGraph(
            chain.captured, chain.captured.shape().cuts(), board, slot, stream, is_timed=True
        ) as graph,
    ):
        seeds: list[int] = []

        def start(order: int) -> None:
            seeds.append(order)
            chain.write(order, stream)  # before the raise: the job begins at once
            key = key_of("best-effort", priority_rank(0, order), slot)
            run_gated(graph, board, key, stream)

        def is_right() -> bool:
            return bool(np.array_equal(chain.read(), chain.expected(seeds[-1])))

        yield Victim(graph=graph, stream=stream, start=start, is_right=is_right)
    board.return_slot(slot)


def engine_victim(engine: GatedEngine) -> Victim:
    """A network of a bundle."""
    inputs = random_inputs(engine.bundle.manifest.graphs[0], seed=0, task="preempt")
    expected = engine.bench.outputs(None, inputs)
    engine.buffers.write_inputs(inputs)
    return Victim(
        graph=engine.graph,
        stream=engine.stream,
        start=lambda order: engine.start("best-effort", order),
        is_right=lambda: is_bitwise_equal(engine.buffers.read_outputs(), expected),
    )
