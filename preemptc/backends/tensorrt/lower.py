"""Lower a model: precision, one engine of the whole, and its fused layers as the nodes to cut."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import onnx

from preemptc.backends.positions import source_positions
from preemptc.backends.tensorrt.groups import FusedLayer, fusion_groups, merged_graph
from preemptc.backends.tensorrt.quantized import prepare_quantized
from preemptc.model import Lowered, Model
from preemptc.onnx_io.files import (
    MODEL_FILE,
    OnnxFile,
    name_uniquely,
    read_graph,
    save_piece,
    write,
)
from preemptc.onnx_io.graphs import graph_from_proto
from preemptc.onnx_io.precision import check_half_precision, half_precision
from preemptc.onnx_io.quantized import is_quantized

GROUPS_FILE = "groups.json"
_AWKWARD = re.compile(r"[^\w/.:-]+")  # TensorRT joins names with blanks, plus signs and brackets


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """How the ONNX nodes of the lowered graph belong together.

    Executed node g stands for ONNX nodes [edges[g], edges[g + 1]). `layers` are those of the
    whole engine: the executed nodes that each one runs (none are known of an opaque one).
    """

    edges: tuple[int, ...]
    layers: tuple[tuple[str, tuple[int, ...]], ...]


def write_typed_graph(
    model: Model, folder: Path, precision: str, *, is_strongly_typed: bool
) -> onnx.ModelProto:
    """Write the graph in the precision asked for, and its weights, into `folder`.

    A quantised graph goes in as it is where TensorRT chooses types itself (8.6): its Q and DQ take
    fp32 alone, and the builder may use half precision for the rest.

    Raises:
        BuildError: it cannot be converted.
    """
    proto = read_graph(model.path)
    is_half = precision == "fp16"
    if is_quantized(proto):
        is_half = is_half and is_strongly_typed
        prepare_quantized(proto, model.path.parent, wants_float_weights=not is_strongly_typed)
    if is_half:
        onnx.load_external_data_for_model(proto, str(model.path.parent))
        proto = half_precision(proto, model.name)
    for node in proto.graph.node:
        node.name = _AWKWARD.sub("_", node.name)
    name_uniquely(proto)
    write(OnnxFile(proto=proto, folder=model.path.parent), folder)
    if is_half:
        check_half_precision(folder / MODEL_FILE, model.path, model.name)
    return read_graph(folder / MODEL_FILE)


def write_groups(proto: onnx.ModelProto, layers: Sequence[FusedLayer], folder: Path) -> Groups:
    """Order the nodes so that each fusion group is one stretch, and note where they end."""
    graph = graph_from_proto(proto)
    groups = fusion_groups(graph, layers)
    order = [idx for group in groups for idx in group]
    copies = [onnx.NodeProto.FromString(proto.graph.node[i].SerializeToString()) for i in order]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)
    save_piece(proto, folder / MODEL_FILE)
    group_of = {graph.nodes[idx].name: g for g, group in enumerate(groups) for idx in group}
    found = Groups(
        edges=tuple(accumulate((len(group) for group in groups), initial=0)),
        layers=tuple(
            (layer.name, tuple(sorted({group_of[n] for n in layer.node_names if n in group_of})))
            for layer in layers
        ),
    )
    (folder / GROUPS_FILE).write_text(json.dumps({"edges": found.edges, "layers": found.layers}))
    return found


def read_groups(folder: Path) -> Groups:
    """What `write_groups` wrote."""
    document = json.loads((folder / GROUPS_FILE).read_text())
    return Groups(
        edges=tuple(document["edges"]),
        layers=tuple((name, tuple(members)) for name, members in document["layers"]),
    )


def read_lowered(
    model: Model, folder: Path, *, target: str, key: str | None, key_fields: Mapping[str, str | int]
) -> Lowered:
    """The graph of groups that stands in `folder`."""
    flat = graph_from_proto(read_graph(folder / MODEL_FILE))
    edges = read_groups(folder).edges
    graph = merged_graph(flat, [range(start, end) for start, end in pairwise(edges)])
    positions = source_positions(model.graph, [node.outputs for node in flat.nodes])
    return Lowered(
        target=target,
        path=folder / MODEL_FILE,
        graph_digest=model.digest,
        graph=graph,
        source_positions=tuple(positions[edge] for edge in edges),
        key=key,
        key_fields=dict(key_fields),
    )
