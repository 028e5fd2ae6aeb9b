"""Where to split: the exact searches over segment costs, under a bound, a count or an overhead.

The overhead of a plan is what its segments cost together, less the work of the whole network.
The bound is compared with the value that `SegmentCosts` names for each segment; the *maximum* of
a plan is the smallest bound that all its segments keep. Every search is exact over the positions
it is given and deterministic: equal plans are told apart by the smaller maximum, then by the
lexicographically smaller split points.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from preempt_runtime.errors import InfeasibleError, InputError
from preempt_runtime.units import fmt_ns
from preemptc.candidates import CandidateSet
from preemptc.profile import LatencyProfile
from preemptc.segment_costs import SegmentCosts, Span, chain_costs, needed_bound_ns
from preemptc.segment_paths import Path, exact_count_path, segment_paths

__all__ = [
    "Describe",
    "SegmentCosts",
    "SplitPlan",
    "fmt_at_least",
    "kept_bound_ns",
    "pareto_front",
    "search_bound",
    "search_count",
    "search_overhead",
    "segment_costs",
    "smallest_bound",
]

Describe = Callable[[int, int], str]
"""Names the nodes [start, end) in an error."""
Advise = Callable[[int], str]
"""What to say of the smallest feasible bound, in ns, in an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPlan:
    """Where a network of `num_nodes` is split, and what its segments are expected to take.

    `predicted_ns` has the cost of each segment, measured where it is known; `overhead_ns` is
    their sum less the work of the whole network, negative where measurements undercut it.
    """

    num_nodes: int
    split_points: tuple[int, ...]
    predicted_ns: tuple[int, ...]
    overhead_ns: int

    def __post_init__(self) -> None:
        if any(start >= end for start, end in self.segments):
            raise InputError(
                f"split points {self.split_points}: expected ascending positions between 1 and"
                f" {self.num_nodes - 1}"
            )
        if len(self.predicted_ns) != self.num_segments:
            raise InputError(
                f"split plan: {len(self.predicted_ns)} predictions for {self.num_segments} segments"
            )

    @classmethod
    def from_costs(cls, costs: SegmentCosts, split_points: tuple[int, ...]) -> "SplitPlan":
        """The plan with these split points, each one of `costs.positions`."""
        predicted_ns = tuple(cost_ns for cost_ns, _ in chain_costs(costs, split_points))
        return cls(
            num_nodes=costs.num_nodes,
            split_points=split_points,
            predicted_ns=predicted_ns,
            overhead_ns=sum(predicted_ns) - costs.whole_work_ns,
        )

    @property
    def segments(self) -> tuple[Span, ...]:
        """Node positions [start, end) of each segment, in order.

        >>> SplitPlan(
        ...     num_nodes=9, split_points=(4, 7), predicted_ns=(31, 28, 15), overhead_ns=2
        ... ).segments
        ((0, 4), (4, 7), (7, 9))
        """
        return tuple(pairwise((0, *self.split_points, self.num_nodes)))

    @property
    def num_segments(self) -> int:
        """How many segments there are."""
        return len(self.split_points) + 1

    @property
    def max_predicted_ns(self) -> int:
        """Cost of the longest segment."""
        return max(self.predicted_ns)


def segment_costs(candidates: CandidateSet, profile: LatencyProfile) -> SegmentCosts:
    """The predicted costs of all segments between candidates."""
    elapsed_ns = tuple(accumulate(profile.node_ns, initial=0))
    inner = tuple(candidate.position for candidate in candidates.candidates)
    positions = (0, *inner, len(profile.node_ns))
    return SegmentCosts(
        positions=positions,
        work_ns=tuple(elapsed_ns[end] - elapsed_ns[start] for start, end in pairwise(positions)),
        boundary_ns=(
            0,
            *(profile.boundary.at(candidate.live_bytes) for candidate in candidates.candidates),
        ),
    )


