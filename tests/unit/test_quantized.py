"""Networks with Q and DQ: made fit for TensorRT without a change of what they compute."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from preemptc.backends.tensorrt.quantized import prepare_quantized
from preemptc.cache import BuildCache
from preemptc.load import load
from preemptc.onnx_io.files import read_graph
from preemptc.onnx_io.graphs import graph_from_proto
from preemptc.onnx_io.precision import half_precision
from preemptc.onnx_io.quantized import is_quantized
from tests.unit import onnx_models

X = np.random.default_rng(5).standard_normal((1, 3, 32, 32), dtype=np.float32)


def output_of(proto: onnx.ModelProto) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(proto.SerializeToString(), options).run(None, {"x": X})[0]


def defined_output_of(proto: onnx.ModelProto) -> Any:
    """By ONNX's definitions: fp16 QuantizeLinear of ONNX Runtime truncates on some processors."""
    in_order = gs.export_onnx(gs.import_onnx(proto).toposort())
    outputs: Any = ReferenceEvaluator(in_order).run(None, {"x": X})
    return outputs[0]


def prepared(proto: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    found = onnx.shape_inference.infer_shapes(proto)
    prepare_quantized(found, folder)
    return found


@pytest.mark.parametrize("has_bias", [False, True])
def test_the_network_computes_the_same(has_bias: bool, tmp_path: Path) -> None:
    source = onnx_models.quantised(has_bias=has_bias)
    proto = prepared(source, tmp_path)
    onnx.checker.check_model(proto, full_check=True)
    assert len(np.unique(output_of(source))) > 20
    np.testing.assert_array_equal(output_of(proto), output_of(source))
    left = {tensor.name for tensor in proto.graph.initializer}
    assert left == {name for node in proto.graph.node for name in node.input} & left


def test_every_dequantiser_has_one_reader(tmp_path: Path) -> None:
    proto = prepared(onnx_models.quantised(has_bias=True), tmp_path)
    graph = graph_from_proto(proto)
    readers = [name for node in graph.nodes for name in node.inputs]
    dequantised = [n.outputs[0] for n in graph.nodes if n.op_type == "DequantizeLinear"]
    assert len(dequantised) == 6
    assert all(readers.count(name) == 1 for name in dequantised)
    assert all(name in graph.tensors for name in dequantised)
    assert len({node.name for node in graph.nodes}) == graph.num_nodes


@pytest.mark.parametrize("wants_float_weights", [False, True])
def test_a_convolution_is_told_the_shape_of_its_kernel(
    wants_float_weights: bool, tmp_path: Path
) -> None:
    proto = onnx_models.quantised()
    prepare_quantized(proto, tmp_path, wants_float_weights=wants_float_weights)
    convs = [node for node in proto.graph.node if node.op_type == "Conv"]
    shapes = [list(a.ints) for node in convs for a in node.attribute if a.name == "kernel_shape"]
    assert shapes == [[3, 3]] * len(convs) == [[3, 3], [3, 3]]


def test_a_bias_in_a_weights_file_is_folded(tmp_path: Path) -> None:
    width = 600  # biases and scales above a kilobyte go to the file
    proto = onnx_models.quantised(has_bias=True)
    bias = np.arange(width, dtype=np.int32)
    scale = np.linspace(0.1, 0.2, width, dtype=np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(bias, "far"))
    proto.graph.initializer.append(numpy_helper.from_array(scale, "far.scale"))
    proto.graph.node.append(
        helper.make_node("DequantizeLinear", ["far", "far.scale"], ["far.dq"], "far.DQ", axis=0)
    )
    proto.graph.node.append(helper.make_node("Identity", ["far.dq"], ["z"], "z"))
    proto.graph.output.append(onnx_models.f32("z", [width]))
    path = onnx_models.save(proto, tmp_path / "net.onnx")
    model = load(path, {}, BuildCache(tmp_path / "cache"))
    loaded = read_graph(model.path)
    stored = {tensor.name: tensor for tensor in loaded.graph.initializer}
    assert stored["far"].data_location == TensorProto.EXTERNAL
    prepare_quantized(loaded, model.path.parent)
    (folded,) = [each for each in loaded.graph.initializer if each.name == "far.dq"]
    expected = (bias * scale).astype(np.float32)
    np.testing.assert_array_equal(numpy_helper.to_array(folded), expected)


def test_int8_weights_stay_where_tensorrt_takes_them(tmp_path: Path) -> None:
    proto = prepared(onnx_models.quantised(), tmp_path)
    (weight,) = [each for each in proto.graph.initializer if each.name == "conv0.w"]
    assert weight.data_type == TensorProto.INT8


@pytest.mark.parametrize("has_bias", [False, True])
def test_float_weights_quantise_to_the_same_values(has_bias: bool, tmp_path: Path) -> None:
    source = onnx_models.quantised(has_bias=has_bias)
    proto = onnx.shape_inference.infer_shapes(source)
    prepare_quantized(proto, tmp_path, wants_float_weights=True)
    onnx.checker.check_model(proto, full_check=True)
    np.testing.assert_array_equal(output_of(proto), output_of(source))
    kinds = {each.name: each.data_type for each in proto.graph.initializer}
    assert kinds["conv0.w.dq_f"] == TensorProto.FLOAT
    assert "conv0.w" not in kinds
    feeders = {name: node.op_type for node in proto.graph.node for name in node.output}
    dequantisers = [node for node in proto.graph.node if node.op_type == "DequantizeLinear"]
    assert {feeders[node.input[0]] for node in dequantisers} == {"QuantizeLinear"}


WEIGHTS = np.random.default_rng(6).integers(-100, 101, (4, 3, 3, 3)).astype(np.int8)


def weights_only(
    *inputs: object, axis: int = 0, opset: int = 17, **attributes: int
) -> onnx.ModelProto:
    """A convolution whose kernel `w` is a DQ of constants: values, scale and maybe zero point."""
    names = [f"w_{letter}" for letter in "qsz"[: len(inputs)]]
    arrays = zip(names, map(np.asarray, inputs), strict=True)
    weights = [numpy_helper.from_array(array, name) for name, array in arrays]
    nodes = [
        helper.make_node("DequantizeLinear", names, ["w"], "w.DQ", axis=axis),
        helper.make_node("Conv", ["x", "w"], ["y"], "conv"),
    ]
    nodes[0].attribute.extend(helper.make_attribute(*each) for each in attributes.items())
    x, y = onnx_models.f32("x", list(X.shape)), onnx_models.f32("y", [1, 4, 30, 30])
    graph = helper.make_graph(nodes, "net", [x], [y], weights)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("axis", [0, 1, 3, -4, -1])
@pytest.mark.parametrize("has_zero_point", [False, True])
def test_float_weights_of_any_axis(axis: int, has_zero_point: bool, tmp_path: Path) -> None:
    width = WEIGHTS.shape[axis]
    given: list[object] = [WEIGHTS, np.linspace(0.01, 0.02, width, dtype=np.float32)]
    if has_zero_point:
        given.append(np.arange(width, dtype=np.int8))
    source = weights_only(*given, axis=axis)  # its int8 weights are called `w_q`
    proto = onnx.shape_inference.infer_shapes(source)
    prepare_quantized(proto, tmp_path, wants_float_weights=True)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.graph.node[0].op_type == "QuantizeLinear"
    np.testing.assert_allclose(output_of(proto), output_of(source), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int8, np.int32])
