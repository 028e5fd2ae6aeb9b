"""`analyse`: the response-time bound of every task of a set under a policy."""

from collections.abc import Sequence

from preempt_runtime.errors import InputError
from preempt_runtime.schedulability.edf import (
    edf_bound,
    edf_busy_period_ns,
    edf_loads,
    is_demand_met,
)
from preempt_runtime.schedulability.fifo import fifo_bound
from preempt_runtime.schedulability.fixed_priority import Bounded, fixed_priority_bound
from preempt_runtime.schedulability.loads import (
    BEST_EFFORT_RANK,
    Load,
    Unbounded,
    load_from_task,
)
from preempt_runtime.schedulability.model import (
    AnalysedTask,
    Assumptions,
    SetBound,
    TaskBound,
    late_reason,
)

FIXED_PRIORITY_POLICIES = ("fixed-priority", "rate-monotonic", "deadline-monotonic")
ANALYSED_POLICIES = (*FIXED_PRIORITY_POLICIES, "edf", "fifo")
"""The policies under which a bound is known; RM and DM are fixed priorities by period, deadline."""
Outcome = Bounded | Unbounded
_NO_PROMISE = Unbounded("best effort")


def analyse(
    tasks: Sequence[AnalysedTask], policy: str, assumptions: Assumptions | None = None
) -> SetBound:
    """The bounds of all tasks, in their order.

    A task without a bound is not schedulable, and its `reason` says why.

    Raises:
        InputError: a task lacks what the policy needs, or two have one name.

    >>> urgent = AnalysedTask(name="urgent", segment_ns=(3,), period_ns=10, priority=2)
    >>> long = AnalysedTask(name="long", segment_ns=(4, 4), period_ns=40, priority=1)
    >>> [task.response_ns for task in analyse((urgent, long), "fixed-priority").tasks]
    [6, 11]
    """
    _check(tasks, policy)
    assumed = assumptions or Assumptions()
    loads = loads_from_tasks(tasks, policy, assumed)
    outcomes = _outcomes(loads, policy, assumed)
    return SetBound(
        policy=policy,
        assumptions=assumed,
        tasks=tuple(
            _task_bound(task, load, outcome)
            for task, load, outcome in zip(tasks, loads, outcomes, strict=True)
        ),
    )


def loads_from_tasks(
    tasks: Sequence[AnalysedTask], policy: str, assumptions: Assumptions
) -> list[Load]:
    """The demand of each task, with its rank under the policy."""
    return [load_from_task(task, assumptions, rank=_rank(task, policy)) for task in tasks]


def is_schedulable(tasks: Sequence[AnalysedTask], policy: str, assumptions: Assumptions) -> bool:
    """The verdict of `analyse` alone, which is found much sooner where it is no.

    Raises:
        InputError: as `analyse` does.
    """
    _check(tasks, policy)
    loads = loads_from_tasks(tasks, policy, assumptions)
    urgent = [load for load in loads if not load.is_best_effort]
    if policy == "edf" and not _without_period(urgent):
        return _is_edf_schedulable(loads, assumptions)
    if policy in FIXED_PRIORITY_POLICIES:
        return all(
            isinstance(outcome_of(load, loads, assumptions, in_time_only=True), Bounded)
            for load in urgent
        )
    return analyse(tasks, policy, assumptions).is_schedulable


def _is_edf_schedulable(loads: Sequence[Load], assumptions: Assumptions) -> bool:
    depth = assumptions.depth
    urgent, best_effort_ns = _edf_parts(loads, assumptions)
    busy_ns = edf_busy_period_ns(urgent, best_effort_ns, depth)
    if isinstance(busy_ns, Unbounded):
        return False
    if is_demand_met(urgent, [(None, best_effort_ns)], depth, busy_ns):
        return True
    if depth == 1:
        return False
    for load in urgent:
        outcome = edf_bound(load, urgent, best_effort_ns, depth, busy_ns)
        if not isinstance(outcome, Bounded) or outcome.response_ns > load.deadline_ns:
            return False
    return True


def outcome_of(
    load: Load, loads: Sequence[Load], assumptions: Assumptions, *, in_time_only: bool = False
) -> Outcome:
    """The bound of one task under fixed priorities, beside `loads` (itself among them).

    `in_time_only`: one beyond its deadline counts as none.
    """
    level = [other for other in loads if other.rank >= load.rank]
    if unknown := _without_period(level):
        return unknown
    lower_ns = max((other.longest_ns for other in loads if other.rank < load.rank), default=0)
    return fixed_priority_bound(
        load,
        level,
        lower_ns,
        assumptions.depth,
        assumptions.resume_cost_ns,
        most_ns=load.deadline_ns if in_time_only and load.deadline_ns else None,
    )