def kept_bound_ns(costs: SegmentCosts, plan: SplitPlan) -> int:
    """The plan's maximum: the smallest bound that every segment keeps."""
    return max(needed_ns for _, needed_ns in chain_costs(costs, plan.split_points))


def search_bound(
    costs: SegmentCosts,
    max_segment_ns: int,
    *,
    describe: Describe | None = None,
    advise: Advise | None = None,
) -> SplitPlan:
    """The plan of least overhead such that no segment exceeds the bound.

    Linear in the positions as long as nothing was measured or has failed, quadratic otherwise.

    Args:
        costs: What every segment costs.
        max_segment_ns: The bound.
        describe: Names the nodes [start, end) in the error.
        advise: Says what to raise the bound to, given the smallest feasible one; that one itself
            unless given.

    Raises:
        InfeasibleError: no plan keeps the bound; names the stretch that exceeds it and the
            smallest feasible bound.
    """
    path = segment_paths(costs).least_path(max_segment_ns)
    if path is None:
        raise _infeasible(costs, max_segment_ns, describe or _node_range, advise or _smallest)
    return _plan(costs, path)


def search_count(costs: SegmentCosts, num_segments: int) -> SplitPlan:
    """The plan of exactly so many segments with the smallest maximum, then the least overhead.

    Raises:
        InputError: fewer than one segment, or more than the positions allow.
        InfeasibleError: every plan of that many segments holds one that cannot be built.
    """
    if not 1 <= num_segments <= costs.max_segments:
        raise InputError(
            f"{num_segments} segments asked for; this network can be cut into 1 to"
            f" {costs.max_segments}: {costs.max_segments - 1} split points are worth it"
        )
    path = exact_count_path(costs, num_segments)
    if path is None:
        raise InfeasibleError(
            f"no plan of {num_segments} segments avoids the {len(costs.failed)} segments that"
            " could not be built; ask for another number"
        )
    return _plan(costs, path)


def search_overhead(costs: SegmentCosts, max_overhead_frac: float) -> SplitPlan:
    """The plan with the smallest maximum whose overhead stays within a share of the whole work.

    The least overhead never rises with the bound, so the smallest bound that allows it is found
    by bisection. Among the plans that keep that bound it is the one of least overhead.

    Raises:
        InputError: a negative share, or not a number.
        InfeasibleError: every plan costs more, or none can be built.
    """
    if not max_overhead_frac >= 0:
        raise InputError(f"overhead {max_overhead_frac}: expected a share of 0 or more, like 3%")
    allowed_ns = max_overhead_frac * costs.whole_work_ns
    paths = segment_paths(replace(costs, unbuilt_penalty_ns=0))
    finest = _finest(costs)
    coarsest = paths.least_path(_largest_bound_ns(costs))
    assert coarsest is not None, "a finest plan exists, so does a cheapest"
    best = _plan(costs, coarsest)
    if best.overhead_ns > allowed_ns:
        raise InfeasibleError(
            f"the cheapest plan costs {fmt_ns(best.overhead_ns)} more than the network's"
            f" {fmt_ns(costs.whole_work_ns)}, allowed {fmt_ns(allowed_ns)}; raise --max-overhead"
        )
    low_ns, high_ns = kept_bound_ns(costs, finest), kept_bound_ns(costs, best)
    while low_ns < high_ns:
        bound_ns = (low_ns + high_ns) // 2
        path = paths.least_path(bound_ns)
        assert path is not None, "the smallest feasible bound is kept by a plan"
        plan = _plan(costs, path)
        if plan.overhead_ns <= allowed_ns:
            best, high_ns = plan, kept_bound_ns(costs, plan)
        else:
            low_ns = bound_ns + 1
    return _prefer_built(costs, best, allowed_ns)


def smallest_bound(costs: SegmentCosts) -> int:
    """The smallest bound that any plan keeps.

    Raises:
        InfeasibleError: every plan holds a segment that cannot be built.
    """
    return kept_bound_ns(costs, _finest(costs))


