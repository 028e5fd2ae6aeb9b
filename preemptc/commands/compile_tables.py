"""What `compile` and `build` tell people of the bundle they wrote."""

from collections.abc import Mapping, Sequence
from typing import Any

from preempt_runtime.bundle import Bundle
from preempt_runtime.manifest import GATES, PlanSpec
from preempt_runtime.units import fmt_count, fmt_ns
from preemptc.candidates import CandidateCounts
from preemptc.compile_options import requested_mechanism
from preemptc.goal import Goal
from preemptc.plan_specs import main_plan
from preemptc.report import (
    Table,
    build_note,
    facts,
    fmt_bound,
    fmt_percent,
    longest_segment,
    pruning_table,
    segment_table,
)


def tables_of(
    report: Mapping[str, Any], bundle: Bundle, node_names: Sequence[str], goal: Goal
) -> tuple[Table, ...]:
    """What a compile tells people.

    Args:
        report: the document that the pipeline returned.
        bundle: what it wrote.
        node_names: of the executed graph.
        goal: what was asked.
    """
    plan = main_plan(bundle.manifest)
    if report["mechanism"] == GATES:
        return gates_tables_of(report, plan, goal)
    summary = {
        "segments": str(report["segments"]),
        "asked": _asked(goal),
        "bound": fmt_bound(report["bound_ns"], report["bound_quantile"]),
        **(_measured_facts(report, plan) if report["measured"] else _estimated_facts(report)),
        "bundle": report["bundle"],
        "time": _time(report),
    }
    notes = tuple(report.get("notes", ()))
    waits_for_gates = requested_mechanism(bundle) == GATES and not report["measured"]
    if report["segments"] == 1 and goal.num_segments is None and not waits_for_gates:
        notes += (
            "one segment: this network cannot be preempted; a shorter --max-segment, more"
            " --segments or a larger --max-overhead splits it",
        )
    if not report["measured"]:
        notes += (build_note(plan.target, report["bundle"]),)
    return (
        facts(f"compiled for {plan.target}", summary, notes),
        pruning_table(CandidateCounts(**report["candidates"])),
        segment_table(plan, node_names),
    )


def gates_tables_of(report: Mapping[str, Any], plan: PlanSpec, goal: Goal) -> tuple[Table, ...]:
    """What a compile that put gates into one engine tells people."""
    gates, measured, check = report["gates"], report["measured"], report["check"]
    shape = "a plain chain" if gates["is_chain"] else f"at most {gates['width']} side by side"
    name = gates["node_names"][gates["longest_node"]]
    summary = {
        "gates": f"{gates['gates']}, one before the first kernel, the others at"
        f" {gates['gates'] - 1} of {gates['positions']} positions; experimental",
        "asked": _asked(goal, "stretch", "stretches"),
        "bound": fmt_bound(report["bound_ns"], report["bound_quantile"]),
        "longest stretch": longest_segment(plan),
        "predicted": fmt_ns(report["predicted_max_ns"]),
        "longest kernel": f"{fmt_ns(gates['longest_node_ns'])}, node {gates['longest_node']}"
        f"{f' ({name})' if name else ''}",
        "overhead": f"{fmt_percent(measured['overhead_ratio'] - 1)} measured: each run with gates"
        " over the run without beside it, the median of these",
        "medians": f"with gates {fmt_ns(measured['chained_p50_ns'])}, without"
        f" {fmt_ns(measured['whole_p50_ns'])}",
        "a gate": f"{fmt_ns(gates['gate_ns'])}, from one at every position",
        "graph": f"{gates['kernels']} kernels of {gates['nodes']} nodes, {shape}; fingerprint"
        f" {gates['fingerprint']}",
        **(
            {"tried": fmt_tried(report["tried"], "stretch", "stretches")}
            if len(report["tried"]) > 1
            else {}
        ),
        "check": f"outputs with gates bitwise equal to those without on {check['num_inputs']}"
        f" inputs; {check['source_max_abs_diff']:.3g} from the source's",
        "bundle": report["bundle"],
        "time": _time(report),
    }
    return (
        facts(f"compiled for {plan.target}", summary, tuple(report["notes"])),
        segment_table(plan, None),
    )


def _time(report: Mapping[str, Any]) -> str:
    found = fmt_count(report["cache_hits"], "result")
    return f"{report['wall_s']:.3g} s, {found} from the cache"


def _measured_facts(report: Mapping[str, Any], plan: PlanSpec) -> dict[str, str]:
    measured, check = report["measured"], report["check"]
    equal = "bitwise equal to" if check["bitwise"] else f"{check['max_abs_diff']:.3g} from"
    reference = "the whole network's" if check["is_against_whole"] else "the source's"
    return {
        "longest segment": longest_segment(plan),
        "predicted": fmt_ns(report["predicted_max_ns"]),
        "overhead": _overhead(report),
        "medians": f"chained {fmt_ns(measured['chained_p50_ns'])}, whole"
        f" {fmt_ns(measured['whole_p50_ns'])}, medians over all runs of each; not what the"
        " overhead is computed from",
        "built": f"{fmt_count(report['built'], 'segment')}, {report['kept']} kept",
        **({"tried": fmt_tried(report["tried"])} if len(report["tried"]) > 1 else {}),
        "check": f"chained outputs {equal} {reference};"
        f" {check['source_max_abs_diff']:.3g} from the source's",
    }


def fmt_tried(
    tried: Sequence[Mapping[str, Any]], piece: str = "segment", pieces: str = "segments"
) -> str:
    """The plans that were measured, in their order.

    >>> plan = {"segments": 3, "longest_ns": 9000, "overhead_ratio": 1.02, "kept": True}
    >>> fmt_tried([{**plan, "segments": 4, "overhead_ratio": 1.03, "kept": False}, plan])
    '4 segments: longest 9 us, overhead 3 %; 3 segments: longest 9 us, overhead 2 % (kept)'
    """
    return "; ".join(
        f"{plan['segments']} {piece if plan['segments'] == 1 else pieces}: longest"
        f" {fmt_ns(plan['longest_ns'])}, overhead"
        f" {fmt_percent(plan['overhead_ratio'] - 1)}{' (kept)' if plan['kept'] else ''}"
        for plan in tried
    )


def _overhead(report: Mapping[str, Any]) -> str:
    if report["segments"] == 1:
        return f"{fmt_percent(0)}: one segment is the uncut network"
    found = fmt_percent(report["measured"]["overhead_ratio"] - 1)
    return f"{found} measured: each chained run over the whole run beside it, the median of these"


def _estimated_facts(report: Mapping[str, Any]) -> dict[str, str]:
    return {
        "longest segment": f"{fmt_ns(report['predicted_max_ns'])}, planned from"
        f" {report['profile_source']} costs; nothing was built",
    }


def _asked(goal: Goal, piece: str = "segment", pieces: str = "segments") -> str:
    if goal.max_segment_ns is not None:
        return f"no {piece} over {fmt_ns(goal.max_segment_ns)}, at the least overhead"
    if goal.num_segments is not None:
        if goal.num_segments == 1:
            return f"1 {piece}"
        return f"{goal.num_segments} {pieces}, the longest as short as possible"
    assert goal.max_overhead_frac is not None
    return f"overhead at most {fmt_percent(goal.max_overhead_frac)}, the longest {piece} short"
