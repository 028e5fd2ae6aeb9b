"""The shape of a captured graph: where it may be cut, whether at all, and how it is recognised.

Pure values and functions: the driver is read in cuda_graph.
"""

import hashlib
import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from preempt_runtime.errors import DeviceError, GatesError

_PASSIVE = frozenset({"memset", "memcpy", "empty"})
_UNFIT = {
    "host": "it runs on the CPU",
    "graph": "it is a graph in the graph",
    "conditional": "what it runs depends on the data",
    "mem_alloc": "it allocates memory",
    "mem_free": "it frees memory",
    "wait_event": "it waits for other streams",
    "event_record": "other streams may wait for it",
    "ext_semas_signal": "it signals other programs",
    "ext_semas_wait": "it waits for other programs",
    "batch_mem_op": "it may wait for other streams",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """One node: its kind, and of a kernel how it is launched. `name` is None if none is told."""

    kind: str
    name: str | None = None
    grid: tuple[int, int, int] = (0, 0, 0)
    block: tuple[int, int, int] = (0, 0, 0)
    shared_bytes: int = 0
    is_cooperative: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class GraphEdge:
    """Node `end` waits for node `start`; by a programmatic edge it may begin before its end."""

    start: int
    end: int
    is_programmatic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphShape:
    """Nodes by index, and the edges between them."""

    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]

    def order(self) -> tuple[int, ...]:
        """The nodes such that each comes after those that it waits for, by index among equals.

        Raises:
            DeviceError: they wait for each other in a circle.
        """
        num_waits = [0] * len(self.nodes)
        followers: list[list[int]] = [[] for _ in self.nodes]
        for edge in self.edges:
            num_waits[edge.end] += 1
            followers[edge.start].append(edge.end)
        ready = [idx for idx, number in enumerate(num_waits) if number == 0]
        found = []
        while ready:
            found.append(heapq.heappop(ready))
            for idx in followers[found[-1]]:
                num_waits[idx] -= 1
                if num_waits[idx] == 0:
                    heapq.heappush(ready, idx)
        if len(found) != len(self.nodes):
            raise DeviceError(f"captured graph: {len(self.nodes) - len(found)} nodes in a circle")
        return tuple(found)

    @property
    def is_chain(self) -> bool:
        """Whether the nodes run one after another, each waiting for the one before alone."""
        pairs = {(edge.start, edge.end) for edge in self.edges}
        return pairs == set(pairwise(self.order()))

    def summary(self) -> str:
        """Such as `105 kernels, 2 memset, a plain chain`."""
        kinds = [node.kind for node in self.nodes]
        num_kernels = kinds.count("kernel")
        parts = [f"{num_kernels} kernel{'s' if num_kernels != 1 else ''}"]
        others = sorted(set(kinds) - {"kernel"})
        parts += [f"{kinds.count(kind)} {kind}" for kind in others]
        parts.append("a plain chain" if self.is_chain else f"{len(self.edges)} edges, no chain")
        return ", ".join(parts)

    def unfit(self) -> str | None:
        """Why gates cannot be put into this graph; None if they can."""
        if not any(node.kind == "kernel" for node in self.nodes):
            return "the captured graph has no kernel"
        for idx in self.order():
            node = self.nodes[idx]
            what = f"node {idx} of {len(self.nodes)}"
            if node.kind not in _PASSIVE | {"kernel"}:
                return f"{what} is a {node.kind} node: {_UNFIT.get(node.kind, 'unknown')}"
            if node.is_cooperative:
                name = node.name or "a kernel"
                return f"{what} ({name}) needs all its blocks at once, and a gate may take the room"
        return None

    def cuts(self) -> tuple[int, ...]:
        """The positions of `order()` before which a gate may stand, the first node's left out.

        What a memset or a copy prepares stays in one stretch with it, so that a stretch can be
        looked at by itself: a kernel whose semaphores nobody cleared would wait for ever.
        """
        place = {idx: at for at, idx in enumerate(self.order())}
        is_closed = [False] * len(self.nodes)
        for edge in self.edges:
            if self.nodes[edge.start].kind in _PASSIVE:
                for at in range(place[edge.start] + 1, place[edge.end] + 1):
                    is_closed[at] = True
        return tuple(at for at in range(1, len(self.nodes)) if not is_closed[at])

    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ where kinds, launches, names or edges do."""
        nodes = [
            [node.kind, node.name, node.grid, node.block, node.shared_bytes, node.is_cooperative]
            for node in self.nodes
        ]
        edges = [[edge.start, edge.end, edge.is_programmatic] for edge in sorted(self.edges)]
        text = json.dumps([nodes, edges], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Nodes between two gates: `sources` wait for the gate before, the gate after for `sinks`."""

    nodes: tuple[int, ...]
    sources: tuple[int, ...]
    sinks: tuple[int, ...]


def stretches(shape: GraphShape, cuts: Sequence[int]) -> tuple[Stretch, ...]:
    """The pieces of `shape.order()` between the cuts.

    Raises:
        GatesError: a cut is not one of `shape.cuts()`, or they do not ascend.
    """
    allowed = set(shape.cuts())
    if wrong := [cut for cut in cuts if cut not in allowed]:
        what = f"the captured graph of {len(shape.nodes)} nodes cannot be cut there"
        raise GatesError(f"gate before node {wrong[0]}: {what}; plan it again: preemptc build")
    if any(first >= second for first, second in pairwise(cuts)):
        raise GatesError(f"gates before nodes {tuple(cuts)}: expected ascending positions")
    order = shape.order()
    return tuple(
        _stretch(shape, order[start:end]) for start, end in pairwise((0, *cuts, len(order)))
    )


def _stretch(shape: GraphShape, nodes: tuple[int, ...]) -> Stretch:
    inside = set(nodes)
    kept = [edge for edge in shape.edges if {edge.start, edge.end} <= inside]
    starts, ends = {edge.start for edge in kept}, {edge.end for edge in kept}
    return Stretch(
        nodes=nodes,
        sources=tuple(idx for idx in nodes if idx not in ends),
        sinks=tuple(idx for idx in nodes if idx not in starts),
    )
