"""Networks with QuantizeLinear and DequantizeLinear (Q and DQ), made fit for TensorRT and cutting.

TensorRT fuses a DQ into what reads it and a Q into what feeds it; the int8 tensor between the two
is what may cross a boundary.
"""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from preemptc.onnx_io.files import all_graphs

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def is_quantized(proto: onnx.ModelProto) -> bool:
    """Whether the graph quantises or dequantises anything."""
    return any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in proto.graph.node)


def prepare_quantized(proto: onnx.ModelProto, folder: Path) -> None:
    """Give each reader of a DQ a DQ of its own, and fold the DQ of int32 biases, in place.

    A DQ that two layers share is fused into one of them at most where a cut comes between the
    two. TensorRT has no DQ of int32; tools that quantise biases leave one at every convolution.

    Args:
        proto: its weights may be external.
        folder: where those are.
    """
    _fold_biases(proto, folder)
    _split_shared(proto)


def _fold_biases(proto: onnx.ModelProto, folder: Path) -> None:
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    outputs = {value.name for value in proto.graph.output}
    kept = []
    for node in proto.graph.node:
        bias = weights.get(node.input[0]) if node.op_type == DEQUANTIZE else None
        folded = None
        if bias is not None and node.output[0] not in outputs:
            parameters = [weights[name] for name in node.input[1:] if name in weights]
            if len(parameters) == len([name for name in node.input[1:] if name]):
                folded = _folded_bias(bias, parameters, folder)
        if folded is None:
            kept.append(node)
        else:
            proto.graph.initializer.append(numpy_helper.from_array(folded, node.output[0]))
    if len(kept) < len(proto.graph.node):
        _replace(proto.graph.node, kept)
        _drop_unread(proto)


def _folded_bias(
    bias: onnx.TensorProto, parameters: Sequence[onnx.TensorProto], folder: Path
) -> NDArray[Any] | None:
    """The float values of an int32 bias of scale and zero point; None if it is something else."""
    if bias.data_type != TensorProto.INT32 or len(bias.dims) > 1:
        return None
    base = str(folder)
    values = numpy_helper.to_array(bias, base).astype(np.int64)
    scale, *zero_point = (numpy_helper.to_array(tensor, base) for tensor in parameters)
    for zero in zero_point:
        values = values - zero
    folded: NDArray[Any] = (values * scale.astype(np.float64)).astype(scale.dtype)
    return folded


def _drop_unread(proto: onnx.ModelProto) -> None:
    read = {
        name for graph in all_graphs(proto.graph) for node in graph.node for name in node.input
    } | {value.name for value in proto.graph.output}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in read]
    _replace(proto.graph.initializer, kept)


def _split_shared(proto: onnx.ModelProto) -> None:
    infos = {value.name: value for value in proto.graph.value_info}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    taken = {name for node in proto.graph.node for name in (*node.input, *node.output)}
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
        if node.op_type != DEQUANTIZE:
            continue
        for reader in readers.get(node.output[0], [])[1:]:
            copied = onnx.NodeProto.FromString(node.SerializeToString())
            number = next(n for n in count() if f"{node.output[0]}_{n}" not in taken)
            copied.output[0] = f"{node.output[0]}_{number}"
            copied.name = f"{node.name}_{number}"
            taken.add(copied.output[0])
            for idx, name in enumerate(reader.input):
                if name == node.output[0]:
                    reader.input[idx] = copied.output[0]
            if (info := infos.get(node.output[0])) is not None:
                proto.graph.value_info.add().CopyFrom(info)
                proto.graph.value_info[-1].name = copied.output[0]
            nodes.append(copied)
    _replace(proto.graph.node, nodes)


def _replace(field: Any, messages: Sequence[Any]) -> None:
    """Set a repeated field to some of its own messages, or copies of them."""
    copies = [type(each).FromString(each.SerializeToString()) for each in messages]
    del field[:]
    field.extend(copies)
