import math
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preempt_runtime.errors import InfeasibleError, InputError
from preemptc.candidates import CandidateCounts, CandidateSet, SplitCandidate
from preemptc.profile import BoundaryCost, LatencyProfile
from preemptc.search import (
    SegmentCosts,
    SplitPlan,
    kept_bound_ns,
    pareto_front,
    search_bound,
    search_count,
    search_overhead,
    segment_costs,
    smallest_bound,
)
from preemptc.segment_costs import NEVER_NS, Span
from preemptc.segment_paths import MeasuredPaths, segment_paths
from tests.cpu_time import least_cpu_time


def costs_per_node(num_nodes: int, boundary_ns: int = 500) -> SegmentCosts:
    """1000 ns a node, so that answers can be computed by hand."""
    return SegmentCosts(
        positions=tuple(range(num_nodes + 1)),
        work_ns=(1000,) * num_nodes,
        boundary_ns=(0, *[boundary_ns] * (num_nodes - 1)),
    )


def random_costs(rng: random.Random, max_blocks: int = 7) -> SegmentCosts:
    num_blocks = rng.randint(1, max_blocks)
    top_ns = rng.choice((1, 3, 20))
    nodes = sorted(rng.sample(range(1, 3 * num_blocks + 1), num_blocks))
    return SegmentCosts(
        positions=(0, *nodes),
        work_ns=tuple(rng.randint(0, top_ns) for _ in range(num_blocks)),
        boundary_ns=(0, *(rng.randint(0, rng.choice((1, 9))) for _ in range(num_blocks - 1))),
        headroom_frac=rng.choice((0.0, 0.0, 0.1)),
    )


def with_measurements(costs: SegmentCosts, rng: random.Random) -> SegmentCosts:
    spans = list(combinations(costs.positions, 2))
    measured = {span: rng.randint(0, 40) for span in spans if rng.random() < 0.4}
    failed = frozenset(span for span in spans if rng.random() < 0.15)
    return replace(
        costs,
        measured_ns=measured,
        measured_bound_ns={s: v + rng.randint(0, 5) for s, v in measured.items() if v % 2},
        failed=failed,
        unbuilt_penalty_ns=rng.choice((0, 4)),
    )


def reference_segment(costs: SegmentCosts, span: Span) -> tuple[int, int, int]:
    """Cost, needed bound and objective of one segment, from the definition."""
    start, end = (costs.positions.index(position) for position in span)
    cost_ns = costs.boundary_ns[start] + sum(costs.work_ns[start:end])
    share = round((1 - costs.headroom_frac) * 100)
    needed_ns = math.ceil(cost_ns * 100 / share)
    objective_ns = cost_ns + costs.unbuilt_penalty_ns
    if span in costs.measured_ns:
        cost_ns = objective_ns = costs.measured_ns[span]
        needed_ns = costs.measured_bound_ns.get(span, cost_ns)
    return cost_ns, NEVER_NS if span in costs.failed else needed_ns, objective_ns


Row = tuple[int, int, tuple[int, ...], int]


def all_plans(costs: SegmentCosts) -> Iterator[Row]:
    """(objective, maximum, split points, overhead) of every plan that can be built."""
    inner = costs.positions[1:-1]
    table = {span: reference_segment(costs, span) for span in combinations(costs.positions, 2)}
    for mask in range(1 << len(inner)):
        points = tuple(p for bit, p in enumerate(inner) if mask >> bit & 1)
        ends = (*points, costs.num_nodes)
        found = [table[span] for span in zip((0, *points), ends, strict=True)]
        needed_ns = max(entry[1] for entry in found)
        if needed_ns < NEVER_NS:
            overhead_ns = sum(entry[0] for entry in found) - costs.whole_work_ns
            yield sum(entry[2] for entry in found), needed_ns, points, overhead_ns


def assert_bound_matches(costs: SegmentCosts, bound_ns: int) -> bool:
    allowed = [row for row in all_plans(costs) if row[1] <= bound_ns]
    if not allowed:
        with pytest.raises(InfeasibleError):
            search_bound(costs, bound_ns)
        return False
    expected = min(allowed)
    plan = search_bound(costs, bound_ns)
    assert plan.split_points == expected[2]
    assert plan.overhead_ns == expected[3]
    assert kept_bound_ns(costs, plan) == expected[1]
    return True


