"""A network as the pipeline sees it: names, shapes, dependencies; no ONNX and no weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from preempt_runtime.manifest import ITEM_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """A tensor's name, numpy dtype name and static shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the dense tensor; types that numpy lacks count as one byte an element."""
        return ITEM_BYTES.get(self.dtype, 1) * math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operator.

    `inputs` are the tensors it reads, those that its subgraphs capture included, weights and
    absent optional inputs left out; `weights` are the initialisers it reads.
    """

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Nodes in a fixed topological order, with every tensor that lives between them.

    Split point k lies between nodes k-1 and k, 0 < k < num_nodes. `tensors` knows every input,
    output and intermediate tensor of static shape: one that is absent (its shape depends on the
    data, or it is no dense tensor) cannot cross a boundary. `weight_bytes` is the size of every
    initialiser.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: Mapping[str, TensorInfo]
    weight_bytes: Mapping[str, int]

    @property
    def num_nodes(self) -> int:
        """How many nodes there are."""
        return len(self.nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A checked source graph with static shapes and folded constants, and the file it stands in.

    `path` is a `model.onnx` whose large weights stand in `weights.data` beside it. `digest` is
    the sha256 of both.
    """

    name: str
    path: Path
    digest: str
    graph: Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowered:
    """The graph that a target executes, which is what gets profiled and cut.

    For ONNX Runtime it is its optimised graph. `source_positions[k]` is the split point of the
    source graph that split point k of `graph` corresponds to, for 0 <= k <= num_nodes: the
    longest prefix of the source's nodes that is complete when the first k nodes have run.
    `graph_digest` is the source model's digest. `key` is the KEY of the device artefacts
    (None: it was lowered without the device), `key_fields` what it is a hash of.
    """

    target: str
    path: Path
    graph_digest: str
    graph: Graph
    source_positions: tuple[int, ...]
    key: str | None
    key_fields: Mapping[str, str | int]

    def __post_init__(self) -> None:
        assert len(self.source_positions) == self.graph.num_nodes + 1
        assert list(self.source_positions) == sorted(self.source_positions)
