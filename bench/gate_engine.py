"""One engine of a bundle with gates where its plan has them, beside the graph without any."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.cut_graphs import plan_of_gates
from bench.gate_workshop import MAX_WAIT_NS, finish
from preempt_runtime.backends.cuda import GraphExec, Stream, open_cuda
from preempt_runtime.backends.gate_board import GateBoard, Mode
from preempt_runtime.backends.gates import GatedGraph, run_gated
from preempt_runtime.backends.tensorrt import Scratch, TrtBuffers, bind, local_fields
from preempt_runtime.backends.trt_engines import load_engines
from preempt_runtime.bundle import Bundle, choose_plan, open_bundle
from preempt_runtime.errors import GatesError
from preempt_runtime.gate_keys import Tier, key_of, priority_rank
from preempt_runtime.gated_device import StretchTimes
from preempt_runtime.manifest import WHOLE_PLAN_ID, PlanSpec
from preemptc.backends.tensorrt.gate_bench import TrtGateBench
from preemptc.backends.tensorrt.timing import Row, time_in_turn

_WARM_UP_RUNS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedEngine:
    """A network of a bundle, its job in a slot of a board, and what it was captured as.

    `alone` is the graph without gates, `bench` what compares outputs.
    """

    bundle: Bundle
    plan: PlanSpec
    bench: TrtGateBench
    board: GateBoard
    graph: GatedGraph
    alone: GraphExec

    @property
    def buffers(self) -> TrtBuffers:
        """The job's tensors."""
        return self.bench.buffers

    @property
    def stream(self) -> Stream:
        """The job's stream."""
        return self.bench.stream

    @property
    def cuts(self) -> tuple[int, ...]:
        """Where gates stand, but for the one before the first node."""
        return tuple(segment.range[0] for segment in self.plan.segments[1:])

    def key(self, tier: Tier, order: int) -> int:
        """Of a job of this engine; the later in order the less urgent."""
        return key_of(tier, priority_rank(0, order), self.graph.slot)

    def start(self, tier: Tier, order: int) -> None:
        """Enqueue one job with its copies."""
        run_gated(
            self.graph,
            self.board,
            self.key(tier, order),
            self.stream,
            before=lambda: self.buffers.copy_inputs(self.stream),
            after=lambda: self.buffers.copy_outputs(self.stream),
        )

    def launch(self, stream: Stream) -> None:
        """Enqueue a job without copies, its raise included: what is compared with `alone`."""
        run_gated(self.graph, self.board, self.key("real-time", 0), stream)

    def in_turn(self, *, min_rows: int, budget_s: float) -> list[Row]:
        """Times with gates (`chained_ns`) and without (`whole_ns`), in turn, on this stream."""
        budget_ns = round(budget_s * 1e9)
        return time_in_turn(
            [self], [self.alone], self.stream, min_rows=min_rows, budget_ns=budget_ns
        )

    def stretch_times(self, *, min_runs: int, budget_s: float) -> list[StretchTimes]:
        """What gates wrote down of runs alone on the device."""
        runs: list[StretchTimes] = []
        until = time.monotonic() + budget_s
        while len(runs) < min_runs + _WARM_UP_RUNS or time.monotonic() < until:
            self.launch(self.stream)
            finish(self.stream)
            runs.append(self.graph.times())
        return runs[_WARM_UP_RUNS:]


@contextmanager
def gated_engine(
    path: Path, board: GateBoard, *, priority: Literal["high", "low"] = "low"
) -> Iterator[GatedEngine]:
    """The bundle's network on a board; the caller has opened CUDA.

    Raises:
        BundleError: it is not of this machine.
        GatesError: it has no plan of gates, or of another graph.
        GateRefusal: gates cannot be put in.
    """
    bundle = open_bundle(path)
    plan = plan_of_gates(bundle)
    assert plan.gates is not None
    loaded = load_engines(bundle, choose_plan(bundle, local_fields(), plan_id=WHOLE_PLAN_ID))
    engines = loaded.engines
    slot = board.take_slot()
    try:
        with (
            Stream(priority=priority) as stream,
            Scratch(engines) as scratch,
            bind(
                engines, loaded.interfaces, loaded.graph, (), loaded.name, scratch, stream,
                zero_copy=False,
            ) as buffers,
            TrtGateBench(buffers, loaded.graph, stream, mode=board.mode) as bench,
        ):  # fmt: skip
            if (found := bench.shape.fingerprint()) != plan.gates.fingerprint:
                raise GatesError(
                    f"{path}: captured graph {found}, its plan is of {plan.gates.fingerprint};"
                    " compile it again here"
                )
            cuts = [segment.range[0] for segment in plan.segments[1:]]
            with (
                GatedGraph(bench.captured, cuts, board, slot, stream, is_timed=True) as graph,
                bench.captured.instantiate() as alone,
            ):
                alone.upload(stream)
                yield GatedEngine(
                    bundle=bundle, plan=plan, bench=bench, board=board, graph=graph, alone=alone
                )
    finally:
        board.return_slot(slot)


@contextmanager
def open_gates(mode: Mode) -> Iterator[GateBoard]:
    """CUDA, and a board whose gates wait for a fifth of a second at most."""
    with open_cuda(), GateBoard(mode=mode, max_wait_ns=MAX_WAIT_NS) as board:
        yield board