@pytest.mark.parametrize("seed", range(5))
def test_search_bound_equals_brute_force_on_additive_costs(seed: int) -> None:
    rng = random.Random(seed)
    feasible = 0
    for _ in range(700):
        costs = replace(random_costs(rng), unbuilt_penalty_ns=rng.choice((0, 3)))
        feasible += assert_bound_matches(costs, rng.randint(0, 45))
    assert 300 < feasible < 700


@pytest.mark.parametrize("seed", range(5))
def test_search_bound_equals_brute_force_on_measured_costs(seed: int) -> None:
    rng = random.Random(1000 + seed)
    feasible = 0
    for _ in range(700):
        costs = with_measurements(random_costs(rng), rng)
        feasible += assert_bound_matches(costs, rng.randint(0, 60))
    assert 300 < feasible < 700


@pytest.mark.parametrize("is_measured", [False, True])
def test_search_count_equals_brute_force(is_measured: bool) -> None:
    rng = random.Random(21)
    for _ in range(500):
        costs = random_costs(rng)
        costs = with_measurements(costs, rng) if is_measured else costs
        num_segments = rng.randint(1, costs.max_segments)
        rows = [row for row in all_plans(costs) if len(row[2]) == num_segments - 1]
        if not rows:
            with pytest.raises(InfeasibleError):
                search_count(costs, num_segments)
            continue
        expected = min(rows, key=lambda row: (row[1], row[0], row[2]))
        assert search_count(costs, num_segments).split_points == expected[2]


@pytest.mark.parametrize("is_measured", [False, True])
def test_search_overhead_equals_brute_force(is_measured: bool) -> None:
    rng = random.Random(22)
    num_feasible = 0
    for _ in range(500):
        costs = random_costs(rng)
        costs = with_measurements(costs, rng) if is_measured else costs
        costs = replace(costs, unbuilt_penalty_ns=0)
        frac = rng.choice((0.0, 0.1, 0.5, 2.0))
        rows = [row for row in all_plans(costs) if row[3] <= frac * costs.whole_work_ns]
        if not rows:
            with pytest.raises(InfeasibleError):
                search_overhead(costs, frac)
            continue
        num_feasible += 1
        expected = min(rows, key=lambda row: (row[1], row[0], row[2]))
        assert search_overhead(costs, frac).split_points == expected[2]
    assert num_feasible > 250


@pytest.mark.parametrize("is_measured", [False, True])
def test_pareto_front_equals_brute_force(is_measured: bool) -> None:
    rng = random.Random(23)
    for _ in range(500):
        costs = random_costs(rng)
        costs = with_measurements(costs, rng) if is_measured else costs
        rows = {(row[1], row[3]) for row in all_plans(costs)}
        if not rows:
            with pytest.raises(InfeasibleError):
                pareto_front(costs)
            continue
        expected: list[tuple[int, int]] = []
        for maximum_ns, overhead_ns in sorted(rows):
            if not expected or overhead_ns < expected[-1][1]:
                expected.append((maximum_ns, overhead_ns))
        front = pareto_front(costs)
        assert [(kept_bound_ns(costs, p), p.overhead_ns) for p in front] == expected[::-1]
        assert smallest_bound(costs) == expected[0][0]


@given(
    blocks=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30)), min_size=1, max_size=40),
    bound_ns=st.integers(0, 200),
    penalty_ns=st.integers(0, 5),
)
def test_the_linear_search_is_the_quadratic_one(
    blocks: list[tuple[int, int]], bound_ns: int, penalty_ns: int
) -> None:
    costs = SegmentCosts(
        positions=tuple(range(len(blocks) + 1)),
        work_ns=tuple(work for work, _ in blocks),
        boundary_ns=(0, *(boundary for _, boundary in blocks[1:])),
        unbuilt_penalty_ns=penalty_ns,
    )
    assert segment_paths(costs).least_path(bound_ns) == MeasuredPaths(costs).least_path(bound_ns)


@pytest.mark.parametrize("num_kinds", [1, 5, 100_000])
def test_100_000_nodes_are_searched_in_under_a_second(num_kinds: int) -> None:
    rng = random.Random(5)
    num_nodes = 100_000
    costs = SegmentCosts(
        positions=tuple(range(num_nodes + 1)),
        work_ns=tuple(50_000 + rng.randrange(num_kinds) for _ in range(num_nodes)),
        boundary_ns=(0, *(20_000 + rng.randrange(num_kinds) for _ in range(num_nodes - 1))),
    )
    plan, taken_s = least_cpu_time(lambda: search_bound(costs, 3_000_000))
    assert plan.max_predicted_ns <= 3_000_000
    assert plan.num_segments >= costs.whole_work_ns // 3_000_000
    assert taken_s < 1


