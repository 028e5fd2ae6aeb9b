"""Networks in fp16: valid ONNX, in an order in which they run, and close to the fp32 network."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from preempt_runtime.errors import BuildError
from preemptc.backends import BackendOptions
from preemptc.cache import BuildCache
from preemptc.compile_options import CompileOptions
from preemptc.goal import Goal
from preemptc.onnx_io.files import all_graphs
from preemptc.onnx_io.order import sort_nodes
from preemptc.prepare import prepare
from tests.unit import onnx_models as models

Run = Callable[[onnx.ModelProto, np.ndarray[Any, Any]], Any]


def lowered(proto: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """What stands in lower/model.onnx, in fp16 for a GPU that is not here; ONNX takes it."""
    backend = BackendOptions(precision="fp16", engines="skip")
    options = CompileOptions(target="orin", goal=Goal(num_segments=1), backend=backend)
    path = models.save(proto, folder / "net.onnx")
    written = prepare(path, options, BuildCache(folder / "cache")).lowered.path
    onnx.checker.check_model(str(written), full_check=True)
    return onnx.load(str(written))


def output_of(proto: onnx.ModelProto, x: np.ndarray[Any, Any]) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(proto.SerializeToString(), options).run(None, {"x": x})[0]


def defined_output_of(proto: onnx.ModelProto, x: np.ndarray[Any, Any]) -> Any:
    """By ONNX's definitions: fp16 QuantizeLinear of ONNX Runtime truncates on some processors."""
    outputs: Any = ReferenceEvaluator(proto).run(None, {"x": x})
    return outputs[0]


def largest_error(source: onnx.ModelProto, folder: Path, half_output_of: Run = output_of) -> float:
    """How far fp16 is from fp32, as a share of the largest output."""
    x = np.random.default_rng(2).standard_normal((4, 8), dtype=np.float32)
    found, expected = half_output_of(lowered(source, folder), x), output_of(source, x)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def with_fp32_in_the_middle() -> onnx.ModelProto:
    """Max, which the converter leaves in fp32, between nodes that TensorRT fuses with it."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "matmul"),
        helper.make_node("Max", ["m", "low"], ["c"], "max"),
        helper.make_node("Tanh", ["c"], ["y"], "tanh"),
    ]
    low = numpy_helper.from_array(np.float32(0.5), "low")
    weights = [models.weight("w", 8, 8), low]
    return models.model_of(nodes, [models.f32("x", [4, 8])], [models.f32("y", [4, 8])], weights)


@pytest.mark.parametrize(
    "source", [models.chain(), with_fp32_in_the_middle(), models.quantised(), models.with_loop()]
)
def test_the_graph_in_half_precision_is_valid_and_in_order(
    source: onnx.ModelProto, tmp_path: Path
) -> None:
    names = [node.name for node in source.graph.node]
    found = [node.name for node in lowered(source, tmp_path).graph.node]
    assert [name for name in found if name in names] == [n for n in names if n in found]
    assert "graph_input_cast0" in found


def test_nodes_move_no_further_than_to_their_first_reader() -> None:
    loop = models.with_loop()
    order = [node.name for node in loop.graph.node]
    late = helper.make_node("Neg", ["x"], ["negative"], "late")
    body = loop.graph.node[2].attribute[0].g
    body.node[1].input[1] = "twice"
    body.node.append(helper.make_node("Add", ["negative", "i_f"], ["twice"], "twice"))
    body.node.append(helper.make_node("Cast", ["i"], ["i_f"], "to_float", to=1))
    loop.graph.node.append(late)
    sort_nodes(loop.graph)
    outer, inner = [[node.op_type for node in each.node] for each in all_graphs(loop.graph)]
    assert [node.name for node in loop.graph.node] == [*order[:2], "late", *order[2:]]
    assert (outer[2], inner) == ("Neg", ["Identity", "Cast", "Add", "Add"])
    onnx.checker.check_model(loop)


def dynamically_quantised(opset: int, *, is_integer: bool = False) -> onnx.ModelProto:
    """A network whose scale is computed as it runs, from a tensor that has to be fp32."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "matmul"),
        helper.make_node("DynamicQuantizeLinear", ["m"], ["q", "scale", "zero"], "dynamic"),
    ]
    if is_integer:
        nodes += [
            helper.make_node("MatMulInteger", ["q", "ones", "zero"], ["i"], "integer"),
            helper.make_node("Cast", ["i"], ["f"], "cast", to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", ["f", "scale"], ["y"], "mul"),
        ]
    else:
        nodes.append(helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], "DQ"))
    ones = numpy_helper.from_array(np.ones((8, 8), np.uint8), "ones")
    weights = [models.weight("w", 8, 8), *([ones] if is_integer else [])]
    x, y = models.f32("x", [4, 8]), models.f32("y", [4, 8])
    model = models.model_of(nodes, [x], [y], weights)
    model.opset_import[0].version = opset
    return model


@pytest.mark.parametrize("opset", [11, 13, 17, 19])
@pytest.mark.parametrize("is_integer", [False, True])
def test_what_takes_fp32_alone_stays_in_fp32(opset: int, is_integer: bool, tmp_path: Path) -> None:
    source = dynamically_quantised(opset, is_integer=is_integer)
    assert largest_error(source, tmp_path) < 1e-2
    half = lowered(source, tmp_path)
    (matmul,) = [node for node in half.graph.node if node.op_type == "MatMul"]
    types = {each.name: each.type.tensor_type.elem_type for each in half.graph.value_info}
    assert types[matmul.output[0]] == onnx.TensorProto.FLOAT16


