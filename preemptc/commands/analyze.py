"""`preemptc analyze`: where a network can be split."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from preempt_runtime.units import fmt_bytes, fmt_count, fmt_ns
from preemptc.candidates import CandidateSet
from preemptc.commands.options import (
    Request,
    max_live_bytes_option,
    network_options,
    profile_option,
)
from preemptc.pipeline import candidates_of
from preemptc.prepare import Prepared, prepare
from preemptc.profile import LatencyProfile
from preemptc.profiling import cached_profile, profile_model
from preemptc.report import Table, facts, fmt_costs, pruning_table
from preemptc.terminal import show, watched

_NUM_SHOWN = 20


@click.command("analyze")
@network_options
@profile_option
@max_live_bytes_option
@click.option("--all", "is_all", is_flag=True, help=f"Every row, not only the first {_NUM_SHOWN}.")
def command(
    request: Request, profile: Path | None, max_live_bytes: int | None, is_all: bool
) -> None:
    """Show where a network can be split, and why not elsewhere.

    Nothing is measured: without --profile, costs are those of a profile in the cache, or else
    estimated and labelled so.
    """
    options = request.options(profile=profile, max_live_bytes=max_live_bytes)
    with watched() as progress:
        prepared = prepare(request.model, options, request.cache, progress)
        cached = None if profile else cached_profile(prepared, request.cache)
        if profile:
            costs = profile_model(prepared, options, request.cache, progress)
        else:
            costs = cached or prepared.backend.estimate(prepared.lowered)
        candidates = candidates_of(prepared, costs, options)
    limit = None if is_all else _NUM_SHOWN
    show(
        document_of(prepared, costs, candidates, is_cached=cached is not None),
        tables_of(prepared, costs, candidates, limit, is_cached=cached is not None),
        as_json=request.as_json,
    )


def document_of(
    prepared: Prepared, profile: LatencyProfile, candidates: CandidateSet, *, is_cached: bool
) -> Mapping[str, Any]:
    """What `analyze` tells programs."""
    return {
        "model": prepared.model.name,
        "target": prepared.lowered.target,
        "costs": profile.source,
        "cached": is_cached,
        "measured_at": profile.measured_at,
        "total_ns": profile.total_ns,
        "num_nodes": {
            "source": prepared.model.graph.num_nodes,
            "executed": prepared.lowered.graph.num_nodes,
        },
        "counts": asdict(candidates.counts),
        "log2_plans": {"all": candidates.log2_all_plans, "searched": candidates.log2_plans},
        "candidates": [asdict(candidate) for candidate in candidates.candidates],
        "pruned": [asdict(entry) for entry in candidates.pruned],
    }


def tables_of(
    prepared: Prepared, profile: LatencyProfile, candidates: CandidateSet, limit: int | None,
    *, is_cached: bool,
) -> tuple[Table, ...]:  # fmt: skip
    """What `analyze` tells people; `limit` is how many rows a list has at most."""
    graph = prepared.lowered.graph
    num_critical = sum(candidate.is_critical for candidate in candidates.candidates)
    plans = f"2^{candidates.log2_all_plans} plans, 2^{candidates.log2_plans} left to search"
    summary = {
        "nodes": f"{prepared.model.graph.num_nodes}, {graph.num_nodes} as executed",
        "time": f"{fmt_ns(profile.total_ns)}, {fmt_costs(profile, is_cached=is_cached)}",
        "candidates": f"{len(candidates.candidates)}, {num_critical} of them critical",
        "space": plans,
    }
    return (
        facts(f"{prepared.model.name} on {prepared.lowered.target}", summary, _notes(profile)),
        pruning_table(candidates.counts),
        _candidate_table(prepared, candidates, limit),
        _pruned_table(candidates, limit),
    )


def _notes(profile: LatencyProfile) -> tuple[str, ...]:
    if profile.source == "measured":
        return ()
    return (
        "the time is an estimate and may be far off: --profile gives measured times"
        " (`preemptc profile MODEL -o FILE` measures them)",
    )


def _candidate_table(prepared: Prepared, candidates: CandidateSet, limit: int | None) -> Table:
    nodes = prepared.lowered.graph.nodes
    rows = [
        (
            str(candidate.position),
            str(candidate.source_position),
            nodes[candidate.position - 1].name,
            fmt_bytes(candidate.live_bytes),
            str(len(candidate.tensors)),
            "yes" if candidate.is_critical else "",
        )
        for candidate in candidates.candidates[:limit]
    ]
    return Table(
        title="candidates: split points worth searching",
        columns=("executed", "source", "after node", "live", "tensors", "critical"),
        numbers=frozenset({"executed", "source", "live", "tensors"}),
        rows=tuple(rows),
        notes=_left_out(len(candidates.candidates), len(rows)),
    )


def _pruned_table(candidates: CandidateSet, limit: int | None) -> Table:
    rows = tuple(
        (str(entry.position), entry.step, entry.reason) for entry in candidates.pruned[:limit]
    )
    return Table(
        title="pruned positions (of the source graph for fusion, else of the executed one)",
        columns=("position", "step", "reason"),
        numbers=frozenset({"position"}),
        rows=rows,
        notes=_left_out(len(candidates.pruned), len(rows)),
    )


def _left_out(num_all: int, num_shown: int) -> tuple[str, ...]:
    if num_all == num_shown:
        return ()
    return (
        f"and {fmt_count(num_all - num_shown, 'more row')}: --all shows them, --json holds them",
    )
