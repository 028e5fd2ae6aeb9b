"""`analyse`: the response-time bound of every task of a set under a policy."""

from collections.abc import Iterator, Sequence

from preempt_runtime.errors import InputError
from preempt_runtime.schedulability.edf import (
    edf_bounds,
    edf_busy_period_ns,
    edf_loads,
    is_demand_met,
)
from preempt_runtime.schedulability.edf_slipped import slipped_response_ns
from preempt_runtime.schedulability.fifo import fifo_bound
from preempt_runtime.schedulability.fixed_priority import (
    SECOND_BOUND_UP_TO,
    Bounded,
    PriorityLevel,
)
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
    return [load_from_task(task, assumptions, rank=rank_of(task, policy)) for task in tasks]


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
        urgent.sort(key=lambda load: load.rank)  # the last are the first to be late
        return all(is_in_time(load, loads, assumptions) for load in urgent)
    return analyse(tasks, policy, assumptions).is_schedulable


def _is_edf_schedulable(loads: Sequence[Load], assumptions: Assumptions) -> bool:
    depth = assumptions.depth
    urgent, best_effort_ns = _edf_parts(loads, assumptions)
    busy_ns = edf_busy_period_ns(urgent, best_effort_ns, depth)
    if not isinstance(busy_ns, Unbounded) and is_demand_met(
        urgent, [(None, best_effort_ns)], depth, busy_ns
    ):
        return True
    return depth > 1 and all(
        isinstance(outcome, Bounded) and outcome.response_ns <= load.deadline_ns
        for load, outcome in _edf_bounds(urgent, best_effort_ns, depth)
    )


def is_in_time(load: Load, loads: Sequence[Load], assumptions: Assumptions) -> bool:
    """Whether a task keeps its deadline under fixed priorities, beside `loads`."""
    return isinstance(outcome_of(load, loads, assumptions, in_time_only=True), Bounded)


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
    found = PriorityLevel(load, level, assumptions.depth, assumptions.resume_cost_ns)
    is_bounded = in_time_only and load.deadline_ns
    return found.bound(lower_ns, most_ns=load.deadline_ns if is_bounded else None)


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


def rank_of(task: AnalysedTask, policy: str) -> int:
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
        return [_without_period(loads) or fifo_bound(loads)] * len(loads)
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
    unknown = _without_period(urgent)
    by_name: dict[str, Outcome] = (
        dict.fromkeys((load.name for load in urgent), unknown)
        if unknown is not None
        else {load.name: found for load, found in _edf_bounds(urgent, best_effort_ns, depth)}
    )
    return [by_name.get(load.name, _NO_PROMISE) for load in loads]


def _edf_bounds(
    urgent: Sequence[Load], best_effort_ns: int, depth: int
) -> Iterator[tuple[Load, Outcome]]:
    """Each real-time task with its bound; in depth, with a second one where the first is late."""
    busy_ns = edf_busy_period_ns(urgent, best_effort_ns, depth)
    if isinstance(busy_ns, Unbounded):
        found: Sequence[Outcome] = [busy_ns] * len(urgent)
    else:
        found = edf_bounds(urgent, best_effort_ns, depth, busy_ns)
    for load, outcome in zip(urgent, found, strict=True):
        is_late = isinstance(outcome, Unbounded) or outcome.response_ns > load.deadline_ns
        other_ns = None
        if depth > 1 and (is_late or len(urgent) <= SECOND_BOUND_UP_TO):
            other_ns = slipped_response_ns(load, urgent, best_effort_ns, depth)
        if other_ns is None:
            yield load, outcome
        elif isinstance(outcome, Bounded):
            yield load, Bounded(outcome.blocking_ns, min(other_ns, outcome.response_ns))
        else:
            later = (x.longest_ns for x in urgent if x.deadline_ns > load.deadline_ns)
            blocking_ns = depth * max(best_effort_ns, *later, 0) - 1
            yield load, Bounded(max(0, blocking_ns), other_ns)


def _edf_parts(loads: Sequence[Load], assumptions: Assumptions) -> tuple[tuple[Load, ...], int]:
    """The real-time loads with what resuming costs, and the longest segment of best effort."""
    urgent = [load for load in loads if not load.is_best_effort]
    best_effort_ns = max((load.longest_ns for load in loads if load.is_best_effort), default=0)
    return edf_loads(urgent, assumptions.resume_cost_ns), best_effort_ns


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
