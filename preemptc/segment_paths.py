"""Least-cost chains of segments under a bound: in linear time, and for measured costs.

A chain is a tuple of position indices from 0 to the last. Both forms return the same one: the
least objective, among those the smallest maximum of the needed bounds, among those the
lexicographically smallest.
"""

from bisect import bisect_left
from collections import deque
from typing import Protocol

import numpy as np

from preemptc.segment_costs import (
    NEVER_NS,
    CostRows,
    Ints,
    Row,
    SegmentCosts,
    allowed_prediction_ns,
)

Path = tuple[int, ...]


class SegmentPaths(Protocol):
    """The chains of one set of costs."""

    def least_path(self, bound_ns: int) -> Path | None:
        """The chain with the least objective in which no segment needs a larger bound."""
        ...

    def finest_path(self) -> Path | None:
        """A chain that keeps the smallest bound that any does, cut wherever that allows."""
        ...


def segment_paths(costs: SegmentCosts) -> SegmentPaths:
    """The linear form where costs add up, the quadratic one where some were measured."""
    return AdditivePaths(costs) if costs.is_additive else MeasuredPaths(costs)


class AdditivePaths:
    """Chains over predicted costs q(j, k) = f_j + S_k with f_j = x_j - S_j, in linear time.

    A position j2 with an earlier j1 such that f_1 < f_2 is in no best chain: j1 in the place of
    all positions in [j1, j2] makes no segment longer and costs less, as x_2 > x_1 + S_2 - S_1
    (see `preemptc.candidates`). Without such positions f never rises, so the ends that a start
    can reach under a bound are a window [j + 1, reach_j] and reach_j never falls.
    """

    def __init__(self, costs: SegmentCosts) -> None:
        elapsed = np.concatenate(([0], np.cumsum(np.array(costs.work_ns, dtype=np.int64))))
        offsets = np.array(costs.boundary_ns, dtype=np.int64) - elapsed[:-1]
        kept = np.flatnonzero(offsets <= np.minimum.accumulate(offsets))
        ends = np.append(kept, len(elapsed) - 1)
        boundary_ns = np.array(costs.boundary_ns, dtype=np.int64)[kept]
        self._headroom_frac = costs.headroom_frac
        self._idx: list[int] = ends.tolist()
        self._offsets = offsets[kept]
        self._elapsed = elapsed[ends]
        self._price: list[int] = [*(boundary_ns + costs.unbuilt_penalty_ns).tolist(), 0]

    def least_path(self, bound_ns: int) -> Path | None:
        """The best chain under the bound: two monotone queues from the last position back.

        `cost[j]` is the least objective of what follows position j, `worst[j]` the least maximum
        among those. The window holds the ends within reach by price + cost, each sum once, with
        those ends k of that sum that no smaller k beats in `worst`: along them S_k falls and
        worst_k rises, so the least max(f_j + S_k, worst_k) is where the two cross.
        """
        longest_ns = allowed_prediction_ns(self._headroom_frac, bound_ns)
        reach = np.searchsorted(self._elapsed, longest_ns - self._offsets, side="right") - 1
        offsets, elapsed = self._offsets.tolist(), self._elapsed.tolist()
        reach_of, last = reach.tolist(), len(elapsed) - 1
        total: list[int] = [NEVER_NS] * last + [0]  # price of a cut at k and what follows it
        cost: list[int] = [NEVER_NS] * last + [0]
        worst: list[int] = [0] * (last + 1)
        window: deque[tuple[int, list[int], list[int]]] = deque()
        for start in range(last - 1, -1, -1):
            end = start + 1
            if cost[end] < NEVER_NS:
                total_ns = total[end] = self._price[end] + cost[end]
                while window and window[0][0] > total_ns:
                    window.popleft()
                if not window or window[0][0] < total_ns:
                    window.appendleft((total_ns, [], []))
                _, ends, keys = window[0]
                while ends and worst[ends[-1]] >= worst[end]:
                    ends.pop()
                    keys.pop()
                ends.append(end)
                keys.append(worst[end] - elapsed[end])
            while window and window[-1][1][-1] > reach_of[start]:
                window.pop()
            if not window:
                continue
            cost[start], ends, keys = window[-1]
            offset_ns = offsets[start]
            cross = bisect_left(keys, offset_ns)  # from here on worst_k is the larger of the two
            least_ns = worst[ends[cross]] if cross < len(ends) else NEVER_NS
            if cross > 0:
                least_ns = min(least_ns, offset_ns + elapsed[ends[cross - 1]])
            worst[start] = least_ns
        if cost[0] >= NEVER_NS:
            return None
        return self._walk(total, cost, worst)

    def _walk(self, total: list[int], cost: list[int], worst: list[int]) -> Path:
        """The lexicographically smallest best chain: one scan over the positions."""
        offsets, elapsed = self._offsets.tolist(), self._elapsed.tolist()
        last = len(elapsed) - 1

        def is_best(start: int, end: int) -> bool:
            is_cheapest = total[end] == cost[start] and worst[end] <= worst[0]
            return is_cheapest and bool(offsets[start] + elapsed[end] <= worst[0])

        path = [0]
        while path[-1] < last:
            start = path[-1]
            if is_best(start, last):  # a chain that ends is smaller than one that goes on
                path.append(last)
            else:
                path.append(next(end for end in range(start + 1, last) if is_best(start, end)))
        return tuple(self._idx[end] for end in path)

    def finest_path(self) -> Path | None:
        """All positions that are never worse to cut at: one more cut makes no segment longer."""
        return tuple(self._idx)


