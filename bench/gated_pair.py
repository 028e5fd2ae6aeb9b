"""The ways in which two networks share a GPU by gates, or by the captured graph in pieces.

Each run opens a device of its own: two devices with gates must not be there at a time.
"""

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.cut_graphs import CutNetwork
from bench.modes import ModeRun, Workload, run_mode
from preempt_runtime.backends.gate_board import Mode
from preempt_runtime.backends.trt_gated import GatedTrtDevice
from preempt_runtime.bundle import open_bundle
from preempt_runtime.manifest import GATES_PLAN_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedWay:
    """A way that needs plans of gates: on a device with gates in a mode, or cut at their places.

    `mode` is None for the graph cut into pieces, `depth` of which are in flight then, and as many
    jobs. `urgent_plan` is the urgent network's: one of its plans without gates has one, before its
    first kernel.
    """

    mode: Mode | None
    depth: int = 1
    announce_ns: int = 0
    urgent_plan: str = GATES_PLAN_ID


def run_gated_way(
    way: GatedWay,
    bench_mode: str,
    load: Workload,
    bundles: Mapping[str, Path],
    *,
    seed: int,
) -> ModeRun:
    """Run one way once; a seed gives every way the same releases.

    Args:
        way: how.
        bench_mode: of `bench.modes`.
        load: whose times count; its device and networks are for ways without gates.
        bundles: with plans of gates, of the `urgent` and the `long` network.
        seed: of the releases.

    Raises:
        DeviceError: a job failed, or the GPU cannot have gates.
    """
    if way.mode is None:
        with closing(CutNetwork(open_bundle(bundles["long"]), zero_copy=False)) as cut:
            return run_mode(
                bench_mode,
                replace(load, segments=cut),
                seed=seed,
                depth=way.depth,
                num_best_effort=way.depth,
            )
    with ExitStack() as stack:
        device = stack.enter_context(closing(GatedTrtDevice(mode=way.mode)))
        urgent, other = (
            stack.enter_context(closing(device.load(open_bundle(bundles[role]), plan_id)))
            for role, plan_id in (("urgent", way.urgent_plan), ("long", GATES_PLAN_ID))
        )
        return run_mode(
            bench_mode,
            replace(load, device=device, urgent=urgent, whole=other, segments=other),
            seed=seed,
            num_best_effort=2,
            announce_ns=way.announce_ns,
            warms_up=True,
        )


def stretches_of(bundles: Mapping[str, Path]) -> dict[str, Any]:
    """Of each network what its plan of gates says."""
    found = {}
    for role in ("urgent", "long"):
        manifest = open_bundle(bundles[role]).manifest
        plan = next(plan for plan in manifest.plans if plan.id == GATES_PLAN_ID)
        assert plan.gates is not None
        latencies = [segment.latency for segment in plan.segments if segment.latency is not None]
        found[role] = {
            "gates": len(plan.segments),
            "nodes": plan.gates.num_nodes,
            "gate_ns": plan.gates.gate_ns,
            "longest_p50_ns": max(each.p50_ns for each in latencies),
            "longest_max_ns": max(each.max_ns for each in latencies),
        }
    return found
