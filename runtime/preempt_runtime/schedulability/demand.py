"""Demand: what the jobs that may be released in a window ask for, for sets of a thousand tasks.

Tasks of one period and jitter count as one; many groups are added up by numpy, as long as nothing
can overflow its 64 bits. Every sum is that of `Load.arrivals`, job by job.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import fsum

import numpy as np
from numpy.typing import NDArray

from preempt_runtime.schedulability.loads import Load, Unbounded, smallest_fixed_point, utilisation

MAX_POINTS = 50_000
"""So many releases of a busy period are examined; a longer one counts as unbounded."""

MAX_BUSY_NS = 1 << 60
"""36 years: a longer busy period is not examined, so that 64 bits hold every time in one."""

Times = NDArray[np.int64]
_VECTOR_FROM = 24  # groups; with fewer, plain integers are faster
_SAFE_NS = float(1 << 62)
_SHARE_ERROR = 1e-12  # of a sum of correctly rounded quotients, each below 1e3


class Demand:
    """The most that jobs of loads ask for in a window of some length, called with that length.

    Every job asks for `extra_ns` beside its cost.
    """

    def __init__(self, loads: Iterable[Load], extra_ns: int = 0) -> None:
        self._loads = tuple(loads)
        self._extra_ns = extra_ns
        groups: dict[tuple[int, int], tuple[int, int]] = {}
        for load in self._loads:
            key = load.period_ns, load.jitter_ns
            cost, num = groups.get(key, (0, 0))
            groups[key] = cost + load.cost_ns + extra_ns, num + 1
        self._parts = [(cost, period, jitter) for (period, jitter), (cost, _) in groups.items()]
        self._nums = [num for _, num in groups.values()]
        self._safe_ns = -1
        if len(self._parts) >= _VECTOR_FROM:
            self._prepare_vectors()

    def _prepare_vectors(self) -> None:
        """Arrays, and the longest window for which no sum of theirs can overflow."""
        costs, periods, jitters = zip(*self._parts, strict=True)
        if max(*costs, *periods, *jitters) >= _SAFE_NS / 4:
            return
        at_once = fsum(cost * (jitter / period + 2) for cost, period, jitter in self._parts)
        per_ns = fsum(cost / period for cost, period, _ in self._parts)
        self._safe_ns = int(min(_SAFE_NS / 2, max(-1.0, (_SAFE_NS - at_once) / max(per_ns, 1.0))))
        self._costs = np.array(costs, np.int64)
        self._periods = np.array(periods, np.int64)
        self._rounding = np.array(jitters, np.int64) + self._periods - 1

    def __call__(self, window_ns: int) -> int:
        """What is asked for in a window of that length, which is not empty."""
        if window_ns <= self._safe_ns:
            return int(self._costs @ ((self._rounding + window_ns) // self._periods))
        return sum(
            -(-(window_ns + jitter) // period) * cost for cost, period, jitter in self._parts
        )

    def busy_period_ns(self, blocking_ns: int) -> int | Unbounded:
        """A bound on how long the device is busy with these loads, blocked at first."""
        share = self._share()
        has_surplus = blocking_ns > 0 or any(jitter for _, _, jitter in self._parts)
        if share > 1 or (share == 1 and has_surplus):
            return Unbounded(self._too_much(share))
        length_ns = smallest_fixed_point(lambda window_ns: blocking_ns + self(window_ns), 1)
        if length_ns is None or length_ns > MAX_BUSY_NS or self._num_jobs(length_ns) > MAX_POINTS:
            return Unbounded(
                f"a busy period of over {MAX_POINTS} jobs is not examined, at {_percent(share)} of"
                " the device"
            )
        return length_ns

    def _too_much(self, share: Fraction | float) -> str:
        """What asks for more than there is, jobs and overheads apart."""
        overheads = (
            ("resuming", fsum(load.resuming_ns / load.period_ns for load in self._loads)),
            (
                "less urgent segments launched ahead",
                fsum(self._extra_ns / load.period_ns for load in self._loads),
            ),
        )
        found = [(what, part) for what, part in overheads if part]
        own = share if not found else float(share) - fsum(part for _, part in found)
        more = "".join(f", and {what} may take {_percent(part)}" for what, part in found)
        return f"jobs of its level and above ask for {_percent(own)} of the device{more}"

    def _num_jobs(self, window_ns: int) -> int:
        """Of a window that is not empty."""
        return sum(
            -(-(window_ns + jitter) // period) * num
            for (_, period, jitter), num in zip(self._parts, self._nums, strict=True)
        )

    def _share(self) -> Fraction | float:
        """The share of the device that is asked for, exact where it is close to all of it.

        The sum of a thousand fractions has a denominator of thousands of digits.
        """
        share = fsum(cost / period for cost, period, _ in self._parts)
        if abs(share - 1) > _SHARE_ERROR:
            return share
        return utilisation(self._loads, self._extra_ns)


def _percent(share: Fraction | float) -> str:
    """A share for people.

    >>> _percent(Fraction(9_999, 10_000)), _percent(Fraction(1))
    ('99.99 %', '100 %')
    """
    return f"{float(100 * share):.4g} %"


class Releases:
    """Every job that loads may release before a time, as early and as dense as it may be.

    Sorted by release, jobs of one load and release together: `release_ns`, `deadline_ns` (both
    from the start of the window), and `cost_ns` of all of them.
    """

    def __init__(self, loads: Sequence[Load], end_ns: int) -> None:
        period, jitter, cost, deadline = (
            np.array(values, np.int64)
            for values in zip(
                *((x.period_ns, x.jitter_ns, x.cost_ns, x.deadline_ns) for x in loads), strict=True
            )
        )
        num_at_once = jitter // period + 1
        # After those at 0: num_at_once * period - jitter, then every period.
        first = num_at_once * period - jitter
        num_later = np.maximum(0, -(-(end_ns - first) // period))
        who = np.repeat(np.arange(len(loads)), num_later)
        idx = np.arange(len(who)) - np.repeat(np.cumsum(num_later) - num_later, num_later)
        later = first[who] + idx * period[who]
        release = np.concatenate((np.zeros(len(loads), np.int64), later))
        order = np.argsort(release, kind="stable")
        self.release_ns: Times = release[order]
        self.cost_ns: Times = np.concatenate((cost * num_at_once, cost[who]))[order]
        self.deadline_ns: Times = np.concatenate((deadline, later + deadline[who]))[order]
