"""A simulation's report: a run's, and what it was simulated from."""

from typing import Any, TextIO

from preempt_runtime.run_report import document_from_report, print_report
from preempt_runtime.simulation.costs import SegmentCost, TaskCosts
from preempt_runtime.simulation.simulate import SimulationReport
from preempt_runtime.tables import print_table
from preempt_runtime.units import fmt_ns

_HEADERS = ("task", "costs", "job p50", "max", "longest p50", "max", "load", "most waiting")
_QUANTILES = ("p50_ns", "p99_ns", "max_ns")
MODES = {
    "fixed": "every segment takes its median",
    "worst": "every segment takes its maximum",
    "random": "segments draw between median, p99 and maximum",
}


def document_from_simulation(report: SimulationReport) -> dict[str, Any]:
    """A run's document with `simulated` and each task's `costs` and `max_backlog` added."""
    document = document_from_report(report.run)
    for name, task in document["tasks"].items():
        task["costs"] = _document_from_costs(report.costs[name])
        task["offered_load"] = round(report.offered_loads[name], 6)
        task["max_backlog"] = report.max_backlogs[name]
    document["simulated"] = {
        "costs": report.mode,
        "resume_cost_ns": report.resume_cost_ns,
        "offered_load": round(sum(report.offered_loads.values()), 6),
        "warnings": list(report.warnings),
    }
    return document


def print_simulation(report: SimulationReport, file: TextIO) -> None:
    """Write the report for a person to read."""
    print_report(report.run, file)
    resume = f"; going on costs {fmt_ns(report.resume_cost_ns)}" if report.resume_cost_ns else ""
    load = sum(report.offered_loads.values())
    file.write(
        f"\nsimulated: {MODES[report.mode]}{resume}; releases ask for {load:.0%} of the device\n\n"
    )
    print_table(_HEADERS, [_row(name, report) for name in report.costs], file)
    for warning in report.warnings:
        file.write(f"\nwarning: {warning}\n")


def _document_from_costs(costs: TaskCosts) -> dict[str, Any]:
    longest = _longest(costs)
    return {
        "source": costs.source,
        "machine": costs.machine,
        "job": {key: sum(getattr(each, key) for each in costs.segments) for key in _QUANTILES},
        "longest_segment": {key: getattr(longest, key) for key in _QUANTILES},
    }


def _row(name: str, report: SimulationReport) -> tuple[str, ...]:
    costs = report.costs[name]
    longest = _longest(costs)
    load = report.offered_loads[name]
    return (
        name,
        _source(costs),
        fmt_ns(sum(segment.p50_ns for segment in costs.segments)),
        fmt_ns(sum(segment.max_ns for segment in costs.segments)),
        fmt_ns(longest.p50_ns),
        fmt_ns(longest.max_ns),
        f"{load:.1%}" if load else "-",
        str(report.max_backlogs[name]),
    )


def _source(costs: TaskCosts) -> str:
    if costs.bundle is None:
        return "given in the task set"
    machine = f" on {costs.machine}" if costs.machine is not None else ""
    return f"{costs.source}{machine}: {costs.bundle}, plan {costs.plan}"


def _longest(costs: TaskCosts) -> SegmentCost:
    return max(costs.segments, key=lambda segment: (segment.max_ns, segment.p50_ns))
