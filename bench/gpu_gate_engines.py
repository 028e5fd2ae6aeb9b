"""Gates in TensorRT engines: their overhead, and an urgent network beside a long one.

EXPERIMENTAL, see bench.gpu_gates. Every job in flight has a network loaded for itself: jobs that
gates interleave must not share scratch memory.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any, Literal

import numpy as np

from bench.gate_trials import finish
from bench.gpu_gates import MODES
from bench.intervals import quantiles_of
from preempt_runtime.backends.cuda import Event, Stream, open_cuda
from preempt_runtime.backends.gate_board import GateBoard, Mode
from preempt_runtime.backends.gates import GatedGraph, run_gated
from preempt_runtime.backends.tensorrt import Scratch, bind, local_fields
from preempt_runtime.backends.trt_engines import load_engines
from preempt_runtime.bundle import Bundle, choose_plan, open_bundle
from preempt_runtime.errors import InfeasibleError
from preempt_runtime.gate_keys import Tier, key_of, priority_rank
from preempt_runtime.inputs import random_inputs
from preempt_runtime.manifest import WHOLE_PLAN_ID
from preemptc.backends import GateRefusal
from preemptc.backends.tensorrt.gate_bench import TrtGateBench
from preemptc.gate_plan import gate_figures
from preemptc.gate_search import place_gates

_EVERY = (1, 2, 4, 8, 16)


@contextmanager
def load(
    bundle: Bundle, mode: Mode, *, priority: Literal["high", "low"] = "low"
) -> Iterator[TrtGateBench]:
    """The whole network, with scratch memory and a stream of its own."""
    plan = choose_plan(bundle, local_fields(), plan_id=WHOLE_PLAN_ID)
    with open_cuda(), Stream(priority=priority) as stream:
        loaded = load_engines(bundle, plan)
        graph, engines = loaded.graph, loaded.engines
        with (
            Scratch(engines) as scratch,
            bind(
                engines, loaded.interfaces, graph, (), loaded.name, scratch, stream,
                zero_copy=False,
            ) as buffers,
            TrtGateBench(buffers, graph, stream, mode=mode) as gates,
        ):  # fmt: skip
            yield gates


def run(loaded: TrtGateBench, graph: GatedGraph, board: GateBoard, tier: Tier, order: int) -> None:
    """Enqueue one job, with its copies."""
    run_gated(
        graph,
        board,
        key_of(tier, priority_rank(0, order), graph.slot),
        loaded.stream,
        before=lambda: loaded.buffers.copy_inputs(loaded.stream),
        after=lambda: loaded.buffers.copy_outputs(loaded.stream),
    )


def engine(options: argparse.Namespace) -> Any:
    """Overhead paired with the graph without gates, and outputs bit by bit."""
    bundle = open_bundle(options.bundle)
    result: dict[str, Any] = {"unfit": None, "rows": []}
    for mode in MODES:
        try:
            with load(bundle, mode) as gates:
                _measure_choices(gates, bundle, mode, options, result)
        except GateRefusal as err:
            result["unfit"] = err.reason
    return result


def _measure_choices(
    gates: TrtGateBench,
    bundle: Bundle,
    mode: Mode,
    options: argparse.Namespace,
    result: dict[str, Any],
) -> None:
    shape = gates.shape
    cuts, figures = shape.cuts(), gate_figures(gates)
    result |= {
        "shape": shape.summary(),
        "fingerprint": shape.fingerprint(),
        "positions": len(cuts),
        "kernels": [node.name for node in shape.nodes],
        f"gate_ns_{mode}": figures.gate_ns,
        "longest_kernel_ns": max(figures.node_ns),
    }
    choices = {f"every {every}": cuts[every - 1 :: every] for every in _EVERY}
    try:
        plan = place_gates(figures.node_ns, cuts, figures.gate_ns, options.stretch_us * 1000)
        choices[f"placed, {options.stretch_us} us"] = plan.split_points
    except InfeasibleError as err:
        result["infeasible"] = str(err)
    (graph,) = bundle.manifest.graphs
    inputs = [random_inputs(graph, seed=seed, task="gates") for seed in range(options.inputs)]
    expected = [gates.outputs(None, each) for each in inputs]
    for name, chosen in choices.items():
        times = gates.measure(chosen, min_runs=options.rounds, budget_ns=0).times
        num_equal = 0
        for given, right in zip(inputs, expected, strict=True):
            found = gates.outputs(chosen, given)
            num_equal += all(np.array_equal(found[key], right[key]) for key in right)
        result["rows"].append(
            {
                "mode": mode,
                "gates": name,
                "num_gates": len(times.segments),
                "whole_us": times.whole.p50_ns / 1000,
                "overhead": times.ratio_p50,
                "longest_us": max(each.p50_ns for each in times.segments) / 1000,
                "equal": num_equal,
                "inputs": options.inputs,
            }
        )


def pair(options: argparse.Namespace) -> Any:
    """Response of the urgent network, alone and beside the long one, and the long one's rate."""
    rows: dict[str, Any] = {}
    short, long = open_bundle(options.urgent), open_bundle(options.bundle)
    for mode in MODES:
        with ExitStack() as stack:
            urgent = stack.enter_context(load(short, mode, priority="high"))
            others = [stack.enter_context(load(long, mode)) for _ in range(2)]
            loaded = (urgent, *others)
            cuts = [_cuts(each, options.stretch_us * 1000) for each in loaded]
            board = stack.enter_context(GateBoard(mode=mode, max_wait_ns=200_000_000))
            gated = [
                stack.enter_context(
                    GatedGraph(each.captured, where, board, board.take_slot(), each.stream)
                )
                for each, where in zip(loaded, cuts, strict=True)
            ]
            rows[mode] = {
                "num_gates": [graph.num_gates for graph in gated],
                "alone": _beside(urgent, [], gated, board, options),
                "long_alone": _beside(None, others, gated, board, options),
                "both": _beside(urgent, others, gated, board, options),
                "give_ups": [give_up.reason for give_up in board.give_ups()],
            }
    return rows