@pytest.mark.parametrize(
    ("scale", "attributes"),
    [
        (np.full((4, 3, 3, 1), 0.5, np.float32), {"axis": 3, "block_size": 3}),
        (np.full(4, 0.5, np.float32), {"axis": 9}),
        (np.full(5, 0.5, np.float32), {"axis": 0}),
    ],
    ids=["blocks", "no such axis", "too many scales"],
)
def test_what_no_scale_an_axis_describes_is_left(
    dtype: type, scale: object, attributes: dict[str, int], tmp_path: Path
) -> None:
    proto = weights_only(WEIGHTS.astype(dtype), scale, opset=21, **attributes)
    prepare_quantized(proto, tmp_path, wants_float_weights=True)
    assert [node.op_type for node in proto.graph.node] == ["DequantizeLinear", "Conv"]


def test_a_quantiser_in_a_loop_counts() -> None:
    image = [1, 3]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes"], "go"),
            helper.make_node("QuantizeLinear", ["v", "s", "z"], ["q"], "Q"),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], "DQ"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            onnx_models.f32("v", image),
        ],
        [helper.make_tensor_value_info("goes", TensorProto.BOOL, []), onnx_models.f32("w", image)],
    )
    constants = {"n": np.int64(2), "true": np.bool_(True), "s": np.float32(0.1), "z": np.int8(0)}
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "true", "x"], ["y"], "loop", body=body)],
        "net",
        [onnx_models.f32("x", image)],
        [onnx_models.f32("y", image)],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert is_quantized(proto)
    half = half_precision(proto, "net")
    assert half.opset_import[0].version == 19
    ort.InferenceSession(half.SerializeToString())  # it accepts the types


def test_half_precision_of_weights_that_only_a_dequantiser_reads(tmp_path: Path) -> None:
    source = weights_only(WEIGHTS, np.full(4, 0.01, np.float32), np.zeros(4, np.int8))
    half = half_precision(prepared(source, tmp_path), "net")
    expected = output_of(source)
    assert np.abs(output_of(half) - expected).max() < 5e-3 * np.abs(expected).max()


@pytest.mark.parametrize("opset", [13, 17, 19])
def test_half_precision_reaches_the_scales(opset: int, tmp_path: Path) -> None:
    source = onnx_models.quantised(has_bias=True, opset=opset)
    half = half_precision(prepared(source, tmp_path), "net")
    tensors = graph_from_proto(half).tensors
    assert tensors["relu0.q"].dtype == "int8"
    assert tensors["relu0.dq"].dtype == tensors["conv1"].dtype == "float16"
    expected = output_of(source)
    assert np.abs(defined_output_of(half) - expected).max() < 5e-3 * np.abs(expected).max()
