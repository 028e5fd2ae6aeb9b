"""Trials: the plans of one compile that were built and measured, and what they taught."""

import math
from dataclasses import dataclass, replace

from preempt_runtime.errors import BuildError, DeviceError
from preempt_runtime.units import fmt_count
from preemptc.backends import Bench, Measurement, Progress
from preemptc.learnt_costs import costs_at_speed, learnt_costs
from preemptc.search import SplitPlan
from preemptc.segment_costs import SegmentCosts, Span

_TRIAL_RUNS, _TRIAL_BUDGET_NS = 12, 1_000_000_000
_FINAL_RUNS, _FINAL_BUDGET_NS = 30, 3_000_000_000
_MAX_SLOW_TRIES, _SLOW_FACTOR = 4, 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One plan that was built and measured.

    `num_new` segments of it were not built before. `longest_ns` is its longest segment at the
    goal's quantile.
    """

    split_points: tuple[int, ...]
    num_new: int
    longest_ns: int
    ratio_p50: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPlan:
    """A plan all of whose segments were built and measured.

    `plan.predicted_ns` is what the profile predicted. `margin_frac` is the share of the bound
    that measurements had to leave free. `num_rounds` and `trials` are of the whole compile.
    """

    plan: SplitPlan
    measurement: Measurement
    num_rounds: int = 0
    margin_frac: float = 0.0
    trials: tuple[Trial, ...] = ()

    def longest_ns(self, quantile: str) -> int:
        """The longest segment at a quantile of its measured times."""
        return max(latency.at(quantile) for latency in self.measurement.segments)


class Trials:
    """Builds and measures plans, each a round, and learns from them what others cost.

    `predicted` are the costs that the profile gives at the machine's speed, `costs` those that
    follow from them and from all that was measured. `max_rounds` is what progress tells of.
    """

    def __init__(
        self, bench: Bench, costs: SegmentCosts, quantile: str, progress: Progress, max_rounds: int
    ) -> None:
        self.predicted = self.costs = costs
        self.quantile, self.progress = quantile, progress
        self.num_rounds, self.max_rounds = 0, max_rounds
        self.measured: list[Trial] = []
        self._bench = bench
        self._built: set[Span] = set()
        self._whole_ns, self._num_slow = costs.whole_work_ns, 0

    def unbuilt(self, plan: SplitPlan) -> set[Span]:
        """The segments of a plan that would have to be built."""
        return set(plan.segments) - self._built

    def longest_ns(self, measured: MeasuredPlan) -> int:
        """The longest segment of a measured plan, at the goal's quantile."""
        return measured.longest_ns(self.quantile)

    def glance(self, start: int, end: int, bound_ns: int) -> bool:
        """Build and measure one stretch alone, which is no round; whether it exceeds the bound."""
        points = tuple(point for point in (start, end) if 0 < point < self.costs.num_nodes)
        alone = SplitPlan.from_costs(self.costs, points)
        if self._build(alone):
            self._measure(alone, _TRIAL_RUNS, _TRIAL_BUDGET_NS, bound_ns, (start, end))
        return self.costs.measured_bound_ns.get((start, end), 0) > bound_ns

    def under_bound(
        self, plan: SplitPlan, bound_ns: int, better_than: MeasuredPlan | None = None
    ) -> MeasuredPlan | None:
        """The plan built and measured; None where a segment could not be built.

        A few runs first; then enough of them, if it keeps the bound and may be better.
        """
        num_new = len(self.unbuilt(plan))
        if not self._round(plan):
            return None
        tried = self._measure(plan, _TRIAL_RUNS, _TRIAL_BUDGET_NS, bound_ns)
        is_hopeless = better_than is not None and not (
            tried.measurement.ratio_p50 < better_than.measurement.ratio_p50
        )
        if self.longest_ns(tried) <= bound_ns and not is_hopeless:
            tried = self._measure(plan, _FINAL_RUNS, _FINAL_BUDGET_NS, bound_ns)
        self._note(tried, num_new)
        return tried

    def briefly(self, plan: SplitPlan) -> MeasuredPlan | None:
        """The plan built and measured in a few runs; None where a segment could not be built."""
        return self._tried(plan, _TRIAL_RUNS, _TRIAL_BUDGET_NS)

    def at_length(self, plan: SplitPlan) -> MeasuredPlan | None:
        """The plan built and measured in enough runs; None if a segment could not be built."""
        return self._tried(plan, _FINAL_RUNS, _FINAL_BUDGET_NS)

    def again(self, plan: SplitPlan) -> MeasuredPlan:
        """A plan that is built, measured once more in enough runs; its trial tells of these."""
        found = self._measure(plan, _FINAL_RUNS, _FINAL_BUDGET_NS)
        for idx, trial in enumerate(self.measured):
            if trial.split_points == plan.split_points:
                self.measured[idx] = replace(
                    trial,
                    longest_ns=self.longest_ns(found),
                    ratio_p50=found.measurement.ratio_p50,
                )
        return found

    def _tried(self, plan: SplitPlan, min_runs: int, budget_ns: int) -> MeasuredPlan | None:
        num_new = len(self.unbuilt(plan))
        if not self._round(plan):
            return None
        tried = self._measure(plan, min_runs, budget_ns)
        self._note(tried, num_new)
        return tried

    def _note(self, tried: MeasuredPlan, num_new: int) -> None:
        self.measured.append(
            Trial(
                split_points=tried.plan.split_points,
                num_new=num_new,
                longest_ns=self.longest_ns(tried),
                ratio_p50=tried.measurement.ratio_p50,
            )
        )

    def _round(self, plan: SplitPlan) -> bool:
        self.num_rounds += 1
        return self._build(plan)

    def _build(self, plan: SplitPlan) -> bool:
        """Build the plan's segments; False when one failed, which the search then leaves out."""
        rounds = f"round {self.num_rounds} of at most {self.max_rounds}"
        what = f"plan: {rounds}, {fmt_count(plan.num_segments, 'segment')}"
        for idx, span in enumerate(plan.segments):
            self.progress(what, idx / plan.num_segments)
            try:
                self._bench.build(*span)
            except BuildError:
                if span in self.costs.failed:
                    raise
                self.costs = replace(self.costs, failed=self.costs.failed | {span})
                return False
            self._built.add(span)
        return True

    def _measure(
        self,
        plan: SplitPlan,
        min_runs: int,
        budget_ns: int,
        bound_ns: int | None = None,
        only: Span | None = None,
    ) -> MeasuredPlan:
        """Measure a built plan; learn from its segments, or from one of them.

        A plan that breaks the bound while the uncut network is slow too is measured again, a few
        times: another plan would not help against a machine that is busy at the moment. If it
        stays slow, predictions are kept at the old speed once; then the new speed is the speed.
        """
        for _ in range(_MAX_SLOW_TRIES):
            measurement = self._bench.measure(
                plan.split_points, min_runs=min_runs, budget_ns=budget_ns
            )
            if plan.num_segments == 1:  # twice the same network: a difference is noise
                measurement = replace(measurement, ratio_p50=1.0, ratio_error=0.0)
            if not 0 <= measurement.ratio_p50 < math.inf:
                raise DeviceError(
                    f"the chain took {measurement.ratio_p50} of the whole network's time, a number"
                    " from 0 was expected: the device's clock does not tell so short a time; take"
                    " a larger network or batch"
                )
            tried = MeasuredPlan(plan=plan, measurement=measurement)
            is_slow = measurement.whole.p50_ns > _SLOW_FACTOR * self._whole_ns
            if bound_ns is None or self.longest_ns(tried) <= bound_ns or not is_slow:
                break
            self.progress("plan: the machine is slow at the moment, measuring again", 0.0)
        slowness = 1.0 if bound_ns is None else self._slowness(measurement.whole.p50_ns)
        self.costs = learnt_costs(
            self.costs, self.predicted, plan, measurement, self.quantile, slowness, only
        )
        return tried

    def _slowness(self, whole_ns: int) -> float:
        """How much slower the machine is than the costs are meant for; 1.0 once they follow it."""
        factor = whole_ns / max(1, self._whole_ns)
        self._num_slow = self._num_slow + 1 if factor > _SLOW_FACTOR else 0
        if factor < 1 / _SLOW_FACTOR or self._num_slow > 1:
            self.costs = costs_at_speed(self.costs, factor)
            self.predicted = costs_at_speed(self.predicted, factor)
            self._whole_ns, self._num_slow = whole_ns, 0
            return 1.0
        return factor if self._num_slow else 1.0
