"""Precision lives in the graph: the same network with half-precision weights and tensors."""

from pathlib import Path

import onnx
import onnx.checker
import onnx.shape_inference
import onnx.version_converter

from preempt_runtime.errors import BuildError
from preemptc.onnx_io.files import all_graphs, one_line
from preemptc.onnx_io.names import name_inner_values
from preemptc.onnx_io.order import move_inward, sort_nodes
from preemptc.onnx_io.quantized import is_quantized

_TYPED_QUANTIZATION = 19  # the opset


def half_precision(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The network in fp16, inputs and outputs as they were, casts where they meet.

    Weights must be in memory. Operators that need fp32 stay so, between casts: those that the
    converter knows of, and those that ONNX defines for no fp16, such as DynamicQuantizeLinear.
    QuantizeLinear and DequantizeLinear take fp16 from opset 19 on, so a quantised network is
    brought to that.

    Raises:
        BuildError: the converter is missing, or refuses the network.
    """
    try:
        from onnxruntime.transformers.float16 import (
            ALWAYS_FLOAT_INPUTS,
            DEFAULT_OP_BLOCK_LIST,
            convert_float_to_float16,
        )
    except ImportError as err:
        raise BuildError(
            "fp16 needs the converter of ONNX Runtime; install it with `pip install onnxruntime`,"
            " or keep --precision fp32"
        ) from err
    try:
        if _opset(proto) < _TYPED_QUANTIZATION and is_quantized(proto):
            proto = onnx.version_converter.convert_version(proto, _TYPED_QUANTIZATION)
        name_inner_values(proto)
        num_nodes = len(proto.graph.node)
        blocked = {*DEFAULT_OP_BLOCK_LIST, *(_fp32_operators(proto) - ALWAYS_FLOAT_INPUTS.keys())}
        converted: onnx.ModelProto = convert_float_to_float16(
            proto, keep_io_types=True, disable_shape_infer=True, op_block_list=sorted(blocked)
        )
    except Exception as err:  # it raises what its many helpers raise
        raise BuildError(
            f"{name}: cannot be converted to fp16 ({one_line(err)}); keep --precision fp32"
        ) from err
    move_inward(converted.graph, num_nodes)  # the converter appends its casts
    sort_nodes(converted.graph)
    return converted


def check_half_precision(path: Path, source: Path, name: str) -> None:
    """Return if types and shapes of a converted graph fit together, or its source's do not either.

    Raises:
        BuildError: the converter missed something; the message has the checker's own text, which
            names the node.
    """
    if (wrong := _invalid(path)) is not None and _invalid(source) is None:
        raise BuildError(
            f"{name}: cannot be converted to fp16, ONNX's checker refuses the outcome ({wrong});"
            " keep --precision fp32"
        )


def _invalid(path: Path) -> str | None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        return one_line(err)
    return None


def _fp32_operators(proto: onnx.ModelProto) -> set[str]:
    """The operators that have, somewhere in the network, a tensor that may be fp32 and not fp16."""
    opset = _opset(proto)
    return {
        node.op_type
        for graph in all_graphs(proto.graph)
        for node in graph.node
        if node.domain == "" and onnx.defs.has(node.op_type, max_inclusive_version=opset)
        and _needs_fp32(node, onnx.defs.get_schema(node.op_type, max_inclusive_version=opset))
    }  # fmt: skip


def _needs_fp32(node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> bool:
    for names, parameters in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for idx, name in enumerate(names):
            types = parameters[min(idx, len(parameters) - 1)].types  # the last may stand for many
            if name and "tensor(float)" in types and "tensor(float16)" not in types:
                return True
    return False


def _opset(proto: onnx.ModelProto) -> int:
    return max((each.version for each in proto.opset_import if not each.domain), default=0)
