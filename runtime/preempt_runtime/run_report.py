"""A run's report: as a JSON document for machines, as tables for people."""

from dataclasses import asdict
from typing import Any, TextIO

from preempt_runtime.admission import complaint
from preempt_runtime.cost_watch import CostDrift
from preempt_runtime.metrics import Quantiles, json_from_metrics
from preempt_runtime.process import OptionReport
from preempt_runtime.run_guard import Guarantee
from preempt_runtime.run_taskset import RunReport, TaskReport
from preempt_runtime.schedulability import SetBound
from preempt_runtime.tables import print_table
from preempt_runtime.units import fmt_ns

_SLOW_FACTOR = 1.1  # below it, the machine is as it was when the bundle was made
_HEADERS = (
    *("task", "priority", "segments", "jobs", "finished", "missed", "lost"),
    *("response p50", "p95", "p99", "max", "bound"),
    *("blocking p99", "blocking max", "preempted", "jobs/s"),
)
_SIMULATED_HEADERS = tuple(
    "max" if name == "blocking max" else name for name in _HEADERS if name != "bound"
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
        "mechanism": report.mechanism,
        "gate_mode": report.gate_mode,
        "gate_faults": list(report.gate_faults),
        "device_busy_frac": report.device_busy_frac,
        "tasks": {name: _document_from_task(task) for name, task in report.tasks.items()},
        "options": [asdict(option) for option in report.options],
        **(
            {} if report.guarantee is None else {"guarantee": _guarantee_document(report.guarantee)}
        ),
    }


def print_report(report: RunReport, file: TextIO) -> None:
    """Write the report for a person to read."""
    ended = f", ended by {report.ended_by.name}" if report.ended_by is not None else ""
    depth = f", {report.depth} segments in flight" if report.depth > 1 else ""
    gates = f", by gates ({report.gate_mode})" if report.gate_mode is not None else ""
    file.write(
        f"{report.taskset}: {fmt_ns(report.duration_ns)} with {report.policy}, seed"
        f" {report.seed}, on {report.device}, busy {report.device_busy_frac:.0%}{depth}"
        f"{gates}{ended}\n\n"
    )
    has_bounds = report.guarantee is not None
    headers = _HEADERS if has_bounds else _SIMULATED_HEADERS
    rows = [_row(name, task, has_bounds=has_bounds) for name, task in report.tasks.items()]
    print_table(headers, rows, file)
    for line in _guarantee_lines(report.guarantee) if report.guarantee is not None else ():
        file.write(f"\n{line}\n")
    for hazard in report.guarantee.hazards if report.guarantee is not None else ():
        file.write(f"\nwarning: {hazard}\n")
    for fault in report.gate_faults:
        file.write(f"\nwarning: bounds of the jobs concerned do not hold: {fault}\n")
    for name, task in report.tasks.items():
        if task.first_error is not None:
            file.write(f"\ntask {name}: its first failed job: {task.first_error}\n")
    for option in report.options:
        file.write(f"\noption {option.name} = {option.requested}: {_state(option)}\n")


def _state(option: OptionReport) -> str:
    """What became of an option; the reason of one that is in force says how."""
    if option.applied:
        return option.reason or "in force"
    return f"refused: {option.reason}" if option.reason else "refused"


def _document_from_task(task: TaskReport) -> dict[str, Any]:
    metrics = json_from_metrics(task.metrics)
    del metrics["task"]  # it is the key already
    return {
        "bundle": task.bundle,
        "plan": task.plan,
        "num_segments": task.num_segments,
        "priority": task.priority,
        "is_best_effort": task.is_best_effort,
        "deadline_ns": task.deadline_ns,
        "first_error": task.first_error,
        **({} if task.drift is None else _promise_document(task, task.drift)),
        **metrics,
    }


def _promise_document(task: TaskReport, drift: CostDrift) -> dict[str, Any]:
    bound_ns = None if task.bound is None else task.bound.response_ns
    return {"response_bound_ns": bound_ns, "drift": asdict(drift)}


