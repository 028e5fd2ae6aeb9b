"""Response-time bounds and the demand test under EDF with fixed preemption points.

For a job at offset A in its busy period, jobs whose deadline is no later than its own are ahead of
it; a segment of a task k can block it from the start only if D_k > A + D_i:

    F = B(A) + n_i(A + 1) C_i - (last_i - 1) + sum over j of n_j(min(A + 1 + D_i - D_j, F)) C_j
    R = F + last_i - 1 - A

With `depth` D in flight, B(A) = D q(A) - 1, and D - 1 segments more for each further job before
the job itself is ready, as in `fixed_priority`.

Source: Bozhko and Brandenburg, ECRTS 2020 (PROSA, edf/limited_preemptive); Spuri 1996; Baruah,
ECRTS 2005 (the demand test); docs/schedulability.md for depth and for the cost of resuming.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from preempt_runtime.schedulability.fixed_priority import Bounded
from preempt_runtime.schedulability.loads import (
    Load,
    Unbounded,
    busy_period_ns,
    offsets_before,
    smallest_fixed_point,
)

_ALWAYS_NS = 1 << 62  # the deadline of what has none


def edf_loads(loads: Sequence[Load], depth: int, resume_cost_ns: int) -> tuple[Load, ...]:
    """The loads, those that may interrupt another one of more than one segment charged for it."""
    if resume_cost_ns == 0:
        return tuple(loads)

    def may_interrupt(load: Load) -> bool:
        return any(
            other.num_segments > 1 and (depth > 1 or other.deadline_ns > load.deadline_ns)
            for other in loads
            if other is not load
        )

    return tuple(
        replace(load, cost_ns=load.cost_ns + resume_cost_ns) if may_interrupt(load) else load
        for load in loads
    )


def edf_busy_period_ns(loads: Sequence[Load], best_effort_ns: int, depth: int) -> int | Unbounded:
    """A bound on any time in which a real-time job is always pending."""
    blocking_ns = max(0, best_effort_ns - 1)
    return busy_period_ns(loads, blocking_ns, (depth - 1) * best_effort_ns)


def edf_bound(
    load: Load, loads: Sequence[Load], best_effort_ns: int, depth: int, busy_ns: int
) -> Bounded | Unbounded:
    """The bound of one task.

    Args:
        load: the task, one of `loads`.
        loads: all real-time tasks, as `edf_loads` made them.
        best_effort_ns: the longest segment of best effort; 0: none.
        depth: segments in flight.
        busy_ns: what `edf_busy_period_ns` found.
    """
    others = [other for other in loads if other is not load]
    steps = [_meeting_offsets(load, other, busy_ns) for other in others]
    if depth > 1:
        steps += [iter((1,)), *(iter(other.steps(busy_ns)) for other in others)]
    response_ns = 0
    for offset_ns in offsets_before(busy_ns, load.steps(busy_ns), *steps):
        found_ns = _last_start_ns(load, others, offset_ns, best_effort_ns, depth)
        if found_ns is None:
            return Unbounded("the start of its last segment was not found")
        end_ns = found_ns + load.last_ns - 1
        if depth > 1:  # what slips in may be counted more often than it is released
            end_ns = min(end_ns, busy_ns)
        response_ns = max(response_ns, end_ns - offset_ns)
    first_ns = _longest_later_ns(others, load.deadline_ns, best_effort_ns)
    return Bounded(max(0, depth * first_ns - 1), response_ns)


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

    fixed_ns = max(0, depth * first_ns - 1) + own_jobs * load.cost_ns - (load.last_ns - 1)
    if depth > 1:
        # Until its release only what was released before it and is due later can slip in. While
        # it waits for its predecessors' buffers, anything that came meanwhile can.
        later_ns = _longest_later_ns(others, load.deadline_ns, best_effort_ns)
        any_ns = _longest_later_ns(others, 0, best_effort_ns)
        jobs_before = 0
        if offset_ns > 0:
            windows = ((x, min(latest_ns - x.deadline_ns, offset_ns) + 1) for x in others)
            jobs_before = sum(other.arrivals(window_ns) for other, window_ns in windows)
        fixed_ns += (depth - 1) * (jobs_before * later_ns + (own_jobs - 1) * any_ns)
    ahead = [  # as in `jobs_demand`
        (latest_ns + 1 - other.deadline_ns, other.cost_ns, other.period_ns, other.jitter_ns)
        for other in others
        if latest_ns >= other.deadline_ns
    ]

    def demand(window_ns: int) -> int:
        return fixed_ns + sum(
            -(-(min(last_ns, window_ns) + jitter_ns) // period_ns) * cost_ns
            for last_ns, cost_ns, period_ns, jitter_ns in ahead
        )

    return smallest_fixed_point(demand, fixed_ns)


def _longest_later_ns(loads: Sequence[Load], deadline_ns: int, best_effort_ns: int) -> int:
    """The longest segment among best effort and tasks of a longer deadline."""
    later = (load.longest_ns for load in loads if load.deadline_ns > deadline_ns)
    return max(best_effort_ns, max(later, default=0))


def is_demand_met(
    loads: Sequence[Load],
    blockers: Sequence[tuple[int | None, int]],
    depth: int,
    busy_ns: int,
    *,
    before_ns: int = _ALWAYS_NS,
) -> bool:
    """Whether in every interval there is room for what must end in it and what may block it.

    For every t that is a deadline: dbf(t) + max{q_k : D_k > t} - 1 <= t. For one segment in flight
    that is as exact as the response times; for more it refuses more.

    Args:
        loads: real-time tasks, as `edf_loads` made them.
        blockers: further segments that only block: (relative deadline or None, length).
        depth: segments in flight.
        busy_ns: what `edf_busy_period_ns` found.
        before_ns: intervals of that length or longer are left out.
    """
    segments = [(load.deadline_ns, load.longest_ns) for load in loads]
    segments += [(_ALWAYS_NS if d is None else d, longest_ns) for d, longest_ns in blockers]
    slipped_ns = (depth - 1) * max((longest_ns for _, longest_ns in segments), default=0)
    parts = [(x.deadline_ns, x.cost_ns + slipped_ns, x.period_ns, x.jitter_ns) for x in loads]
    deadlines = [_absolute_deadlines(load, busy_ns) for load in loads]
    for time_ns in offsets_before(before_ns, *deadlines):
        demand_ns = -slipped_ns + sum(
            (-(-(time_ns - deadline_ns + 1 + jitter_ns) // period_ns)) * cost_ns
            for deadline_ns, cost_ns, period_ns, jitter_ns in parts
            if time_ns >= deadline_ns
        )
        first_ns = max((q for d, q in segments if d > time_ns), default=0)
        if demand_ns + max(0, depth * first_ns - 1) > time_ns:
            return False
    return True


def _absolute_deadlines(load: Load, busy_ns: int) -> Iterator[int]:
    return (step + load.deadline_ns for step in load.steps(busy_ns))