def test_a_front_over_some_hundred_candidates_takes_under_a_second() -> None:
    rng = random.Random(6)
    costs = SegmentCosts(
        positions=tuple(range(301)),
        work_ns=tuple(rng.randint(10_000, 900_000) for _ in range(300)),
        boundary_ns=(0, *(20_000 + 100 * rng.randint(0, 300) for _ in range(299))),
    )
    front, taken_s = least_cpu_time(lambda: pareto_front(costs))
    assert front[0].num_segments == 1
    assert kept_bound_ns(costs, front[-1]) == smallest_bound(costs)
    assert taken_s < 1


def test_least_overhead_under_a_bound_by_hand() -> None:
    # 9 us of work, 500 ns a boundary: two boundaries leave 3.33 us a segment, of whole nodes
    plan = search_bound(costs_per_node(9), 3500)
    assert plan.split_points == (3, 6)
    assert plan.predicted_ns == (3000, 3500, 3500)
    assert plan.overhead_ns == 1000
    assert search_bound(costs_per_node(9), 9000).split_points == ()
    assert search_bound(costs_per_node(9), 3499).num_segments == 4


def test_smallest_maximum_by_hand() -> None:
    costs = costs_per_node(9)
    assert search_count(costs, 3).predicted_ns == (3000, 3500, 3500)
    assert search_count(costs, 2).predicted_ns == (5000, 4500)
    assert search_count(costs, 9).max_predicted_ns == 1500
    assert smallest_bound(costs) == 1500
    # a ninth of 9000 ns buys two boundaries
    assert search_overhead(costs, 1 / 9).predicted_ns == (3000, 3500, 3500)
    assert search_overhead(costs, 0.0).num_segments == 1


def test_front_by_hand() -> None:
    front = pareto_front(costs_per_node(4))
    assert [(p.max_predicted_ns, p.overhead_ns) for p in front] == [
        (4000, 0),
        (2500, 500),
        (2000, 1000),
        (1500, 1500),
    ]


def test_a_measured_segment_replaces_its_prediction() -> None:
    costs = replace(
        costs_per_node(4),
        measured_ns={(0, 2): 2000, (2, 4): 2400},
        measured_bound_ns={(2, 4): 2700},
    )
    assert search_bound(costs, 2700).predicted_ns == (2000, 2400)
    assert search_bound(costs, 2699).split_points != (2,)
    failed = replace(costs, failed=frozenset({(0, 2)}))
    assert search_bound(failed, 2700).split_points != (2,)


def test_the_penalty_steers_to_built_segments_and_is_not_reported() -> None:
    costs = replace(costs_per_node(6), measured_ns={(0, 4): 4000, (4, 6): 2600})
    assert search_bound(costs, 4500).split_points == (3,)
    steered = replace(costs, unbuilt_penalty_ns=300)
    assert search_bound(steered, 4500).split_points == (4,)
    assert search_bound(steered, 4500).overhead_ns == 600


def test_headroom_is_kept_under_predictions_only() -> None:
    costs = replace(costs_per_node(4, boundary_ns=1), headroom_frac=0.1)
    # 2001 ns need a bound of 2223.33 ns
    assert search_bound(costs, 2224).split_points == (2,)
    assert search_bound(costs, 2223).num_segments == 3
    measured = replace(costs, measured_ns={(0, 2): 2000, (2, 4): 2000})
    assert search_bound(measured, 2000).split_points == (2,)


def test_an_impossible_bound_names_the_stretch_and_the_smallest_feasible_bound() -> None:
    costs = SegmentCosts(
        positions=(0, 2, 3, 7),
        work_ns=(1_000_000, 2_345_678, 1_000_000),
        boundary_ns=(0, 10_000, 10_000),
    )
    with pytest.raises(InfeasibleError) as caught:
        search_bound(costs, 2_000_000, describe=lambda start, end: f"Conv 'c{start}'")
    assert str(caught.value) == (
        "Conv 'c2' alone takes 2.36 ms, limit 2 ms; no split point inside makes it shorter;"
        " raise --max-segment to 2356us, the smallest feasible bound"
    )
    assert search_bound(costs, 2_356_000).num_segments >= 2
    with pytest.raises(InfeasibleError, match="node 2 alone"):
        search_bound(costs, 2_000_000)
    with pytest.raises(InfeasibleError, match=r"needs a bound of 2\.62 ms"):
        search_bound(replace(costs, headroom_frac=0.1), 2_000_000)


