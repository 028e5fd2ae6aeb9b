"""How much a task set asks of the device, and whether a simulation of it would ever end."""

from collections.abc import Mapping
from dataclasses import replace

from preempt_runtime.arrivals import (
    Arrival,
    ClosedLoop,
    OpenArrival,
    Periodic,
    Poisson,
    Recorded,
    Sporadic,
)
from preempt_runtime.errors import InputError
from preempt_runtime.simulation.costs import CostMode, TaskCosts
from preempt_runtime.task_spec import TaskSpec
from preempt_runtime.taskset import TaskSetSpec
from preempt_runtime.units import fmt_ns

MAX_SEGMENTS_RUN = 1_000_000_000  # about two hours
MAX_SEGMENTS_TRACED = 5_000_000  # about 2 GB as records and as JSON
_NS_PER_S = 1_000_000_000


def mean_interval_ns(arrival: OpenArrival) -> float | None:
    """The mean time between releases; None where there are fewer than two of them.

    >>> mean_interval_ns(Poisson(rate_per_s=100.0))
    10000000.0
    """
    if isinstance(arrival, Periodic):
        return arrival.period_ns
    if isinstance(arrival, Sporadic):
        return arrival.mean_interval_ns
    if isinstance(arrival, Poisson):
        return _NS_PER_S / arrival.rate_per_s
    gaps = len(arrival.offsets_ns) - 1
    if gaps < 1 or arrival.offsets_ns[-1] == arrival.offsets_ns[0]:
        return None
    return (arrival.offsets_ns[-1] - arrival.offsets_ns[0]) / gaps


def offered_load(task: TaskSpec, costs: TaskCosts, mode: CostMode) -> float:
    """The share of the device's time that a task's releases ask for; 0 for a closed loop.

    A closed loop asks for whatever is left over.
    """
    if isinstance(task.arrival, ClosedLoop):
        return 0.0
    interval_ns = mean_interval_ns(task.arrival)
    return 0.0 if interval_ns is None else costs.mean_job_ns(mode) / interval_ns


def at_load(taskset: TaskSetSpec, scale: float) -> TaskSetSpec:
    """The task set with all times between releases `scale` times as long.

    Periods and offsets are scaled; deadlines, jitter, and the thinking of closed loops are not. A
    task whose deadline is its period keeps that of the period it had.

    Raises:
        InputError: releases of a task are out of range then.
    """
    return replace(taskset, tasks=tuple(_scaled_task(task, scale) for task in taskset.tasks))


def _scaled_task(task: TaskSpec, scale: float) -> TaskSpec:
    period_ns = task.period_ns
    try:
        arrival = _scaled(task.arrival, scale)
    except InputError as err:
        raise InputError(f"task {task.name!r}: {err}") from err
    return replace(
        task,
        arrival=arrival,
        period_ns=None if period_ns is None else max(1, round(period_ns * scale)),
        deadline_ns=task.implicit_deadline_ns,
    )


def _scaled(arrival: Arrival, scale: float) -> Arrival:
    if isinstance(arrival, Periodic):
        return replace(
            arrival,
            period_ns=max(1, round(arrival.period_ns * scale)),
            offset_ns=round(arrival.offset_ns * scale),
        )
    if isinstance(arrival, Sporadic):
        return Sporadic(
            min_interval_ns=max(1, round(arrival.min_interval_ns * scale)),
            mean_interval_ns=max(1, round(arrival.mean_interval_ns * scale)),
        )
    if isinstance(arrival, Poisson):
        return Poisson(rate_per_s=arrival.rate_per_s / scale)
    if isinstance(arrival, Recorded):
        return Recorded(offsets_ns=tuple(round(ns * scale) for ns in arrival.offsets_ns))
    return arrival


def check_length(
    taskset: TaskSetSpec,
    costs: Mapping[str, TaskCosts],
    mode: CostMode,
    *,
    duration_ns: int,
    is_traced: bool,
) -> None:
    """Return if a simulation of that duration ends within some hours and in memory.

    Raises:
        InputError: a closed loop whose jobs take no time, or too many segments; the message names
            the task that has most of them.
    """
    expected = {
        task.name: _num_segments(task, costs[task.name], mode, duration_ns, str(taskset.path))
        for task in taskset.tasks
    }
    limit = MAX_SEGMENTS_TRACED if is_traced else MAX_SEGMENTS_RUN
    if (found := sum(expected.values())) > limit:
        most = max(expected, key=expected.__getitem__)
        what = "with a trace" if is_traced else "in a simulation"
        raise InputError(
            f"{taskset.path}: {fmt_ns(duration_ns)} are about {found:.2g} segments, most of them"
            f" of task {most!r}; allowed {what} {limit:.0e}; shorten the duration"
        )


def _num_segments(
    task: TaskSpec, costs: TaskCosts, mode: CostMode, duration_ns: int, where: str
) -> float:
    arrival = task.arrival
    if isinstance(arrival, ClosedLoop):
        loop_ns = costs.mean_job_ns(mode) + arrival.think_ns
        if loop_ns < 1:
            raise InputError(
                f"{where}: task {task.name!r}: a closed loop whose jobs cost nothing stands still"
                " on a virtual clock; give it think above 0ns, or costs"
            )
        return duration_ns / loop_ns * len(costs.segments)
    if isinstance(arrival, Recorded):
        return sum(ns < duration_ns for ns in arrival.offsets_ns) * len(costs.segments)
    interval_ns = mean_interval_ns(arrival)
    assert interval_ns is not None
    return (duration_ns / interval_ns + 1) * len(costs.segments)
