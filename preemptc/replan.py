"""Search, build, measure, and search again until every built segment keeps what was asked.

Predictions add up, measurements do not: a built segment has another cache state and a launch of
its own. So only plans are built that the search proposes, measured times replace predicted ones,
predictions nearby are scaled by what was measured, and segments that are already built are
preferred. What comes out was measured, all of it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from preempt_runtime.errors import BuildError, InfeasibleError
from preempt_runtime.units import fmt_ns
from preemptc.backends import Bench, Measurement, Progress
from preemptc.learnt_costs import costs_at_speed, doubtful_stretches, learnt_costs
from preemptc.search import (
    SplitPlan,
    fmt_at_least,
    search_bound,
    search_count,
    search_overhead,
)
from preemptc.segment_costs import SegmentCosts, Span

_MAX_ROUNDS = 12
_COUNT_ROUNDS = 3
_MARGIN_FRAC = 0.03  # of the bound, for medians that differ between two processes
_HEADROOM_FRAC = 0.05  # of the bound, for the error of a prediction
_TRIAL_RUNS, _TRIAL_BUDGET_NS = 12, 1_000_000_000
_FINAL_RUNS, _FINAL_BUDGET_NS = 30, 3_000_000_000
_MAX_SLOW_TRIES, _SLOW_FACTOR = 4, 1.1
_WORTH_FRAC = 0.02  # of the network: a kept plan is only given up for one that saves more

Describe = Callable[[int, int], str]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPlan:
    """A plan all of whose segments were built and measured.

    `plan.predicted_ns` is what the profile predicted. `margin_frac` is the share of the bound
    that measurements had to leave free.
    """

    plan: SplitPlan
    measurement: Measurement
    num_rounds: int
    margin_frac: float

    def longest_ns(self, quantile: str) -> int:
        """The longest segment at a quantile of its measured times."""
        return max(latency.at(quantile) for latency in self.measurement.segments)


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
    replanner = _Replanner(bench, costs, goal, describe, progress, speed)
    if goal.max_segment_ns is not None:
        found = replanner.keep_bound(goal.max_segment_ns)
    elif goal.num_segments is not None:
        found = replanner.keep_count(goal.num_segments)
    else:
        assert goal.max_overhead_frac is not None
        found = replanner.keep_overhead(goal.max_overhead_frac)
    return replace(found, plan=SplitPlan.from_costs(costs, found.plan.split_points))


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


class _Replanner:
    """The rounds of one compile, and what they learnt so far (`costs`)."""

    def __init__(
        self, bench: Bench, costs: SegmentCosts, goal: Goal, describe: Describe,
        progress: Progress, speed: str,
    ) -> None:  # fmt: skip
        self.bench, self.costs, self.goal = bench, costs, goal
        self.describe, self.progress, self.speed = describe, progress, speed
        self.num_rounds = 0
        self.whole_ns, self.num_slow = costs.whole_work_ns, 0

    def keep_bound(self, bound_ns: int) -> MeasuredPlan:
        """The plan of least overhead whose measured segments keep the bound.

        Medians move a little from process to process, so a part of the bound is left free, unless
        that leaves no plan.
        """
        penalty_ns = max(1, max(self.costs.boundary_ns) // 2)
        self.costs = replace(self.costs, unbuilt_penalty_ns=penalty_ns)
        try:
            found = self._keep_bound(round(bound_ns * (1 - _MARGIN_FRAC)))
            return replace(found, margin_frac=_MARGIN_FRAC)
        except InfeasibleError:
            return self._keep_bound(bound_ns)

    def _keep_bound(self, bound_ns: int) -> MeasuredPlan:
        self.costs = replace(self.costs, headroom_frac=_HEADROOM_FRAC)
        last_round = self.num_rounds + _MAX_ROUNDS
        return self._improved(self._first_kept(bound_ns, last_round), bound_ns, last_round)

    def _first_kept(self, bound_ns: int, last_round: int) -> MeasuredPlan:
        """The first plan whose measured segments keep the bound."""
        longest_ns = 0
        while self.num_rounds < last_round:
            plan = self._search_bound(bound_ns)
            if self._build(plan):
                tried = self._tried(plan, bound_ns)
                longest_ns = self._longest_ns(tried)
                if longest_ns <= bound_ns:
                    return tried
        if not longest_ns:
            raise BuildError(
                f"after {_MAX_ROUNDS} rounds no plan could be built: {len(self.costs.failed)}"
                " segments were refused; try another bound"
            )
        raise InfeasibleError(
            f"after {_MAX_ROUNDS} rounds a segment still takes {fmt_ns(longest_ns)} at"
            f" {self.goal.quantile}, bound {fmt_ns(bound_ns)}: times on this machine vary more"
            " than that; close other programs, or raise --max-segment"
        )

    def _improved(self, kept: MeasuredPlan, bound_ns: int, last_round: int) -> MeasuredPlan:
        """A plan that measured costs show to be better, if it keeps the bound too; else `kept`."""
        while self.num_rounds < last_round:
            try:
                plan = self._search_bound(bound_ns)
            except InfeasibleError:
                return kept
            if not self._is_worth_more(plan, kept.plan):
                return kept
            if self._build(plan):
                tried = self._tried(plan, bound_ns)
                if self._longest_ns(tried) > bound_ns:
                    return kept
                kept = tried
        return kept

    def _tried(self, plan: SplitPlan, bound_ns: int) -> MeasuredPlan:
        """The built plan measured: a few runs first, and enough of them if it keeps the bound."""
        tried = self._measure(plan, _TRIAL_RUNS, _TRIAL_BUDGET_NS, bound_ns=bound_ns)
        if self._longest_ns(tried) > bound_ns:
            return tried
        return self._measure(plan, _FINAL_RUNS, _FINAL_BUDGET_NS, bound_ns=bound_ns)

    def keep_count(self, num_segments: int) -> MeasuredPlan:
        """The plan of this many segments whose longest is shortest, in a few rounds."""
        best: MeasuredPlan | None = None
        num_measured = 0
        while num_measured < _COUNT_ROUNDS and self.num_rounds < _MAX_ROUNDS:
            plan = search_count(self.costs, num_segments)
            if best is not None and plan.split_points == best.plan.split_points:
                break
            if not self._build(plan):
                continue
            tried = self._measure(plan, _TRIAL_RUNS, _TRIAL_BUDGET_NS)
            num_measured += 1
            if best is None or self._longest_ns(tried) < self._longest_ns(best):
                best = tried
        if best is None:
            raise BuildError(
                f"no plan of {num_segments} segments could be built; try another number"
            )
        return self._measure(best.plan, _FINAL_RUNS, _FINAL_BUDGET_NS)

    def keep_overhead(self, max_overhead_frac: float) -> MeasuredPlan:
        """The plan of the shortest longest segment within a measured overhead.

        The boundaries' cost is what is uncertain here, so each round scales it by what the last
        plan's boundaries took together.
        """
        predicted = self.costs
        while True:
            self.costs = predicted
            is_last = self.num_rounds >= _MAX_ROUNDS
            plan = (
                SplitPlan.from_costs(self.costs, ())
                if is_last
                else search_overhead(self.costs, max_overhead_frac)
            )
            if not self._build(plan):
                predicted = replace(predicted, failed=self.costs.failed)
                continue
            tried = self._measure(plan, _FINAL_RUNS, _FINAL_BUDGET_NS)
            overhead_frac = tried.measurement.ratio_p50 - 1
            if plan.num_segments == 1 or overhead_frac <= max_overhead_frac:
                return tried
            found_ns = overhead_frac * predicted.whole_work_ns
            factor = max(1.05, found_ns / max(1, plan.overhead_ns))
            dearer = tuple(round(cost_ns * factor) for cost_ns in predicted.boundary_ns)
            predicted = replace(predicted, boundary_ns=dearer)

    def _search_bound(self, bound_ns: int) -> SplitPlan:
        """The best plan under the bound, without headroom where headroom leaves none.

        Before it gives up, every unsplittable stretch whose prediction is a little over the bound
        is built and measured: the prediction may be what is wrong.
        """
        try:
            return self._search(bound_ns)
        except InfeasibleError:
            self.costs = replace(self.costs, headroom_frac=0.0)
        for start, end in doubtful_stretches(self.costs, bound_ns):
            points = tuple(p for p in (start, end) if 0 < p < self.costs.num_nodes)
            alone = SplitPlan.from_costs(self.costs, points)
            self.num_rounds -= 1  # a glance at one stretch is no round
            if self._build(alone):
                self._measure(
                    alone, _TRIAL_RUNS, _TRIAL_BUDGET_NS, bound_ns=bound_ns, only=(start, end)
                )
            if self.costs.measured_bound_ns.get((start, end), 0) > bound_ns:
                break
        return self._search(bound_ns)

    def _search(self, bound_ns: int) -> SplitPlan:
        return search_bound(
            self.costs, bound_ns, describe=self.describe, advise=self._bound_with_room
        )

    def _bound_with_room(self, smallest_ns: int) -> str:
        """A bound that still leaves planning its margin: following it must not fail by noise."""
        roomy_ns = math.ceil(smallest_ns / (1 - _MARGIN_FRAC))
        return (
            f"{fmt_at_least(roomy_ns)}: the smallest feasible bound {self.speed} is"
            f" {fmt_at_least(smallest_ns)}, and planning leaves {_MARGIN_FRAC:.0%} of a bound free"
        )

    def _is_worth_more(self, plan: SplitPlan, kept: SplitPlan) -> bool:
        if plan.num_segments >= kept.num_segments:
            return False  # what more segments seem to save is noise
        now = SplitPlan.from_costs(self.costs, kept.split_points)
        saved_ns = now.overhead_ns - plan.overhead_ns
        return saved_ns > _WORTH_FRAC * self.costs.whole_work_ns

    def _longest_ns(self, measured: MeasuredPlan) -> int:
        return measured.longest_ns(self.goal.quantile)

    def _build(self, plan: SplitPlan) -> bool:
        """Build the plan's segments; False when one failed, which the search then leaves out."""
        self.num_rounds += 1
        self.progress(f"plan: round {self.num_rounds}, {plan.num_segments} segments", 0.0)
        for span in plan.segments:
            try:
                self.bench.build(*span)
            except BuildError:
                if span in self.costs.failed:
                    raise
                self.costs = replace(self.costs, failed=self.costs.failed | {span})
                return False
        return True

    def _measure(
        self,
        plan: SplitPlan,
        min_runs: int,
        budget_ns: int,
        *,
        bound_ns: int | None = None,
        only: Span | None = None,
    ) -> MeasuredPlan:
        """Measure a built plan; learn from its segments, or from one of them.

        A plan that breaks the bound while the uncut network is slow too is measured again, a few
        times: another plan would not help against a machine that is busy at the moment. If it
        stays slow, predictions are kept at the old speed once; then the new speed is the speed.
        """
        for _ in range(_MAX_SLOW_TRIES):
            measurement = self.bench.measure(
                plan.split_points, min_runs=min_runs, budget_ns=budget_ns
            )
            if plan.num_segments == 1:  # twice the same network: a difference is noise
                measurement = replace(measurement, ratio_p50=1.0)
            longest_ns = max(latency.at(self.goal.quantile) for latency in measurement.segments)
            is_slow = measurement.whole.p50_ns > _SLOW_FACTOR * self.whole_ns
            if bound_ns is None or longest_ns <= bound_ns or not is_slow:
                break
            self.progress("plan: the machine is slow at the moment, measuring again", 0.0)
        slowness = 1.0 if bound_ns is None else self._slowness(measurement.whole.p50_ns)
        self.costs = learnt_costs(self.costs, plan, measurement, self.goal.quantile, slowness, only)
        return MeasuredPlan(
            plan=plan,
            measurement=measurement,
            num_rounds=self.num_rounds,
            margin_frac=0.0,
        )

    def _slowness(self, whole_ns: int) -> float:
        """How much slower the machine is than the costs are meant for; 1.0 once they follow it."""
        factor = whole_ns / max(1, self.whole_ns)
        self.num_slow = self.num_slow + 1 if factor > _SLOW_FACTOR else 0
        if factor < 1 / _SLOW_FACTOR or self.num_slow > 1:
            self.costs = costs_at_speed(self.costs, factor)
            self.whole_ns, self.num_slow = whole_ns, 0
            return 1.0
        return factor if self.num_slow else 1.0
