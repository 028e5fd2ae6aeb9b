"""`preemptc compile`: from a network to a bundle."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from preempt_runtime.bundle import open_bundle
from preempt_runtime.manifest import PlanSpec
from preempt_runtime.units import fmt_ns
from preemptc.candidates import CandidateCounts
from preemptc.commands.options import (
    DEFAULT_OVERHEAD_FRAC,
    FILE,
    MAX_SEED,
    Request,
    max_live_bytes_option,
    network_options,
    profile_option,
)
from preemptc.commands.values import duration_ns, fraction
from preemptc.pipeline import compile_model, read_profile
from preemptc.replan import Goal
from preemptc.report import (
    Table,
    facts,
    fmt_bound,
    fmt_percent,
    longest_segment,
    pruning_table,
    segment_table,
)
from preemptc.terminal import show, watched


@click.command("compile")
@network_options
@click.option(
    "-o", "--output", type=FILE, metavar="DIR", help="The bundle.  [default: MODEL's stem.bundle]"
)
@click.option(
    "--max-segment",
    "max_segment_ns",
    type=duration_ns,
    metavar="TIME",
    help="Least overhead such that no segment takes longer, such as 3ms.",
)
@click.option(
    "--segments",
    "num_segments",
    type=click.IntRange(min=1),
    metavar="N",
    help="Exactly N segments, the longest as short as possible.",
)
@click.option(
    "--max-overhead",
    "max_overhead_frac",
    type=fraction,
    metavar="SHARE",
    help="The longest segment as short as this overhead allows.  [default: 3%]",
)
@click.option(
    "--bound-quantile",
    "quantile",
    type=click.Choice(("p50", "p99", "max")),
    default="p50",
    show_default=True,
    help="Which value of a segment's measured times must keep the bound.",
)
@click.option(
    "--engines",
    type=click.Choice(("auto", "require", "skip")),
    default="auto",
    show_default=True,
    help="Build for a GPU here: if it is here, or else refuse, or never.",
)
@profile_option
@click.option(
    "--inputs", type=FILE, metavar="FILE.npz", help="Recorded inputs to check, beside random ones."
)
@click.option(
    "--seed",
    type=click.IntRange(0, MAX_SEED),
    default=0,
    show_default=True,
    help="Of random inputs.",
)
@max_live_bytes_option
def command(
    request: Request, output: Path | None, max_segment_ns: int | None, num_segments: int | None,
    max_overhead_frac: float | None, quantile: str, profile: Path | None, inputs: Path | None,
    seed: int, max_live_bytes: int | None,
) -> None:  # fmt: skip
    """Split a network under a bound and write its bundle.

    --max-segment, --segments and --max-overhead exclude each other.
    """
    goal = _goal(max_segment_ns, num_segments, max_overhead_frac, quantile)
    options = request.options(
        goal=goal, profile=profile, max_live_bytes=max_live_bytes, inputs=inputs, seed=seed
    )
    bundle = output or Path(f"{request.model.stem}.bundle")
    with watched() as progress:
        report = compile_model(request.model, bundle, options, request.cache, progress)
    plan = open_bundle(bundle).manifest.plans[0]
    names = read_profile(bundle / "profile.json").node_names
    show(report, tables_of(report, plan, names, goal), as_json=request.as_json)


def _goal(
    max_segment_ns: int | None,
    num_segments: int | None,
    max_overhead_frac: float | None,
    quantile: str,
) -> Goal:
    given = {
        "--max-segment": max_segment_ns,
        "--segments": num_segments,
        "--max-overhead": max_overhead_frac,
    }
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise click.UsageError(f"{' and '.join(names)} exclude each other; give one of them")
    return Goal(
        max_segment_ns=max_segment_ns,
        num_segments=num_segments,
        max_overhead_frac=max_overhead_frac if names else DEFAULT_OVERHEAD_FRAC,
        quantile=quantile,
    )


def tables_of(
    report: Mapping[str, Any], plan: PlanSpec, node_names: Sequence[str], goal: Goal
) -> tuple[Table, ...]:
    """What `compile` tells people.

    Args:
        report: the document that the pipeline returned.
        plan: of the bundle it wrote.
        node_names: of the executed graph.
    """
    summary = {
        "segments": str(report["segments"]),
        "asked": _asked(goal),
        "bound": fmt_bound(report["bound_ns"], report["bound_quantile"]),
        **(_measured_facts(report, plan) if report["measured"] else _estimated_facts(report)),
        "bundle": report["bundle"],
        "time": f"{report['wall_s']:.3g} s, {report['cache_hits']} results from the cache",
    }
    notes = tuple(report.get("notes", ()))
    if report["segments"] == 1 and goal.num_segments is None:
        notes += ("one segment: this network cannot be preempted; ask for less to split it",)
    if not report["measured"]:
        where = report["bundle"]
        notes += (
            f"engines for {plan.target} are built where it is: run `preemptc build {where}` there,"
            " which measures and plans again",
        )
    return (
        facts(f"compiled for {plan.target}", summary, notes),
        pruning_table(CandidateCounts(**report["candidates"])),
        segment_table(plan, node_names),
    )


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
        "built": f"{report['built']} segments, {report['kept']} kept",
        "check": f"chained outputs {equal} {reference};"
        f" {check['source_max_abs_diff']:.3g} from the source's",
    }


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


def _asked(goal: Goal) -> str:
    if goal.max_segment_ns is not None:
        return f"no segment over {fmt_ns(goal.max_segment_ns)}, at the least overhead"
    if goal.num_segments is not None:
        return f"{goal.num_segments} segments, the longest as short as possible"
    assert goal.max_overhead_frac is not None
    return f"overhead at most {fmt_percent(goal.max_overhead_frac)}, the longest segment short"
