"""What a graph's dependencies say about its split points: live tensors and critical nodes."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from preemptc.model import Graph


class TensorLife(NamedTuple):  # large graphs have 100,000 of them: it is made fastest
    """A tensor that one node makes and another reads, and the split points that it lives across.

    It lives across split point k when `first <= k <= last`: `first` is its producer's position
    plus one, `last` the position of its last reader. `num_bytes` is None where the shape depends on
    the data: such a tensor cannot be handed over.
    """

    name: str
    num_bytes: int | None
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Liveness:
    """What lives across each split point k, from 0 to the number of nodes.

    `lives` are in the order of first appearance. `live_bytes[k]` is the size of what a cut at k
    hands over: tensors that a node before k produces and a node at or after k reads. Two kinds of
    tensors stay where they are whether or not there is a cut, and are not charged to it: graph
    inputs that are still needed, and graph outputs that no later node reads, which were written to
    their own buffers. `num_unsized[k]` of the live ones have no static shape.
    """

    lives: tuple[TensorLife, ...]
    live_bytes: tuple[int, ...]
    num_unsized: tuple[int, ...]

    def boundary_tensors(self, positions: Sequence[int]) -> Iterator[tuple[str, ...]]:
        """The tensors handed over at each of the ascending split points.

        One sweep: the time is that of the lives and of the names that come out.
        """
        pending = iter(self.lives)
        upcoming = next(pending, None)
        alive: list[TensorLife] = []
        for position in positions:
            while upcoming is not None and upcoming.first <= position:
                alive.append(upcoming)
                upcoming = next(pending, None)
            alive = [life for life in alive if life.last >= position]
            yield tuple(life.name for life in alive)


def analyze_liveness(graph: Graph) -> Liveness:
    """What lives across every split point of the graph, in time linear in nodes and edges."""
    last_reader: dict[str, int] = {}
    for position, node in enumerate(graph.nodes):
        for name in node.inputs:
            last_reader[name] = position
    lives = [
        _life(graph, name, first=position + 1, last=last_reader[name])
        for position, node in enumerate(graph.nodes)
        for name in node.outputs
        if name in last_reader
    ]
    num_read = sum(name in last_reader for name in graph.inputs) + len(lives)
    assert num_read == len(last_reader), "a node reads a tensor that nothing produces"
    unsized = [life for life in lives if life.num_bytes is None]
    return Liveness(
        lives=tuple(lives),
        live_bytes=_sums(graph.num_nodes, lives, [life.num_bytes or 0 for life in lives]),
        num_unsized=_sums(graph.num_nodes, unsized, [1] * len(unsized)),
    )


def _sums(num_nodes: int, lives: Sequence[TensorLife], values: Sequence[int]) -> tuple[int, ...]:
    """The sum of the values of what lives across each split point."""
    change = [0] * (num_nodes + 2)
    for (_, _, first, last), value in zip(lives, values, strict=True):
        change[first] += value
        change[last + 1] -= value
    return tuple(accumulate(change[:-1]))


def critical_nodes(graph: Graph) -> frozenset[int]:
    """Positions of the nodes on every path from a graph input to a graph output.

    These are the nodes that dominate the outputs and post-dominate the inputs, seen from one
    virtual source and sink. Only edges on some input-output path count: those between nodes that
    an input reaches and that reach an output. In a topological order a path only moves forward,
    so it misses position p only by an edge (u, w) with u < p < w; and such an edge does belong to
    a path that misses p. Hence p is critical exactly when no counted edge jumps over it, which
    one sum of differences tells for all p: linear in nodes and edges, no path is enumerated.
    """
    edges = list(_edges(graph))
    sink = graph.num_nodes
    from_input = [False] * (sink + 1)
    for start, end in edges:  # ascending in `end`: a node's inputs are settled before it is read
        from_input[end] |= start == -1 or from_input[start]
    to_output = [False] * sink + [True]
    for start, end in reversed(edges):
        if start >= 0:
            to_output[start] |= to_output[end]
    jumps = [0] * (sink + 2)
    for start, end in edges:
        if (start == -1 or from_input[start]) and to_output[end]:
            jumps[start + 1] += 1
            jumps[end] -= 1
    covered = accumulate(jumps)
    return frozenset(
        position
        for position, num_over in zip(range(sink), covered, strict=False)
        if num_over == 0 and from_input[position] and to_output[position]
    )


def _edges(graph: Graph) -> Iterator[tuple[int, int]]:
    """Dependencies (producer, reader) ordered by reader; -1 is the source, num_nodes the sink."""
    producer = dict.fromkeys(graph.inputs, -1)
    for position, node in enumerate(graph.nodes):
        for name in node.inputs:
            yield producer[name], position
        for name in node.outputs:
            producer[name] = position
    for name in graph.outputs:
        if name in producer:  # an output may also be a constant, which no node produces
            yield producer[name], graph.num_nodes


def _life(graph: Graph, name: str, *, first: int, last: int) -> TensorLife:
    num_bytes = graph.tensors[name].num_bytes if name in graph.tensors else None
    return TensorLife(name, num_bytes, first, last)


def topological_order(graph: Graph, rank: Sequence[int]) -> list[int]:
    """The nodes' indices, every producer before its readers, otherwise by rank."""
    producer = {name: idx for idx, node in enumerate(graph.nodes) for name in node.outputs}
    readers: dict[int, list[int]] = {}
    missing = []
    for idx, node in enumerate(graph.nodes):
        producers = {producer[name] for name in node.inputs if name in producer}
        missing.append(len(producers))
        for before in producers:
            readers.setdefault(before, []).append(idx)
    ready = [(rank[idx], idx) for idx, count in enumerate(missing) if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        _, idx = heapq.heappop(ready)
        order.append(idx)
        for reader in readers.get(idx, ()):
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, (rank[reader], reader))
    assert len(order) == graph.num_nodes
    return order
