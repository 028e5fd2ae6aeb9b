"""`preemptc explore`: what bound costs what overhead."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from preempt_runtime.errors import InputError
from preempt_runtime.units import fmt_count, fmt_ns
from preemptc.cache import guard, write_atomically
from preemptc.candidates import CandidateSet
from preemptc.commands.options import (
    FILE,
    Request,
    max_live_bytes_option,
    network_options,
    profile_option,
    refuse_overwrite,
    remeasure_option,
)
from preemptc.costs_now import CostsNow, costs_now
from preemptc.pipeline import candidates_of
from preemptc.plot import pareto_svg
from preemptc.prepare import Prepared, prepare, require_device
from preemptc.profile import LatencyProfile
from preemptc.report import Table, facts, fmt_costs, fmt_percent
from preemptc.search import SplitPlan, pareto_front, segment_costs
from preemptc.terminal import show, watched

_NUM_SHOWN = 20
_PREDICTED = (
    "the overhead is predicted: built segments have measured up to a few percent more;"
    " `preemptc compile` builds and measures them"
)


@click.command("explore")
@network_options
@remeasure_option
@profile_option
@max_live_bytes_option
@click.option("--plot", type=FILE, metavar="FILE.svg", help="Draw the front, too.")
@click.option("--all", "is_all", is_flag=True, help=f"Every plan, not about {_NUM_SHOWN} of them.")
def command(
    request: Request, profile: Path | None, max_live_bytes: int | None, plot: Path | None,
    is_all: bool,
) -> None:  # fmt: skip
    """Show what bound costs what overhead: the Pareto front.

    Costs are measured once (again where the machine's speed is another, or with --remeasure), or
    taken from --profile; the plans are predicted from them, and
    only `preemptc compile` builds and measures one. They are plans of segments: what gates
    inside an engine cost is measured by `preemptc compile --mechanism gates` alone.
    """
    if plot is not None:
        refuse_overwrite(plot, request, profile)
        if plot.suffix.lower() not in ("", ".svg"):
            raise InputError(f"--plot {plot}: plots are SVG; name a file that ends in .svg")
    options = request.options(profile=profile, max_live_bytes=max_live_bytes)
    if profile is None:
        require_device(options, "explore")
    with watched() as progress:
        prepared = prepare(request.model, options, request.cache, progress)
        found = costs_now(prepared, options, request.cache, progress)
        costs = found.profile
        candidates = candidates_of(prepared, costs, options)
        progress("search", 0.0)
        front = pareto_front(segment_costs(candidates, costs))
    if plot is not None:
        _draw(plot, prepared, costs, front)
    document = document_of(prepared, found, candidates, front, plot)
    limit = len(front) if is_all else _NUM_SHOWN
    tables = tables_of(prepared, found, front, plot, limit)
    show(document, tables, as_json=request.as_json)


def _overhead_frac(plan: SplitPlan, profile: LatencyProfile) -> float:
    return plan.overhead_ns / max(1, profile.total_ns)


def _draw(
    path: Path, prepared: Prepared, profile: LatencyProfile, front: Sequence[SplitPlan]
) -> None:
    points = [
        (plan.max_predicted_ns, _overhead_frac(plan, profile), plan.num_segments) for plan in front
    ]
    label = f"{prepared.lowered.target}; predicted from {profile.source} costs"
    svg = pareto_svg(points, title=prepared.model.name, label=label)
    with guard(path):
        write_atomically(path, svg.encode())


def document_of(
    prepared: Prepared, costs: CostsNow, candidates: CandidateSet,
    front: Sequence[SplitPlan], plot: Path | None,
) -> Mapping[str, Any]:  # fmt: skip
    """What `explore` tells programs."""
    profile = costs.profile
    return {
        "model": prepared.model.name,
        "target": prepared.lowered.target,
        "costs": profile.source,
        "cached": costs.is_cached,
        "measured_at": profile.measured_at,
        "plans": "predicted",
        "total_ns": profile.total_ns,
        "boundary": asdict(profile.boundary),
        "counts": asdict(candidates.counts),
        "front": [
            {
                "bound_ns": plan.max_predicted_ns,
                "overhead_ns": plan.overhead_ns,
                "overhead_frac": round(_overhead_frac(plan, profile), 6),
                "segments": plan.num_segments,
                "split_points": list(plan.split_points),
            }
            for plan in front
        ],
        "plot": str(plot) if plot else None,
        "notes": list(costs.notes),
    }


def tables_of(
    prepared: Prepared, costs: CostsNow, front: Sequence[SplitPlan], plot: Path | None, limit: int
) -> tuple[Table, ...]:
    """What `explore` tells people; of more plans than `limit`, evenly spaced ones."""
    profile = costs.profile
    summary = {
        "time": f"{fmt_ns(profile.total_ns)}, {fmt_costs(profile, is_cached=costs.is_cached)}",
        "boundary": f"{fmt_ns(profile.boundary.fixed_ns)}"
        f" + {profile.boundary.ns_per_byte:.3g} ns per byte, {profile.source}",
        "plans": f"{len(front)}, predicted from {profile.source} costs",
    }
    if plot:
        summary["plot"] = str(plot)
    shown = evenly(front, limit)
    rows = tuple(
        (
            fmt_ns(plan.max_predicted_ns),
            fmt_percent(_overhead_frac(plan, profile)),
            str(plan.num_segments),
        )
        for plan in shown
    )
    columns = ("bound", "overhead", "segments")
    left_out = len(front) - len(shown)
    return (
        facts(f"{prepared.model.name} on {prepared.lowered.target}", summary, costs.notes),
        Table(
            title="Pareto front, predicted",
            columns=columns,
            numbers=frozenset(columns),
            rows=rows,
            notes=(
                *(
                    [f"and {fmt_count(left_out, 'plan')} between: --all, --json"]
                    if left_out
                    else ()
                ),
                _PREDICTED,
            ),
        ),
    )


def evenly(front: Sequence[SplitPlan], limit: int) -> tuple[SplitPlan, ...]:
    """At most `limit` plans, the first and the last among them; limit is 2 or more."""
    if len(front) <= limit:
        return tuple(front)
    step = (len(front) - 1) / (limit - 1)
    return tuple(front[round(idx * step)] for idx in range(limit))
