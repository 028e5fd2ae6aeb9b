"""SegmentCosts: what every possible segment costs, predicted or measured, and what bound it needs.

Unmeasured, a segment from split point j to k takes q(j, k) = x_j + S_k - S_j. Measured segments
replace that; those that cannot be built are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from preempt_runtime.errors import InputError

Ints = NDArray[np.int64]
Span = tuple[int, int]

NEVER_NS = 2**61  # dearer than any plan: units.parse_duration_ns stops at 10**18
_MAX_WORK_NS = 10**14  # times _PARTS, it still fits in 64 bits
_PARTS = 10_000  # headroom counts in hundredths of a percent, so that comparisons stay exact


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentCosts:
    """The costs that the search weighs.

    `positions` are the split points that may be used, with 0 and num_nodes as first and last.
    `work_ns[a]` is the work between positions a and a+1, `boundary_ns[a]` what a segment that
    starts at positions[a] pays for it. Segments are named by their node positions (start, end):
    `measured_ns` is a segment's cost in place of the prediction, `measured_bound_ns` the value
    that is compared with the bound (a quantile; by default the cost), `failed` cannot be built.
    `headroom_frac` of the bound must stay free under a prediction that is not measured;
    `unbuilt_penalty_ns` makes such a segment less welcome but is part of no reported overhead.
    `idx_of` a position is its index, `elapsed_ns[a]` the work before positions[a].
    """

    positions: tuple[int, ...]
    work_ns: tuple[int, ...]
    boundary_ns: tuple[int, ...]
    measured_ns: Mapping[Span, int] = field(default_factory=dict)
    measured_bound_ns: Mapping[Span, int] = field(default_factory=dict)
    failed: frozenset[Span] = frozenset()
    headroom_frac: float = 0.0
    unbuilt_penalty_ns: int = 0
    idx_of: Mapping[int, int] = field(init=False, repr=False, compare=False)
    elapsed_ns: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        is_ascending = all(start < end for start, end in pairwise(self.positions))
        if len(self.positions) < 2 or self.positions[0] != 0 or not is_ascending:
            raise InputError(
                "segment costs: positions must ascend from 0 to the number of nodes,"
                f" found {self.positions[:4]}"
            )
        if not len(self.work_ns) == len(self.boundary_ns) == len(self.positions) - 1:
            raise InputError(
                f"segment costs: {len(self.work_ns)} works and {len(self.boundary_ns)} boundaries"
                f" for {len(self.positions)} positions, expected one fewer"
            )
        if self.boundary_ns[0] != 0 or min(*self.work_ns, *self.boundary_ns, 0) < 0:
            raise InputError("segment costs: a cost is negative, or the start costs a boundary")
        if self.whole_work_ns + max(self.boundary_ns) > _MAX_WORK_NS:
            raise InputError(f"segment costs: {self.whole_work_ns} ns is over a day; check units")
        if not 0 <= self.headroom_frac < 1 or self.unbuilt_penalty_ns < 0:
            raise InputError(
                f"segment costs: headroom {self.headroom_frac} must be in [0, 1),"
                f" penalty {self.unbuilt_penalty_ns} ns not negative"
            )
        if not self.measured_bound_ns.keys() <= self.measured_ns.keys():
            raise InputError("segment costs: a bound value without a measured cost")
        # For `chain_costs`, which a search calls for every plan.
        idx_of = {position: idx for idx, position in enumerate(self.positions)}
        object.__setattr__(self, "idx_of", idx_of)
        object.__setattr__(self, "elapsed_ns", tuple(accumulate(self.work_ns, initial=0)))

    @property
    def num_nodes(self) -> int:
        """How many nodes the executed graph has."""
        return self.positions[-1]

    @property
    def whole_work_ns(self) -> int:
        """Work of all nodes, without any boundary: what overhead is counted against."""
        return sum(self.work_ns)

    @property
    def max_segments(self) -> int:
        """The most segments that the positions allow."""
        return len(self.work_ns)

    @property
    def is_additive(self) -> bool:
        """Whether every segment costs its prediction, so that the linear search applies."""
        return not self.measured_ns and not self.failed


def chain_costs(costs: SegmentCosts, split_points: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The cost of each segment of a plan, and the smallest bound that it keeps.

    >>> costs = SegmentCosts(positions=(0, 2, 3), work_ns=(20, 10), boundary_ns=(0, 5))
    >>> chain_costs(costs, (2,))
    ((20, 20), (15, 15))
    """
    idx_of, elapsed_ns = costs.idx_of, costs.elapsed_ns
    kept_parts = _kept_parts(costs.headroom_frac)
    chain = []
    for span in pairwise((0, *split_points, costs.num_nodes)):
        start, end = idx_of[span[0]], idx_of[span[1]]
        cost_ns = costs.boundary_ns[start] + elapsed_ns[end] - elapsed_ns[start]
        needed_ns = _needed_ns(kept_parts, cost_ns)
        if span in costs.measured_ns:
            cost_ns = costs.measured_ns[span]
            needed_ns = costs.measured_bound_ns.get(span, cost_ns)
        chain.append((cost_ns, NEVER_NS if span in costs.failed else needed_ns))
    return tuple(chain)