def pareto_front(costs: SegmentCosts) -> tuple[SplitPlan, ...]:
    """Every plan that no other beats in both maximum and overhead, from the coarsest on.

    The first has the least overhead of all, the last the smallest maximum. After a plan comes
    the cheapest one whose maximum is smaller, so the maximum falls and the overhead rises.

    Raises:
        InfeasibleError: every plan holds a segment that cannot be built.
    """
    paths = segment_paths(replace(costs, unbuilt_penalty_ns=0))
    smallest_ns = smallest_bound(costs)
    front: list[SplitPlan] = []
    bound_ns = _largest_bound_ns(costs)
    while bound_ns >= smallest_ns:
        path = paths.least_path(bound_ns)
        assert path is not None, "the smallest feasible bound is kept by a plan"
        front.append(_plan(costs, path))
        bound_ns = kept_bound_ns(costs, front[-1]) - 1
    return tuple(front)


def _plan(costs: SegmentCosts, path: Path) -> SplitPlan:
    return SplitPlan.from_costs(costs, tuple(costs.positions[idx] for idx in path[1:-1]))


def _finest(costs: SegmentCosts) -> SplitPlan:
    """A plan that keeps the smallest feasible bound, cut as finely as that allows."""
    path = segment_paths(costs).finest_path()
    if path is None:
        raise InfeasibleError(
            f"every plan holds one of the {len(costs.failed)} segments that could not be built;"
            " see the build errors above"
        )
    return _plan(costs, path)


def _largest_bound_ns(costs: SegmentCosts) -> int:
    """A bound that no segment exceeds."""
    longest_ns = costs.whole_work_ns + max(costs.boundary_ns)
    predicted_ns = needed_bound_ns(costs.headroom_frac, longest_ns)
    measured_ns = (*costs.measured_ns.values(), *costs.measured_bound_ns.values())
    return max((predicted_ns, *measured_ns))


def _prefer_built(costs: SegmentCosts, plan: SplitPlan, allowed_ns: float) -> SplitPlan:
    """The plan that the penalty prefers under the same bound, where the overhead allows it."""
    if costs.unbuilt_penalty_ns == 0:
        return plan
    preferred = search_bound(costs, kept_bound_ns(costs, plan))
    return preferred if preferred.overhead_ns <= allowed_ns else plan


def _infeasible(
    costs: SegmentCosts, bound_ns: int, describe: Describe, advise: Advise
) -> InfeasibleError:
    finest = _finest(costs)
    needed_ns = [needed for _, needed in chain_costs(costs, finest.split_points)]
    smallest_ns = max(needed_ns)
    idx = needed_ns.index(smallest_ns)
    cost_ns = finest.predicted_ns[idx]
    taken, limit = fmt_ns(cost_ns), fmt_ns(bound_ns)
    if taken == limit:
        taken, limit = f"{cost_ns:,} ns", f"{bound_ns:,} ns"
    room = "" if cost_ns == smallest_ns else f", which needs a bound of {fmt_ns(smallest_ns)}"
    return InfeasibleError(
        f"{describe(*finest.segments[idx])} alone takes {taken}{room}, limit"
        f" {limit}; no split point inside makes it shorter;"
        f" raise --max-segment to {advise(smallest_ns)}"
    )


def _smallest(smallest_ns: int) -> str:
    return f"{fmt_at_least(smallest_ns)}, the smallest feasible bound"


def fmt_at_least(bound_ns: int) -> str:
    """A bound as an option's value, rounded up so that it is really kept.

    >>> fmt_at_least(1_234_567), fmt_at_least(999)
    ('1235us', '999ns')
    """
    return f"{bound_ns}ns" if bound_ns < 1_000 else f"{-(-bound_ns // 1_000)}us"


def _node_range(start: int, end: int) -> str:
    return f"node {start}" if end == start + 1 else f"nodes {start} to {end - 1}"
