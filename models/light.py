"""The nine published topologies inside the onnx package, given random weights and opset 17.

In the package every weight is a ConstantOfShape, so that all channels are equal and the output has
one distinct value: agreement of two such outputs would prove nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import onnx
from onnx import (
    GraphProto,
    NodeProto,
    TensorProto,
    numpy_helper,
    shape_inference,
    version_converter,
)

from models.network import Network, Weight
from models.network_file import IR_VERSION, OPSET_VERSION

PREFIX = "light/"
TOPOLOGIES = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)
# Standard deviation of the last layer's weights relative to the others': it brings the logits to
# a standard deviation of about 2. Left at 1, these networks give one class everything, and the
# probabilities of the others underflow.
LAST_LAYER_SCALE = {
    "bvlc_alexnet": 0.4,
    "inception_v1": 0.4,
    "inception_v2": 0.2,
    "resnet50": 0.05,
    "shufflenet": 0.005,
}
# Scale of a normalisation that ends a residual branch or a projection: with 1 the 16 sums of
# ResNet-50 would double the variance 16 times, with much less the projections would shrink it.
RESIDUAL_SCALE = 0.6


def light(topology: str, *, batch: int = 1) -> Network:
    """The network called `topology`, input `[1, 3, 224, 224]`.

    Raises:
        ValueError: `batch` is not 1: the files have it in the shapes that they reshape to.
    """
    if batch != 1:
        raise ValueError(f"{PREFIX}{topology}: batch {batch}, this network has only batch 1")
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    model = onnx.load_model(folder / f"light_{topology}.onnx")
    model.ir_version = IR_VERSION
    model = version_converter.convert_version(model, OPSET_VERSION)
    model = shape_inference.infer_shapes(model, strict_mode=True)
    return _with_weights(model.graph, f"light_{topology}", LAST_LAYER_SCALE.get(topology, 1.0))


def _with_weights(graph: GraphProto, name: str, last_layer_scale: float) -> Network:
    nodes = _named([node for node in graph.node if node.op_type != "ConstantOfShape"])
    shapes = _weight_shapes(graph)
    read = {tensor for node in nodes for tensor in node.input}
    constants = [t for t in graph.initializer if t.name in read and t.name not in shapes]
    # Files this old list the initialisers among the inputs.
    initialisers = shapes.keys() | {tensor.name for tensor in graph.initializer}
    return Network(
        name=name,
        inputs=tuple(info for info in graph.input if info.name not in initialisers),
        outputs=tuple(graph.output),
        value_infos=tuple(info for info in graph.value_info if info.name not in shapes),
        nodes=tuple(nodes),
        weights=tuple(_weights(nodes, shapes, last_layer_scale)),
        constants=tuple(constants),
    )


def _named(nodes: list[NodeProto]) -> list[NodeProto]:
    # The version converter leaves the nodes that it adds without names.
    for node in nodes:
        node.name = node.name or f"{node.op_type}_{node.output[0]}"
    return nodes


def _weight_shapes(graph: GraphProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights by name: what ConstantOfShape makes, and the float initialisers."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {
        tensor.name: tuple(tensor.dims)
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            dims = numpy_helper.to_array(constants[node.input[0]])
            shapes[node.output[0]] = tuple(int(dim) for dim in dims)
    return shapes


def _weights(
    nodes: list[NodeProto], shapes: Mapping[str, tuple[int, ...]], last_layer_scale: float
) -> Iterator[Weight]:
    """The weights that some node reads, in order of reading."""
    source = {name: name for name in shapes}
    summed = {tensor for node in nodes if node.op_type == "Sum" for tensor in node.input}
    last = [node for node in nodes if node.op_type in ("Conv", "Gemm")][-1]
    for node in nodes:
        if node.op_type in ("Unsqueeze", "Reshape") and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
            continue
        scale = last_layer_scale if node is last else 1.0
        if node.op_type == "BatchNormalization" and node.output[0] in summed:
            scale = RESIDUAL_SCALE
        for idx, tensor in enumerate(node.input):
            if tensor in source:
                yield _weight(source[tensor], shapes[source[tensor]], node.op_type, idx, scale)


def _weight(
    name: str, shape: tuple[int, ...], op_type: str, input_idx: int, scale: float
) -> Weight:
    """The weight that a node of type `op_type` reads as its input number `input_idx`."""
    distribution: Literal["normal", "uniform"] = "uniform"
    is_learnable = True
    match op_type, input_idx:
        case (("Conv" | "Gemm"), 1):
            # The Gemms have transB: in both cases the first dimension is the output.
            fan_in = math.prod(shape[1:]) if op_type == "Conv" else shape[-1]
            distribution, center, spread = "normal", 0.0, scale * math.sqrt(2 / fan_in)
        case ("BatchNormalization", 1) | ("Mul", _):
            center, spread = scale, scale / 4
        case ("BatchNormalization", 4):
            center, spread, is_learnable = 1.0, 0.25, False
        case ("BatchNormalization", 3):
            center, spread, is_learnable = 0.0, 0.1, False
        case _:
            center, spread = 0.0, 0.1
    return Weight(
        name=name,
        shape=shape,
        distribution=distribution,
        center=center,
        spread=spread,
        is_learnable=is_learnable,
    )
