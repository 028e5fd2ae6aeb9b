"""A run's report: as a JSON document for machines, as tables for people."""

from dataclasses import asdict
from typing import Any, TextIO

from preempt_runtime.metrics import Quantiles, json_from_metrics
from preempt_runtime.run_taskset import RunReport, TaskReport
from preempt_runtime.tables import print_table
from preempt_runtime.units import fmt_ns

_HEADERS = (
    *("task", "priority", "segments", "jobs", "finished", "missed", "lost"),
    *("response p50", "p95", "p99", "max", "blocking p99", "max", "preempted", "jobs/s"),
)


def document_from_report(report: RunReport) -> dict[str, Any]:
    """Plain values for `json.dumps`."""
    return {
        "taskset": report.taskset,
        "policy": report.policy,
        "seed": report.seed,
        "duration_ns": report.duration_ns,
        "ended_by": report.ended_by.name if report.ended_by is not None else None,
        "device": report.device,
        "depth": report.depth,
        "device_busy_frac": report.device_busy_frac,
        "tasks": {name: _document_from_task(task) for name, task in report.tasks.items()},
        "options": [asdict(option) for option in report.options],
    }


def print_report(report: RunReport, file: TextIO) -> None:
    """Write the report for a person to read."""
    ended = f", ended by {report.ended_by.name}" if report.ended_by is not None else ""
    depth = f", {report.depth} segments in flight" if report.depth > 1 else ""
    file.write(
        f"{report.taskset}: {fmt_ns(report.duration_ns)} with {report.policy}, seed"
        f" {report.seed}, on {report.device}, busy {report.device_busy_frac:.0%}{depth}{ended}\n\n"
    )
    print_table(_HEADERS, [_row(name, task) for name, task in report.tasks.items()], file)
    for name, task in report.tasks.items():
        if task.first_error is not None:
            file.write(f"\ntask {name}: its first failed job: {task.first_error}\n")
    for option in report.options:
        state = "in force" if option.applied else f"refused: {option.reason}"
        file.write(f"\noption {option.name} = {option.requested}: {state}\n")


def _document_from_task(task: TaskReport) -> dict[str, Any]:
    metrics = json_from_metrics(task.metrics)
    del metrics["task"]  # it is the key already
    return {
        "bundle": task.bundle,
        "plan": task.plan,
        "num_segments": task.num_segments,
        "priority": task.priority,
        "deadline_ns": task.deadline_ns,
        "first_error": task.first_error,
        **metrics,
    }


def _row(name: str, task: TaskReport) -> tuple[str, ...]:
    metrics = task.metrics
    lost = {
        "skipped": metrics.skipped,
        "dropped": metrics.dropped,
        "cancelled": metrics.cancelled,
        "failed": metrics.failed,
    }
    response, blocking = _cells(metrics.response), _cells(metrics.blocking)
    return (
        name,
        "best effort" if task.priority is None else str(task.priority),
        str(task.num_segments),
        str(metrics.released),
        str(metrics.finished),
        str(metrics.missed) if task.deadline_ns is not None else "-",
        ", ".join(f"{number} {word}" for word, number in lost.items() if number) or "-",
        *response,
        *blocking[2:],
        str(metrics.num_preemptions),
        f"{metrics.rate_per_s:.1f}",
    )


def _cells(quantiles: Quantiles | None) -> tuple[str, ...]:
    if quantiles is None:
        return ("-",) * 4
    values = (quantiles.p50_ns, quantiles.p95_ns, quantiles.p99_ns, quantiles.max_ns)
    return tuple(fmt_ns(value) for value in values)
