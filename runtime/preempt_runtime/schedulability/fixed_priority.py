"""Response-time bounds under fixed priorities with fixed preemption points.

A job of task i waits for less urgent segments that are in flight, for all jobs of its level and
above that come before its last segment starts, and for its own earlier jobs; then its last segment
runs to its end. For each offset A of a release in the busy period

    F = B + n_i(A + 1) C_i - (last_i - 1) + sum over h of n_h(F) C_h,    R = F + last_i - 1 - A

with n the arrival curves and B the blocking. With `depth` D in flight, D less urgent segments of
length q may stand before the first job, and D - 1 may slip in before each further one that becomes
ready until the job itself is ready: the jobs of others released by A, and its own n_i(A + 1) - 1
before it, for whose buffers it may wait: B = D q - 1 + (jobs) (D - 1) q.

Source: Bozhko and Brandenburg, ECRTS 2020 (PROSA, fixed_priority/limited_preemptive); Yao, Buttazzo
and Bertogna 2010; docs/schedulability.md for depth and for the cost of resuming.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from preempt_runtime.schedulability.loads import (
    Load,
    Unbounded,
    busy_period_ns,
    jobs_demand,
    offsets_before,
    smallest_fixed_point,
)


@dataclass(frozen=True, slots=True)
class Bounded:
    """The most that a job waits for less urgent segments, and the most until it ends."""

    blocking_ns: int
    response_ns: int


def fixed_priority_bound(
    load: Load,
    loads: Sequence[Load],
    longest_lower_ns: int,
    depth: int,
    resume_cost_ns: int,
    *,
    most_ns: int | None = None,
) -> Bounded | Unbounded:
    """The bound of one task.

    Args:
        load: the task.
        loads: all tasks of its rank and above, itself among them.
        longest_lower_ns: the longest segment below its rank, best effort included; 0: none.
        depth: segments in flight.
        resume_cost_ns: what a job pays that goes on after another ran.
        most_ns: a response beyond this is not computed: it counts as no bound.
    """
    level = charged_for_resuming(loads, depth, resume_cost_ns)
    slipped_ns = (depth - 1) * longest_lower_ns
    blocking_ns = max(0, longest_lower_ns - 1)
    busy_ns = busy_period_ns(level, blocking_ns, slipped_ns)
    if isinstance(busy_ns, Unbounded):
        return busy_ns
    own = next(other for other in level if other.name == load.name)
    others = [other for other in level if other is not own]
    others_ns = jobs_demand(others)
    response_ns, start_ns = 0, 1
    for offset_ns in _offsets(own, others, busy_ns, slipped_ns):
        own_jobs = own.arrivals(offset_ns + 1)
        jobs_before = own_jobs - 1
        if offset_ns > 0 and slipped_ns > 0:
            jobs_before += sum(other.arrivals(offset_ns + 1) for other in others)
        fixed_ns = max(0, depth * longest_lower_ns - 1) + jobs_before * slipped_ns
        fixed_ns += own_jobs * own.cost_ns - (own.last_ns - 1)

        found_ns = smallest_fixed_point(
            lambda window_ns, fixed_ns=fixed_ns: fixed_ns + others_ns(window_ns),  # type: ignore[misc]
            start_ns,
            None if most_ns is None else most_ns + offset_ns - own.last_ns + 1,
        )
        if found_ns is None:
            return Unbounded("the start of its last segment was not found in time")
        start_ns = found_ns  # later releases start no earlier
        response_ns = max(response_ns, found_ns + own.last_ns - 1 - offset_ns)
    return Bounded(max(0, depth * longest_lower_ns - 1), response_ns)


def _offsets(own: Load, others: Sequence[Load], busy_ns: int, slipped_ns: int) -> Iterable[int]:
    """Where the demand before the task's job rises; the response is longest at one of them."""
    if slipped_ns == 0:
        return own.steps(busy_ns)
    return offsets_before(busy_ns, own.steps(busy_ns), (1,), *(x.steps(busy_ns) for x in others))


def charged_for_resuming(
    loads: Sequence[Load], depth: int, resume_cost_ns: int
) -> tuple[Load, ...]:
    """The loads, those that may interrupt another one of more than one segment charged for it.

    A job that starts interrupts at most one other, so each resumption has a start of its own.
    Equals do not interrupt each other with one segment in flight: the started one goes on. With
    more, a job that had to wait for its predecessor's buffers may find an equal one started.
    """
    if resume_cost_ns == 0:
        return tuple(loads)
    equals = int(depth > 1)

    def may_interrupt(load: Load) -> bool:
        return any(
            other.num_segments > 1 and other.rank < load.rank + equals
            for other in loads
            if other is not load
        )

    return tuple(
        replace(load, cost_ns=load.cost_ns + resume_cost_ns) if may_interrupt(load) else load
        for load in loads
    )
