"""The report of a compile, as `--json` prints it and the cache keeps it. Times are in ns."""

from collections import Counter
from dataclasses import asdict
from typing import Any

from preempt_runtime.backends.graph_shape import GraphShape
from preempt_runtime.manifest import GATES, SEGMENTS, CheckSpec
from preemptc.backends import Bench
from preemptc.candidates import CandidateSet
from preemptc.check import check_notes
from preemptc.compile_options import Mechanism
from preemptc.gate_plan import MeasuredGates, kernel_names
from preemptc.goal import Goal
from preemptc.machine_speed import machine_speed, speed_notes
from preemptc.profile import LatencyProfile
from preemptc.search import SplitPlan
from preemptc.trials import MeasuredPlan


def measured_report(
    candidates: CandidateSet, profile: LatencyProfile, measured: MeasuredPlan, goal: Goal,
    check: CheckSpec, bench: Bench,
) -> dict[str, Any]:  # fmt: skip
    """The report of a compile that built and measured its plan."""
    measurement = measured.measurement
    speed = machine_speed(profile, measurement.whole.p50_ns)
    return {
        **_plan_report(candidates, measured.plan, goal),
        "source": "measured",
        "built": bench.num_built,
        "library_s": round(bench.library_ns / 1e9, 3),
        "kept": measured.plan.num_segments,
        "rounds": measured.num_rounds,
        **_measured(measured, check, speed),
        "notes": [*speed_notes(speed, measurement.ratio_p50), *check_notes(check)],
    }


def gates_report(
    profile: LatencyProfile, gates: MeasuredGates, goal: Goal, check: CheckSpec
) -> dict[str, Any]:
    """The report of a compile that put gates into one engine; its segments are the stretches."""
    measured, shape, figures = gates.measured, gates.shape, gates.figures
    measurement = measured.measurement
    speed = machine_speed(profile, measurement.whole.p50_ns)
    longest_ns = max(figures.node_ns)
    longest = figures.node_ns.index(longest_ns)
    return {
        **_plan_report(None, measured.plan, goal),
        "mechanism": GATES,
        "source": "measured",
        "built": 0,
        "library_s": 0.0,
        "kept": measured.plan.num_segments,
        "rounds": measured.num_rounds,
        **_measured(measured, check, speed),
        "gates": {
            "graph": shape.summary(),
            "nodes": len(shape.nodes),
            "kernels": sum(node.kind == "kernel" for node in shape.nodes),
            "is_chain": shape.is_chain,
            "width": graph_width(shape),
            "fingerprint": shape.fingerprint(),
            "positions": len(shape.cuts()),
            "gates": measured.plan.num_segments,
            "split_points": list(measured.plan.split_points),
            "gate_ns": figures.gate_ns,
            "node_ns": list(figures.node_ns),
            "node_names": list(kernel_names(shape)),
            "longest_node": longest,
            "longest_node_ns": longest_ns,
        },
        "notes": list(speed_notes(speed, measurement.ratio_p50)),
    }


def graph_width(shape: GraphShape) -> int:
    """How many nodes stand side by side at most, each as early as what it waits for allows.

    Of a chain it is 1.
    """
    depth = [0] * len(shape.nodes)
    starts: list[list[int]] = [[] for _ in shape.nodes]
    for edge in shape.edges:
        starts[edge.end].append(edge.start)
    for idx in shape.order():
        depth[idx] = 1 + max((depth[start] for start in starts[idx]), default=0)
    return max(Counter(depth).values())


def estimated_report(
    candidates: CandidateSet,
    profile: LatencyProfile,
    plan: SplitPlan,
    goal: Goal,
    mechanism: Mechanism,
) -> dict[str, Any]:
    """The report of a compile for a device that is elsewhere: nothing was built."""
    notes = []
    if mechanism != SEGMENTS:
        notes.append(
            f"mechanism {mechanism}: which kernels there are is known on the device alone, so the"
            " estimated plan is one of segments; `preemptc build` puts gates in there"
        )
    return {
        **_plan_report(candidates, plan, goal),
        "source": "estimated",
        "profile_source": profile.source,
        "built": 0,
        "library_s": 0.0,
        "kept": 0,
        "rounds": 0,
        "tried": [],
        "measured": None,
        "check": None,
        "notes": notes,
    }


def tried_plans(measured: MeasuredPlan) -> list[dict[str, Any]]:
    """The plans that were measured, in their order.

    One may have been measured several times; what is kept is its last measurement.
    """
    kept = max(
        (
            idx
            for idx, trial in enumerate(measured.trials)
            if trial.split_points == measured.plan.split_points
        ),
        default=None,
    )
    return [
        {
            "segments": len(trial.split_points) + 1,
            "newly_built": trial.num_new,
            "longest_ns": trial.longest_ns,
            "overhead_ratio": round(trial.ratio_p50, 4),
            "kept": idx == kept,
        }
        for idx, trial in enumerate(measured.trials)
    ]


def _measured(measured: MeasuredPlan, check: CheckSpec, speed: float | None) -> dict[str, Any]:
    measurement = measured.measurement
    return {
        "tried": tried_plans(measured),
        "measured": {
            "segment_p50_ns": [latency.p50_ns for latency in measurement.segments],
            "segment_p99_ns": [latency.p99_ns for latency in measurement.segments],
            "segment_max_ns": [latency.max_ns for latency in measurement.segments],
            "chained_p50_ns": measurement.chained.p50_ns,
            "whole_p50_ns": measurement.whole.p50_ns,
            "overhead_ratio": round(measurement.ratio_p50, 4),
            "machine_speed": speed,
        },
        "check": {
            "reference": check.reference,
            "is_against_whole": check.is_against_whole,
            "num_inputs": check.num_inputs,
            "max_abs_diff": check.max_abs_diff,
            "bitwise": check.bitwise,
            "source_max_abs_diff": check.source_max_abs_diff,
        },
    }


def _plan_report(candidates: CandidateSet | None, plan: SplitPlan, goal: Goal) -> dict[str, Any]:
    return {
        "mechanism": SEGMENTS,
        "segments": plan.num_segments,
        "candidates": None if candidates is None else asdict(candidates.counts),
        "bound_ns": goal.max_segment_ns,
        "bound_quantile": goal.quantile,
        "predicted_max_ns": plan.max_predicted_ns,
    }
