"""What measured segments teach: what cutting costs apart from work, and both explain them all."""

from itertools import pairwise

from preempt_runtime.manifest import Latency
from preemptc.backends import Measurement
from preemptc.learnt_costs import learnt_costs
from preemptc.search import SplitPlan
from preemptc.segment_costs import SegmentCosts, Span, chain_costs
from tests.unit.fake_bench import steady

PREDICTED = SegmentCosts(
    positions=(0, 2, 4, 6, 8), work_ns=(1000, 2000, 3000, 2000), boundary_ns=(0, 10, 20, 30)
)


def measured(whole_ns: int, *segments_ns: int) -> Measurement:
    chained_ns = sum(segments_ns)
    return Measurement(
        segments=tuple(steady(ns) for ns in segments_ns),
        chained=steady(chained_ns),
        whole=steady(whole_ns),
        ratio_p50=chained_ns / whole_ns,
    )


def learn(
    costs: SegmentCosts,
    split_points: tuple[int, ...],
    measurement: Measurement,
    *,
    quantile: str = "p50",
    slowness: float = 1.0,
    only: Span | None = None,
) -> SegmentCosts:
    plan = SplitPlan.from_costs(costs, split_points)
    return learnt_costs(costs, PREDICTED, plan, measurement, quantile, slowness, only)


def explained_ns(costs: SegmentCosts, *edges: int) -> list[int]:
    """What the fitted work and boundaries say of a chain, measurements aside."""
    idx = [costs.positions.index(edge) for edge in edges]
    return [costs.boundary_ns[a] + sum(costs.work_ns[a:b]) for a, b in pairwise(idx)]


def test_what_cuts_cost_beyond_the_prediction_is_shared_out_among_them() -> None:
    found = learn(PREDICTED, (2, 6), measured(8000, 1100, 5400, 2240))
    assert found.boundary_ns == (0, 10 + 350, 20 + 350, 30 + 350)  # 740 of two cuts, not 40
    assert found.whole_work_ns == 8000
    assert explained_ns(found, 0, 2, 6, 8) == [1100, 5400, 2240]


def test_fewer_cuts_are_then_predicted_to_cost_less() -> None:
    found = learn(PREDICTED, (2, 4, 6), measured(8000, 1000, 2200, 3200, 2200))
    fewer = sum(cost_ns for cost_ns, _ in chain_costs(found, (4,)))
    assert fewer == 8000 + 200


def test_cuts_never_become_cheaper_than_predicted() -> None:
    found = learn(PREDICTED, (2, 6), measured(8000, 900, 4900, 1900))
    assert found.boundary_ns == PREDICTED.boundary_ns
    assert explained_ns(found, 0, 2, 6, 8) == [900, 4900, 1900]


def test_measurements_of_overlapping_segments_are_all_explained() -> None:
    first = learn(PREDICTED, (4,), measured(8000, 3500, 4620))
    second = learn(first, (2, 6), measured(8000, 1400, 5120, 1620))
    assert explained_ns(second, 0, 2, 6, 8) == [1400, 5120, 1620]
    for found_ns, ns in zip(explained_ns(second, 0, 4, 8), (3500, 4620), strict=True):
        assert abs(found_ns - ns) < 0.02 * ns
    assert second.measured_ns[0, 4] == 3500


def test_the_ratio_counts_not_how_the_medians_of_chain_and_whole_moved() -> None:
    still = measured(8000, 1100, 5400, 2240)
    moved = Measurement(
        segments=still.segments,
        chained=still.chained,
        whole=steady(8800),
        ratio_p50=still.ratio_p50,
    )
    assert learn(PREDICTED, (2, 6), moved).boundary_ns[1] == 10 + round((740 * 1.1 - 40) / 2)


def test_a_stretch_measured_alone_tells_nothing_of_cuts() -> None:
    found = learn(PREDICTED, (2, 6), measured(8000, 1100, 5400, 2240), only=(2, 6))
    assert found.boundary_ns == PREDICTED.boundary_ns
    assert found.measured_ns == {(2, 6): 5400}
    assert explained_ns(found, 0, 2, 6, 8) == [1000, 5400, 2030]


def test_a_slow_machine_s_times_are_taken_at_the_costs_speed() -> None:
    found = learn(PREDICTED, (2, 6), measured(16000, 2200, 10800, 4480), slowness=2.0)
    assert found.boundary_ns == (0, 360, 370, 380)
    assert found.measured_ns == {(0, 2): 1100, (2, 6): 5400, (6, 8): 2240}


def test_the_quantile_is_what_the_bound_is_compared_with() -> None:
    late = Latency(p50_ns=4000, p99_ns=5000, max_ns=6000, num_samples=30)
    measurement = Measurement(
        segments=(late, late), chained=steady(8000), whole=steady(8000), ratio_p50=1.0
    )
    found = learn(PREDICTED, (4,), measurement, quantile="max")
    assert found.measured_ns == {(0, 4): 4000, (4, 8): 4000}
    assert found.measured_bound_ns == {(0, 4): 6000, (4, 8): 6000}
