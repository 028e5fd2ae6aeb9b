"""Networks with QuantizeLinear and DequantizeLinear (Q and DQ): what is read off their nodes."""

from pathlib import Path

import onnx
from onnx import numpy_helper

from preemptc.onnx_io.files import all_graphs

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_MOVES = frozenset(
    {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather"}
)


def is_quantized(proto: onnx.ModelProto) -> bool:
    """Whether the graph or one inside it, such as a Loop's, quantises or dequantises anything."""
    return any(
        node.op_type in (QUANTIZE, DEQUANTIZE)
        for graph in all_graphs(proto.graph)
        for node in graph.node
    )


def output_steps(proto: onnx.ModelProto, folder: Path) -> dict[str, float]:
    """The quantisation step of each output that has one: no two of its values are closer.

    That is the scale of the DQ that the output comes from, the largest one of several channels,
    and 1 for the integers of a Q; nodes between that only move values do not count.

    Args:
        proto: its weights may be external.
        folder: where those are.
    """
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    producer = {name: node for node in proto.graph.node for name in node.output}
    steps = {}
    for output in proto.graph.output:
        node = producer.get(output.name)
        while node is not None and node.op_type in _MOVES:
            node = producer.get(node.input[0])
        if node is None:
            continue
        if node.op_type == QUANTIZE:
            steps[output.name] = 1.0
        elif node.op_type == DEQUANTIZE and node.input[1] in weights:
            scale = numpy_helper.to_array(weights[node.input[1]], str(folder))
            steps[output.name] = float(scale.max())
    return steps
