import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest

from preempt_runtime.errors import InfeasibleError, InputError
from preemptc.candidates import CandidateSet, PrunedPosition, find_candidates
from preemptc.model import Graph, Lowered, Node, TensorInfo
from preemptc.profile import BoundaryCost, LatencyProfile
from preemptc.search import (
    SegmentCosts,
    kept_bound_ns,
    pareto_front,
    search_bound,
    search_count,
    segment_costs,
)


def chain(sizes: Sequence[int], source_positions: Sequence[int] | None = None) -> Lowered:
    """A chain of len(sizes) + 1 nodes; sizes[k-1] bytes live across split point k."""
    num_nodes = len(sizes) + 1
    names = [f"t{position}" for position in range(num_nodes)]
    nodes = tuple(
        Node(
            name=f"n{position}",
            op_type="Conv",
            domain="",
            inputs=(names[position - 1] if position else "x",),
            weights=(),
            outputs=(names[position],),
        )
        for position in range(num_nodes)
    )
    tensors = {
        name: TensorInfo(name=name, dtype="int8", shape=(size,))
        for name, size in zip(("x", *names), (1, *sizes, 1), strict=True)
    }
    return Lowered(
        target="cpu",
        path=Path("lowered.onnx"),
        graph_digest="ab" * 32,
        graph=Graph(
            nodes=nodes, inputs=("x",), outputs=(names[-1],), tensors=tensors, weight_bytes={}
        ),
        source_positions=tuple(source_positions or range(num_nodes + 1)),
        key="",
        key_fields={},
    )


def profile_of(node_ns: Sequence[int], *, fixed_ns: int = 0) -> LatencyProfile:
    """Costs of the nodes; a boundary costs `fixed_ns` and 1 ns a byte."""
    return LatencyProfile(
        graph_digest="",
        target="cpu",
        source="measured",
        node_names=tuple(f"n{position}" for position in range(len(node_ns))),
        node_ns=tuple(node_ns),
        node_latency=(),
        whole=None,
        boundary=BoundaryCost(fixed_ns=fixed_ns, ns_per_byte=1.0),
        machine={},
    )


def find(sizes: Sequence[int], node_ns: Sequence[int], limit: int | None = None) -> CandidateSet:
    return find_candidates(
        chain(sizes), profile_of(node_ns), num_source_nodes=len(node_ns), max_live_bytes=limit
    )


def costs_of_all(sizes: Sequence[int], node_ns: Sequence[int]) -> SegmentCosts:
    """Every split point, nothing pruned."""
    return SegmentCosts(
        positions=tuple(range(len(node_ns) + 1)),
        work_ns=tuple(node_ns),
        boundary_ns=(0, *sizes),
    )


def positions_of(found: CandidateSet) -> list[int]:
    return [candidate.position for candidate in found.candidates]


def pruned_by(found: CandidateSet, step: str) -> list[int]:
    return [entry.position for entry in found.pruned if entry.step == step]


def test_each_step_drops_what_it_should_and_counts_it() -> None:
    #        split points 1   2    3  4   5
    found = find([5, 900, 7, 6, 30], [100, 100, 100, 0, 20, 100], limit=500)
    assert pruned_by(found, "live-bytes") == [2]
    assert pruned_by(found, "zero-cost") == [3]  # 4 has 6 bytes and no time lies between
    assert pruned_by(found, "dominance") == [5]  # 20 ns after 4, but 24 ns dearer
    assert positions_of(found) == [1, 4]
    counts = found.counts
    assert (counts.positions, counts.after_fusion, counts.after_live_bytes) == (5, 5, 4)
    assert (counts.after_zero_cost, counts.after_dominance) == (3, 2)
    assert (found.log2_all_plans, found.log2_plans) == (5, 2)
    assert [entry.reason for entry in found.pruned] == [
        "900 live bytes, limit 500",
        "no time between it and 4, which keeps 6 live bytes against 7",
        "only 20 ns of work after 4, but its boundary costs 24 ns more",
    ]


def test_fused_positions_name_the_node_that_runs_across_them() -> None:
    # executed: n0 = source 0..2, n1 adds nothing of its own, n2 = source 3, n3 = source 4..5
    lowered = chain([1, 1, 1], source_positions=(0, 3, 3, 4, 6))
    found = find_candidates(lowered, profile_of([100] * 4), num_source_nodes=6, max_live_bytes=None)
    assert found.counts.positions == 5
    assert found.counts.after_fusion == 3
    assert found.pruned[0] == PrunedPosition(
        position=1,
        step="fusion",
        reason="inside Conv 'n0', which completes source nodes 0 to 2",
    )
    assert pruned_by(found, "fusion") == [1, 2, 5]
    assert "'n3', which completes source nodes 4 to 5" in found.pruned[2].reason
    assert [candidate.source_position for candidate in found.candidates] == [3, 3, 4]


