"""Networks with QuantizeLinear and DequantizeLinear (Q and DQ), made fit for TensorRT and cutting.

TensorRT fuses a DQ into what reads it and a Q into what feeds it; the int8 tensor between the two
is what may cross a boundary.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from preemptc.onnx_io.files import all_graphs
from preemptc.onnx_io.names import new_name, taken_names
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
    taken = taken_names(proto)
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        given = [weights.get(name) for name in node.input if name]
        tensors = [tensor for tensor in given if tensor is not None]
        is_constant = node.op_type == DEQUANTIZE and len(tensors) == len(given)
        kind = tensors[0].data_type if is_constant else None
        is_bias = kind == TensorProto.INT32 and node.output[0] not in outputs
        if (is_bias or (kind == TensorProto.INT8 and wants_float_weights)) and (
            values := _dequantised(node, tensors, folder)
        ) is not None:
            if is_bias:
                proto.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
                continue
            nodes.append(_quantiser(proto, node, values, taken))
            node.input[0] = nodes[-1].output[0]
        nodes.append(node)
    _replace(proto.graph.node, nodes)
    _drop_unread(proto)


def _quantiser(
    proto: onnx.ModelProto, node: onnx.NodeProto, values: NDArray[Any], taken: set[str]
) -> onnx.NodeProto:
    """A Q that makes of `values`, added to the weights, what the DQ `node` takes.

    It has a zero point in any case: one without makes uint8.
    """
    dequantised = node.output[0]
    quantiser: onnx.NodeProto = onnx.NodeProto.FromString(node.SerializeToString())
    quantiser.op_type, quantiser.name = QUANTIZE, f"{node.name}_Q"
    quantiser.input[0] = new_name(f"{dequantised}_f", taken)
    quantiser.output[0] = new_name(f"{dequantised}_q", taken)
    proto.graph.initializer.append(numpy_helper.from_array(values, quantiser.input[0]))
    if len(quantiser.input) < 3 or not quantiser.input[2]:
        (scale,) = (each for each in proto.graph.initializer if each.name == node.input[1])
        zeros = np.zeros(tuple(scale.dims), np.int8)
        del quantiser.input[2:]
        quantiser.input.append(new_name(f"{dequantised}_zero", taken))
        proto.graph.initializer.append(numpy_helper.from_array(zeros, quantiser.input[2]))
    return quantiser


def _dequantised(
    node: onnx.NodeProto, tensors: Sequence[onnx.TensorProto], folder: Path
) -> NDArray[Any] | None:
    """The float values of a DQ of constants: `tensors` are values, scale and maybe zero point.

    None where there is not one scale for all or one for each slice along the axis: blocks of
    opset 21, and networks that are wrong.
    """
    values, scale, *zero_point = (numpy_helper.to_array(each, str(folder)) for each in tensors)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    axis = axis if values.ndim > 1 else 0
    shape = [1] * values.ndim
    if scale.size != 1:
        is_along = -values.ndim <= axis < values.ndim and scale.shape == (values.shape[axis],)
        if not is_along:
            return None
        shape[axis] = -1
    if any(each.size != scale.size for each in zero_point):
        return None
    # int8 is exact in any float; int32 is not
    shifted = values.astype(scale.dtype if values.dtype == np.int8 else np.int64)
    for each in zero_point:
        shifted = shifted - each.astype(shifted.dtype).reshape(shape)
    with np.errstate(all="ignore"):  # what a scale of infinity makes is the network's own affair
        found: NDArray[Any] = (shifted * scale.reshape(shape)).astype(scale.dtype)
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
    taken = taken_names(proto)
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
        if node.op_type != DEQUANTIZE:
            continue
        for reader in readers.get(node.output[0], [])[1:]:
            copied = onnx.NodeProto.FromString(node.SerializeToString())
            copied.output[0] = new_name(f"{node.output[0]}_copy", taken)
            copied.name = f"{node.name}_copy"
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
