import random
from collections.abc import Sequence

import pytest

from preemptc.analysis import analyze_liveness, critical_nodes
from preemptc.model import Graph, Node, TensorInfo
from tests.cpu_time import least_cpu_time


def graph_of(
    nodes: Sequence[tuple[str, str]], *, inputs: str = "x", outputs: str, num_bytes: int = 10
) -> Graph:
    """A graph of (inputs, outputs) per node, names parted by spaces, all tensors of one size."""
    parsed = tuple(
        Node(
            name=f"n{position}",
            op_type="Op",
            domain="",
            inputs=tuple(reads.split()),
            weights=(),
            outputs=tuple(writes.split()),
        )
        for position, (reads, writes) in enumerate(nodes)
    )
    names = [*inputs.split(), *(name for node in parsed for name in node.outputs)]
    return Graph(
        nodes=parsed,
        inputs=tuple(inputs.split()),
        outputs=tuple(outputs.split()),
        tensors={n: TensorInfo(name=n, dtype="int8", shape=(num_bytes,)) for n in names},
        weight_bytes={},
    )


def random_graph(rng: random.Random) -> Graph:
    num_inputs, num_nodes = rng.randint(1, 3), rng.randint(1, 9)
    known = [f"x{idx}" for idx in range(num_inputs)]
    nodes = []
    for position in range(num_nodes):
        recent = known[-rng.choice((1, 1, 2, 9)) :]
        reads = {rng.choice(recent) for _ in range(rng.choice((0, 1, 1, 2, 3)))}
        writes = [f"t{position}_{idx}" for idx in range(rng.choice((1, 1, 2)))]
        nodes.append((" ".join(sorted(reads)), " ".join(writes)))
        known += writes
    outputs = {known[-1], *rng.sample(known, rng.randint(0, 1))}
    inputs = " ".join(f"x{idx}" for idx in range(num_inputs))
    return graph_of(nodes, inputs=inputs, outputs=" ".join(sorted(outputs)))


def reference_live(graph: Graph, position: int) -> list[str]:
    """Boundary tensors, from the definition."""
    later = {name for node in graph.nodes[position:] for name in node.inputs}
    before = [name for node in graph.nodes[:position] for name in node.outputs]
    return [name for name in before if name in later]


def has_path(graph: Graph, without: int | None) -> bool:
    """Whether an input reaches an output when one node is taken away."""
    reached = set(graph.inputs)
    for position, node in enumerate(graph.nodes):
        if position != without and reached.intersection(node.inputs):
            reached.update(node.outputs)
    return not reached.isdisjoint(graph.outputs)


RESIDUAL = [("x", "a"), ("a", "b"), ("b", "c"), ("a c", "d"), ("d", "y")]


def test_a_residual_block_keeps_its_shortcut_alive() -> None:
    liveness = analyze_liveness(graph_of(RESIDUAL, outputs="y"))
    assert liveness.live_bytes == (0, 10, 20, 20, 10, 0)
    names = list(liveness.boundary_tensors(range(1, 5)))
    assert names == [("a",), ("a", "b"), ("a", "c"), ("d",)]


def test_a_written_output_is_not_handed_over_unless_it_is_read_again() -> None:
    nodes = [("x", "y0"), ("x", "y1"), ("y1", "z"), ("x", "w")]
    liveness = analyze_liveness(graph_of(nodes, outputs="y0 y1 z w"))
    assert list(liveness.boundary_tensors([1, 2, 3])) == [(), ("y1",), ()]


def test_liveness_equals_its_definition_on_random_graphs() -> None:
    rng = random.Random(1)
    for _ in range(500):
        graph = random_graph(rng)
        liveness = analyze_liveness(graph)
        positions = range(graph.num_nodes + 1)
        expected = [reference_live(graph, position) for position in positions]
        names = list(liveness.boundary_tensors(positions))
        assert names == [tuple(live) for live in expected]
        assert liveness.live_bytes == tuple(10 * len(live) for live in expected)


def test_critical_nodes_of_a_residual_block() -> None:
    assert critical_nodes(graph_of(RESIDUAL, outputs="y")) == {0, 3, 4}
    # a second output taken from inside leaves only what is before it
    assert critical_nodes(graph_of(RESIDUAL, outputs="y c")) == {0}
    # a constant and a dead end are on no path from input to output
    nodes = [("", "k"), ("x", "a"), ("a", "dead"), ("a k", "y")]
    assert critical_nodes(graph_of(nodes, outputs="y")) == {1, 3}


def test_critical_nodes_equal_removal_on_random_graphs() -> None:
    rng = random.Random(2)
    num_critical = num_other = 0
    for _ in range(2000):
        graph = random_graph(rng)
        if not has_path(graph, without=None):
            assert critical_nodes(graph) == frozenset()
            continue
        expected = {p for p in range(graph.num_nodes) if not has_path(graph, without=p)}
        assert critical_nodes(graph) == expected
        num_critical += len(expected)
        num_other += graph.num_nodes - len(expected)
    assert num_critical > 1000
    assert num_other > 1000


def test_100_000_nodes_are_analysed_in_under_a_second() -> None:
    num_nodes = 100_000
    nodes = [
        (f"t{position - 1} t{max(position - 7, 0)}" if position else "x", f"t{position}")
        for position in range(num_nodes)
    ]
    graph = graph_of(nodes, outputs=f"t{num_nodes - 1}")
    (liveness, critical), taken_s = least_cpu_time(
        lambda: (analyze_liveness(graph), critical_nodes(graph))
    )
    assert max(liveness.live_bytes) == 70
    assert critical == {0, num_nodes - 1}
    assert taken_s < 1


def test_a_tensor_that_nothing_produces_is_a_bug_of_ours() -> None:
    graph = graph_of([("x ghost", "y")], outputs="y")
    with pytest.raises(AssertionError, match="nothing produces"):
        analyze_liveness(graph)
