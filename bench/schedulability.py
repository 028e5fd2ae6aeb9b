"""How good response-time bounds are, and what cutting networks gains: `make bench-schedulability`.

Three parts: random sets against the verified theory; against simulated schedules (never above the
bound, and how far below); and the share of random sets that each way of cutting makes schedulable.
Writes schedulability.json, .md and a picture per policy. Same seed, same figures.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.acceptance import METHODS, NUM_TASKS, POINT_COST_NS, accepted_shares
from bench.machine import MachineWatch
from bench.random_sets import SetShape, random_tasks, release_patterns
from bench.rta_oracle import oracle_responses
from bench.schedulability_page import page
from bench.segment_simulator import Rules, observed_responses
from preempt_runtime.schedulability import Assumptions, analyse
from preemptc.cache import write_atomically
from preemptc.plot import curves_svg

POLICIES = ("fixed-priority", "edf")
_SHARES = tuple(percent / 100 for percent in range(5, 101, 5))
_END_NS = 800


def compare_with_theory(policy: str, *, num_sets: int, seed: int) -> dict[str, Any]:
    """How many bounds differ from those of response-time-analysis."""
    rng = random.Random(f"{seed}/{policy}/theory")
    num_bounds = num_different = 0
    for _ in range(num_sets):
        tasks = random_tasks(rng, SetShape(has_best_effort=False))
        found = [bound.response_ns for bound in analyse(tasks, policy).tasks]
        theirs = oracle_responses(tasks, policy)
        num_bounds += len(found)
        num_different += sum(a != b for a, b in zip(found, theirs, strict=True))
    return {"sets": num_sets, "bounds": num_bounds, "different": num_different}


def compare_with_schedules(policy: str, *, num_sets: int, seed: int) -> dict[str, Any]:
    """Observed over bound: how often above 1, how often 1, and its median, by settings."""
    rng = random.Random(f"{seed}/{policy}/schedules")
    ratios: dict[tuple[int, bool], list[float]] = {}
    num_schedules = 0
    for _ in range(num_sets):
        tasks = random_tasks(rng, SetShape())
        depth, resume_ns = rng.choice((1, 1, 2, 3)), rng.choice((0, 0, 1, 5))
        found = analyse(tasks, policy, Assumptions(depth=depth, resume_cost_ns=resume_ns))
        worst: dict[str, int] = {}
        for releases in release_patterns(rng, tasks, end_ns=_END_NS):
            rules = Rules(
                policy=policy,
                depth=depth,
                resume_cost_ns=resume_ns,
                equals=rng.choice(("release", "started")),
            )
            num_schedules += 1
            for name, seen_ns in observed_responses(tasks, releases, rules).items():
                worst[name] = max(worst.get(name, 0), seen_ns)
        for bound in found.tasks:
            if bound.response_ns is not None:
                ratio = worst[bound.name] / bound.response_ns
                ratios.setdefault((depth, resume_ns > 0), []).append(ratio)
    rows = [
        {
            "depth": depth,
            "resuming_costs": costs,
            "bounds": len(found_ratios),
            "exceeded": sum(ratio > 1 for ratio in found_ratios),
            "reached": sum(ratio == 1 for ratio in found_ratios),
            "median_observed_over_bound": round(statistics.median(found_ratios), 4),
        }
        for (depth, costs), found_ratios in sorted(ratios.items())
    ]
    return {"sets": num_sets, "schedules": num_schedules, "rows": rows}


def acceptance(policy: str, *, num_sets: int, seed: int) -> dict[str, Any]:
    """Accepted shares of each method over utilisation."""
    points = [accepted_shares(policy, share, num_sets=num_sets, seed=seed) for share in _SHARES]
    return {
        "sets_per_point": num_sets,
        "utilisation": list(_SHARES),
        "accepted": {name: [point[name] for point in points] for name in METHODS},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1 if a bound was exceeded, or differs from the theory's."""
    parser = argparse.ArgumentParser(prog="python -m bench.schedulability", description=__doc__)
    parser.add_argument("--sets", type=int, default=100, help="per utilisation and policy")
    parser.add_argument("--simulated", type=int, default=10_000, help="sets per policy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args(arguments)
    watch, start_ns = MachineWatch(), time.monotonic_ns()
    report: dict[str, Any] = {
        "command": " ".join(["python -m bench.schedulability", *(arguments or sys.argv[1:])]),
        "seed": options.seed,
        "num_tasks": NUM_TASKS,
        "point_cost_ns": POINT_COST_NS,
        "theory": {},
        "schedules": {},
        "acceptance": {},
    }
    for policy in POLICIES:
        _say(f"{policy}: against the theory")
        report["theory"][policy] = compare_with_theory(
            policy, num_sets=options.simulated, seed=options.seed
        )
        _say(f"{policy}: against schedules")
        report["schedules"][policy] = compare_with_schedules(
            policy, num_sets=options.simulated, seed=options.seed
        )
        _say(f"{policy}: accepted shares")
        report["acceptance"][policy] = acceptance(policy, num_sets=options.sets, seed=options.seed)
    report["wall_s"] = round((time.monotonic_ns() - start_ns) / 1e9)
    report["machine"] = watch.describe()
    _write(report, options.out)
    return 0 if is_sound(report) else 1


def is_sound(report: dict[str, Any]) -> bool:
    """No bound was exceeded, and none differs from the theory's."""
    exceeded = sum(row["exceeded"] for part in report["schedules"].values() for row in part["rows"])
    different = sum(part["different"] for part in report["theory"].values())
    return bool(exceeded == 0 and different == 0)


def _write(report: dict[str, Any], folder: Path) -> None:
    write_atomically(folder / "schedulability.json", (json.dumps(report, indent=1) + "\n").encode())
    write_atomically(folder / "schedulability.md", page(report).encode())
    for policy, part in report["acceptance"].items():
        svg = curves_svg(
            {
                name: [
                    (share, 100 * accepted)
                    for share, accepted in zip(part["utilisation"], curve, strict=True)
                ]
                for name, curve in part["accepted"].items()
            },
            title=f"Task sets that keep every deadline, {policy}",
            label=f"{part['sets_per_point']} random sets of {NUM_TASKS} networks a point",
            x_name="utilisation before any cut",
            y_name="schedulable (%)",
        )
        write_atomically(folder / f"schedulability-{policy}.svg", svg.encode())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
