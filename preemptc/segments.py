"""Segments: what each stretch of the executed graph reads, writes and leaves alive."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from preemptc.model import Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Nodes [start, end) with their boundary tensors, in the order of first appearance.

    `live_bytes` is what later segments still need when this one has ended; graph inputs and
    outputs have buffers of their own and do not count.
    """

    start: int
    end: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    live_bytes: int


def segments_from_split_points(graph: Graph, split_points: Sequence[int]) -> tuple[Segment, ...]:
    """The segments between consecutive split points, from node 0 to the last."""
    last_read = _last_read(graph)
    outputs = set(graph.outputs)
    edges = (0, *split_points, graph.num_nodes)
    segments = []
    alive: dict[str, int] = {}
    for start, end in itertools.pairwise(edges):
        nodes = graph.nodes[start:end]
        written = dict.fromkeys(name for node in nodes for name in node.outputs)
        read = dict.fromkeys(name for node in nodes for name in node.inputs)
        kept = [name for name in written if last_read.get(name, -1) >= end]
        alive |= {name: _num_bytes(graph, name) for name in kept if name not in outputs}
        alive = {name: size for name, size in alive.items() if last_read[name] >= end}
        segments.append(
            Segment(
                start=start,
                end=end,
                inputs=tuple(name for name in read if name not in written),
                outputs=tuple(
                    name for name in written if name in outputs or last_read.get(name, -1) >= end
                ),
                live_bytes=sum(alive.values()),
            )
        )
    return tuple(segments)


def segment_of_nodes(graph: Graph, start: int, end: int) -> Segment:
    """The segment of nodes [start, end), wherever else the graph is cut."""
    points = [point for point in (start, end) if 0 < point < graph.num_nodes]
    segments = segments_from_split_points(graph, points)
    return next(each for each in segments if (each.start, each.end) == (start, end))


def boundary_names(graph: Graph, segments: Sequence[Segment]) -> tuple[str, ...]:
    """Every tensor that one segment hands to a later one, graph outputs left out."""
    names = dict.fromkeys(name for segment in segments for name in segment.outputs)
    return tuple(name for name in names if name not in graph.outputs)


def _num_bytes(graph: Graph, name: str) -> int:
    info = graph.tensors.get(name)
    return info.num_bytes if info else 0


def _last_read(graph: Graph) -> dict[str, int]:
    last: dict[str, int] = {}
    for idx, node in enumerate(graph.nodes):
        for name in node.inputs:
            last[name] = idx
    return last
