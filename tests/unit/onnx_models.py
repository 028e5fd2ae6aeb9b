"""Small ONNX models with one difficulty each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

Proto = onnx.ModelProto


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> Proto:
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(weights))
    opsets = [helper.make_opsetid("", 17)]
    if functions:
        opsets.append(helper.make_opsetid("local", 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))


def f32(name: str, shape: Sequence[int | str | None] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def weight(name: str, *shape: int, seed: int = 0) -> onnx.TensorProto:
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return numpy_helper.from_array(values, name)


def save(model: Proto, path: Path) -> Path:
    onnx.save(model, str(path))
    return path


def chain(num_layers: int = 6, width: int = 32) -> Proto:
    """MatMul and Relu in turn."""
    nodes, weights, current = [], [], "x"
    for idx in range(num_layers):
        weights.append(weight(f"w{idx}", width, width, seed=idx))
        nodes.append(helper.make_node("MatMul", [current, f"w{idx}"], [f"m{idx}"], f"mm{idx}"))
        nodes.append(helper.make_node("Relu", [f"m{idx}"], [f"r{idx}"], f"relu{idx}"))
        current = f"r{idx}"
    return model_of(nodes, [f32("x", [4, width])], [f32(current, [4, width])], weights)


def constants_everywhere() -> Proto:
    """Identity of a weight, a chain of Constants, Shape -> Gather -> Concat -> Reshape."""
    one_dim = numpy_helper.from_array(np.array([-1], np.int64), "minus_one")
    nodes = [
        helper.make_node("Identity", ["w"], ["w_again"], "identity"),
        helper.make_node("MatMul", ["x", "w_again"], ["y"], "matmul"),
        helper.make_node("Shape", ["y"], ["shape"], "shape"),
        helper.make_node(
            "Constant", [], ["zero"], "constant",
            value=numpy_helper.from_array(np.array([0], np.int64)),
        ),
        helper.make_node("Gather", ["shape", "zero"], ["rows"], "gather"),
        helper.make_node("Concat", ["rows", "minus_one"], ["target"], "concat", axis=0),
        helper.make_node("Reshape", ["y", "target"], ["flat"], "reshape"),
        helper.make_node("Relu", ["flat"], ["z"], "relu"),
    ]  # fmt: skip
    return model_of(nodes, [f32("x", [4, 8])], [f32("z", [4, 8])], [weight("w", 8, 8), one_dim])


def with_if(width: int = 32) -> Proto:
    """An If whose branches capture a tensor and a weight of the outer graph."""
    shape = [4, width]
    then = helper.make_graph(
        [helper.make_node("MatMul", ["a", "w"], ["then_out"], "then")],
        "then", [], [f32("then_out", shape)],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Neg", ["a"], ["else_out"], "else")],
        "else", [], [f32("else_out", shape)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "first"),
        helper.make_node("ReduceSum", ["x"], ["total"], "sum", keepdims=0),
        helper.make_node("Greater", ["total", "limit"], ["is_large"], "greater"),
        helper.make_node("Sigmoid", ["x"], ["s"], "sigmoid"),
        helper.make_node("If", ["is_large"], ["b"], "if", then_branch=then, else_branch=other),
        helper.make_node("Add", ["b", "s"], ["y"], "add"),
    ]
    limit = numpy_helper.from_array(np.float32(0.0), "limit")
    return model_of(nodes, [f32("x", shape)], [f32("y", shape)], [weight("w", width, width), limit])


def with_loop(num_turns: int = 3) -> Proto:
    """A Loop whose body reads a tensor of the outer graph."""
    body = parser.parse_graph(
        "body (int64 i, bool go, float[4,8] state) => (bool again, float[4,8] next) {"
        " again = Identity(go)  next = Add(state, captured) }"
    )
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["captured"], "outer"),
        helper.make_node("Relu", ["x"], ["start"], "start"),
        helper.make_node("Loop", ["turns", "", "start"], ["looped"], "loop", body=body),
        helper.make_node("Mul", ["looped", "captured"], ["y"], "mul"),
    ]
    turns = numpy_helper.from_array(np.int64(num_turns), "turns")
    return model_of(nodes, [f32("x", [4, 8])], [f32("y", [4, 8])], [turns])


def with_function() -> Proto:
    """Two calls of a local function."""
    function = helper.make_function(
        "local", "Swish", ["v"], ["out"],
        [
            helper.make_node("Sigmoid", ["v"], ["s"]),
            helper.make_node("Mul", ["v", "s"], ["out"]),
        ],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Swish", ["x"], ["a"], "swish1", domain="local"),
        helper.make_node("Swish", ["a"], ["y"], "swish2", domain="local"),
    ]
    return model_of(nodes, [f32("x", [4, 8])], [f32("y", [4, 8])], functions=[function])


def dynamic(batch: str | None = "batch") -> Proto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "matmul"),
        helper.make_node("Relu", ["m"], ["y"], "relu"),
    ]
    return model_of(nodes, [f32("x", [batch, 8])], [f32("y", [batch, 8])], [weight("w", 8, 8)])


def many_ports() -> Proto:
    """Two inputs, three outputs: one from the middle that is read again, one an input itself."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["early"], "matmul"),
        helper.make_node("Relu", ["early"], ["r"], "relu"),
        helper.make_node("Sigmoid", ["r"], ["s"], "sigmoid"),
        helper.make_node("Add", ["s", "bias"], ["t"], "add"),
        helper.make_node("Mul", ["t", "early"], ["late"], "mul"),
    ]
    inputs = [f32("x", [4, 8]), f32("bias", [4, 8])]
    outputs = [f32("early", [4, 8]), f32("late", [4, 8]), f32("x", [4, 8])]
    return model_of(nodes, inputs, outputs, [weight("w", 8, 8)])


