"""Fusion groups: which nodes TensorRT runs as one layer, in an order in which they can be cut.

A split point inside a fused layer would undo the fusion, so the executed graph has one node for
each group. Where TensorRT made one opaque layer of everything, groups follow what it is known to
fuse: a point-wise or shape operator goes with the node that feeds it. A QuantizeLinear (Q) that no
layer names goes with what feeds it, a DequantizeLinear (DQ) with what reads it.
"""

import graphlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from preemptc.analysis import topological_order
from preemptc.model import Graph, Node

# Operators that need no kernel of their own after the node that feeds them.
# Source: NVIDIA's TensorRT developer guide, "Types of Fusions".
_FOLLOWERS = {
    "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Exp", "Erf", "Relu", "LeakyRelu", "Clip",
    "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu", "Elu", "Selu", "Softplus", "Neg",
    "Abs", "Min", "Max", "Where", "Cast", "Identity", "Dropout", "BatchNormalization", "Reshape",
    "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Slice", "Softmax",
}  # fmt: skip
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_MAX_NAMES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedLayer:
    """A layer of a built engine and the ONNX nodes in it; none are known of an opaque one."""

    name: str
    node_names: tuple[str, ...]
    is_opaque: bool = False


def fusion_groups(graph: Graph, layers: Sequence[FusedLayer]) -> tuple[tuple[int, ...], ...]:
    """The nodes' indices by group, groups in topological order, nodes of one in the graph's.

    Args:
        graph: nodes in a topological order.
        layers: of the built engine; empty when nothing was built.
    """
    sets = _Sets(graph.num_nodes)
    idx_of = {node.name: idx for idx, node in enumerate(graph.nodes)}
    placed: set[int] = set()
    for layer in layers:
        members = [idx_of[name] for name in layer.node_names if name in idx_of]
        sets.join(members)
        placed.update(members)
    is_known = bool(layers) and not any(layer.is_opaque for layer in layers)
    readers = _readers(graph)
    joined = _join_quantizers(graph, sets, placed, readers)
    if is_known:
        _join_the_free(graph, sets, placed | joined, readers)
    else:
        _join_followers(graph, sets, placed, readers)
    _join_cycles(graph, sets)
    groups = sets.groups()
    order = topological_order(merged_graph(graph, groups), [group[0] for group in groups])
    return tuple(groups[idx] for idx in order)


def merged_graph(graph: Graph, groups: Iterable[Sequence[int]]) -> Graph:
    """The graph with one node for each group, in the order of the groups."""
    readers = _readers(graph)
    return replace(graph, nodes=tuple(_merged_node(graph, group, readers) for group in groups))


def _merged_node(graph: Graph, group: Sequence[int], readers: Mapping[str, Sequence[int]]) -> Node:
    """One node for a group: what it reads from others, and what others read of it."""
    nodes, inside = [graph.nodes[idx] for idx in group], set(group)
    written = {name for node in nodes for name in node.outputs}
    kept = [
        name
        for node in nodes
        for name in node.outputs
        if name in graph.outputs or any(reader not in inside for reader in readers.get(name, ()))
    ]
    heaviest = max(nodes, key=lambda node: sum(graph.weight_bytes[name] for name in node.weights))
    return Node(
        name=_group_name([node.name for node in nodes]),
        op_type=heaviest.op_type,
        domain=heaviest.domain,
        inputs=tuple(
            dict.fromkeys(name for node in nodes for name in node.inputs if name not in written)
        ),
        weights=tuple(dict.fromkeys(name for node in nodes for name in node.weights)),
        outputs=tuple(kept or nodes[-1].outputs),
    )


def _group_name(names: Sequence[str]) -> str:
    """The names joined, as TensorRT joins them; the middle of a long list left out.

    >>> _group_name(["conv", "relu"]), _group_name(list("abcde"))
    ('conv + relu', 'a + ... + e (5 nodes)')
    """
    if len(names) <= _MAX_NAMES:
        return " + ".join(names)
    return f"{names[0]} + ... + {names[-1]} ({len(names)} nodes)"


