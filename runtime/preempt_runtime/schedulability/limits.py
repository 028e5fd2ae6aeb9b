"""Limits: the bound that a chosen cut has to keep, for whoever really cuts the network."""

from collections.abc import Mapping

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
    loads = loads_from_tasks(choice.tasks, policy, assumptions)
    return {
        task.name: _limit_ns(task, load, loads, fronts[task.name], choice)
        for task, load in zip(choice.tasks, loads, strict=True)
    }


def _limit_ns(
    task: AnalysedTask, load: Load, loads: list[Load], front: Front, choice: Choice
) -> int | None:
    policy, assumptions = choice.bound.policy, choice.bound.assumptions
    whole_ns = max(front.cuts[0])
    if policy == "fifo" or not choice.is_schedulable:
        is_chosen = len(front.cuts) > 1 and len(task.segment_ns) > 1
        return max(task.segment_ns) if is_chosen else None
    most_ns = inflated_ns(whole_ns, assumptions, assumptions.corun_factor * task.corun_factor)
    most_ns += assumptions.resume_cost_ns
    tolerance_ns = _tolerance_ns(load, loads, most_ns, policy, assumptions)
    limit_ns = max(_raw_ns(tolerance_ns, task, assumptions), max(task.segment_ns))
    chosen = front.cuts.index(task.segment_ns)
    if chosen > 0:
        limit_ns = min(limit_ns, max(front.cuts[chosen - 1]) - 1)
    return None if chosen == 0 and limit_ns >= whole_ns else limit_ns


def _tolerance_ns(
    load: Load, loads: list[Load], most_ns: int, policy: str, assumptions: Assumptions
) -> int:
    if policy == "edf":
        ahead = [
            other
            for other in loads
            if not other.is_best_effort
            and (load.is_best_effort or other.deadline_ns < load.deadline_ns)
        ]
        deadline_ns = None if load.is_best_effort else load.deadline_ns
        return deadline_tolerance_ns(ahead, deadline_ns, most_ns, assumptions) or 0
    higher = [other for other in loads if other.rank > load.rank]
    for other in higher:
        ahead = [x for x in loads if x.rank >= other.rank]
        most_ns = priority_tolerance_ns([other], ahead, most_ns, assumptions) or 0
    return most_ns


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