def test_the_named_stretch_cannot_be_cut_with_measured_costs_either() -> None:
    # every way over node 2 alone is measured too long or has failed; (1, 4) is the shortest left
    costs = replace(
        costs_per_node(6),
        measured_ns={(2, 3): 9000, (1, 3): 9000, (0, 3): 9000},
        failed=frozenset({(2, 4), (2, 5), (2, 6)}),
    )
    with pytest.raises(InfeasibleError, match=r"nodes 1 to 3 alone takes 3\.5 us"):
        search_bound(costs, 3400)
    assert search_bound(costs, 3500).segments[1] == (1, 4)


@pytest.mark.parametrize("num_segments", [0, -1, 10])
def test_a_count_that_no_plan_has_is_refused(num_segments: int) -> None:
    with pytest.raises(InputError, match="can be cut into 1 to 9"):
        search_count(costs_per_node(9), num_segments)


def test_an_overhead_that_no_plan_keeps_is_refused() -> None:
    costs = replace(costs_per_node(2), measured_ns={(0, 2): 2600})
    with pytest.raises(InfeasibleError, match=r"500 ns more .* allowed 20 ns; raise"):
        search_overhead(costs, 0.01)
    for frac in (-0.1, math.nan):
        with pytest.raises(InputError, match="expected a share"):
            search_overhead(costs, frac)


def test_when_nothing_can_be_built_the_error_says_so() -> None:
    costs = replace(costs_per_node(1), failed=frozenset({(0, 1)}))
    for search in (smallest_bound, pareto_front):
        with pytest.raises(InfeasibleError, match="could not be built"):
            search(costs)
    with pytest.raises(InfeasibleError, match="could not be built"):
        search_bound(costs, 10_000)


def test_a_plan_of_the_wrong_form_is_refused() -> None:
    for points in ((4, 4), (0,), (9,), (5, 3)):
        with pytest.raises(InputError, match="ascending"):
            SplitPlan(num_nodes=9, split_points=points, predicted_ns=(1,) * 3, overhead_ns=0)
    with pytest.raises(InputError, match="2 predictions for 3 segments"):
        SplitPlan(num_nodes=9, split_points=(2, 4), predicted_ns=(1, 2), overhead_ns=0)


@pytest.mark.parametrize(
    "change",
    [
        {"positions": (0, 2, 2)},
        {"positions": (1, 2, 3)},
        {"work_ns": (5,)},
        {"work_ns": (5, -1)},
        {"work_ns": (5, 10**15)},
        {"boundary_ns": (1, 5)},
        {"headroom_frac": 1.0},
        {"unbuilt_penalty_ns": -1},
        {"measured_bound_ns": {(0, 1): 3}},
    ],
)
def test_costs_of_the_wrong_form_are_refused(change: dict[str, object]) -> None:
    form = {"positions": (0, 1, 2), "work_ns": (5, 5), "boundary_ns": (0, 5), **change}
    with pytest.raises(InputError, match="segment costs"):
        SegmentCosts(**form)  # type: ignore[arg-type]


def test_costs_follow_from_candidates_and_profile() -> None:
    found = tuple(
        SplitCandidate(
            position=position,
            source_position=position,
            tensors=("t",),
            live_bytes=live_bytes,
            is_critical=True,
        )
        for position, live_bytes in ((1, 400), (3, 100))
    )
    counts = CandidateCounts(
        positions=3, after_fusion=3, after_live_bytes=3, after_zero_cost=2, after_dominance=2
    )
    profile = LatencyProfile(
        graph_digest="",
        target="cpu",
        source="measured",
        node_names=("a", "b", "c", "d"),
        node_ns=(10, 20, 30, 40),
        node_latency=(),
        whole=None,
        boundary=BoundaryCost(fixed_ns=5, ns_per_byte=0.1),
        machine={},
    )
    costs = segment_costs(CandidateSet(candidates=found, counts=counts, pruned=()), profile)
    assert costs.positions == (0, 1, 3, 4)
    assert costs.work_ns == (10, 50, 40)
    assert costs.boundary_ns == (0, 45, 15)
