"""Blocking tolerance: the longest segment that more urgent tasks can bear from a less urgent one.

Lengths are those of the analysis: with margin, dispatching and the cost of resuming.
Source: Yao, Buttazzo and Bertogna, RTCSA 2009 (fixed priorities), Bertogna and Baruah 2010 (EDF);
here by bisection over the exact tests, so that depth and jitter count, too.
"""

from collections.abc import Callable, Sequence

from preempt_runtime.schedulability.edf import edf_busy_period_ns, is_demand_met
from preempt_runtime.schedulability.fixed_priority import Bounded, PriorityLevel
from preempt_runtime.schedulability.loads import Load, Unbounded, with_resume_cost
from preempt_runtime.schedulability.model import Assumptions


def priority_tolerance_ns(
    level: Sequence[Load], ahead: Sequence[Load], most_ns: int, assumptions: Assumptions
) -> int | None:
    """The longest segment from below that every task of a level can bear, up to `most_ns`.

    None where a task of the level is late without any.

    Args:
        level: the tasks of one rank.
        ahead: all tasks of that rank and above.
        most_ns: no segment from below is longer.
        assumptions: of the analysis.
    """
    if any(load.period_ns == 0 for load in ahead):
        return None
    depth, resume_cost_ns = assumptions.depth, assumptions.resume_cost_ns
    found = [
        (PriorityLevel(load, ahead, depth, resume_cost_ns), load.deadline_ns or None)
        for load in level
    ]

    def is_borne(longest_ns: int) -> bool:
        return all(
            isinstance(each.bound(longest_ns, most_ns=deadline_ns), Bounded)
            for each, deadline_ns in found
        )

    return _largest(is_borne, most_ns)


def deadline_tolerance_ns(
    ahead: Sequence[Load], deadline_ns: int | None, most_ns: int, assumptions: Assumptions
) -> int | None:
    """The longest segment of a task with that deadline that tasks with shorter ones can bear.

    For best effort, whose deadline is None, over all intervals; else over those shorter than the
    deadline, as in longer ones the task's own demand counts.
    """
    if not ahead:
        return most_ns
    depth = assumptions.depth
    charged = [with_resume_cost(load, assumptions.resume_cost_ns) for load in ahead]

    def is_borne(longest_ns: int) -> bool:
        busy_ns = edf_busy_period_ns(charged, longest_ns, depth)
        if isinstance(busy_ns, Unbounded):
            return False
        blockers = [(deadline_ns, longest_ns)]
        return is_demand_met(charged, blockers, depth, busy_ns, before_ns=deadline_ns)

    return _largest(is_borne, most_ns)


def _largest(is_borne: Callable[[int], bool], most_ns: int) -> int | None:
    """The largest length up to `most_ns` that is borne, 0 meaning none at all."""
    if is_borne(most_ns):
        return most_ns
    if not is_borne(0):
        return None
    low_ns, high_ns = 0, most_ns
    while high_ns - low_ns > 1:
        middle_ns = (low_ns + high_ns) // 2
        low_ns, high_ns = (middle_ns, high_ns) if is_borne(middle_ns) else (low_ns, middle_ns)
    return low_ns
