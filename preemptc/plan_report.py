"""What `preemptc plan` says, to programs and to people."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from preempt_runtime.schedulability import TaskBound
from preempt_runtime.units import fmt_exact_ns, fmt_ns
from preemptc.plan import TaskSetPlan
from preemptc.report import Table, facts, fmt_percent

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


def document_of(plan: TaskSetPlan) -> Mapping[str, Any]:
    """What `plan` tells programs; times are integer nanoseconds."""
    bound, assumed = plan.choice.bound, plan.choice.bound.assumptions
    return {
        "taskset": str(plan.taskset.path),
        "policy": bound.policy,
        "schedulable": bound.is_schedulable,
        "source": bound.source,
        "compiled": plan.is_compiled,
        "assumptions": asdict(assumed),
        "tasks": [_task_document(plan, task) for task in bound.tasks],
        "commands": [list(each.words) for each in plan.compilations],
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
        "machine": costs.machine,
    }


def tables_of(plan: TaskSetPlan) -> tuple[Table, ...]:
    """What `plan` tells people."""
    tables = [_summary(plan), _task_table(plan)]
    if plan.compilations and plan.choice.is_schedulable and not plan.is_compiled:
        rows = tuple((shlex.join(each.words),) for each in plan.compilations)
        tables.append(Table(title="to compile it so (--compile does)", rows=rows))
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


def _summary(plan: TaskSetPlan) -> Table:
    bound, assumed = plan.choice.bound, plan.choice.bound.assumptions
    values = {
        "verdict": "every deadline is kept" if bound.is_schedulable else "not schedulable",
        "as long as": f"{_what(plan)} longer than {_BASIS[bound.source]} plus the margin",
        "costs": ", ".join(_costs_lines(plan)),
        "margin": f"{fmt_percent(assumed.margin_frac)} on every cost",
        "in flight": f"{assumed.depth} segment{'s' if assumed.depth > 1 else ''}",
    }
    for label, value_ns in (
        ("resuming", assumed.resume_cost_ns),
        ("dispatching", assumed.dispatch_ns),
    ):
        if value_ns:
            values[label] = fmt_ns(value_ns)
    if assumed.corun_factor > 1:
        values["overlapping"] = f"{assumed.corun_factor:g} times every cost"
    return facts(f"{plan.taskset.name} under {bound.policy}", values, _notes(plan))


def _notes(plan: TaskSetPlan) -> tuple[str, ...]:
    """A word on bundles that are there already, and say something else perhaps."""
    if plan.is_compiled:
        return ()
    there = [
        task.name
        for task in plan.taskset.tasks
        if task.model is not None and task.bundle is not None and task.bundle.is_dir()
    ]
    if not there:
        return ()
    return (
        f"not judged by the bundles that {', '.join(there)} have already, but by what their models"
        " are predicted to take: leave model out to judge by a bundle's measured maxima, or"
        " --compile",
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
        "-" if limit_ns is None else fmt_exact_ns(limit_ns),
        _SOURCES[task.source],
    )


def _time(value_ns: int | None) -> str:
    return "-" if value_ns is None else fmt_ns(value_ns)
