"""Graphs: the pipeline's view of one, and the pieces cut out of it."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from preemptc.model import Graph, Node, TensorInfo
from preemptc.onnx_io.files import tensor_bytes


def graph_from_proto(
    proto: onnx.ModelProto, known: Mapping[str, TensorInfo] | None = None
) -> Graph:
    """The pipeline's view of a top-level graph.

    Args:
        known: tensors whose dtype and shape were found otherwise; they go before the model's own.

    Tensors whose shape depends on the data are absent from `Graph.tensors`.
    """
    weights = {tensor.name: tensor_bytes(tensor) for tensor in proto.graph.initializer}
    tensors: dict[str, TensorInfo] = {}
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        if (info := _tensor_info(value)) is not None and value.name not in weights:
            tensors[value.name] = info
    tensors.update(known or {})
    return Graph(
        nodes=tuple(_node(node, weights) for node in proto.graph.node),
        inputs=tuple(value.name for value in proto.graph.input if value.name not in weights),
        outputs=tuple(value.name for value in proto.graph.output),
        tensors=tensors,
        weight_bytes=weights,
    )


def _tensor_info(value: onnx.ValueInfoProto) -> TensorInfo | None:
    if value.type.WhichOneof("value") != "tensor_type":
        return None
    tensor_type = value.type.tensor_type
    dims = tensor_type.shape.dim
    if not tensor_type.HasField("shape") or any(not dim.HasField("dim_value") for dim in dims):
        return None
    return TensorInfo(
        name=value.name,
        dtype=dtype_name(tensor_type.elem_type),
        shape=tuple(dim.dim_value for dim in dims),
    )


def dtype_name(elem_type: int) -> str:
    """The numpy name of an ONNX element type, ONNX's own name where numpy has none."""
    if elem_type == TensorProto.BFLOAT16:
        return "bfloat16"
    try:
        dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    except KeyError:
        return str(TensorProto.DataType.Name(elem_type)).lower()
    return "string" if dtype == np.dtype(object) else str(dtype.name)


def _node(node: onnx.NodeProto, weights: Mapping[str, int]) -> Node:
    read_names = dict.fromkeys(name for name in (*node.input, *captured_names(node)) if name)
    return Node(
        name=node.name,
        op_type=node.op_type,
        domain=node.domain,
        inputs=tuple(name for name in read_names if name not in weights),
        weights=tuple(name for name in read_names if name in weights),
        outputs=tuple(name for name in node.output if name),
    )


def captured_names(node: onnx.NodeProto) -> tuple[str, ...]:
    """Tensors of the outer graph that the node's subgraphs read."""
    names: dict[str, None] = {}
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            names.update(dict.fromkeys(_free_names(graph)))
    return tuple(names)


def _free_names(graph: onnx.GraphProto) -> Iterable[str]:
    bound = {value.name for value in graph.input} | {t.name for t in graph.initializer}
    for node in graph.node:
        for name in (*node.input, *captured_names(node)):
            if name and name not in bound:
                yield name
        bound.update(node.output)
    for value in graph.output:
        if value.name not in bound:
            yield value.name


def extract(
    proto: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
) -> onnx.ModelProto:
    """A model of some nodes of `proto` with the given interface and the weights they read."""
    used = {name for node in nodes for name in (*node.input, *captured_names(node))}
    graph = helper.make_graph(
        list(nodes),
        proto.graph.name or "segment",
        [_value_info(info) for info in inputs],
        [_value_info(info) for info in outputs],
        [tensor for tensor in proto.graph.initializer if tensor.name in used],
    )
    return helper.make_model(
        graph,
        opset_imports=proto.opset_import,
        ir_version=proto.ir_version,
        functions=list(proto.functions),
        producer_name="preemptc",
    )


def _value_info(info: TensorInfo) -> onnx.ValueInfoProto:
    if info.dtype == "bfloat16":
        elem_type = int(TensorProto.BFLOAT16)
    else:
        elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(info.dtype))
    return helper.make_tensor_value_info(info.name, elem_type, info.shape)