class MeasuredPaths:
    """Chains over costs of which some were measured: quadratic time, linear memory."""

    def __init__(self, costs: SegmentCosts) -> None:
        self._rows = CostRows(costs)
        self._last = costs.max_segments

    def least_path(self, bound_ns: int) -> Path | None:
        """The best chain under the bound, by dynamic programming from the last position back."""
        cost = np.full(self._last + 1, NEVER_NS, dtype=np.int64)
        worst = np.zeros(self._last + 1, dtype=np.int64)
        cost[self._last] = 0
        for start in range(self._last - 1, -1, -1):
            row = self._rows.row(start, bound_ns)
            total = self._total(row, cost, bound_ns)
            if total.size == 0 or (best := total.min()) >= NEVER_NS:
                continue
            cost[start] = best
            both = np.maximum(row.needed_ns, worst[row.ends])
            worst[start] = both[total == best].min()
        if cost[0] >= NEVER_NS:
            return None
        limit_ns, path = int(worst[0]), [0]
        while path[-1] < self._last:
            row = self._rows.row(path[-1], bound_ns)
            is_best = self._total(row, cost, limit_ns) == cost[path[-1]]
            is_best &= worst[row.ends] <= limit_ns
            reaches_last = row.ends.stop > self._last and bool(is_best[-1])
            path.append(self._last if reaches_last else row.first_end + int(np.argmax(is_best)))
        return tuple(path)

    def _total(self, row: Row, cost: Ints, bound_ns: int) -> Ints:
        total = row.objective_ns + cost[row.ends]
        total[row.needed_ns > bound_ns] = NEVER_NS
        return total

    def finest_path(self) -> Path | None:
        """The lexicographically smallest chain with the smallest maximum."""
        worst = np.full(self._last + 1, NEVER_NS, dtype=np.int64)
        worst[self._last] = 0
        for start in range(self._last - 1, -1, -1):
            row = self._rows.row(start)
            worst[start] = np.maximum(row.needed_ns, worst[row.ends]).min()
        if worst[0] >= NEVER_NS:
            return None
        path = [0]
        while path[-1] < self._last:
            row = self._rows.row(path[-1])
            keeps = np.maximum(row.needed_ns, worst[row.ends]) <= worst[0]
            path.append(row.first_end + int(np.argmax(keeps)))
        return tuple(path)


def exact_count_path(costs: SegmentCosts, num_segments: int) -> Path | None:
    """The chain of exactly so many segments with the smallest maximum, then least objective.

    Layer c of a table holds the best of c segments to the end; all layers of one start are made
    at once. Time is `num_segments` times that of all segments, memory `num_segments` times that
    of the positions.
    """
    rows, last = CostRows(costs), costs.max_segments
    worst = np.full((num_segments + 1, last + 1), NEVER_NS, dtype=np.int64)
    worst[0, last] = 0
    for start in range(last - 1, -1, -1):
        row = rows.row(start)
        worst[1:, start] = np.maximum(row.needed_ns, worst[:-1, row.ends]).min(axis=1)
    limit_ns = int(worst[num_segments, 0])
    if limit_ns >= NEVER_NS:
        return None
    cost = np.full((num_segments + 1, last + 1), NEVER_NS, dtype=np.int64)
    cost[0, last] = 0
    for start in range(last - 1, -1, -1):
        row = rows.row(start, limit_ns)
        keeps = row.needed_ns <= limit_ns
        if keeps.any():
            total = row.objective_ns[keeps] + cost[:-1, row.ends][:, keeps]
            cost[1:, start] = np.minimum(total.min(axis=1), NEVER_NS)
    path = [0]
    for left in range(num_segments, 0, -1):
        row = rows.row(path[-1], limit_ns)
        total = row.objective_ns + cost[left - 1, row.ends]
        is_best = (total == cost[left, path[-1]]) & (row.needed_ns <= limit_ns)
        path.append(row.first_end + int(np.argmax(is_best)))
    return tuple(path)
