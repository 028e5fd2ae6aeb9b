"""Search, build, measure, and search again until every built segment keeps what was asked.

Predictions add up, measurements do not: a built segment has another cache state and a launch of
its own. So only plans are built that the search proposes, measured times replace predicted ones,
predictions nearby are scaled by what was measured, and segments that are already built are
preferred. What comes out was measured, all of it.
"""

from dataclasses import replace

from preempt_runtime.errors import BuildError, InfeasibleError
from preemptc.backends import Bench, Progress
from preemptc.goal import Goal
from preemptc.improve import MAX_ROUNDS as IMPROVING_ROUNDS
from preemptc.improve import improved
from preemptc.search import Describe, SplitPlan, search_count, search_overhead
from preemptc.segment_costs import SegmentCosts
from preemptc.trials import MeasuredPlan, Trials
from preemptc.under_bound import MARGIN_FRAC, first_kept
from preemptc.under_bound import MAX_ROUNDS as BOUND_ROUNDS

_MAX_ROUNDS = 12
_COUNT_ROUNDS = 3


def plan_until_kept(
    bench: Bench,
    costs: SegmentCosts,
    goal: Goal,
    *,
    describe: Describe,
    progress: Progress,
    speed: str = "at the speed measured now",
) -> MeasuredPlan:
    """The plan that keeps the goal by measurement.

    Args:
        bench: where segments are built and measured.
        costs: predicted costs of every possible segment.
        goal: what to keep.
        describe: names the nodes [start, end) in an error.
        progress: told of every round.
        speed: says in an error at which speed of the machine the costs hold.

    Raises:
        InfeasibleError: no plan keeps the bound; names the stretch that alone exceeds it and the
            smallest feasible bound.
        BuildError: the segments of every plan were refused.
    """
    trials = Trials(bench, costs, goal.quantile, progress, _max_rounds(goal))
    if goal.max_segment_ns is not None:
        found = _keep_bound(trials, goal.max_segment_ns, describe, speed)
    elif goal.num_segments is not None:
        found = _keep_count(trials, goal.num_segments)
    else:
        assert goal.max_overhead_frac is not None
        found = _keep_overhead(trials, goal.max_overhead_frac)
    return replace(
        found,
        plan=SplitPlan.from_costs(costs, found.plan.split_points),
        num_rounds=trials.num_rounds,
        trials=tuple(trials.measured),
    )


def _max_rounds(goal: Goal) -> int:
    """The most rounds that a goal takes; a bound is tried with its margin, then without."""
    return _MAX_ROUNDS + 1 if goal.max_segment_ns is None else 2 * BOUND_ROUNDS + IMPROVING_ROUNDS


def _keep_bound(trials: Trials, bound_ns: int, describe: Describe, speed: str) -> MeasuredPlan:
    """The plan of least overhead whose measured segments keep the bound.

    Medians move a little from process to process, so a part of the bound is left free, unless
    that leaves no plan.
    """
    for margin_frac in (MARGIN_FRAC, 0.0):
        limit_ns = round(bound_ns * (1 - margin_frac))
        try:
            kept = first_kept(trials, limit_ns, describe, speed)
        except InfeasibleError:
            if margin_frac == 0.0:
                raise
            continue
        return replace(improved(trials, kept, limit_ns), margin_frac=margin_frac)
    raise AssertionError("the last margin returns or raises")


def _keep_count(trials: Trials, num_segments: int) -> MeasuredPlan:
    """The plan of this many segments whose longest is shortest, in a few rounds."""
    best: MeasuredPlan | None = None
    num_measured = 0
    while num_measured < _COUNT_ROUNDS and trials.num_rounds < _MAX_ROUNDS:
        plan = search_count(trials.costs, num_segments)
        if best is not None and plan.split_points == best.plan.split_points:
            break
        tried = trials.briefly(plan)
        if tried is None:
            continue
        num_measured += 1
        if best is None or trials.longest_ns(tried) < trials.longest_ns(best):
            best = tried
    if best is None:
        raise BuildError(f"no plan of {num_segments} segments could be built; try another number")
    return trials.again(best.plan)


def _keep_overhead(trials: Trials, max_overhead_frac: float) -> MeasuredPlan:
    """The plan of the shortest longest segment within a measured overhead.

    The boundaries' cost is what is uncertain here, so each round scales it by what the last
    plan's boundaries took together.
    """
    predicted = trials.costs
    while True:
        trials.costs = predicted
        is_last = trials.num_rounds >= _MAX_ROUNDS
        plan = (
            SplitPlan.from_costs(trials.costs, ())
            if is_last
            else search_overhead(trials.costs, max_overhead_frac)
        )
        tried = trials.at_length(plan)
        if tried is None:
            predicted = replace(predicted, failed=trials.costs.failed)
            continue
        overhead_frac = tried.measurement.ratio_p50 - 1
        if plan.num_segments == 1 or overhead_frac <= max_overhead_frac:
            return tried
        found_ns = overhead_frac * predicted.whole_work_ns
        factor = max(1.05, found_ns / max(1, plan.overhead_ns))
        dearer = tuple(round(cost_ns * factor) for cost_ns in predicted.boundary_ns)
        predicted = replace(predicted, boundary_ns=dearer)
