"""Loads: tasks with every overhead in their costs, and the arithmetic that all analyses share."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from preempt_runtime.schedulability.model import AnalysedTask, Assumptions, scaled_ns, unscaled_ns

MAX_ROUNDS = 50_000
"""After so many rounds, a fixed point counts as out of reach."""

BEST_EFFORT_RANK = -(1 << 62)


@dataclass(frozen=True, slots=True)
class Unbounded:
    """There is no bound, and why."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A task's demand, with co-run factor, margin and dispatching in its costs.

    `longest_ns` is the longest segment as it blocks others: with the cost of resuming, where the
    segment is not the first. `rank` is larger for a more urgent task; deadlines are those that
    EDF uses. `period_ns` is 0 for a load that only blocks. `resuming_ns` of the cost is what it
    makes others pay for going on.
    """

    name: str
    cost_ns: int
    longest_ns: int
    last_ns: int
    num_segments: int
    period_ns: int
    jitter_ns: int
    deadline_ns: int
    rank: int
    resuming_ns: int = 0

    @property
    def is_best_effort(self) -> bool:
        """It only blocks."""
        return self.rank == BEST_EFFORT_RANK

    def arrivals(self, window_ns: int) -> int:
        """The most jobs that may be released in a window of that length.

        Source: arrival curve of a sporadic task with release jitter, ceil((window + J) / T).
        """
        return 0 if window_ns <= 0 else -(-(window_ns + self.jitter_ns) // self.period_ns)

    def steps(self, end_ns: int) -> Iterable[int]:
        """The offsets before `end_ns` at which one more job may have been released."""
        first = self.jitter_ns // self.period_ns + 1
        later = range(first * self.period_ns - self.jitter_ns, max(end_ns, 0), self.period_ns)
        return (0, *later) if end_ns > 0 else ()


def load_from_task(task: AnalysedTask, assumptions: Assumptions, *, rank: int) -> Load:
    """The load of a task; one without period only blocks."""
    factor = assumptions.corun_factor * task.corun_factor
    # Evenly cut networks have hundreds of segments of two lengths.
    counted_ns = {cost: inflated_ns(cost, assumptions, factor) for cost in set(task.segment_ns)}
    segment_ns = tuple(counted_ns[cost_ns] for cost_ns in task.segment_ns)
    later_ns = max(segment_ns[1:], default=0)
    resumed_ns = later_ns + assumptions.resume_cost_ns if later_ns else 0
    job_ns = assumptions.once_ns
    cost_ns, last_ns = sum(segment_ns) + job_ns, segment_ns[-1]
    total_ns = _total_ns(task, assumptions, factor)
    if total_ns is not None and total_ns < cost_ns:
        # A job may take all of it, its last segment next to nothing: until the end, others count.
        cost_ns, last_ns = max(total_ns, *(each + job_ns for each in segment_ns)), 1
    return Load(
        name=task.name,
        cost_ns=cost_ns,
        longest_ns=max(segment_ns[0], resumed_ns) + assumptions.blocking_dispatch_ns,
        last_ns=last_ns,
        num_segments=len(segment_ns),
        period_ns=task.period_ns or 0,
        jitter_ns=task.jitter_ns,
        deadline_ns=task.implicit_deadline_ns or 0,
        rank=rank,
    )


def _total_ns(task: AnalysedTask, assumptions: Assumptions, factor: float) -> int | None:
    if task.total_ns is None:
        return None
    once_ns = inflated_ns(task.total_ns, assumptions, factor)
    each_ns, job_ns = assumptions.segment_dispatch_ns, assumptions.once_ns
    return once_ns + (len(task.segment_ns) - 1) * each_ns + job_ns


def inflated_ns(cost_ns: int, assumptions: Assumptions, corun_factor: float) -> int:
    """A segment's cost as the analysis counts it."""
    with_margin_ns = scaled_ns(scaled_ns(cost_ns, corun_factor), 1 + assumptions.margin_frac)
    return with_margin_ns + assumptions.segment_dispatch_ns


def with_resume_cost(load: Load, resume_cost_ns: int) -> Load:
    """The load whose jobs also pay for the one that each of them may interrupt."""
    return replace(load, cost_ns=load.cost_ns + resume_cost_ns, resuming_ns=resume_cost_ns)


def cost_from_seen_ns(
    seen_ns: int, assumptions: Assumptions, num_segments: int = 1, *, has_once: bool = False
) -> int:
    """A cost that the analysis counts, margin aside, as no less than what was seen of segments.

    `has_once`: the first or the last one of a job is among them. What is seen on the device
    contains overlapping and dispatching already: both would be counted twice, were it a cost.
    """
    around_ns = num_segments * assumptions.segment_dispatch_ns
    if has_once:
        around_ns += assumptions.seen_once_ns
    own_ns = max(1, seen_ns - around_ns)
    return unscaled_ns(own_ns, assumptions.corun_factor)


def utilisation(loads: Iterable[Load], extra_ns: int = 0) -> Fraction:
    """The share of the device that jobs ask for, each of them `extra_ns` more."""
    return sum((Fraction(x.cost_ns + extra_ns, x.period_ns) for x in loads), Fraction(0))


def smallest_fixed_point(
    demand: Callable[[int], int], start_ns: int, most_ns: int | None = None
) -> int | None:
    """The smallest time from `start_ns` on that covers the demand; None if it is out of reach.

    `demand` must not fall with time, and `start_ns` must not lie beyond the answer. An answer
    beyond `most_ns` is not looked for.
    """
    time_ns = max(start_ns, 1)
    for _ in range(MAX_ROUNDS):
        if most_ns is not None and time_ns > most_ns:
            return None
        needed_ns = demand(time_ns)
        if needed_ns <= time_ns:
            return time_ns
        time_ns = needed_ns
    return None


def offsets_before(end_ns: int, *offsets_ns: Iterable[int]) -> Iterator[int]:
    """The distinct offsets from 0 to `end_ns`, exclusive, ascending as each input is.

    >>> list(offsets_before(9, (-3, 0, 4), (4, 7, 9)))
    [0, 4, 7]
    """
    last_ns = -1
    for offset_ns in heapq.merge(*offsets_ns):
        if offset_ns >= end_ns:
            return
        if offset_ns > last_ns:
            last_ns = offset_ns
            yield offset_ns
