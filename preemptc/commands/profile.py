"""`preemptc profile`: what a network's nodes cost here."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from preempt_runtime.units import fmt_ns
from preemptc.cache import guard, write_atomically
from preemptc.commands.options import (
    FILE,
    Request,
    network_options,
    refuse_overwrite,
    remeasure_option,
)
from preemptc.prepare import Prepared, prepare, require_device
from preemptc.profile import LatencyProfile, json_from_profile
from preemptc.profiling import profile_model
from preemptc.report import Table, facts, fmt_costs, fmt_latency, fmt_percent
from preemptc.terminal import show, watched

_NUM_SLOWEST = 10


@click.command("profile")
@network_options
@remeasure_option
@click.option("-o", "--output", type=FILE, required=True, metavar="FILE", help="The profile.")
def command(request: Request, output: Path) -> None:
    """Measure what a network's nodes cost on this machine.

    `compile`, `analyze` and `explore` take the file with --profile. A profile that the cache
    holds is not measured again but with --remeasure.
    """
    refuse_overwrite(output, request)
    options = request.options()
    require_device(options, "profile")
    with watched() as progress:
        prepared = prepare(request.model, options, request.cache, progress)
        hits = request.cache.hits
        profile = profile_model(prepared, options, request.cache, progress)
    is_cached = request.cache.hits > hits
    with guard(output):
        write_atomically(output, json_from_profile(profile).encode())
    show(
        document_of(prepared, profile, output, is_cached=is_cached),
        tables_of(prepared, profile, output, is_cached=is_cached),
        as_json=request.as_json,
    )


def _slowest(profile: LatencyProfile) -> list[int]:
    order = sorted(range(len(profile.node_ns)), key=lambda idx: (-profile.node_ns[idx], idx))
    return order[:_NUM_SLOWEST]


def document_of(
    prepared: Prepared, profile: LatencyProfile, output: Path, *, is_cached: bool
) -> Mapping[str, Any]:
    """What `profile` tells programs; the file holds all nodes."""
    nodes = prepared.lowered.graph.nodes
    return {
        "profile": str(output),
        "target": profile.target,
        "source": profile.source,
        "cached": is_cached,
        "measured_at": profile.measured_at,
        "whole": asdict(profile.whole) if profile.whole else None,
        "num_nodes": len(nodes),
        "boundary": asdict(profile.boundary),
        "machine": dict(profile.machine),
        "slowest": [
            {
                "position": idx,
                "node": nodes[idx].name,
                "op_type": nodes[idx].op_type,
                "node_ns": profile.node_ns[idx],
            }
            for idx in _slowest(profile)
        ],
    }


def tables_of(
    prepared: Prepared, profile: LatencyProfile, output: Path, *, is_cached: bool
) -> tuple[Table, ...]:
    """What `profile` tells people."""
    nodes = prepared.lowered.graph.nodes
    boundary = profile.boundary
    summary = {
        "whole network": fmt_latency(profile.whole),
        "nodes": f"{len(nodes)} as executed",
        "boundary": f"{fmt_ns(boundary.fixed_ns)} + {boundary.ns_per_byte:.3g} ns per byte",
        "costs": fmt_costs(profile, is_cached=True) if is_cached else f"{profile.source} now",
        "profile": str(output),
        **{f"machine: {name}": str(value) for name, value in sorted(profile.machine.items())},
    }
    rows = tuple(
        (
            str(idx),
            nodes[idx].op_type,
            nodes[idx].name,
            fmt_ns(profile.node_ns[idx]),
            fmt_percent(profile.node_ns[idx] / max(1, profile.total_ns)),
        )
        for idx in _slowest(profile)
    )
    return (
        facts(f"{prepared.model.name} on {profile.target}", summary),
        Table(
            title="slowest nodes",
            columns=("position", "op", "node", "median", "share"),
            numbers=frozenset({"position", "median", "share"}),
            rows=rows,
        ),
    )