def test_outputs_that_nobody_asks_for_keep_no_operator_in_fp32(tmp_path: Path) -> None:
    nodes = [helper.make_node("LayerNormalization", ["x", "w"], ["y"], "norm")]
    outputs = [models.f32("y", [4, 8])]
    source = models.model_of(nodes, [models.f32("x", [4, 8])], outputs, [models.weight("w", 8)])
    found = [node.op_type for node in lowered(source, tmp_path).graph.node]
    assert found == ["Cast", "LayerNormalization", "Cast"]


SCALE = {"s": np.float32(0.1), "z": np.int8(0)}


def constants(values: Mapping[str, object]) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]


def branch(kind: str, tensor: str, *, has_own_names: bool = False) -> onnx.GraphProto:
    """Q and DQ, an operator of `kind`, and Max, which stays in fp32; names that branches share."""
    own = kind if has_own_names else ""
    nodes = [
        helper.make_node("QuantizeLinear", [tensor, f"s{own}", f"z{own}"], [f"q{own}"], "Q"),
        helper.make_node("DequantizeLinear", [f"q{own}", f"s{own}", f"z{own}"], [f"d{own}"], "DQ"),
        helper.make_node(kind, [f"d{own}"], [f"k{own}"], kind),
        helper.make_node("Max", [f"k{own}", "captured"], [f"m{own}"], "max"),
        helper.make_node("Tanh", [f"m{own}"], [f"o{own}"], "tanh"),
    ]
    inner = constants({f"{name}{own}": value for name, value in SCALE.items()})
    return helper.make_graph(nodes, kind, [], [models.f32(f"o{own}", [4, 8])], inner)


def choice(condition: str, tensor: str, *, has_own_names: bool = False) -> onnx.NodeProto:
    branches = [branch(kind, tensor, has_own_names=has_own_names) for kind in ("Relu", "Neg")]
    names = ("then_branch", "else_branch")
    return helper.make_node(
        "If", [condition], ["b"], "if", **dict(zip(names, branches, strict=True))
    )


def with_quantised_branches(*, has_own_names: bool = False) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["captured"], "sigmoid"),
        helper.make_node("ReduceSum", ["x"], ["total"], "sum", keepdims=0),
        helper.make_node("Greater", ["total", "limit"], ["is_large"], "greater"),
        choice("is_large", "x", has_own_names=has_own_names),
        helper.make_node("Add", ["b", "captured"], ["y"], "add"),
    ]
    x, y = models.f32("x", [4, 8]), models.f32("y", [4, 8])
    return models.model_of(nodes, [x], [y], constants({"limit": np.float32(0)}))


def with_quantised_loop() -> onnx.ModelProto:
    """A Loop that quantises, and holds an If whose branches do so, too."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes"], "go"),
            helper.make_node("CumSum", ["v", "axis"], ["sums"], "sums"),
            helper.make_node("QuantizeLinear", ["sums", "ls", "lz"], ["lq"], "LQ"),
            helper.make_node("DequantizeLinear", ["lq", "ls", "lz"], ["ld"], "LDQ"),
            choice("go", "ld"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            models.f32("v", [4, 8]),
        ],
        [
            helper.make_tensor_value_info("goes", onnx.TensorProto.BOOL, []),
            models.f32("b", [4, 8]),
        ],
        constants({f"l{name}": value for name, value in SCALE.items()}),
    )
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["captured"], "sigmoid"),
        helper.make_node("Loop", ["turns", "true", "x"], ["y"], "loop", body=body),
    ]
    outer = {"turns": np.int64(2), "true": np.bool_(True), "axis": np.int64(0)}
    x, y = models.f32("x", [4, 8]), models.f32("y", [4, 8])
    return models.model_of(nodes, [x], [y], constants(outer))


@pytest.mark.parametrize("opset", [17, 19])
@pytest.mark.parametrize(
    "source",
    [with_quantised_branches(), with_quantised_branches(has_own_names=True), with_quantised_loop()],
    ids=["If", "If, own names", "Loop"],
)
def test_graphs_inside_others_are_converted(
    source: onnx.ModelProto, opset: int, tmp_path: Path
) -> None:
    source.opset_import[0].version = opset
    onnx.checker.check_model(source, full_check=True)
    assert largest_error(source, tmp_path, defined_output_of) < 1e-2


def test_what_the_converter_misses_is_refused_in_a_line_that_names_the_node(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], "most", keepdims=0),
        helper.make_node("Cast", ["most"], ["size"], "cast", to=onnx.TensorProto.INT64),
        helper.make_node("HannWindow", ["size"], ["window"], "window"),  # an attribute says: fp32
        helper.make_node("ReduceSum", ["window"], ["total"], "sum", keepdims=0),
        helper.make_node("Add", ["x", "total"], ["y"], "add"),
    ]
    source = models.model_of(nodes, [models.f32("x", [4, 8])], [models.f32("y", [4, 8])])
    expected = r"^net: cannot be converted to fp16.*node name: .*; keep --precision fp32$"
    with pytest.raises(BuildError, match=expected):
        lowered(source, tmp_path)