def allowed_prediction_ns(headroom_frac: float, bound_ns: int) -> int:
    """The largest unmeasured prediction that keeps the bound.

    >>> allowed_prediction_ns(0.1, 1000)
    900
    """
    return bound_ns * _kept_parts(headroom_frac) // _PARTS


def needed_bound_ns(headroom_frac: float, predicted_ns: int) -> int:
    """The smallest bound that an unmeasured prediction keeps.

    >>> needed_bound_ns(0.1, 900)
    1000
    """
    return _needed_ns(_kept_parts(headroom_frac), predicted_ns)


def _needed_ns(kept_parts: int, predicted_ns: int) -> int:
    return -(-predicted_ns * _PARTS // kept_parts)


def _kept_parts(headroom_frac: float) -> int:
    return max(_PARTS - round(headroom_frac * _PARTS), 1)


@dataclass(frozen=True, slots=True)
class Row:
    """The segments that start at one position, by the index of the position where they end.

    `first_end` is the index of the first end. `needed_ns` is the smallest bound that the segment
    keeps, `NEVER_NS` where it cannot be built; `objective_ns` is the cost and the penalty.
    """

    first_end: int
    cost_ns: Ints
    needed_ns: Ints
    objective_ns: Ints

    @property
    def ends(self) -> slice:
        """The position indices where the segments end."""
        return slice(self.first_end, self.first_end + len(self.cost_ns))


class CostRows:
    """The segment costs as rows of arrays, made when they are asked for: linear memory."""

    def __init__(self, costs: SegmentCosts) -> None:
        self._costs = costs
        self._elapsed = np.concatenate(([0], np.cumsum(np.array(costs.work_ns, dtype=np.int64))))
        self._kept_parts = _kept_parts(costs.headroom_frac)
        idx_of = {position: idx for idx, position in enumerate(costs.positions)}
        self._measured: dict[int, list[tuple[int, int, int]]] = {}
        self._failed: dict[int, list[int]] = {}
        for (start, end), cost_ns in costs.measured_ns.items():
            if start in idx_of and end in idx_of:
                bound_ns = costs.measured_bound_ns.get((start, end), cost_ns)
                entry = (idx_of[end], cost_ns, bound_ns)
                self._measured.setdefault(idx_of[start], []).append(entry)
        for start, end in costs.failed:
            if start in idx_of and end in idx_of:
                self._failed.setdefault(idx_of[start], []).append(idx_of[end])

    def row(self, start: int, bound_ns: int = NEVER_NS) -> Row:
        """The segments from position index `start`, as far as any of them can keep the bound."""
        measured = self._measured.get(start, [])
        stop = self._stop(start, bound_ns, max((entry[0] for entry in measured), default=0))
        offset_ns = self._costs.boundary_ns[start] - int(self._elapsed[start])
        cost_ns = self._elapsed[start + 1 : stop] + offset_ns
        needed_ns = -(-cost_ns * _PARTS // self._kept_parts)
        objective_ns = cost_ns + self._costs.unbuilt_penalty_ns
        for end, measured_ns, measured_bound_ns in measured:
            idx = end - start - 1
            cost_ns[idx] = objective_ns[idx] = measured_ns
            needed_ns[idx] = measured_bound_ns
        for end in self._failed.get(start, []):
            if end < stop:
                needed_ns[end - start - 1] = NEVER_NS
        return Row(start + 1, cost_ns, needed_ns, objective_ns)

    def _stop(self, start: int, bound_ns: int, last_measured: int) -> int:
        """One past the last end whose prediction keeps the bound, or that was measured."""
        if bound_ns >= NEVER_NS:
            return len(self._elapsed)
        longest_ns = bound_ns * self._kept_parts // _PARTS
        reach_ns = longest_ns - self._costs.boundary_ns[start] + int(self._elapsed[start])
        stop = int(np.searchsorted(self._elapsed, reach_ns, side="right"))
        return max(stop, last_measured + 1, start + 1)