def _cuts(gates: TrtGateBench, stretch_ns: int) -> tuple[int, ...]:
    """Gates such that no stretch takes longer, or than the longest kernel does."""
    figures = gate_figures(gates)
    bound_ns = max(stretch_ns, max(figures.node_ns) + figures.gate_ns)
    return place_gates(figures.node_ns, gates.shape.cuts(), figures.gate_ns, bound_ns).split_points


def _beside(
    urgent: TrtGateBench | None,
    others: Sequence[TrtGateBench],
    gated: Sequence[GatedGraph],
    board: GateBoard,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Jittered releases of the urgent network, the others in a closed loop."""
    rng, responses, num_done, order = Random(1), [], 0, 0
    period_ns = options.period_us * 1000
    with ExitStack() as stack:
        events = [stack.enter_context(Event(timing=False)) for _ in gated]
        flying = [False] * len(gated)
        start_ns = release_ns = time.perf_counter_ns()
        end_ns = start_ns + round(options.seconds * 1e9)
        while time.perf_counter_ns() < end_ns:
            if urgent is not None:
                now_ns = time.perf_counter_ns()
                if flying[0] and events[0].is_done():
                    responses.append(time.perf_counter_ns() - release_ns)
                    flying[0] = False
                    release_ns += round(period_ns * rng.uniform(0.5, 1.5))
                if not flying[0] and now_ns >= release_ns:
                    run(urgent, gated[0], board, "real-time", order)
                    events[0].record(urgent.stream)
                    flying[0] = True
            for idx, other in enumerate(others, 1):
                if flying[idx] and events[idx].is_done():
                    num_done += 1
                    flying[idx] = False
                if not flying[idx]:
                    order += 1
                    run(other, gated[idx], board, "best-effort", order)
                    events[idx].record(other.stream)
                    flying[idx] = True
        finish(*(loaded.stream for loaded in (urgent, *others) if loaded is not None))
    result: dict[str, Any] = {"long_per_s": num_done / options.seconds}
    if responses:
        found = quantiles_of(responses[10:] or responses)
        result |= {"p50_us": found.p50_ns / 1000, "p99_us": found.p99_ns / 1000}
        result["max_us"], result["jobs"] = found.max_ns / 1000, len(responses)
    return result
