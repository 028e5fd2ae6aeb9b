"""The page of the schedulability bench."""

from collections.abc import Mapping
from typing import Any

from bench.acceptance import IDEAL, PLANNED
from bench.publish import where
from preempt_runtime.units import fmt_ns


def page(report: Mapping[str, Any]) -> str:
    """The page, every figure from the report."""
    parts = "\n".join(_policy_part(policy, report) for policy in report["acceptance"])
    return (
        "# Response-time bounds: right, tight, and what cutting gains\n\n"
        "`make bench-schedulability` compares the bounds of"
        " [schedulability](../schedulability.md) with the package response-time-analysis, whose\n"
        "theory is verified, and with simulated schedules; then it draws random task sets and"
        " counts how many each way of cutting makes schedulable.\n\n"
        f"{parts}\n"
        f"`{report['command']}` (seed {report['seed']}), {report['wall_s']} s;"
        f" {where(report['machine'])}. Every figure: [schedulability.json](schedulability.json).\n"
    )


def _policy_part(policy: str, report: Mapping[str, Any]) -> str:
    theory, schedules = report["theory"][policy], report["schedules"][policy]
    accepted = report["acceptance"][policy]
    return (
        f"## {policy}\n\n"
        f"Of {theory['bounds']:,} bounds of {theory['sets']:,} random sets {theory['different']}"
        " differ from the theory's (jitter, equal priorities, deadlines beyond\nthe period;"
        " one segment in flight).\n\n"
        f"{schedules['schedules']:,} schedules of {schedules['sets']:,} random sets, observed"
        " response over bound:\n\n"
        f"{_schedule_table(schedules)}\n\n"
        f"![accepted shares](schedulability-{policy}.svg)\n\n"
        f"{report['num_tasks']} networks, periods log-uniform from 10 ms to 1 s, deadlines from"
        " the middle between cost and period to the period,\nthe shorter deadline more urgent;"
        f" networks can be cut evenly, each point costs {fmt_ns(report['point_cost_ns'])};"
        f" {accepted['sets_per_point']} sets a point.\n\n"
        f"{_remark(accepted)}{_acceptance_table(accepted)}\n"
    )


def _remark(accepted: Mapping[str, Any]) -> str:
    """Why cuts may beat preemption anywhere, where they do."""
    means = {name: sum(curve) for name, curve in accepted["accepted"].items()}
    if means[PLANNED] <= means[IDEAL]:
        return ""
    return (
        "Chosen cuts keep more deadlines than preemption anywhere for nothing: a job's last segment"
        " is not interrupted any more,\nand costs the more urgent ones only what they can bear.\n\n"
    )


def _schedule_table(part: Mapping[str, Any]) -> str:
    lines = [
        "| in flight | resuming | bounds | exceeded | reached | median |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in part["rows"]:
        costs = "costs" if row["resuming_costs"] else "free"
        lines.append(
            f"| {row['depth']} | {costs} | {row['bounds']:,} | {row['exceeded']} |"
            f" {row['reached'] / row['bounds']:.0%} | {row['median_observed_over_bound']:.3f} |"
        )
    return "\n".join(lines)


def _acceptance_table(part: Mapping[str, Any]) -> str:
    shown = [idx for idx, share in enumerate(part["utilisation"]) if round(share * 100) % 10 == 0]
    heads = " | ".join(f"{part['utilisation'][idx]:.1f}" for idx in shown)
    lines = [f"| schedulable at | {heads} | all |", f"| --- |{' ---: |' * (len(shown) + 1)}"]
    for name, curve in part["accepted"].items():
        cells = " | ".join(f"{curve[idx]:.0%}" for idx in shown)
        lines.append(f"| {name} | {cells} | {sum(curve) / len(curve):.1%} |")
    return "\n".join(lines)
