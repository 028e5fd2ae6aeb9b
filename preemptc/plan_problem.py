"""A task set and its costs as the analysis takes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from preempt_runtime.manifest import GATES
from preempt_runtime.schedulability import AnalysedTask, Assumptions, Problem
from preempt_runtime.task_spec import TaskSpec
from preempt_runtime.taskset import TaskSetSpec
from preemptc.plan_costs import NetworkCuts
from preemptc.plan_depth import depth_in_force


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What a plan depends on beside the task set; a margin or dispatch replaces the set's own.

    `headroom_frac` is added to costs that are predicted, while bounds are chosen. `precision` and
    `level` are for GPUs; None leaves them to the backend.
    """

    target: str
    precision: Literal["fp32", "fp16"] | None = None
    level: int | None = None
    margin_frac: float | None = None
    dispatch_ns: int | None = None
    headroom_frac: float = 0.0


def problem_of(
    taskset: TaskSetSpec, costs: Mapping[str, NetworkCuts], options: PlanOptions
) -> Problem:
    """What bounds have to be chosen for."""
    margin_frac, dispatch_ns = options.margin_frac, options.dispatch_ns
    return Problem(
        tasks=tuple(
            _analysed(task, costs[task.name], options.headroom_frac) for task in taskset.tasks
        ),
        fronts={name: found.front for name, found in costs.items()},
        free_fronts={
            name: found.free_front for name, found in costs.items() if found.free_front is not None
        },
        policy=taskset.policy,
        assumptions=Assumptions(
            depth=depth_in_force(taskset, costs),
            resume_cost_ns=taskset.resume_cost_ns,
            dispatch_ns=taskset.dispatch_ns if dispatch_ns is None else dispatch_ns,
            job_dispatch_ns=taskset.job_dispatch_ns,
            margin_frac=taskset.margin_frac if margin_frac is None else margin_frac,
            corun_factor=taskset.corun_factor,
            is_launched_whole=taskset.mechanism == GATES,
        ),
    )


def _analysed(task: TaskSpec, costs: NetworkCuts, headroom_frac: float) -> AnalysedTask:
    is_prediction = costs.source in ("predicted", "estimated")
    return AnalysedTask(
        name=task.name,
        segment_ns=costs.front.cuts[0],
        period_ns=task.period_ns,
        jitter_ns=task.jitter_ns,
        deadline_ns=task.deadline_ns,
        priority=task.priority,
        is_best_effort=task.is_best_effort,
        source=costs.source,
        total_ns=costs.total_ns,
        corun_factor=1 + headroom_frac if is_prediction else 1.0,
    )
