"""Response-time bounds and the demand test under EDF with fixed preemption points.

For a job at offset A in its busy period, jobs whose deadline is no later than its own are ahead of
it; a segment of a task k can block it from the start only if D_k > A + D_i:

    F = B(A) + n_i(A + 1) C_i - (last_i - 1) + sum over j of n_j(min(A + 1 + D_i - D_j, F)) C_j
    R = F + last_i - 1 - A

With q(A) the longest such segment and `depth` D in flight, B(A) = q - 1 + (D - 1) max(p, q), as in
`fixed_priority`, with p the longest segment of any real-time task.

Source: Bozhko and Brandenburg, ECRTS 2020 (PROSA, edf/limited_preemptive); Spuri 1996; Baruah,
ECRTS 2005 (the demand test); docs/schedulability.md for depth and for the cost of resuming.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preempt_runtime.schedulability.demand import Demand, Releases, Times
from preempt_runtime.schedulability.fixed_priority import Bounded, longest_blocking_ns
from preempt_runtime.schedulability.loads import Load, Unbounded, with_resume_cost

_NEVER_NS = 1 << 62


def edf_loads(loads: Sequence[Load], resume_cost_ns: int) -> tuple[Load, ...]:
    """The loads, those that may interrupt another one of more than one segment charged for it.

    To be more urgent than a job that has started, a later one needs a shorter deadline.
    """
    if resume_cost_ns == 0:
        return tuple(loads)
    longest = max((load.deadline_ns for load in loads if load.num_segments > 1), default=0)
    return tuple(
        with_resume_cost(load, resume_cost_ns) if load.deadline_ns < longest else load
        for load in loads
    )


def edf_busy_period_ns(loads: Sequence[Load], best_effort_ns: int, depth: int) -> int | Unbounded:
    """A bound on any time in which a real-time job is always pending."""
    longest_ns = max((load.longest_ns for load in loads), default=0)
    lower_ns = best_effort_ns if depth == 1 else max(best_effort_ns, longest_ns)
    return Demand(loads).busy_period_ns(longest_blocking_ns(lower_ns, longest_ns, depth))


class _Blocking:
    """B at each absolute deadline: what a job of a later one, or best effort, holds up."""

    def __init__(self, segments: Sequence[tuple[int, int]], longest_ns: int, depth: int) -> None:
        """`segments` are (relative deadline, length)."""
        later = sorted(segments, reverse=True)
        self._deadline_ns = np.array([deadline_ns for deadline_ns, _ in later][::-1], np.int64)
        lengths = np.array([length_ns for _, length_ns in later], np.int64)
        self._longest_ns = np.append(np.maximum.accumulate(lengths)[::-1], 0)
        self._beside_ns = longest_ns
        self._depth = depth

    def first_ns(self, deadline_ns: Times) -> Times:
        """The longest segment of a deadline beyond; 0: there is none."""
        found: Times = self._longest_ns[np.searchsorted(self._deadline_ns, deadline_ns, "right")]
        return found

    def at(self, deadline_ns: Times) -> Times:
        """As `longest_blocking_ns`."""
        first_ns = self.first_ns(deadline_ns)
        beside_ns = (self._depth - 1) * np.maximum(first_ns, self._beside_ns)
        return np.where(first_ns > 0, first_ns - 1 + beside_ns, 0)


def edf_bounds(
    loads: Sequence[Load], best_effort_ns: int, depth: int, busy_ns: int
) -> tuple[Bounded, ...]:
    """The bounds of all tasks, in their order.

    One walk over the absolute deadlines d in the busy period: the work that is due by d is the same
    for every task, whose job has the offset d - D_i. It is passed over where

    - it would come when all work due by d has ended: it is met as well at an earlier offset, or
    - not even that end would be the task's worst.

    Args:
        loads: all real-time tasks, as `edf_loads` made them.
        best_effort_ns: the longest segment of best effort; 0: none.
        depth: segments in flight.
        busy_ns: what `edf_busy_period_ns` found.
    """
    blocking = _blocking(loads, [(_NEVER_NS, best_effort_ns)], depth)
    every = Releases(loads, busy_ns)
    due = _due(every)
    blocked_ns = blocking.at(due.deadline_ns)
    lateness_ns = blocked_ns + due.demand_ns - due.deadline_ns
    tasks = _Tasks(loads)
    worst_ns = np.full(len(loads), -_NEVER_NS, np.int64)  # lateness, by task
    # From each release on until the next, less what was released by then and is due by d.
    next_ns = np.append(every.release_ns[1:], _NEVER_NS)
    slack_ns = next_ns.copy()
    num_counted = 0
    for deadline_ns, num_due, blocking_ns, most_ns in zip(
        *(each.tolist() for each in (due.deadline_ns, due.num_due, blocked_ns, lateness_ns)),
        strict=True,
    ):
        for job in due.jobs[num_counted:num_due].tolist():
            slack_ns[job:] -= every.cost_ns[job]
        num_counted = num_due
        # Releases until all of it has ended; every task has one at 0.
        num = len(loads) + int(np.argmax(slack_ns[len(loads) - 1 :] >= blocking_ns))
        quiet_ns = max(1, blocking_ns + int(next_ns[num - 1] - slack_ns[num - 1]))
        offset_ns = deadline_ns - tasks.deadline_ns
        who = np.flatnonzero((offset_ns >= 0) & (offset_ns < quiet_ns) & (worst_ns < most_ns))
        if len(who):
            steps = _Steps(every.release_ns[:num], next_ns[:num] - slack_ns[:num], slack_ns[:num])
            found_ns = tasks.ends(who, offset_ns[who], blocking_ns, steps)
            worst_ns[who] = np.maximum(worst_ns[who], found_ns - deadline_ns)
    first_ns = blocking.first_ns(tasks.deadline_ns)
    return tuple(
        Bounded(max(0, depth * first - 1), response)
        for first, response in zip(
            first_ns.tolist(), (worst_ns + tasks.deadline_ns).tolist(), strict=True
        )
    )


@dataclass(frozen=True, slots=True)
class _Due:
    """Absolute deadlines, ascending, each once; the work due by each.

    `jobs` are in the order of their deadlines, `num_due` of them due by each.
    """

    deadline_ns: Times
    demand_ns: Times
    jobs: NDArray[np.intp]
    num_due: NDArray[np.intp]


def _due(every: Releases) -> _Due:
    order = np.argsort(every.deadline_ns, kind="stable")
    deadlines = every.deadline_ns[order]
    demand_ns = np.cumsum(every.cost_ns[order])
    last = np.flatnonzero(np.append(deadlines[1:] != deadlines[:-1], True))
    return _Due(deadlines[last], demand_ns[last], order, last + 1)


@dataclass(frozen=True, slots=True)
class _Steps:
    """Releases, ascending; the work released by each and due by some d; the next less that."""

    released_ns: Times
    due_ns: Times
    slack_ns: Times


class _Tasks:
    """Arrays of the tasks' parameters."""

    def __init__(self, loads: Sequence[Load]) -> None:
        def times(name: str) -> Times:
            return np.array([getattr(load, name) for load in loads], np.int64)

        self.deadline_ns, self.last_ns, self._cost_ns = map(
            times, ("deadline_ns", "last_ns", "cost_ns")
        )
        self._period_ns, self._jitter_ns = times("period_ns"), times("jitter_ns")

    def ends(
        self, who: NDArray[np.intp], offset_ns: Times, blocking_ns: int, steps: _Steps
    ) -> Times:
        """F + last - 1: when each task's job at its offset has ended.

        Args:
            who: the tasks, by number.
            offset_ns: of each of them.
            blocking_ns: B, the same for all.
            steps: the work that is due by the deadline of these jobs, until all of it has ended.
        """
        fixed_ns = blocking_ns + 1 - self.last_ns[who]
        # First as if own jobs counted from their release on, as those of others do: F is not below.
        reached = np.searchsorted(np.maximum.accumulate(steps.slack_ns), fixed_ns)
        time_ns = np.maximum(1, fixed_ns + steps.due_ns[reached])
        cost_ns, period_ns = self._cost_ns[who], self._period_ns[who]
        rounding_ns = self._jitter_ns[who] + period_ns - 1
        own = (offset_ns + 1 + rounding_ns) // period_ns
        while True:
            counted = (np.minimum(time_ns, offset_ns + 1) + rounding_ns) // period_ns
            num_released = np.searchsorted(steps.released_ns, time_ns)
            needed_ns = fixed_ns + steps.due_ns[num_released - 1] + (own - counted) * cost_ns
            if (needed_ns <= time_ns).all():
                end_ns: Times = time_ns + self.last_ns[who] - 1
                return end_ns
            time_ns = np.maximum(time_ns, needed_ns)


