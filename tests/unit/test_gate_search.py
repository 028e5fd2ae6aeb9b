"""Gates are placed as segments are cut: against every choice of positions there is."""

from collections.abc import Sequence
from itertools import combinations, pairwise
from random import Random

import pytest

from preempt_runtime.errors import InfeasibleError, InputError
from preemptc.gate_search import describe_kernels, gate_costs, node_times
from preemptc.search import SplitPlan, search_bound


def stretches(node_ns: list[int], points: tuple[int, ...], gate_ns: int) -> list[int]:
    pieces = list(pairwise((0, *points, len(node_ns))))
    return [sum(node_ns[a:b]) + (gate_ns if a else 0) for a, b in pieces]


def place_gates(
    node_ns: list[int], cuts: list[int], gate_ns: int, bound_ns: int, names: Sequence[str] = ()
) -> SplitPlan:
    costs = gate_costs(node_ns, cuts, gate_ns)
    return search_bound(costs, bound_ns, describe=describe_kernels(names))


@pytest.mark.parametrize("seed", range(60))
def test_the_fewest_gates_that_keep_the_bound(seed: int) -> None:
    rng = Random(seed)
    node_ns = [rng.choice((0, 0, 1, 3, 10, 25)) for _ in range(rng.randint(1, 9))] + [4]
    cuts = [cut for cut in range(1, len(node_ns)) if rng.random() < 0.8]
    gate_ns, bound_ns = rng.randint(1, 3), rng.randint(5, 60)
    kept = [
        (len(points), max(stretches(node_ns, points, gate_ns)))
        for number in range(len(cuts) + 1)
        for points in combinations(cuts, number)
        if max(stretches(node_ns, points, gate_ns)) <= bound_ns
    ]
    if not kept:
        with pytest.raises(InfeasibleError, match="alone takes"):
            place_gates(node_ns, cuts, gate_ns, bound_ns)
        return
    plan = place_gates(node_ns, cuts, gate_ns, bound_ns)
    assert set(plan.split_points) <= set(cuts)
    assert (len(plan.split_points), max(stretches(node_ns, plan.split_points, gate_ns))) == min(
        kept
    )
    assert plan.overhead_ns == gate_ns * len(plan.split_points)


def test_positions_without_time_between_them_are_one() -> None:
    costs = gate_costs([0, 5, 0, 0, 7, 0], [1, 2, 3, 4, 5], 2)
    assert (costs.positions, costs.work_ns, costs.boundary_ns) == ((0, 2, 6), (5, 7), (0, 2))


def test_a_bound_that_a_kernel_exceeds_names_it() -> None:
    with pytest.raises(InfeasibleError, match=r"kernel nodes 1 to 2 \(gemm\) alone takes 8 ns"):
        place_gates([1, 0, 7, 2], [1, 3], 1, 7, ["a", "zero", "gemm", "b"])
    with pytest.raises(InfeasibleError, match="kernel node 2 alone takes 8 ns"):
        place_gates([1, 1, 7, 2], [1, 2, 3], 1, 7)


@pytest.mark.parametrize("cuts", [[0], [3], [2, 2], [2, 1]])
def test_positions_that_are_none_are_refused(cuts: list[int]) -> None:
    with pytest.raises(InputError, match="expected ascending ones from 1 to 2"):
        gate_costs([1, 1, 1], cuts, 1)


def test_a_graph_without_nodes_is_refused() -> None:
    with pytest.raises(InputError, match="without nodes"):
        gate_costs([], [], 1)


@pytest.mark.parametrize("seed", range(30))
def test_node_times_add_up_to_the_whole(seed: int) -> None:
    rng = Random(seed)
    taken = [rng.randint(700, 60_000) for _ in range(rng.randint(1, 40))]
    whole = sum(taken) - rng.randint(0, 900) * len(taken)
    cuts = sorted(rng.sample(range(1, 100), len(taken) - 1))
    times = node_times(taken, cuts, 100, whole)
    assert len(times) == 100
    assert abs(sum(times) - whole) <= len(taken)
    found = [sum(times[start:end]) for start, end in pairwise((0, *cuts, 100))]
    ways = {a - b for a, b in zip(taken, found, strict=True) if b}
    assert len(ways) == 1
    assert all(a <= min(ways) for a, b in zip(taken, found, strict=True) if not b)


def test_a_graph_that_gates_did_not_slow_keeps_its_times() -> None:
    assert node_times([10, 20], [1], 2, whole_ns=35) == (10, 20)


def test_another_number_of_stretches_is_refused() -> None:
    with pytest.raises(InputError, match="2 stretches for 2 gates"):
        node_times([1, 2], [1, 2], 3, whole_ns=3)
