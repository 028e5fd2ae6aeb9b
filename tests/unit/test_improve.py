"""From the first plan that keeps the bound to a cheaper one, nearer to the best there is."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from preempt_runtime.errors import DeviceError
from preemptc import improve
from preemptc.backends import Measurement
from preemptc.goal import Goal
from preemptc.replan import plan_until_kept
from preemptc.segment_costs import SegmentCosts
from preemptc.trials import MeasuredPlan
from preemptc.under_bound import MARGIN_FRAC
from tests.unit.fake_bench import FakeBench
from tests.unit.random_costs import NoisyBench, RandomNetwork

NODE_NS, CUT_NS = 100_000, 20_000


def plan(bench: FakeBench, costs: SegmentCosts, goal: Goal) -> MeasuredPlan:
    return plan_until_kept(
        bench,
        costs,
        goal,
        describe=lambda start, end: f"nodes {start} to {end}",
        progress=lambda what, frac: None,
    )


def compiled(network: RandomNetwork) -> tuple[MeasuredPlan, NoisyBench]:
    bench = NoisyBench(network)
    return plan(bench, network.predicted, Goal(max_segment_ns=network.bound_ns)), bench


def first_kept_points(found: MeasuredPlan, bound_ns: int) -> tuple[int, ...]:
    """What the compile would have kept without going on."""
    limit_ns = round(bound_ns * (1 - found.margin_frac))
    return next(trial.split_points for trial in found.trials if trial.longest_ns <= limit_ns)


def excesses(*, span_error: float) -> tuple[float, float]:
    """Mean overhead above that of the best plan: of the first kept plans, and of the final ones."""
    first, final = [], []
    for seed in range(60):
        network = RandomNetwork(seed, span_error=span_error)
        found, _ = compiled(network)
        least = network.least_overhead_frac(round(network.bound_ns * (1 - found.margin_frac)))
        points = first_kept_points(found, network.bound_ns)
        first.append(network.overhead_frac(points) - least)
        final.append(network.overhead_frac(found.plan.split_points) - least)
    return sum(first) / len(first), sum(final) / len(final)


def test_where_costs_add_up_little_is_left_to_save() -> None:
    first, final = excesses(span_error=0.0)
    assert final < 0.005  # 0.0036; a loop that ended with the first plan had 0.0110
    assert final < 0.7 * first


def test_where_costs_do_not_add_up_a_part_is_saved() -> None:
    """The best plan knows which segments turn out well; what can be learnt is less."""
    first, final = excesses(span_error=0.02)
    assert final < 0.0165  # 0.0143; a loop that ended with the first plan had 0.0202
    assert final < first - 0.002


@pytest.mark.parametrize("span_error", [0.0, 0.02, 0.06])
def test_a_better_plan_keeps_the_bound_like_any_other_and_builds_stay_few(
    span_error: float,
) -> None:
    num_improved = 0
    for seed in range(60):
        network = RandomNetwork(seed, span_error=span_error)
        found, bench = compiled(network)
        limit_ns = round(network.bound_ns * (1 - found.margin_frac))
        assert found.longest_ns("p50") <= limit_ns
        assert network.longest_ns(found.plan.split_points) <= network.bound_ns
        assert found.num_rounds >= len(found.trials)
        assert sum(trial.num_new for trial in found.trials) == bench.num_built
        first = first_kept_points(found, network.bound_ns)
        until = [trial.split_points for trial in found.trials].index(first) + 1
        later = found.trials[until:]
        assert len(later) <= 4
        assert sum(trial.num_new for trial in later) <= len(first) + 1
        num_improved += found.plan.split_points != first
    assert num_improved >= 10


def test_the_same_measurements_give_the_same_plan() -> None:
    for seed in range(5):
        once, again = (compiled(RandomNetwork(seed, span_error=0.02))[0] for _ in range(2))
        assert once == again


def even_costs(cut_ns: int) -> SegmentCosts:
    """40 equal nodes."""
    return SegmentCosts(
        positions=tuple(range(41)), work_ns=(NODE_NS,) * 40, boundary_ns=(0,) + (cut_ns,) * 39
    )


def even_bench(cut_ns: int, **options: Any) -> FakeBench:
    return FakeBench(
        40, lambda start, end: (end - start) * NODE_NS + (cut_ns if start else 0), **options
    )


def even_goal(cut_ns: int, quantile: str = "p50") -> Goal:
    """A bound that ten nodes keep, and that predictions with headroom keep up to nine of."""
    bound_ns = (10 * NODE_NS + cut_ns + 50) / (1 - MARGIN_FRAC)
    return Goal(max_segment_ns=round(bound_ns), quantile=quantile)


@pytest.mark.parametrize("quantile", ["p50", "p99", "max"])
def test_headroom_that_turns_out_unneeded_is_used_for_fewer_segments(quantile: str) -> None:
    found = plan(even_bench(50_000), even_costs(50_000), even_goal(50_000, quantile))
    assert [len(trial.split_points) + 1 for trial in found.trials] == [5, 4]
    assert found.plan.num_segments == 4
    assert found.num_rounds == 2


def test_what_cutting_takes_beyond_its_prediction_is_learnt() -> None:
    found = plan(even_bench(50_000), even_costs(1_000), even_goal(50_000))
    assert found.plan.num_segments == 4


@pytest.mark.parametrize(("cut_ns", "num_segments"), [(22_000, 4), (40_000, 3)])
def test_only_a_saving_of_a_hundredth_is_built(cut_ns: int, num_segments: int) -> None:
    """One cut less takes one new segment, and saves 0.8 % or 1.4 % of the network."""
    work_ns = (900_000, 900_000, 480_000, 500_000)
    costs = SegmentCosts(
        positions=(0, 1, 2, 3, 4), work_ns=work_ns, boundary_ns=(0, cut_ns, cut_ns, cut_ns)
    )
    bench = FakeBench(4, lambda start, end: sum(work_ns[start:end]) + (cut_ns if start else 0))
    bound_ns = round((sum(work_ns[2:]) + cut_ns + 5_000) / (1 - MARGIN_FRAC))
    found = plan(bench, costs, Goal(max_segment_ns=bound_ns))
    assert found.plan.num_segments == num_segments
    assert bench.num_built == 4 + (num_segments == 3)


def test_a_ratio_that_is_lower_within_its_noise_replaces_nothing() -> None:
    bench = even_bench(50_000)
    measure = bench.measure

    def noisy(*args: Any, **kwargs: Any) -> Measurement:
        return replace(measure(*args, **kwargs), ratio_error=0.01)

    bench.measure = noisy  # type: ignore[method-assign]
    found = plan(bench, even_costs(50_000), even_goal(50_000))
    assert [len(trial.split_points) + 1 for trial in found.trials] == [5, 4]
    assert found.plan.num_segments == 5


def test_a_plan_that_takes_longer_as_a_whole_replaces_nothing() -> None:
    """Its segments are short one by one, the chain without events between them is not."""
    bench = even_bench(50_000)
    measure = bench.measure

    def measured(split_points: Any, **kwargs: Any) -> Measurement:
        found = measure(split_points, **kwargs)
        return replace(found, ratio_p50=1.2) if len(split_points) == 3 else found

    bench.measure = measured  # type: ignore[method-assign]
    found = plan(bench, even_costs(50_000), even_goal(50_000))
    assert found.plan.num_segments == 5
    assert len(bench.measured) == 3  # a few runs showed it: no long measurement of the second plan


def test_plans_that_break_the_bound_replace_nothing_and_end() -> None:
    def cost_ns(start: int, end: int) -> int:
        long = 40_000 if 10 <= end - start < 40 else 0
        return (end - start) * NODE_NS + (50_000 if start else 0) + long

    bench, goal = FakeBench(40, cost_ns), even_goal(50_000)
    found = plan(bench, even_costs(50_000), goal)
    assert found.plan.num_segments == 5
    assert goal.max_segment_ns is not None
    assert found.longest_ns("p50") <= goal.max_segment_ns * (1 - MARGIN_FRAC)
    assert len(found.trials) > 1
    assert bench.num_built <= 10


def test_segments_that_are_refused_replace_nothing_and_end() -> None:
    refused = frozenset((start, start + 10) for start in range(31))
    bench = even_bench(50_000, refused=refused)
    found = plan(bench, even_costs(50_000), even_goal(50_000))
    assert found.plan.num_segments == 5
    assert found.num_rounds > len(found.trials) == 1


def test_a_machine_that_becomes_slow_meanwhile_costs_nothing_that_was_found() -> None:
    bench = even_bench(50_000)
    measure, at_speed = bench.measure, bench.cost_ns

    def slowing(*args: Any, **kwargs: Any) -> Measurement:
        if len(bench.measured) == 2:
            bench.cost_ns = lambda start, end: round(1.5 * at_speed(start, end))
        return measure(*args, **kwargs)

    bench.measure = slowing  # type: ignore[method-assign]
    found = plan(bench, even_costs(50_000), even_goal(50_000))
    assert found.plan.num_segments == 5
    assert found.longest_ns("p50") == 850_000


def test_nothing_is_lower_than_itself() -> None:
    found, _ = compiled(RandomNetwork(0))
    assert not improve.is_lower(found, found)


@pytest.mark.parametrize("ratio", [float("nan"), float("inf"), -1.0])
def test_a_ratio_that_is_none_ends_the_compile_with_a_line(ratio: float) -> None:
    class Timeless(FakeBench):
        def measure(self, split_points: Sequence[int], **budget: Any) -> Measurement:
            return replace(super().measure(split_points, **budget), ratio_p50=ratio)

    bench = Timeless(40, lambda start, end: (end - start) * NODE_NS)
    with pytest.raises(DeviceError, match=f"^the chain took {ratio} of the whole"):
        plan(bench, even_costs(CUT_NS), even_goal(CUT_NS))
