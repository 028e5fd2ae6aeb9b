"""Limits: the bound that a chosen cut has to keep, for whoever really cuts the network."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from preempt_runtime.schedulability.analysis import loads_from_tasks
from preempt_runtime.schedulability.bounds import Choice
from preempt_runtime.schedulability.cuts import Front
from preempt_runtime.schedulability.loads import Load, inflated_ns
from preempt_runtime.schedulability.model import AnalysedTask, Assumptions
from preempt_runtime.schedulability.tolerance import deadline_tolerance_ns, priority_tolerance_ns


def segment_limits(choice: Choice, fronts: Mapping[str, Front]) -> dict[str, int | None]:
    """By task, the bound on the longest segment, as a compiler takes it; None: it may stay whole.

    It is the largest that the tasks ahead can bear, so a compiler that cannot meet the chosen cut
    exactly has all the room there is, and less than the next coarser cut, where that one failed.
    """
    policy, assumptions = choice.bound.policy, choice.bound.assumptions
    if policy == "fifo" or not choice.is_schedulable:
        return {task.name: _chosen_ns(task, fronts[task.name]) for task in choice.tasks}
    loads = loads_from_tasks(choice.tasks, policy, assumptions)
    most_ns = [_most_ns(task, fronts[task.name], assumptions) for task in choice.tasks]
    find = _tolerances_of_deadlines if policy == "edf" else _tolerances_of_priorities
    tolerance_ns = find(loads, max(most_ns), assumptions)
    return {
        task.name: _limit_ns(
            task, min(most, tolerance_ns[load.name]), fronts[task.name], assumptions
        )
        for task, load, most in zip(choice.tasks, loads, most_ns, strict=True)
    }


def _chosen_ns(task: AnalysedTask, front: Front) -> int | None:
    """The bound of a cut that was chosen for want of a better one."""
    is_chosen = len(front.cuts) > 1 and len(task.segment_ns) > 1
    return max(task.segment_ns) if is_chosen else None


def _most_ns(task: AnalysedTask, front: Front, assumptions: Assumptions) -> int:
    """How long the network blocks at most: whole, and resumed."""
    factor = assumptions.corun_factor * task.corun_factor
    segment_ns = inflated_ns(max(front.cuts[0]), assumptions, factor)
    return segment_ns + assumptions.resume_cost_ns + assumptions.blocking_dispatch_ns


def _limit_ns(
    task: AnalysedTask, tolerance_ns: int, front: Front, assumptions: Assumptions
) -> int | None:
    segment_ns = tolerance_ns - assumptions.blocking_dispatch_ns
    limit_ns = max(_raw_ns(segment_ns, task, assumptions), max(task.segment_ns))
    chosen = front.cuts.index(task.segment_ns)
    if chosen > 0:
        limit_ns = min(limit_ns, max(front.cuts[chosen - 1]) - 1)
    return None if chosen == 0 and limit_ns >= max(front.cuts[0]) else limit_ns


def _tolerances_of_deadlines(
    loads: Sequence[Load], most_ns: int, assumptions: Assumptions
) -> dict[str, int]:
    """By task, the longest segment that tasks of shorter deadlines can bear; all, best effort's."""
    urgent = [load for load in loads if not load.is_best_effort]
    found: dict[int | None, int] = {}
    for load in loads:
        deadline_ns = None if load.is_best_effort else load.deadline_ns
        if deadline_ns not in found:
            ahead = [x for x in urgent if deadline_ns is None or x.deadline_ns < deadline_ns]
            borne_ns = deadline_tolerance_ns(ahead, deadline_ns, most_ns, assumptions)
            found[deadline_ns] = borne_ns or 0
    return {x.name: found[None if x.is_best_effort else x.deadline_ns] for x in loads}


def _tolerances_of_priorities(
    loads: Sequence[Load], most_ns: int, assumptions: Assumptions
) -> dict[str, int]:
    """By task, the longest segment that all tasks of higher ranks can bear."""
    found: dict[str, int] = {}
    ahead: list[Load] = []
    ordered = sorted(loads, key=lambda load: -load.rank)
    for _, equals in groupby(ordered, key=lambda load: load.rank):
        level = list(equals)
        found.update((load.name, most_ns) for load in level)
        ahead += level
        if not level[0].is_best_effort:
            most_ns = priority_tolerance_ns(level, ahead, most_ns, assumptions) or 0
    return found


def _raw_ns(tolerance_ns: int, task: AnalysedTask, assumptions: Assumptions) -> int:
    """The largest cost that, with all that the analysis adds, is within the tolerance."""
    factor = assumptions.corun_factor * task.corun_factor
    low_ns, high_ns = 0, tolerance_ns + 1
    while high_ns - low_ns > 1:
        middle_ns = (low_ns + high_ns) // 2
        as_counted_ns = inflated_ns(middle_ns, assumptions, factor) + assumptions.resume_cost_ns
        if as_counted_ns <= tolerance_ns:
            low_ns = middle_ns
        else:
            high_ns = middle_ns
    return low_ns