def _guarantee_document(guarantee: Guarantee) -> dict[str, Any]:
    promised, again = guarantee.promised, guarantee.readmitted
    return {
        "is_schedulable": None if promised is None else promised.is_schedulable,
        "source": None if promised is None else promised.source,
        "margin_frac": None if promised is None else promised.assumptions.margin_frac,
        "reason": guarantee.reason if promised is None else _reasons(promised),
        "num_exceeded": sum(drift.num_exceeded for drift in guarantee.drifts.values()),
        "num_jobs_exceeded": sum(drift.num_jobs_exceeded for drift in guarantee.drifts.values()),
        "is_schedulable_with_observed": None if again is None else again.is_schedulable,
        "shed": list(guarantee.shed),
        "hazards": list(guarantee.hazards),
    }


def _reasons(bound: SetBound) -> str | None:
    return None if bound.is_schedulable else complaint(bound)


def _guarantee_lines(guarantee: Guarantee) -> list[str]:
    """What was promised of the deadlines, and what of it does not hold any more."""
    promised = guarantee.promised
    if promised is None:
        return [f"bounds: none, {guarantee.reason}"]
    costs = f"{promised.source} costs and a margin of {promised.assumptions.margin_frac:.0%}"
    has_totals = any(drift.allowed_job_ns is not None for drift in guarantee.drifts.values())
    what = "no segment and no job takes" if has_totals else "no segment takes"
    verdict = _reasons(promised) or f"every deadline is kept, as long as {what} longer than that"
    lines = [f"bounds, of {costs}: {verdict}"]
    for name, drift in guarantee.drifts.items():
        lines += _drift_lines(name, drift)
    if any(each.num_exceeded or each.num_jobs_exceeded for each in guarantee.drifts.values()):
        lines.append("no bound holds that rests on what took longer than allowed")
    again = guarantee.readmitted
    if again is not None:
        lines.append(f"with the times seen here: {_reasons(again) or 'every deadline is kept'}")
    if guarantee.shed:
        lines.append(f"drop late jobs since then: {', '.join(guarantee.shed)}")
    return lines


def _drift_lines(name: str, drift: CostDrift) -> list[str]:
    told = []
    if drift.worst_segment_idx is not None:
        assert drift.worst_elapsed_ns is not None
        assert drift.worst_allowed_ns is not None
        told.append(
            f"{drift.num_exceeded} of {drift.num_segments_run} segments took longer than its bound"
            f" allows (segment {drift.worst_segment_idx} took {fmt_ns(drift.worst_elapsed_ns)},"
            f" allowed {fmt_ns(drift.worst_allowed_ns)})"
        )
    if drift.num_jobs_exceeded:
        assert drift.allowed_job_ns is not None
        told.append(
            f"all segments of {drift.num_jobs_exceeded} of {drift.num_jobs_run} jobs took longer"
            f" than its bound allows (up to {fmt_ns(drift.max_observed_job_ns)}, allowed"
            f" {fmt_ns(drift.allowed_job_ns)})"
        )
    if drift.slowdown_factor > _SLOW_FACTOR:
        told.append(
            f"in the end its segments took {drift.slowdown_factor:.2f} times what its bundle says"
        )
    return [f"task {name}: {'; '.join(told)}"] if told else []


def _row(name: str, task: TaskReport, *, has_bounds: bool) -> tuple[str, ...]:
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
        _priority_cell(task),
        str(task.num_segments),
        str(metrics.released),
        str(metrics.finished),
        str(metrics.missed) if task.deadline_ns is not None else "-",
        ", ".join(f"{number} {word}" for word, number in lost.items() if number) or "-",
        *response,
        *((_bound_cell(task),) if has_bounds else ()),
        *blocking[2:],
        str(metrics.num_preemptions),
        f"{metrics.rate_per_s:.1f}",
    )


def _priority_cell(task: TaskReport) -> str:
    if task.is_best_effort:
        return "best effort"
    return "-" if task.priority is None else str(task.priority)


def _bound_cell(task: TaskReport) -> str:
    if task.bound is None or task.bound.response_ns is None:
        return "-"
    return fmt_ns(task.bound.response_ns)


def _cells(quantiles: Quantiles | None) -> tuple[str, ...]:
    if quantiles is None:
        return ("-",) * 4
    values = (quantiles.p50_ns, quantiles.p95_ns, quantiles.p99_ns, quantiles.max_ns)
    return tuple(fmt_ns(value) for value in values)
