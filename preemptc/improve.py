"""From a plan that keeps the bound to a cheaper one, by what measured segments taught."""

import math
import statistics
from dataclasses import replace

from preempt_runtime.errors import InfeasibleError
from preemptc.search import SplitPlan, search_bound
from preemptc.segment_costs import SegmentCosts
from preemptc.trials import MeasuredPlan, Trials

MAX_ROUNDS = 4
_WORTH_FRAC = 0.01  # of the network: what a plan must be predicted to save


def improved(trials: Trials, kept: MeasuredPlan, bound_ns: int) -> MeasuredPlan:
    """The cheapest plan that was found to keep the bound, `kept` if none is cheaper.

    A plan is built if it is predicted to save enough. It takes the place of the one kept if its
    measured segments keep the bound and its chained over whole is lower, by more than noise. This
    ends when no plan is predicted to save enough, after a few rounds, or before more segments are
    built for it than the first plan has.
    """
    num_left = kept.plan.num_segments
    tried = {kept.plan.split_points}
    for _ in range(MAX_ROUNDS):
        plan = _cheaper(trials.costs, kept.plan, bound_ns)
        if plan is None or plan.split_points in tried or len(trials.unbuilt(plan)) > num_left:
            break
        tried.add(plan.split_points)
        num_left -= len(trials.unbuilt(plan))
        found = trials.under_bound(plan, bound_ns, better_than=kept)
        if found is not None and trials.longest_ns(found) <= bound_ns and is_lower(found, kept):
            kept = found
    return kept


def is_lower(one: MeasuredPlan, other: MeasuredPlan) -> bool:
    """Whether chained over whole is lower for one plan than for the other, beyond the noise."""
    noise = math.hypot(one.measurement.ratio_error, other.measurement.ratio_error)
    return other.measurement.ratio_p50 - one.measurement.ratio_p50 > noise


def _cheaper(costs: SegmentCosts, kept: SplitPlan, bound_ns: int) -> SplitPlan | None:
    """The best plan by the learnt costs, if it saves enough.

    Predictions get no headroom here: where one is wrong, the plan before stays. What a segment
    that is not built costs in the search adds up to less than what a plan must save.
    """
    worth_ns = _WORTH_FRAC * costs.whole_work_ns
    penalty_ns = max(1, round(worth_ns / kept.num_segments))
    bold = replace(costs, headroom_frac=1 - 1 / _tail(costs), unbuilt_penalty_ns=penalty_ns)
    try:
        plan = search_bound(bold, bound_ns)
    except InfeasibleError:
        return None
    now_ns = SplitPlan.from_costs(costs, kept.split_points).overhead_ns
    return plan if now_ns - plan.overhead_ns >= worth_ns else None


def _tail(costs: SegmentCosts) -> float:
    """How many times its median a segment takes at the quantile that is compared, typically."""
    tails = [
        bound_ns / max(1, costs.measured_ns[span])
        for span, bound_ns in costs.measured_bound_ns.items()
    ]
    return max(1.0, statistics.median(tails))
