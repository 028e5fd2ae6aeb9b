"""What gates cost a network: its time with and without them, its stretches, its outputs."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gate_bundles import GatedCase, gated_bundle
from bench.gate_engine import GatedEngine, gated_engine, open_gates
from bench.gate_parts import PartFile, Parts
from bench.intervals import median_interval, quantiles_of
from bench.paired import is_bitwise_equal
from preempt_runtime.backends.gate_board import Mode
from preempt_runtime.gated_device import StretchTimes
from preempt_runtime.inputs import random_inputs
from preemptc.backends.tensorrt.timing import Row
from preemptc.compile_report import graph_width

MODES: tuple[Mode, ...] = ("exclusive", "overlap")
_BUILD_S = 180  # resnet152 at level 3 took two minutes on an H200


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCase(GatedCase):
    """A network with the overhead that was asked of its gates."""

    goal: float


CASES = (
    NetworkCase(network="resnet50", batch=1, stretch_us=50, goal=1.03),
    NetworkCase(network="resnet152", batch=32, stretch_us=100, goal=1.02),
    NetworkCase(network="vit_b_16", batch=1, stretch_us=100, goal=1.02),
    NetworkCase(network="bert_base", batch=1, stretch_us=100, goal=1.02),
    NetworkCase(network="distilbert", batch=1, stretch_us=100, goal=1.02),
)
QUICK_CASES = (NetworkCase(network="light/squeezenet", batch=1, stretch_us=50, goal=1.03),)


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Which networks, and how often each is run."""
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of these networks alone")
    parser.add_argument("--rounds", type=int, default=500, help="pairs of runs, at least (500)")
    parser.add_argument("--seconds", type=float, default=2, help="of pairs, and of runs (2)")
    parser.add_argument("--inputs", type=int, default=100, help="random inputs (100)")
    parser.add_argument("--build-only", action="store_true", help="compile, and measure later")


def networks(options: argparse.Namespace, parts: Parts) -> None:
    """A part for each network; one that cannot be measured says why.

    The first one is begun whatever time is left, others if they can be built in it.
    """
    has_begun = False
    for case in QUICK_CASES if options.quick else CASES:
        if options.only and case.network not in options.only:
            continue
        if (part := parts.open(f"network-{case.name}")) is None:
            continue
        if has_begun and not parts.budget.allows(_BUILD_S):
            print(f"{case.name}: {parts.budget.left_s:.0f} s are left; run this again", flush=True)
            break
        has_begun = True
        head: dict[str, Any] = {
            "network": case.network,
            "batch": case.batch,
            "goal": case.goal,
        }
        with part.keeping(**head):
            path, report = gated_bundle(case, options)
            head["compiled"] = compiled_figures(report)
            part.write(head, is_complete=False)
            if not options.build_only:
                _measure_modes(path, part, head, options)


def compiled_figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """What of a compile's report the page tells."""
    gates = report["gates"]
    return {
        "bound_ns": report["bound_ns"],
        "asked_bound_ns": report["asked_bound_ns"],
        "whole_p50_ns": report["measured"]["whole_p50_ns"],
        "overhead": report["measured"]["overhead_ratio"],
        "longest_kernel_ns": gates["longest_node_ns"],
        "longest_kernel": gates["node_names"][gates["longest_node"]],
        "positions": gates["positions"],
        "gate_ns": gates["gate_ns"],
    }


def _measure_modes(
    path: Path, part: PartFile, head: Mapping[str, Any], options: argparse.Namespace
) -> None:
    modes: dict[str, Any] = {}
    for mode in MODES:
        with open_gates(mode) as board, gated_engine(path, board) as engine:
            shape = engine.bench.shape
            graph = {
                "graph": shape.summary(),
                "kernels": sum(node.kind == "kernel" for node in shape.nodes),
                "is_chain": shape.is_chain,
                "width": graph_width(shape),
                "aux_streams": int(engine.buffers.contexts[0].engine.num_aux_streams),
                "gates": engine.graph.num_gates,
            }
            modes[mode] = {
                **overhead_of(engine.in_turn(min_rows=options.rounds, budget_s=options.seconds)),
                "stretches": stretches_of(
                    engine.stretch_times(min_runs=options.rounds, budget_s=options.seconds)
                ),
                "inputs": options.inputs,
                "equal": num_equal(engine, options.inputs),
                "give_ups": len(board.give_ups()),
            }
        part.write({**head, **graph, "modes": modes}, is_complete=len(modes) == len(MODES))
        overhead = modes[mode]["overhead"]["median"]
        print(f"{path.name}: {mode}: {overhead:.4f}, {graph['gates']} gates", flush=True)


def overhead_of(rows: Sequence[Row]) -> dict[str, Any]:
    """With gates over without: the median of paired ratios with its 95 % interval, and of p99."""
    found = median_interval([row.chained_ns / row.whole_ns for row in rows], seed=0)
    gated, alone = (
        quantiles_of(times)
        for times in ([row.chained_ns for row in rows], [row.whole_ns for row in rows])
    )
    return {
        "pairs": found.num_samples,
        "overhead": {
            "median": round(found.median, 4),
            "low": round(found.low, 4),
            "high": round(found.high, 4),
            "p99": round(gated.p99_ns / alone.p99_ns, 4),
        },
        "gated_ns": {"p50": gated.p50_ns, "p99": gated.p99_ns},
        "alone_ns": {"p50": alone.p50_ns, "p99": alone.p99_ns},
    }


def stretches_of(runs: Sequence[StretchTimes]) -> dict[str, Any]:
    """Quantiles of the stretch with the largest median, and the longest time of any stretch."""
    every = [quantiles_of(times) for times in zip(*(run.stretch_ns for run in runs), strict=True)]
    longest = max(every, key=lambda found: found.p50_ns)
    return {
        "runs": len(runs),
        "longest": every.index(longest),
        "p50_ns": longest.p50_ns,
        "p99_ns": max(found.p99_ns for found in every),
        "max_ns": max(found.max_ns for found in every),
    }


def num_equal(engine: GatedEngine, num_inputs: int) -> int:
    """For how many random inputs all outputs are those without gates, bit by bit."""
    (graph,) = engine.bundle.manifest.graphs
    found = 0
    for seed in range(num_inputs):
        inputs = random_inputs(graph, seed=seed, task="gates")
        expected = engine.bench.outputs(None, inputs)
        outputs = engine.bench.outputs(engine.cuts, inputs)
        found += is_bitwise_equal(outputs, expected)
    return found
