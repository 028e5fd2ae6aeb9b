"""Networks as ONNX Runtime's quantiser writes them: cut for a GPU elsewhere, and for the CPU."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from models.make import make
from preemptc import trials
from preemptc.backends import EXACT, BackendOptions
from preemptc.backends.ort import profiler
from preemptc.backends.ort.tolerance import tolerance_of
from preemptc.backends.roofline import Precision
from preemptc.cache import BuildCache
from preemptc.compile_options import CompileOptions
from preemptc.goal import Goal
from preemptc.load import load
from preemptc.onnx_io.order import move_constants_to_readers
from preemptc.onnx_io.quantized import output_steps
from preemptc.pipeline import compile_model
from preemptc.profile import BoundaryCost
from tests.unit import onnx_models as models

Arrays = dict[str, Any]
WEIGHTS_FIRST = "w1 b1 w0 b0 x0 conv0 relu0 x1 conv1 relu1"
AT_READERS = "w0 b0 x0 conv0 relu0 w1 b1 x1 conv1 relu1"


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Two sets of random inputs."""

    def __init__(self, path: Path) -> None:
        self._sets: Iterator[Arrays] = iter([inputs_of(path, seed) for seed in range(2)])

    def get_next(self) -> Arrays | None:
        return next(self._sets, None)


def inputs_of(path: Path, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    inputs = session(path).get_inputs()
    return {each.name: rng.standard_normal(each.shape).astype(np.float32) for each in inputs}


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def quantized(name: str, folder: Path, *, is_symmetric: bool) -> Path:
    floats, path = folder / f"{name}.onnx", folder / f"{name}-8bit.onnx"
    make(name, floats)
    signed = {
        "activation_type": QuantType.QInt8,
        "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True},
    }
    quantize_static(
        floats,
        path,
        Calibration(floats),
        quant_format=QuantFormat.QDQ,
        reduce_range=True,  # no kernel saturates, whatever the processor
        **(signed if is_symmetric else {}),
    )
    return path


def outputs_of_pieces(bundle: Path, inputs: Arrays) -> Arrays:
    """The pieces one after the other, each with what the plan says that it reads."""
    (plan,) = json.loads((bundle / "manifest.json").read_text())["plans"]
    values = dict(inputs)
    for segment in plan["segments"]:
        read = {name: values[name] for name in segment["inputs"]}
        found = session(bundle / segment["path"]).run(segment["outputs"], read)
        values.update(zip(segment["outputs"], found, strict=True))
    return values


@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize(
    ("name", "precision", "num_segments"),
    [("tiny_branchy", "fp32", 3), ("mobilenet_v2", "fp16", 6)],
)
def test_portable_pieces_compute_the_whole(
    tmp_path: Path, name: str, precision: Precision, num_segments: int, is_symmetric: bool
) -> None:
    path, bundle = quantized(name, tmp_path, is_symmetric=is_symmetric), tmp_path / "bundle"
    options = CompileOptions(
        target="orin",
        goal=Goal(num_segments=num_segments),
        backend=BackendOptions(precision=precision, engines="skip"),
    )
    compile_model(path, bundle, options, BuildCache(tmp_path / "cache"))
    (plan,) = json.loads((bundle / "manifest.json").read_text())["plans"]
    whole = onnx.load(bundle / "graph/model.onnx", load_external_data=False)
    ranges = [segment["source_range"] for segment in plan["segments"]]
    assert len(ranges) == num_segments
    for segment, (start, end) in zip(plan["segments"], ranges, strict=True):
        assert start < end
        piece = onnx.load(bundle / segment["path"], load_external_data=False)
        names = [node.name for node in whole.graph.node[start:end]]
        assert [node.name for node in piece.graph.node] == names
    handed_over = [name for segment in plan["segments"][:-1] for name in segment["outputs"]]
    assert not [name for name in handed_over if ".weight" in name or ".bias" in name]
    inputs = inputs_of(path, seed=9)
    found = outputs_of_pieces(bundle, inputs)
    expected = session(path)
    names = [output.name for output in expected.get_outputs()]
    for output, values in zip(names, expected.run(None, inputs), strict=True):
        np.testing.assert_array_equal(found[output], values)


def ordered(order: str) -> onnx.ModelProto:
    """Two convolutions with a DQ of each weight and bias, the nodes in a given order."""
    weights = [numpy_helper.from_array(np.float32(0.01), "scale")]
    nodes: dict[str, onnx.NodeProto] = {}
    for idx, tensor in enumerate(("x", "relu0")):
        weights.append(numpy_helper.from_array(np.ones((3, 3, 1, 1), np.int8), f"w{idx}.i"))
        weights.append(numpy_helper.from_array(np.ones(3, np.int32), f"b{idx}.i"))
        for name in (f"w{idx}", f"b{idx}"):
            read = [f"{name}.i", "scale"]
            nodes[name] = helper.make_node("DequantizeLinear", read, [name], name)
        nodes[f"x{idx}"] = helper.make_node("Neg", [tensor], [f"x{idx}"], f"x{idx}")
        read = [f"x{idx}", f"w{idx}", f"b{idx}"]
        nodes[f"conv{idx}"] = helper.make_node("Conv", read, [f"conv{idx}"], f"conv{idx}")
        output = "relu0" if idx == 0 else "y"
        nodes[f"relu{idx}"] = helper.make_node("Relu", [f"conv{idx}"], [output], f"relu{idx}")
    interface = [models.f32("x", [1, 3, 4, 4])], [models.f32("y", [1, 3, 4, 4])]
    return models.model_of([nodes[name] for name in order.split()], *interface, weights)


@pytest.mark.parametrize("order", [WEIGHTS_FIRST, AT_READERS])
def test_dequantised_weights_stand_at_their_readers(tmp_path: Path, order: str) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(ordered(order), path)
    loaded = load(path, {}, BuildCache(tmp_path / "cache"))
    names = [node.name for node in loaded.graph.nodes]
    expected = ["x0", "w0", "b0", "conv0", "relu0", "x1", "w1", "b1", "conv1", "relu1"]
    assert names == expected
    again = load(loaded.path, {}, BuildCache(tmp_path / "cache"))
    assert [node.name for node in again.graph.nodes] == names


def test_chains_shared_and_unread_constants_move_together() -> None:
    nodes = [
        helper.make_node("Neg", ["w"], ["unread"], "unread"),
        helper.make_node("QuantizeLinear", ["w", "s"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s"], ["dq"], "dq"),
        helper.make_node("Relu", ["x"], ["a"], "a"),
        helper.make_node("MatMul", ["a", "dq"], ["b"], "b"),
        helper.make_node("MatMul", ["b", "dq"], ["y"], "y"),
    ]
    weights = [models.weight("w", 4, 4), numpy_helper.from_array(np.float32(1), "s")]
    model = models.model_of(nodes, [models.f32("x", [4, 4])], [models.f32("y", [4, 4])], weights)
    move_constants_to_readers(model.graph)
    assert [node.name for node in model.graph.node] == ["a", "q", "dq", "b", "y", "unread"]


def test_a_constant_that_a_subgraph_reads_stands_before_it() -> None:
    model = models.with_if()
    before = [node.name for node in model.graph.node]
    (branching,) = [node for node in model.graph.node if node.op_type == "If"]
    captured = helper.make_node("Neg", ["c"], ["negative"], "negative")
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "c"))
    model.graph.node.insert(0, captured)
    for attribute in branching.attribute:
        attribute.g.node.append(helper.make_node("Identity", ["negative"], ["unread"], "reader"))
    move_constants_to_readers(model.graph)
    names = [node.name for node in model.graph.node]
    assert names.index("negative") + 1 == names.index(branching.name)
    assert [name for name in names if name != "negative"] == before


def ties(step: float) -> onnx.ModelProto:
    """x times 70.7 in 8 bits: every sixth of the products lies in the middle of two steps."""
    parameters = {"x.s": 0.07, "w.s": 70.7, "y.s": step}
    weights = [numpy_helper.from_array(np.float32(v), name) for name, v in parameters.items()]
    weights.append(numpy_helper.from_array(np.int8(0), "z"))
    weights.append(numpy_helper.from_array(np.ones((1, 1, 1, 1), np.int8), "w"))
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "w.s", "z"], ["w.dq"], "w.DQ"),
        helper.make_node("QuantizeLinear", ["x", "x.s", "z"], ["x.q"], "x.Q"),
        helper.make_node("DequantizeLinear", ["x.q", "x.s", "z"], ["x.dq"], "x.DQ"),
        helper.make_node("Conv", ["x.dq", "w.dq"], ["conv"], "conv"),
        helper.make_node("QuantizeLinear", ["conv", "y.s", "z"], ["y.q"], "y.Q"),
        helper.make_node("DequantizeLinear", ["y.q", "y.s", "z"], ["y"], "y.DQ"),
    ]
    shape = [1, 1, 16, 16]
    return models.model_of(nodes, [models.f32("x", shape)], [models.f32("y", shape)], weights)