def test_no_cut_before_the_first_or_after_the_last_work() -> None:
    found = find([1, 1, 1], [0, 100, 100, 0])
    assert positions_of(found) == [2]
    assert [entry.reason for entry in found.pruned] == [
        "no time passes before it",
        "no time passes after it",
    ]


def test_a_first_segment_shorter_than_its_boundary_is_not_worth_it() -> None:
    found = find([100, 101], [100, 100, 100])
    assert pruned_by(found, "dominance") == [1]  # dominated by the start
    assert find([99, 101], [100, 100, 100]).counts.after_dominance == 2


def test_equal_live_bytes_keep_the_earliest() -> None:
    assert positions_of(find([5, 5, 5], [100, 0, 0, 100])) == [1]


def test_candidates_carry_their_tensors_and_whether_they_are_critical() -> None:
    nodes = (("x", "a"), ("a", "b"), ("b a", "c"), ("c", "y"))
    graph = Graph(
        nodes=tuple(
            Node(
                name=f"n{position}",
                op_type="Op",
                domain="",
                inputs=tuple(reads.split()),
                weights=(),
                outputs=(writes,),
            )
            for position, (reads, writes) in enumerate(nodes)
        ),
        inputs=("x",),
        outputs=("y",),
        tensors={n: TensorInfo(name=n, dtype="float32", shape=(2,)) for n in "xabcy"},
        weight_bytes={},
    )
    lowered = Lowered(
        target="cpu",
        path=Path("lowered.onnx"),
        graph_digest="ab" * 32,
        graph=graph,
        source_positions=(0, 1, 2, 3, 4),
        key="",
        key_fields={},
    )
    found = find_candidates(lowered, profile_of([100] * 4), num_source_nodes=4, max_live_bytes=None)
    seen = [(c.position, c.tensors, c.live_bytes, c.is_critical) for c in found.candidates]
    assert seen == [
        (1, ("a",), 8, True),
        (2, ("a", "b"), 16, False),
        (3, ("c",), 8, True),
    ]


def test_a_network_of_one_node_has_no_candidate() -> None:
    found = find([], [100])
    assert found.candidates == ()
    assert found.pruned == ()
    assert found.counts.positions == found.counts.after_fusion == 0


def test_a_profile_of_another_graph_is_refused() -> None:
    with pytest.raises(InputError, match="2 node costs, the graph for cpu has 3 nodes"):
        find_candidates(chain([1, 1]), profile_of([1, 2]), num_source_nodes=3, max_live_bytes=None)


def test_pruning_keeps_every_optimum() -> None:
    rng = random.Random(3)
    num_pruned = 0
    for _ in range(600):
        num_nodes = rng.randint(1, 9)
        node_ns = [rng.choice((0, rng.randint(0, 30))) for _ in range(num_nodes)]
        sizes = [rng.randint(0, 20) for _ in range(num_nodes - 1)]
        everything = costs_of_all(sizes, node_ns)
        found = find(sizes, node_ns)
        survivors = segment_costs(found, profile_of(node_ns))
        num_pruned += len(found.pruned)
        assert [
            (kept_bound_ns(everything, plan), plan.overhead_ns) for plan in pareto_front(everything)
        ] == [(plan.max_predicted_ns, plan.overhead_ns) for plan in pareto_front(survivors)]
        bound_ns = rng.randint(0, 60)
        try:
            expected = search_bound(everything, bound_ns)
        except InfeasibleError:
            with pytest.raises(InfeasibleError):
                search_bound(survivors, bound_ns)
        else:
            plan = search_bound(survivors, bound_ns)
            assert plan.overhead_ns == expected.overhead_ns
            assert plan.max_predicted_ns == expected.max_predicted_ns
        num_segments = rng.randint(1, survivors.max_segments)
        assert (
            search_count(survivors, num_segments).max_predicted_ns
            == search_count(everything, num_segments).max_predicted_ns
        )
    assert num_pruned > 600


def test_no_survivor_is_dominated_by_an_earlier_one() -> None:
    rng = random.Random(4)
    for _ in range(200):
        node_ns = [rng.randint(0, 30) for _ in range(rng.randint(2, 12))]
        found = find([rng.randint(0, 40) for _ in node_ns[1:]], node_ns)
        costs = segment_costs(found, profile_of(node_ns))
        for start, end in combinations(range(costs.max_segments), 2):
            dearer_ns = costs.boundary_ns[end] - costs.boundary_ns[start]
            assert dearer_ns < sum(costs.work_ns[start:end])
