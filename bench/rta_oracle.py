"""The same bounds by the package response-time-analysis, whose theory is verified in PROSA."""

from collections.abc import Sequence

from response_time_analysis import edf, fifo, fp
from response_time_analysis.model import (
    WCET,
    Deadline,
    IdealProcessor,
    LimitedPreemptive,
    PeriodicWithJitter,
    Priority,
    Task,
    taskset,
)

from preempt_runtime.schedulability import AnalysedTask

_HORIZON = 10**6


def oracle_responses(tasks: Sequence[AnalysedTask], policy: str) -> list[int | None]:
    """The response bound of each task, one segment in flight, no overheads, no best effort."""
    theirs = [_task(task) for task in tasks]
    everyone, device = taskset(theirs), IdealProcessor()
    if policy == "fifo":
        return [fifo.rta(everyone, device, _HORIZON).response_time_bound] * len(tasks)
    rta = {"fixed-priority": fp.rta, "edf": edf.rta}[policy]
    return [rta(everyone, task, device, _HORIZON).response_time_bound for task in theirs]


def _task(task: AnalysedTask) -> Task:
    assert task.period_ns is not None
    assert task.priority is not None
    assert task.implicit_deadline_ns is not None
    return Task(
        PeriodicWithJitter(task.period_ns, task.jitter_ns),
        LimitedPreemptive(
            WCET(sum(task.segment_ns)),
            max_nps=max(task.segment_ns),
            last_nps=task.segment_ns[-1],
        ),
        Deadline(task.implicit_deadline_ns),
        Priority(task.priority),
    )
