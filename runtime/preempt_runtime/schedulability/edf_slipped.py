"""A second bound under EDF with several segments in flight, for tasks that the first finds late.

As in `edf`, but from the start of the busy period on: D segments of jobs that are due later stand
before the first job, and D - 1 more may slip in before each further one that is released until the
job itself is. That is less where such segments are short and those of urgent tasks long.
"""

from collections.abc import Iterator, Sequence

from preempt_runtime.schedulability.demand import Demand
from preempt_runtime.schedulability.loads import (
    Load,
    Unbounded,
    offsets_before,
    smallest_fixed_point,
)


def slipped_response_ns(
    load: Load, loads: Sequence[Load], best_effort_ns: int, depth: int
) -> int | None:
    """The bound of one task; None: there is none.

    Args:
        load: the task, one of `loads`.
        loads: all real-time tasks, as `edf_loads` made them.
        best_effort_ns: the longest segment of best effort; 0: none.
        depth: segments in flight, more than one.
    """
    slipped_ns = (depth - 1) * best_effort_ns
    busy_ns = Demand(loads, slipped_ns).busy_period_ns(max(0, best_effort_ns - 1))
    if isinstance(busy_ns, Unbounded):
        return None
    others = [other for other in loads if other is not load]
    steps = [_meeting_offsets(load, other, busy_ns) for other in others]
    steps += [iter((1,)), *(iter(other.steps(busy_ns)) for other in others)]
    response_ns = 0
    for offset_ns in offsets_before(busy_ns, load.steps(busy_ns), *steps):
        found_ns = _last_start_ns(load, others, offset_ns, best_effort_ns, depth)
        if found_ns is None:
            return None
        # What slips in may be counted more often than it is released.
        end_ns = min(found_ns + load.last_ns - 1, busy_ns)
        response_ns = max(response_ns, end_ns - offset_ns)
    return response_ns


def _meeting_offsets(load: Load, other: Load, busy_ns: int) -> Iterator[int]:
    """The offsets of the task's jobs from which on one more job of the other is ahead of them."""
    later_ns = load.deadline_ns - other.deadline_ns
    return (step - later_ns for step in other.steps(busy_ns + later_ns))


def _last_start_ns(
    load: Load, others: Sequence[Load], offset_ns: int, best_effort_ns: int, depth: int
) -> int | None:
    """The time (and one more) until the last segment of the job at that offset starts."""
    own_jobs = load.arrivals(offset_ns + 1)
    latest_ns = offset_ns + load.deadline_ns
    first_ns = _longest_later_ns(others, latest_ns, best_effort_ns)
    # Until its release only what was released before it and is due later can slip in.
    later_ns = _longest_later_ns(others, load.deadline_ns, best_effort_ns)
    jobs_before = own_jobs - 1
    if offset_ns > 0:
        windows = ((x, min(latest_ns - x.deadline_ns, offset_ns) + 1) for x in others)
        jobs_before += sum(other.arrivals(window_ns) for other, window_ns in windows)
    fixed_ns = max(0, depth * first_ns - 1) + own_jobs * load.cost_ns - (load.last_ns - 1)
    fixed_ns += (depth - 1) * jobs_before * later_ns
    ahead = [
        (latest_ns + 1 - other.deadline_ns, other)
        for other in others
        if latest_ns >= other.deadline_ns
    ]
    return smallest_fixed_point(
        lambda window_ns: (
            fixed_ns + sum(x.arrivals(min(last_ns, window_ns)) * x.cost_ns for last_ns, x in ahead)
        ),
        fixed_ns,
    )


def _longest_later_ns(loads: Sequence[Load], deadline_ns: int, best_effort_ns: int) -> int:
    """The longest segment among best effort and tasks of a longer deadline."""
    later = (load.longest_ns for load in loads if load.deadline_ns > deadline_ns)
    return max(best_effort_ns, max(later, default=0))