def _blocking(loads: Sequence[Load], blockers: Sequence[tuple[int, int]], depth: int) -> _Blocking:
    segments = [(load.deadline_ns, load.longest_ns) for load in loads]
    longest_ns = max((length_ns for _, length_ns in segments), default=0)
    return _Blocking([*segments, *blockers], longest_ns, depth)


def is_demand_met(
    loads: Sequence[Load],
    blockers: Sequence[tuple[int | None, int]],
    depth: int,
    busy_ns: int,
    *,
    before_ns: int | None = None,
) -> bool:
    """Whether in every interval there is room for what must end in it and what may block it.

    For every t that is a deadline: dbf(t) + B(t) <= t, with B from the segments of D_k > t. That is
    as exact as the response times.

    Args:
        loads: real-time tasks, as `edf_loads` made them.
        blockers: further segments that only block: (relative deadline or None, length).
        depth: segments in flight.
        busy_ns: what `edf_busy_period_ns` found.
        before_ns: intervals of that length or longer are left out; None: none is.
    """
    if not loads:
        return True
    others = [(_NEVER_NS if d is None else d, longest_ns) for d, longest_ns in blockers]
    blocking = _blocking(loads, others, depth)
    due = _due(Releases(loads, busy_ns))
    is_late = due.demand_ns + blocking.at(due.deadline_ns) > due.deadline_ns
    if before_ns is not None:
        is_late &= due.deadline_ns < before_ns
    return not bool(is_late.any())
