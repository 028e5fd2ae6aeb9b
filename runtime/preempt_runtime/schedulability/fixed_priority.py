"""Response-time bounds under fixed priorities with fixed preemption points.

A job of task i waits for less urgent segments that are in flight, for all jobs of its level and
above that come before its last segment starts, and for its own earlier jobs; then its last segment
runs to its end. For each offset A of a release in the busy period

    F = B + n_i(A + 1) C_i - (last_i - 1) + sum over h of n_h(F) C_h,    R = F + last_i - 1 - A

with n the arrival curves and B the blocking. With `depth` D in flight, the last less urgent segment
that is launched before the job's release, of length q, stands behind D - 1 others at most, less
urgent or not, of length p: B = q - 1 + (D - 1) max(p, q). Where p > q, a second bound may be the
smaller one: D segments of length q before the first job of the busy period, and D - 1 more before
each further job that is released until the job itself is: B = D q - 1 + (jobs) (D - 1) q.

Source: Bozhko and Brandenburg, ECRTS 2020 (PROSA, fixed_priority/limited_preemptive); Yao, Buttazzo
and Bertogna 2010; docs/schedulability.md for depth and for the cost of resuming.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from preempt_runtime.schedulability.demand import Demand
from preempt_runtime.schedulability.loads import (
    Load,
    Unbounded,
    offsets_before,
    smallest_fixed_point,
    with_resume_cost,
)

SECOND_BOUND_UP_TO = 64
"""In sets of more tasks the second bound is found only for those that the first one finds late."""


@dataclass(frozen=True, slots=True)
class Bounded:
    """The most that a job waits for less urgent segments, and the most until it ends."""

    blocking_ns: int
    response_ns: int


class PriorityLevel:
    """A task among those of its rank and above, whatever is below it.

    Args:
        load: the task.
        loads: all tasks of its rank and above, itself among them.
        depth: segments in flight.
        resume_cost_ns: what a job pays that goes on after another ran.
    """

    def __init__(self, load: Load, loads: Sequence[Load], depth: int, resume_cost_ns: int) -> None:
        self._level = charged_for_resuming(loads, resume_cost_ns)
        self._own = next(other for other in self._level if other.name == load.name)
        self._others = [other for other in self._level if other is not self._own]
        self._depth = depth
        self._longest_ns = max(other.longest_ns for other in loads)
        self._level_demand = Demand(self._level)

    def bound(self, longest_lower_ns: int, *, most_ns: int | None = None) -> Bounded | Unbounded:
        """The bound of the task.

        Args:
            longest_lower_ns: the longest segment below its rank, best effort included; 0: none.
            most_ns: a response beyond this is not computed: it counts as no bound.
        """
        q_ns, depth = longest_lower_ns, self._depth
        blocking_ns = longest_blocking_ns(q_ns, self._longest_ns, depth)
        found = self._response(blocking_ns, 0, self._level_demand, most_ns)
        is_enough = (
            not isinstance(found, Unbounded)
            and found <= self._own.deadline_ns
            and (most_ns is not None or len(self._level) > SECOND_BOUND_UP_TO)
        )
        if depth > 1 and self._longest_ns > q_ns > 0 and not is_enough:
            slipped_ns = (depth - 1) * q_ns
            level_demand = Demand(self._level, slipped_ns)
            other = self._response(depth * q_ns - 1, slipped_ns, level_demand, most_ns)
            found = min(found, other, key=_response_or_none)
        if isinstance(found, Unbounded):
            return found
        return Bounded(max(0, depth * q_ns - 1), found)

    def _response(
        self, blocking_ns: int, slipped_ns: int, level_demand: Demand, most_ns: int | None
    ) -> int | Unbounded:
        """The longest response if `slipped_ns` more are met before each further release."""
        busy_ns = level_demand.busy_period_ns(blocking_ns)
        if isinstance(busy_ns, Unbounded):
            return busy_ns
        own, all_ns = self._own, self._level_demand
        response_ns, start_ns = 0, 1
        for offset_ns in self._offsets(busy_ns, slipped_ns):
            own_jobs = own.arrivals(offset_ns + 1)
            fixed_ns = blocking_ns + own_jobs * own.cost_ns - (own.last_ns - 1)
            if slipped_ns:
                jobs_before = own_jobs - 1
                if offset_ns > 0:
                    jobs_before += sum(x.arrivals(offset_ns + 1) for x in self._others)
                fixed_ns += jobs_before * slipped_ns
            found_ns = smallest_fixed_point(
                lambda window_ns, fixed_ns=fixed_ns: (  # type: ignore[misc]
                    fixed_ns + all_ns(window_ns) - own.arrivals(window_ns) * own.cost_ns
                ),
                start_ns,
                None if most_ns is None else most_ns + offset_ns - own.last_ns + 1,
            )
            if found_ns is None:
                return Unbounded("the start of its last segment was not found in time")
            start_ns = found_ns  # later releases start no earlier
            response_ns = max(response_ns, found_ns + own.last_ns - 1 - offset_ns)
        return response_ns

    def _offsets(self, busy_ns: int, slipped_ns: int) -> Iterable[int]:
        """Where the demand before the task's job rises; the response is longest at one of them."""
        own = self._own.steps(busy_ns)
        if slipped_ns == 0:
            return own
        return offsets_before(busy_ns, own, (1,), *(x.steps(busy_ns) for x in self._others))


def _response_or_none(found: int | Unbounded) -> tuple[bool, int]:
    """What sorts no bound behind every bound."""
    return (True, 0) if isinstance(found, Unbounded) else (False, found)


def longest_blocking_ns(lower_ns: int, longest_ns: int, depth: int) -> int:
    """The most that is in flight behind the oldest nanosecond when nothing less urgent follows.

    >>> longest_blocking_ns(5, 3, depth=1), longest_blocking_ns(5, 9, depth=3)
    (4, 22)
    >>> longest_blocking_ns(0, 9, depth=3)
    0

    Args:
        lower_ns: the longest less urgent segment; 0: there is none.
        longest_ns: the longest other one.
        depth: segments in flight.
    """
    if lower_ns == 0:
        return 0
    return lower_ns - 1 + (depth - 1) * max(lower_ns, longest_ns)


def charged_for_resuming(loads: Sequence[Load], resume_cost_ns: int) -> tuple[Load, ...]:
    """The loads, those that may interrupt another one of more than one segment charged for it.

    A job that starts interrupts at most one other, so each resumption has a start of its own.
    Equals do not interrupt each other: the started one goes on.
    """
    if resume_cost_ns == 0:
        return tuple(loads)
    lowest = min((load.rank for load in loads if load.num_segments > 1), default=None)
    if lowest is None:
        return tuple(loads)
    return tuple(
        with_resume_cost(load, resume_cost_ns) if load.rank > lowest else load for load in loads
    )