def test_a_cpu_compile_allows_for_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_TRIAL_BUDGET_NS", "_FINAL_BUDGET_NS"):
        monkeypatch.setattr(trials, name, 0)
    monkeypatch.setattr(profiler, "_BUDGET_NS", 20_000_000)
    boundary = BoundaryCost(fixed_ns=100, ns_per_byte=0.0)
    monkeypatch.setattr(profiler, "measure_boundary", lambda threads, progress: boundary)
    step = 6 * 0.07 * 70.7
    path, bundle = tmp_path / "ties.onnx", tmp_path / "bundle"
    onnx.save(ties(step), path)
    options = CompileOptions(
        target="cpu", goal=Goal(num_segments=1), backend=BackendOptions(threads=2)
    )
    compile_model(path, bundle, options, BuildCache(tmp_path / "cache"))
    check = json.loads((bundle / "manifest.json").read_text())["check"]
    assert check["source_max_abs_diff"] == pytest.approx(step, rel=1e-3)


def test_the_allowance_of_a_quantised_network(tmp_path: Path) -> None:
    tolerance = tolerance_of(ties(0.5), tmp_path)
    assert tolerance.source_limits == {"y": 3.0}
    assert (tolerance.chained_frac, tolerance.source_frac) == (0.0, 0.06)
    assert "reduce_range" in tolerance.advice


def test_a_float_network_keeps_its_tolerance(tmp_path: Path) -> None:
    assert tolerance_of(models.chain(), tmp_path) is EXACT
    assert "precision" not in EXACT.advice


@pytest.mark.parametrize("last", ["Identity", "Relu"])
def test_steps_are_seen_through_nodes_that_move_values(tmp_path: Path, last: str) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s"], ["dq"], "dq"),
        helper.make_node("Transpose", ["dq"], ["t"], "t"),
        helper.make_node(last, ["t"], ["y"], "y"),
    ]
    outputs = [models.f32("y", [4, 4]), helper.make_tensor_value_info("q", 2, [4, 4])]
    weights = [numpy_helper.from_array(np.float32(0.5), "s")]
    model = models.model_of(nodes, [models.f32("x", [4, 4])], outputs, weights)
    expected = {"y": 0.5, "q": 1.0} if last == "Identity" else {"q": 1.0}
    assert output_steps(model, tmp_path) == expected