def data_dependent() -> Proto:
    """NonZero in the middle: its shape is known only when the data is."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("NonZero", ["r"], ["where"], "nonzero"),
        helper.make_node("Cast", ["where"], ["where_f"], "cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["where_f"], ["total"], "sum", keepdims=0),
        helper.make_node("Add", ["r", "total"], ["y"], "add"),
        helper.make_node("Sigmoid", ["y"], ["z"], "sigmoid"),
    ]
    return model_of(nodes, [f32("x", [4, 8])], [f32("z", [4, 8])])


def scalar_output() -> Proto:
    """The mean of everything, an output without dimensions."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "matmul"),
        helper.make_node("Relu", ["m"], ["r"], "relu"),
        helper.make_node("ReduceMean", ["r"], ["mean"], "mean", keepdims=0),
    ]
    return model_of(nodes, [f32("x", [4, 64])], [f32("mean", [])], [weight("w", 64, 64)])


def integer_outputs() -> Proto:
    """The largest channel of each row, and which elements are positive."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "matmul"),
        helper.make_node("ArgMax", ["m"], ["best"], "argmax", axis=1, keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["positive"], "greater"),
    ]
    outputs = [
        helper.make_tensor_value_info("best", TensorProto.INT64, [4]),
        helper.make_tensor_value_info("positive", TensorProto.BOOL, [4, 64]),
    ]
    zero = numpy_helper.from_array(np.float32(0.0), "zero")
    return model_of(nodes, [f32("x", [4, 64])], outputs, [weight("w", 64, 64), zero])


def quantized_weight() -> Proto:
    """A weight of 8 bits that is dequantized at run time."""
    values = np.random.default_rng(0).integers(-128, 128, (64, 64)).astype(np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["wf"], "dequantize"),
        helper.make_node("MatMul", ["x", "wf"], ["y"], "matmul"),
    ]
    weights = [
        numpy_helper.from_array(values, "w"),
        numpy_helper.from_array(np.float32(0.01), "scale"),
    ]
    return model_of(nodes, [f32("x", [4, 64])], [f32("y", [4, 64])], weights)


def quantised(*, has_bias: bool = False, opset: int = 17) -> Proto:
    """Convolutions with QuantizeLinear and DequantizeLinear: int8, symmetric, a skip connection.

    x -> Q DQ -> conv0 relu0 -> Q DQ -> conv1 -> Q DQ -> add (with the DQ before conv1) -> relu1
    -> mean -> y. The DQ before conv1 has two readers. `has_bias`: int32 biases behind a DQ.
    """
    rng = np.random.default_rng(7)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = [numpy_helper.from_array(np.int8(0), "zero")]

    def constant(name: str, values: object) -> str:
        weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def dequantised(tensor: str, scale: float) -> str:
        scale_name = constant(f"{tensor}.scale", np.float32(scale))
        parameters = [scale_name, "zero"]
        nodes.append(helper.make_node("QuantizeLinear", [tensor, *parameters], [f"{tensor}.q"],
                                      f"{tensor}.Q"))  # fmt: skip
        nodes.append(helper.make_node("DequantizeLinear", [f"{tensor}.q", *parameters],
                                      [f"{tensor}.dq"], f"{tensor}.DQ"))  # fmt: skip
        return f"{tensor}.dq"

    def conv(tensor: str, name: str, channels: int, width: int) -> str:
        values = rng.integers(-127, 128, (width, channels, 3, 3), dtype=np.int8)
        scale = constant(f"{name}.w.scale", np.full(width, 0.3 / 127 / np.sqrt(channels), "f4"))
        zeros = constant(f"{name}.w.zero", np.zeros(width, np.int8))
        nodes.append(helper.make_node("DequantizeLinear", [constant(f"{name}.w", values), scale,
                     zeros], [f"{name}.w.dq"], f"{name}.w.DQ", axis=0))  # fmt: skip
        inputs = [tensor, f"{name}.w.dq"]
        if has_bias:
            bias = constant(f"{name}.b", rng.integers(-500, 500, width, dtype=np.int32))
            nodes.append(helper.make_node("DequantizeLinear",
                         [bias, constant(f"{name}.b.scale", np.float32(1e-3))],
                         [f"{name}.b.dq"], f"{name}.b.DQ"))  # fmt: skip
            inputs.append(f"{name}.b.dq")
        nodes.append(helper.make_node("Conv", inputs, [name], name, pads=[1] * 4))
        return name

    first = conv(dequantised("x", 0.03), "conv0", 3, 32)
    nodes.append(helper.make_node("Relu", [first], ["relu0"], "relu0"))
    skip = dequantised("relu0", 0.03)
    second = dequantised(conv(skip, "conv1", 32, 32), 0.02)
    nodes.append(helper.make_node("Add", [second, skip], ["sum"], "add"))
    nodes.append(helper.make_node("Relu", ["sum"], ["relu1"], "relu1"))
    nodes.append(helper.make_node("GlobalAveragePool", ["relu1"], ["y"], "mean"))
    model = model_of(nodes, [f32("x", [1, 3, 32, 32])], [f32("y", [1, 32, 1, 1])], weights)
    model.opset_import[0].version = opset
    return model
