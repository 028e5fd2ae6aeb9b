"""Lower a model: ONNX Runtime optimises it once, and the result is what gets profiled and cut.

A cut of the optimised graph loses no fusion and changes no bit of the result. Its tensors may be
in a blocked layout that ONNX shape inference does not know, so dtypes and shapes are read off one
run that fetches every value.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from preempt_runtime.backends.ort import open_session, session_options
from preempt_runtime.device import Array
from preempt_runtime.errors import BuildError
from preemptc.analysis import topological_order
from preemptc.backends.positions import source_positions
from preemptc.model import Graph, Lowered, Model, TensorInfo
from preemptc.onnx_io.files import (
    MODEL_FILE,
    WEIGHTS_FILE,
    all_graphs,
    check_disk,
    name_uniquely,
    one_line,
    read_graph,
    save_piece,
)
from preemptc.onnx_io.graphs import graph_from_proto

_MIN_EXTERNAL_BYTES = 1024
_TENSORS_FILE = "tensors.json"
_GENERATED_NAME = re.compile(r"(_nchwc)?(_token_\d+)?$")


def lower(model: Model, folder: Path, threads: int) -> None:
    """Write the optimised graph, its weights and what a run told of its tensors into `folder`.

    Raises:
        BuildError: ONNX Runtime cannot load or run the model; its text is part of the message.
    """
    proto = _optimise(model, folder, threads)
    _order_like_source(proto, model.graph)
    name_generated_nodes(proto, {node.name for node in model.graph.nodes})
    name_uniquely(proto)
    save_piece(proto, folder / MODEL_FILE)
    _check_outputs(proto, model.name)
    tensors = _tensors_of_a_run(proto, model, folder / MODEL_FILE, threads)
    content = json.dumps([asdict(info) for info in tensors.values()])
    (folder / _TENSORS_FILE).write_text(content)


def read_lowered(
    model: Model, folder: Path, *, target: str, key: str, key_fields: Mapping[str, str | int]
) -> Lowered:
    """What `lower` wrote into `folder`."""
    path = folder / MODEL_FILE
    entries = json.loads((folder / _TENSORS_FILE).read_text())
    tensors = {
        entry["name"]: TensorInfo(
            name=entry["name"], dtype=entry["dtype"], shape=tuple(entry["shape"])
        )
        for entry in entries
    }
    graph = graph_from_proto(read_graph(path), tensors)
    return Lowered(
        target=target,
        path=path,
        graph_digest=model.digest,
        graph=graph,
        source_positions=source_positions(
            model.graph, [source_names(node.name, node.outputs) for node in graph.nodes]
        ),
        key=key,
        key_fields=dict(key_fields),
    )


def _optimise(model: Model, folder: Path, threads: int) -> onnx.ModelProto:
    options = session_options(threads)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(folder / MODEL_FILE)
    for name, value in (
        ("optimized_model_external_initializers_file_name", WEIGHTS_FILE),
        ("optimized_model_external_initializers_min_size_in_bytes", str(_MIN_EXTERNAL_BYTES)),
    ):
        options.add_session_config_entry(f"session.{name}", value)
    try:
        ort.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
    except Exception as err:  # onnxruntime raises its own classes, without a common root
        check_disk(folder)
        raise BuildError(
            f"{model.name}: ONNX Runtime {ort.__version__} cannot load it ({one_line(err)})"
        ) from err
    weights = folder / WEIGHTS_FILE
    weights.touch()
    weights.chmod(0o644)
    proto = read_graph(folder / MODEL_FILE)
    _drop_repeated_subgraph_weights(proto)
    return proto


def _drop_repeated_subgraph_weights(proto: onnx.ModelProto) -> None:
    """Keep one of each weight that ONNX Runtime 1.23 writes twice into a subgraph.

    The first is the one in the new weights file; the second still refers to the source's, and
    the weight's name also stands among the subgraph's inputs.
    """
    for graph in all_graphs(proto.graph):
        first = {tensor.name: tensor for tensor in reversed(graph.initializer)}
        if len(first) < len(graph.initializer):
            kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in first.values()]
            inputs = [value for value in graph.input if value.name not in first]
            copies = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in inputs]
            del graph.initializer[:], graph.input[:]
            graph.initializer.extend(kept)
            graph.input.extend(copies)


def _order_like_source(proto: onnx.ModelProto, source: Graph) -> None:
    """Sort the nodes topologically, those that compute earlier source nodes first."""
    rank_of = {name: idx for idx, node in enumerate(source.nodes) for name in node.outputs}
    graph = graph_from_proto(proto)
    producer = {name: idx for idx, node in enumerate(graph.nodes) for name in node.outputs}
    rank: list[int] = []
    for node in graph.nodes:  # ONNX Runtime writes its nodes in a topological order
        own = [rank_of[name] for name in source_names(node.name, node.outputs) if name in rank_of]
        before = [rank[producer[name]] for name in node.inputs if name in producer]
        rank.append(max(own or before, default=0))
    order = topological_order(graph, rank)
    nodes = [proto.graph.node[idx] for idx in order]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)


def name_generated_nodes(proto: onnx.ModelProto, source_nodes: Collection[str]) -> None:
    """Name each node that ONNX Runtime named after its operator after its output, too, in place.

    ONNX Runtime 1.32 numbers its ReorderOutput nodes in the order of a hash table, another one in
    each process: a profile would fit the graph of its own cache alone.

    Args:
        source_nodes: names of the source graph, which stay.
    """
    for graph in all_graphs(proto.graph):
        for node in graph.node:
            stem = _GENERATED_NAME.sub("", node.name)
            if stem == node.op_type and node.name not in source_nodes:
                node.name = "_".join((node.op_type, *filter(None, node.output[:1])))


def source_names(node_name: str, outputs: Sequence[str]) -> tuple[str, ...]:
    """Source tensors that an optimised node may compute.

    ONNX Runtime keeps them as its outputs, or names a node in blocked layout after the tensor.
    """
    return (*outputs, _GENERATED_NAME.sub("", node_name))


def _check_outputs(proto: onnx.ModelProto, name: str) -> None:
    written = {output for node in proto.graph.node for output in node.output}
    for output in proto.graph.output:
        if output.name not in written:
            raise BuildError(
                f"{name}: output {output.name!r} is a constant once the network is optimised, no"
                " node computes it; remove it from the outputs"
            )


def _tensors_of_a_run(
    proto: onnx.ModelProto, model: Model, path: Path, threads: int
) -> dict[str, TensorInfo]:
    """Dtype and shape of every value, as ONNX Runtime produces them.

    A tensor that the source graph knows without a static shape is left out: its shape may differ
    with the next input. So is what is no dense tensor.
    """
    graph = graph_from_proto(proto)
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    known = {value.name for value in probe.graph.output}
    inner = [name for node in graph.nodes for name in node.outputs if name not in known]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    probe_path = path.with_name("probe.onnx")
    save_piece(probe, probe_path)
    try:
        session = open_session(probe_path, threads)
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, _zeros(graph))
    except Exception as err:
        raise BuildError(
            f"{model.name}: ONNX Runtime {ort.__version__} cannot run it ({one_line(err)});"
            " check the model with inputs of zeros"
        ) from err
    finally:
        probe_path.unlink()
    source = model.graph
    dynamic = {name for node in source.nodes for name in node.outputs if name not in source.tensors}
    moving = _depends_on(graph, dynamic)
    return {
        name: TensorInfo(name=name, dtype=value.dtype.name, shape=value.shape)
        for name, value in zip(names, values, strict=True)
        if isinstance(value, np.ndarray) and value.dtype != object and name not in moving
    }


def _depends_on(graph: Graph, dynamic: set[str]) -> set[str]:
    """Tensors whose shape may depend on the data.

    That are the source's own tensors of unknown shape, and, of the tensors that ONNX Runtime
    made up, those computed from one.
    """
    moving = set(dynamic)
    for node in graph.nodes:
        if moving.intersection(node.inputs):
            moving.update(name for name in node.outputs if name not in graph.tensors)
    return moving


def _zeros(graph: Graph) -> dict[str, Array]:
    return {
        name: np.zeros(graph.tensors[name].shape, dtype=graph.tensors[name].dtype)
        for name in graph.inputs
    }
