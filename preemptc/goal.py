"""What a compile is asked to keep, and the plan that does by the costs alone."""

from dataclasses import dataclass

from preemptc.search import Describe, SplitPlan, search_bound, search_count, search_overhead
from preemptc.segment_costs import SegmentCosts


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a plan must keep: exactly one of the three is not None."""

    max_segment_ns: int | None = None
    num_segments: int | None = None
    max_overhead_frac: float | None = None
    quantile: str = "p50"

    def __post_init__(self) -> None:
        given = (self.max_segment_ns, self.num_segments, self.max_overhead_frac)
        assert sum(value is not None for value in given) == 1


def search_goal(costs: SegmentCosts, goal: Goal, describe: Describe) -> SplitPlan:
    """The plan that keeps the goal by the costs alone, nothing built.

    Raises:
        InfeasibleError: no plan does; names the stretch and the smallest feasible bound.
    """
    if goal.max_segment_ns is not None:
        return search_bound(costs, goal.max_segment_ns, describe=describe)
    if goal.num_segments is not None:
        return search_count(costs, goal.num_segments)
    assert goal.max_overhead_frac is not None
    return search_overhead(costs, goal.max_overhead_frac)