class _Sets:
    """Disjoint sets of node indices."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, idx: int) -> int:
        """The set that the node is in."""
        while self._parent[idx] != idx:
            self._parent[idx] = self._parent[self._parent[idx]]
            idx = self._parent[idx]
        return idx

    def join(self, members: Sequence[int]) -> None:
        """Make one set of all sets that hold a member."""
        for idx in members[1:]:
            self._parent[self.find(idx)] = self.find(members[0])

    def groups(self) -> list[tuple[int, ...]]:
        """The sets, by their first member."""
        found: dict[int, list[int]] = {}
        for idx in range(len(self._parent)):
            found.setdefault(self.find(idx), []).append(idx)
        return sorted(map(tuple, found.values()))


def _readers(graph: Graph) -> dict[str, list[int]]:
    readers: dict[str, list[int]] = {}
    for idx, node in enumerate(graph.nodes):
        for name in node.inputs:
            readers.setdefault(name, []).append(idx)
    return readers


def _join_quantizers(
    graph: Graph, sets: _Sets, placed: set[int], readers: Mapping[str, Sequence[int]]
) -> set[int]:
    """Put Q with the node that feeds it and DQ with those that read it; return which were.

    TensorRT fuses them so. Between the two a cut is welcome: what crosses is int8. A Q of weights
    or of the network's input has no node that feeds it and goes with what reads it.
    """
    producer = {name: idx for idx, node in enumerate(graph.nodes) for name in node.outputs}
    joined = set()
    for idx, node in enumerate(graph.nodes):
        if idx in placed or node.op_type not in _QUANTIZERS:
            continue
        before = [producer[name] for name in node.inputs if name in producer]
        after = [reader for name in node.outputs for reader in readers.get(name, ())]
        others = before if node.op_type == "QuantizeLinear" and before else after
        if others:
            sets.join([*others, idx])
            joined.add(idx)
    return joined


def _join_the_free(
    graph: Graph, sets: _Sets, placed: set[int], readers: Mapping[str, Sequence[int]]
) -> None:
    """Put nodes that no layer names, which cost nothing, with the first node that reads them."""
    producer = {name: idx for idx, node in enumerate(graph.nodes) for name in node.outputs}
    for idx in reversed(range(graph.num_nodes)):
        if idx in placed:
            continue
        node = graph.nodes[idx]
        after = [reader for name in node.outputs for reader in readers.get(name, ())]
        before = [producer[name] for name in node.inputs if name in producer]
        if after:
            sets.join([min(after), idx])
        elif before:
            sets.join([max(before), idx])


def _join_followers(
    graph: Graph, sets: _Sets, placed: set[int], readers: Mapping[str, Sequence[int]]
) -> None:
    """Put a follower with the node that feeds it, if nothing else reads that node's output."""
    producer = {name: idx for idx, node in enumerate(graph.nodes) for name in node.outputs}
    for idx, node in enumerate(graph.nodes):
        if idx in placed or node.op_type not in _FOLLOWERS:
            continue
        fed_by = [name for name in node.inputs if name in producer]
        alone = [name for name in fed_by if readers[name] == [idx] and name not in graph.outputs]
        if alone and producer[alone[-1]] not in placed:
            sets.join([max(producer[name] for name in alone), idx])


def _join_cycles(graph: Graph, sets: _Sets) -> None:
    """Join groups that wait for each other: none of them can be cut from the others."""
    producer = {name: idx for idx, node in enumerate(graph.nodes) for name in node.outputs}
    while True:
        waits: dict[int, set[int]] = {}
        for idx, node in enumerate(graph.nodes):
            own = sets.find(idx)
            before = {sets.find(producer[name]) for name in node.inputs if name in producer}
            waits.setdefault(own, set()).update(before - {own})
        try:
            graphlib.TopologicalSorter(waits).prepare()
        except graphlib.CycleError as err:
            sets.join(err.args[1])
        else:
            return
