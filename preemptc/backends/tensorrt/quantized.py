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
from preemptc.onnx_io.quantized import DEQUANTIZE, QUANTIZE

_CONVOLUTIONS = ("Conv", "ConvTranspose")


def prepare_quantized(
    proto: onnx.ModelProto, folder: Path, *, wants_float_weights: bool = False
) -> None:
    """Bring the graph into the form that TensorRT takes and fuses, in place; it computes the same.

    Each reader of a DQ gets a DQ of its own: one that two layers share is fused into one of them
    at most where a cut comes between the two. The DQ of int32 biases, which TensorRT lacks, is
    folded; tools that quantise biases leave one at every convolution. A convolution is told its
    kernel's shape, which TensorRT's parser cannot see behind a DQ.

    Args:
        proto: its weights may be external.
        folder: where those are.
        wants_float_weights: int8 weights become floats behind a Q, whose values are those of the
            int8 weights again: TensorRT before 10 takes no other.
    """
    _rewrite_weights(proto, folder, wants_float_weights=wants_float_weights)
    _tell_kernel_shapes(proto)
    _split_shared(proto)


def _tell_kernel_shapes(proto: onnx.ModelProto) -> None:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type in (QUANTIZE, DEQUANTIZE) and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
        elif node.op_type in _CONVOLUTIONS and node.input[1] in shapes:
            kept = [each for each in node.attribute if each.name != "kernel_shape"]
            kernel = onnx.helper.make_attribute("kernel_shape", shapes[node.input[1]][2:])
            _replace(node.attribute, [*kept, kernel])


def _rewrite_weights(proto: onnx.ModelProto, folder: Path, *, wants_float_weights: bool) -> None:
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    outputs = {value.name for value in proto.graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        given = [weights.get(name) for name in node.input if name]
        tensors = [tensor for tensor in given if tensor is not None]
        is_constant = node.op_type == DEQUANTIZE and len(tensors) == len(given)
        kind = tensors[0].data_type if is_constant else None
        if kind == TensorProto.INT32 and node.output[0] not in outputs:
            values = _dequantised(node, tensors, folder)
            proto.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
            continue
        if kind == TensorProto.INT8 and wants_float_weights:
            values = _dequantised(node, tensors, folder)
            proto.graph.initializer.append(numpy_helper.from_array(values, f"{node.output[0]}_f"))
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
            nodes[-1].op_type, nodes[-1].name = QUANTIZE, f"{node.name}_Q"
            nodes[-1].input[0], nodes[-1].output[0] = f"{node.output[0]}_f", f"{node.output[0]}_q"
            node.input[0] = nodes[-1].output[0]
        nodes.append(node)
    _replace(proto.graph.node, nodes)
    _drop_unread(proto)


def _dequantised(
    node: onnx.NodeProto, tensors: Sequence[onnx.TensorProto], folder: Path
) -> NDArray[Any]:
    """The float values of a DQ of constants: `tensors` are values, scale and maybe zero point."""
    values, scale, *zero_point = (numpy_helper.to_array(each, str(folder)) for each in tensors)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    shape = [1] * values.ndim
    if scale.ndim == 1 and values.ndim:
        shape[axis if values.ndim > 1 else 0] = -1
    shifted = values.astype(np.int64)
    if zero_point:
        shifted = shifted - zero_point[0].astype(np.int64).reshape(shape if scale.ndim else ())
    found: NDArray[Any] = (shifted * scale.reshape(shape if scale.ndim else ())).astype(scale.dtype)
    return found


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
