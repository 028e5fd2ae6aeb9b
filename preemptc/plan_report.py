"""What `preemptc plan` says, to programs and to people."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from preempt_runtime.schedulability import TaskBound
from preempt_runtime.task_spec import TaskSpec
from preempt_runtime.units import fmt_ns
from preemptc.plan import TaskSetPlan
from preemptc.plan_depth import depth_reason
from preemptc.report import Table, build_note, facts, fmt_percent, fmt_when

_SOURCES = {
    "measured": "measured maxima",
    "given": "given in the file",
    "predicted": "predicted from measured medians",
    "estimated": "estimated",
}
_BASIS = {
    "measured": "its measured maximum",
    "given": "the file says",
    "predicted": "its predicted median (--compile measures maxima)",
    "estimated": "estimated (--compile on the device measures maxima)",
}
_BUILD = "estimated (`preemptc build` on the device measures maxima)"


def document_of(plan: TaskSetPlan) -> Mapping[str, Any]:
    """What `plan` tells programs; times are integer nanoseconds."""
    bound, assumed = plan.choice.bound, plan.choice.bound.assumptions
    return {
        "taskset": str(plan.taskset.path),
        "policy": bound.policy,
        "schedulable": plan.is_schedulable,
        "failure": plan.failure,
        "source": bound.source,
        "compiled": plan.is_compiled,
        "bundles": [str(each.bundle) for each in plan.compilations] if plan.is_compiled else [],
        "requested_depth": plan.taskset.depth,
        "assumptions": asdict(assumed),
        "tasks": [_task_document(plan, task) for task in bound.tasks],
        "commands": [list(each.words) for each in plan.compilations],
        "notes": list(plan.notes),
        "changes": [asdict(change) for change in plan.changes],
    }


def _task_document(plan: TaskSetPlan, task: TaskBound) -> Mapping[str, Any]:
    costs = plan.costs[task.name]
    return {
        **asdict(task),
        "slack_ns": task.slack_ns,
        "schedulable": task.is_schedulable,
        "segment_ns": list(plan.choice.cut_of(task.name)),
        "max_segment_ns": plan.limits_ns[task.name],
        "origin": costs.origin,
        "cached": costs.is_cached,
        "measured_at": costs.measured_at,
        "machine": costs.machine,
    }


def tables_of(plan: TaskSetPlan) -> tuple[Table, ...]:
    """What `plan` tells people."""
    tables = [_summary(plan), _task_table(plan)]
    if plan.compilations and plan.is_schedulable and not plan.is_compiled:
        rows = tuple((shlex.join(each.words),) for each in plan.compilations)
        tables.append(Table(title="to compile it so (--compile does)", rows=rows))
    if plan.is_compiled:
        tables.append(_bundles_table(plan))
    if plan.changes:
        rows = tuple((change.text,) for change in plan.changes)
        notes = (
            ()
            if plan.tries_every_change
            else (f"of {len(plan.taskset.tasks)} tasks not every change was tried",)
        )
        title = "each of these alone would make it schedulable"
        tables.append(Table(title=title, rows=rows, notes=notes))
    return tuple(tables)


def _bundles_table(plan: TaskSetPlan) -> Table:
    """What was written, and what is left to do where the device is."""
    to_build = {task.bundle for task in _unbuilt(plan)}
    rows = tuple((str(each.bundle),) for each in plan.compilations)
    notes = [
        build_note(each.target, str(each.bundle))
        for each in plan.compilations
        if each.bundle in to_build
    ]
    if notes:
        notes.append(
            "then plan with the bundles alone (leave model out): that judges by measured maxima"
        )
    return Table(title="compiled", rows=rows, notes=tuple(notes))


def _unbuilt(plan: TaskSetPlan) -> list[TaskSpec]:
    """Tasks whose bundle was just compiled, for a device that is elsewhere."""
    if not plan.is_compiled:
        return []
    return [
        task
        for task in plan.taskset.tasks
        if task.model is not None and plan.costs[task.name].source == "estimated"
    ]


def _summary(plan: TaskSetPlan) -> Table:
    bound, assumed = plan.choice.bound, plan.choice.bound.assumptions
    values = {
        "verdict": _verdict(plan),
        "as long as": f"{_what(plan)} longer than {_basis(plan)} plus the margin",
        "costs": ", ".join(_costs_lines(plan)),
        "margin": f"{fmt_percent(assumed.margin_frac)} on every cost",
        "in flight": _in_flight(plan),
    }
    for label, value_ns in (
        ("resuming", assumed.resume_cost_ns),
        ("dispatching", assumed.dispatch_ns),
        ("of a job", assumed.job_dispatch_ns),
    ):
        if value_ns:
            values[label] = fmt_ns(value_ns)
    if assumed.corun_factor > 1:
        values["overlapping"] = f"{assumed.corun_factor:g} times every cost"
    return facts(f"{plan.taskset.name} under {bound.policy}", values, _notes(plan))


def _speed_notes(plan: TaskSetPlan) -> tuple[str, ...]:
    """Which profiles were measured earlier, and whether the machine had another speed then."""
    found = [
        f"{name} ({fmt_when(costs.measured_at)})"
        for name, costs in plan.costs.items()
        if costs.is_cached
    ]
    notes = [f"{name}: {note}" for name, costs in plan.costs.items() for note in costs.notes]
    if found:
        notes.append(
            f"measured earlier, found in the cache: {', '.join(found)}; --remeasure measures again"
        )
    return tuple(notes)


def _verdict(plan: TaskSetPlan) -> str:
    if plan.failure is not None:
        return "not known: a network could not be compiled under its bound"
    return "every deadline is kept" if plan.is_schedulable else "not schedulable"


def _basis(plan: TaskSetPlan) -> str:
    source = plan.choice.bound.source
    return _BUILD if source == "estimated" and _unbuilt(plan) else _BASIS[source]


def _in_flight(plan: TaskSetPlan) -> str:
    depth = plan.choice.bound.assumptions.depth
    reason = depth_reason(plan.taskset, plan.costs)
    return f"{depth} segment{'s' if depth > 1 else ''}{f' ({reason})' if reason else ''}"


def _notes(plan: TaskSetPlan) -> tuple[str, ...]:
    """A word on earlier measurements, and on bundles that say something else perhaps."""
    notes = (*_speed_notes(plan), *plan.notes)
    if plan.is_compiled or plan.failure is not None:
        return notes
    there = [
        task.name
        for task in plan.taskset.tasks
        if task.model is not None and task.bundle is not None and task.bundle.is_dir()
    ]
    if not there:
        return notes
    have, their = ("bundle that {} has", "its model is")
    if len(there) > 1:
        have, their = ("bundles that {} have", "their models are")
    return (
        *notes,
        f"not judged by the {have.format(', '.join(there))} already, but by what {their} predicted"
        " to take: leave model out to judge by a bundle's measured maxima, or --compile",
    )


def _what(plan: TaskSetPlan) -> str:
    """What must take no longer than was said: whole jobs, too, where a bound rests on theirs."""
    has_totals = any(
        costs.total_ns is not None and costs.total_ns < sum(plan.choice.cut_of(name))
        for name, costs in plan.costs.items()
    )
    return "no segment and no job takes" if has_totals else "no segment takes"


def _costs_lines(plan: TaskSetPlan) -> list[str]:
    names: dict[tuple[str, str | None], list[str]] = {}
    for name, costs in plan.costs.items():
        names.setdefault((costs.source, costs.machine), []).append(name)
    return [
        f"{_SOURCES[source]}{'' if machine is None else f' on {machine}'} ({', '.join(found)})"
        for (source, machine), found in names.items()
    ]


def _task_table(plan: TaskSetPlan) -> Table:
    columns = (
        *("task", "cost", "segments", "longest", "blocking", "response", "deadline", "slack"),
        *("max segment", "costs"),
    )
    rows = tuple(_task_row(plan, task) for task in plan.choice.bound.tasks)
    notes = [
        f"{task.name}: {task.reason}"
        for task in plan.choice.bound.tasks
        if task.reason is not None and task.response_ns is None
    ]
    return Table(
        title="bounds; times with margin, max segment without, as compile takes it",
        columns=columns,
        numbers=frozenset(columns) - {"task", "costs"},
        rows=rows,
        notes=tuple(notes),
    )


def _task_row(plan: TaskSetPlan, task: TaskBound) -> tuple[str, ...]:
    limit_ns = plan.limits_ns[task.name]
    return (
        task.name,
        fmt_ns(task.cost_ns),
        str(len(plan.choice.cut_of(task.name))),
        fmt_ns(task.longest_ns),
        _time(task.blocking_ns),
        _time(task.response_ns),
        "best effort" if task.is_best_effort else _time(task.deadline_ns),
        _time(task.slack_ns),
        "-" if limit_ns is None else fmt_ns(limit_ns).replace(" ", ""),
        _SOURCES[task.source],
    )


def _time(value_ns: int | None) -> str:
    return "-" if value_ns is None else fmt_ns(value_ns)
