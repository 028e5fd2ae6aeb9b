"""Re-planning ends with what was asked, by measurement, and builds little on the way."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from preempt_runtime.errors import BuildError, InfeasibleError
from preemptc.backends import Measurement
from preemptc.goal import Goal
from preemptc.replan import plan_until_kept
from preemptc.segment_costs import SegmentCosts
from preemptc.trials import MeasuredPlan
from tests.unit.fake_bench import FakeBench

NUM_NODES = 40
NODE_NS = 100_000
BOUNDARY_NS = 1_000


def predicted(node_ns: int = NODE_NS) -> SegmentCosts:
    return SegmentCosts(
        positions=tuple(range(NUM_NODES + 1)),
        work_ns=(node_ns,) * NUM_NODES,
        boundary_ns=(0,) + (BOUNDARY_NS,) * (NUM_NODES - 1),
    )


def linear(start: int, end: int) -> int:
    return (end - start) * NODE_NS + (BOUNDARY_NS if start else 0)


def plan(bench: FakeBench, goal: Goal, costs: SegmentCosts | None = None) -> MeasuredPlan:
    return plan_until_kept(
        bench,
        costs or predicted(),
        goal,
        describe=lambda start, end: f"nodes {start} to {end}",
        progress=lambda what, frac: None,
    )


def test_right_predictions_build_nothing_in_vain() -> None:
    bench = FakeBench(NUM_NODES, linear)
    found = plan(bench, Goal(max_segment_ns=1_100_000))
    assert found.plan.num_segments == bench.num_built == 4
    assert found.num_rounds == 1
    assert found.longest_ns("p50") <= 1_100_000


def test_segments_that_measure_longer_are_planned_again() -> None:
    def slower_in_the_middle(start: int, end: int) -> int:
        slow = len(range(max(start, 15), min(end, 25)))
        quick = end - start - slow
        return linear(start, end) + slow * NODE_NS // 2 - quick * NODE_NS // 6

    bench = FakeBench(NUM_NODES, slower_in_the_middle)
    found = plan(bench, Goal(max_segment_ns=1_100_000))
    assert found.num_rounds > 1
    assert found.longest_ns("p50") <= 1_100_000
    assert bench.num_built <= 1.5 * found.plan.num_segments


def test_the_bound_holds_at_the_asked_quantile() -> None:
    bench = FakeBench(NUM_NODES, linear)
    found = plan(bench, Goal(max_segment_ns=1_000_010, quantile="max"))
    assert found.longest_ns("max") <= 1_000_010


def test_random_errors_of_prediction_never_break_the_bound_and_build_little() -> None:
    rng = np.random.default_rng(7)
    builds = []
    for _ in range(60):
        true_ns = rng.integers(50_000, 150_000, NUM_NODES)
        guess_ns = np.round(true_ns * rng.uniform(0.93, 1.07, NUM_NODES)).astype(int)

        def cost(start: int, end: int, true_ns: np.ndarray = true_ns) -> int:
            return int(true_ns[start:end].sum()) + (BOUNDARY_NS if start else 0)

        costs = SegmentCosts(
            positions=tuple(range(NUM_NODES + 1)),
            work_ns=tuple(int(ns) for ns in guess_ns),
            boundary_ns=(0,) + (BOUNDARY_NS,) * (NUM_NODES - 1),
        )
        bench = FakeBench(NUM_NODES, cost)
        found = plan(bench, Goal(max_segment_ns=500_000), costs)
        assert found.longest_ns("p50") <= 500_000
        builds.append(bench.num_built / found.plan.num_segments)
    assert max(builds) <= 1.5


def test_predictions_far_too_high_do_not_cost_segments_for_ever() -> None:
    bench = FakeBench(NUM_NODES, linear)
    found = plan(bench, Goal(max_segment_ns=1_100_000), predicted(2 * NODE_NS))
    assert found.longest_ns("p50") <= 1_100_000
    assert found.plan.num_segments <= 8


def test_a_doubtful_stretch_is_measured_before_it_is_refused() -> None:
    bench = FakeBench(NUM_NODES, linear)
    found = plan(bench, Goal(max_segment_ns=105_000), predicted(112_000))
    assert found.plan.num_segments == NUM_NODES


def test_an_impossible_bound_names_the_stretch_and_the_smallest_bound() -> None:
    bench = FakeBench(NUM_NODES, linear)
    with pytest.raises(InfeasibleError, match=r"nodes \d+ to \d+ .*limit 50 us.*--max-segment"):
        plan(bench, Goal(max_segment_ns=50_000))
    assert bench.num_built == 0


def test_the_advised_bound_leaves_the_margin_and_can_be_followed() -> None:
    with pytest.raises(InfeasibleError) as caught:
        plan(FakeBench(NUM_NODES, linear), Goal(max_segment_ns=50_000))
    assert str(caught.value).endswith(
        "; raise --max-segment to 105us: the smallest feasible bound at the speed measured now is"
        " 101us, and planning leaves 3% of a bound free"
    )
    found = plan(FakeBench(NUM_NODES, linear), Goal(max_segment_ns=105_000))
    assert found.margin_frac == 0.03


def test_the_error_counts_all_rounds_that_progress_told() -> None:
    told: list[str] = []
    bench = FakeBench(NUM_NODES, linear)
    measure = bench.measure

    def noisy(split_points: Any, **options: Any) -> Measurement:
        """In every round another segment has an outlier."""
        rounds = {what for what in told if what.startswith("plan: round ")}
        found = measure(split_points, **options)
        segments = list(found.segments)
        idx = len(rounds) % len(segments)
        segments[idx] = replace(segments[idx], max_ns=2_000_000)
        return replace(found, segments=tuple(segments))

    bench.measure = noisy  # type: ignore[method-assign]
    with pytest.raises(InfeasibleError) as caught:
        plan_until_kept(
            bench,
            predicted(),
            Goal(max_segment_ns=1_100_000, quantile="max"),
            describe=lambda start, end: f"nodes {start} to {end}",
            progress=lambda what, frac: told.append(what),
        )
    last = [what for what in told if what.startswith("plan: round ")][-1]
    num_rounds = last.split("round ")[1].split(" of at most 28, ")[0]
    assert int(num_rounds) > 12  # under the bound with its margin, then without
    assert f"after {num_rounds} rounds a segment still takes 2 ms" in str(caught.value)


def test_the_trial_that_is_kept_tells_the_figures_of_the_plan() -> None:
    bench = FakeBench(NUM_NODES, linear)
    measure, factors = bench.measure, iter((1.07, 0.89, 0.89, 0.89))

    def noisy(split_points: Any, **options: Any) -> Measurement:
        return replace(measure(split_points, **options), ratio_p50=next(factors))

    bench.measure = noisy  # type: ignore[method-assign]
    found = plan(bench, Goal(num_segments=2))
    kept = [t for t in found.trials if t.split_points == found.plan.split_points]
    assert {trial.ratio_p50 for trial in kept} == {found.measurement.ratio_p50} == {0.89}


def test_one_segment_has_no_overhead_whatever_two_sessions_measure() -> None:
    bench = FakeBench(NUM_NODES, linear)
    measure = bench.measure

    def noisy(*args: Any, **kwargs: Any) -> Measurement:
        return replace(measure(*args, **kwargs), ratio_p50=0.93)

    bench.measure = noisy  # type: ignore[method-assign]
    assert plan(bench, Goal(num_segments=1)).measurement.ratio_p50 == 1.0
    assert plan(bench, Goal(num_segments=2)).measurement.ratio_p50 == 0.93


def test_a_refused_segment_is_left_out_and_never_asked_for_again() -> None:
    refused = frozenset({(0, 10), (30, 40)})
    bench = FakeBench(NUM_NODES, linear, refused)
    found = plan(bench, Goal(max_segment_ns=1_100_000))
    assert not refused & set(found.plan.segments)
    assert found.longest_ns("p50") <= 1_100_000


def test_count_balances_what_was_measured() -> None:
    def second_half_slower(start: int, end: int) -> int:
        return linear(start, end) + max(0, end - max(start, 20)) * NODE_NS

    bench = FakeBench(NUM_NODES, second_half_slower)
    found = plan(bench, Goal(num_segments=3))
    assert found.plan.num_segments == 3
    assert found.longest_ns("p50") <= 2_200_000


def test_count_that_cannot_be_built_is_an_error() -> None:
    refused = frozenset((i, j) for i in range(NUM_NODES) for j in range(i + 1, NUM_NODES + 1))
    with pytest.raises(BuildError):
        plan(FakeBench(NUM_NODES, linear, refused), Goal(num_segments=2))


def test_overhead_is_kept_by_measurement() -> None:
    def dear_boundaries(start: int, end: int) -> int:
        return (end - start) * NODE_NS + (20_000 if start else 0)

    bench = FakeBench(NUM_NODES, dear_boundaries)
    found = plan(bench, Goal(max_overhead_frac=0.031))
    assert found.measurement.ratio_p50 <= 1.031
    assert found.plan.num_segments == 7


def test_prediction_in_the_result_is_the_profile_s() -> None:
    bench = FakeBench(NUM_NODES, lambda start, end: linear(start, end) // 2)
    found = plan(bench, Goal(num_segments=2))
    assert sum(found.plan.predicted_ns) == NUM_NODES * NODE_NS + BOUNDARY_NS


def test_a_slow_moment_of_the_machine_builds_nothing_new() -> None:
    slow_turns = iter([1.4, 1.4, 1.0, 1.0, 1.0])
    now = [1.0]

    def cost(start: int, end: int) -> int:
        return round(linear(start, end) * now[0])

    bench = FakeBench(NUM_NODES, cost)
    measure = bench.measure

    def measure_at_this_moment(*args: Any, **kwargs: Any) -> Measurement:
        now[0] = next(slow_turns)
        return measure(*args, **kwargs)

    bench.measure = measure_at_this_moment  # type: ignore[method-assign]
    found = plan(bench, Goal(max_segment_ns=1_100_000))
    assert found.num_rounds == 1
    assert bench.num_built == found.plan.num_segments == 4


def test_a_machine_that_stays_slow_is_planned_for() -> None:
    bench = FakeBench(NUM_NODES, lambda start, end: round(linear(start, end) * 1.5))
    found = plan(bench, Goal(max_segment_ns=1_100_000))
    assert found.longest_ns("p50") <= 1_100_000
    assert found.plan.num_segments <= 7
    assert bench.num_built <= 12


def test_a_profile_from_a_slow_moment_costs_few_segments() -> None:
    dear_ns = 20_000

    def cost(start: int, end: int) -> int:
        return (end - start) * NODE_NS + (dear_ns if start else 0)

    slow = replace(predicted(4 * NODE_NS), boundary_ns=(0,) + (4 * dear_ns,) * (NUM_NODES - 1))
    found = plan(FakeBench(NUM_NODES, cost), Goal(max_segment_ns=1_100_000), slow)
    assert found.plan.num_segments <= 6