def _check(tasks: Sequence[AnalysedTask], policy: str) -> None:
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        raise InputError(f"tasks {names}: expected at least one, each with a name of its own")
    for task in tasks:
        if task.is_best_effort:
            continue
        if policy == "fixed-priority" and task.priority is None:
            raise InputError(
                f"task {task.name!r}: no priority; give it one, or make it best effort"
            )
        if policy == "rate-monotonic" and task.period_ns is None:
            raise InputError(f"task {task.name!r}: no period, which {policy!r} ranks tasks by")
        if policy in ("edf", "deadline-monotonic") and task.implicit_deadline_ns is None:
            raise InputError(f"task {task.name!r}: no deadline, which {policy!r} ranks tasks by")


def _rank(task: AnalysedTask, policy: str) -> int:
    """Larger is more urgent; of equal priorities, periods or deadlines, neither is."""
    if task.is_best_effort:
        return BEST_EFFORT_RANK
    if policy == "rate-monotonic":
        return -(task.period_ns or 0)
    if policy == "deadline-monotonic":
        return -(task.implicit_deadline_ns or 0)
    return task.priority or 0


def _outcomes(loads: Sequence[Load], policy: str, assumptions: Assumptions) -> list[Outcome]:
    if policy == "edf":
        return _edf_outcomes(loads, assumptions)
    if policy == "fifo":
        return [_fifo_outcome(loads, assumptions)] * len(loads)
    if policy in FIXED_PRIORITY_POLICIES:
        return [
            _NO_PROMISE if load.is_best_effort else outcome_of(load, loads, assumptions)
            for load in loads
        ]
    known = ", ".join(ANALYSED_POLICIES)
    return [Unbounded(f"no analysis for policy {policy!r}, only for {known}")] * len(loads)


def _edf_outcomes(loads: Sequence[Load], assumptions: Assumptions) -> list[Outcome]:
    depth = assumptions.depth
    urgent, best_effort_ns = _edf_parts(loads, assumptions)
    busy_ns = _without_period(urgent) or edf_busy_period_ns(urgent, best_effort_ns, depth)
    by_name: dict[str, Outcome] = {
        load.name: busy_ns
        if isinstance(busy_ns, Unbounded)
        else edf_bound(load, urgent, best_effort_ns, depth, busy_ns)
        for load in urgent
    }
    return [by_name.get(load.name, _NO_PROMISE) for load in loads]


def _edf_parts(loads: Sequence[Load], assumptions: Assumptions) -> tuple[tuple[Load, ...], int]:
    """The real-time loads with what resuming costs, and the longest segment of best effort."""
    urgent = [load for load in loads if not load.is_best_effort]
    best_effort_ns = max((load.longest_ns for load in loads if load.is_best_effort), default=0)
    return edf_loads(urgent, assumptions.depth, assumptions.resume_cost_ns), best_effort_ns


def _fifo_outcome(loads: Sequence[Load], assumptions: Assumptions) -> Outcome:
    if assumptions.depth > 1:
        return Unbounded(
            f"no analysis for policy 'fifo' at depth {assumptions.depth}, only at depth 1"
        )
    return _without_period(loads) or fifo_bound(loads)


def _without_period(loads: Sequence[Load]) -> Unbounded | None:
    for load in loads:
        if load.period_ns == 0:
            return Unbounded(f"the releases of task {load.name!r} have no least time between them")
    return None


def _task_bound(task: AnalysedTask, load: Load, outcome: Outcome) -> TaskBound:
    deadline_ns = None if task.is_best_effort else task.implicit_deadline_ns
    bound = outcome if isinstance(outcome, Bounded) else None
    reason = None
    if isinstance(outcome, Bounded) and deadline_ns is not None:
        reason = late_reason(outcome.response_ns, deadline_ns)
    elif isinstance(outcome, Unbounded) and not task.is_best_effort:
        reason = outcome.reason
    return TaskBound(
        name=task.name,
        cost_ns=load.cost_ns,
        longest_ns=load.longest_ns,
        blocking_ns=bound.blocking_ns if bound else None,
        response_ns=bound.response_ns if bound else None,
        deadline_ns=deadline_ns,
        is_best_effort=task.is_best_effort,
        source=task.source,
        reason=reason,
    )
