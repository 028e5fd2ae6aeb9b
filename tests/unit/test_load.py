"""Loading: what is accepted comes out static, folded and external; what is not is one line."""

import os
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from preempt_runtime.errors import ModelError
from preemptc.cache import BuildCache
from preemptc.load import Shapes, load
from preemptc.model import Model
from preemptc.onnx_io import simplify
from preemptc.onnx_io.files import all_graphs, external_range, read
from tests.unit import onnx_models as models


def loaded(proto: onnx.ModelProto, folder: Path, shapes: Shapes | None = None) -> Model:
    path = models.save(proto, folder / "net.onnx")
    return load(path, shapes or {}, BuildCache(folder / "cache"))


def test_chain_keeps_nodes_interface_and_weights(tmp_path: Path) -> None:
    model = loaded(models.chain(3), tmp_path)
    assert [node.op_type for node in model.graph.nodes] == ["MatMul", "Relu"] * 3
    assert (model.graph.inputs, model.graph.outputs) == (("x",), ("r2",))
    assert model.graph.tensors["m1"].shape == (4, 32)
    assert sum(model.graph.weight_bytes.values()) == 3 * 32 * 32 * 4
    assert model.path.with_name("weights.data").stat().st_size >= 3 * 32 * 32 * 4
    assert model.path.stat().st_size < 4096


def test_a_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    """The checker quotes it, and its message cannot be decoded then, or is lost (Python 3.10)."""
    damaged = models.chain(2).SerializeToString().replace(b"MatMul", b"\xcfatMul")
    path = tmp_path / "net.onnx"
    path.write_bytes(damaged)
    refusal = r"^net.onnx: (a name in it is no UTF-8 text, .*|ONNX's checker refuses it .*) again$"
    with pytest.raises(ModelError, match=refusal):
        load(path, {}, BuildCache(tmp_path / "cache"))


def test_of_a_damaged_file_nothing_but_one_line_comes_out(tmp_path: Path) -> None:
    whole = models.with_if().SerializeToString()
    rng = Random(0)
    lines = []
    for number in range(60):
        damaged = bytearray(whole)
        damaged[rng.randrange(600)] = rng.randrange(256)
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(damaged)
        try:
            load(path, {}, BuildCache(tmp_path / "cache"))
        except ModelError as err:
            lines.append(str(err))
    assert len(lines) > 20
    assert not any("\n" in line for line in lines)


def test_nothing_constant_stays_a_live_tensor(tmp_path: Path) -> None:
    model = loaded(models.constants_everywhere(), tmp_path)
    assert [node.op_type for node in model.graph.nodes] == ["MatMul", "Reshape", "Relu"]
    assert all(len(node.inputs) == 1 for node in model.graph.nodes)


@pytest.mark.parametrize("value", [{"value_float": 2.5}, {"value_floats": [2.5] * 32}])
def test_constants_without_a_tensor_are_floats_in_inner_graphs_too(
    value: dict[str, Any], tmp_path: Path
) -> None:
    source = models.with_if()
    branching, add = source.graph.node[4:6]
    (branch,) = [each.g for each in branching.attribute if each.name == "then_branch"]
    for graph, reader in ((branch, branch.node[0]), (source.graph, add)):
        reader.op_type, reader.input[1] = "Mul", f"{graph.name}_c"
        constant = helper.make_node("Constant", [], [f"{graph.name}_c"], "constant", **value)
        graph.node.insert(0, constant)
    model = loaded(source, tmp_path)
    onnx.checker.check_model(str(model.path), full_check=True)


def test_constants_computed_from_external_weights_are_folded(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"], "transpose"),
        helper.make_node("MatMul", ["x", "wt"], ["y"], "matmul"),
    ]
    proto = models.model_of(
        nodes, [models.f32("x", [4, 64])], [models.f32("y", [4, 64])], [models.weight("w", 64, 64)]
    )
    path = tmp_path / "net.onnx"
    onnx.save(proto, str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    model = load(path, {}, BuildCache(tmp_path / "cache"))
    assert [node.op_type for node in model.graph.nodes] == ["MatMul"]
    folded = onnx.load(str(model.path))
    expected = numpy_helper.to_array(models.weight("w", 64, 64)).T
    assert np.array_equal(numpy_helper.to_array(folded.graph.initializer[0]), expected)


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    model = loaded(models.with_function(), tmp_path)
    assert [node.op_type for node in model.graph.nodes] == ["Sigmoid", "Mul"] * 2


def test_tensors_captured_by_subgraphs_are_inputs_of_the_node(tmp_path: Path) -> None:
    nodes = {node.op_type: node for node in loaded(models.with_if(), tmp_path).graph.nodes}
    assert set(nodes["If"].inputs) == {"is_large", "a"}
    assert {"greater", "if"} <= {node.name for node in nodes.values()}
    folder = tmp_path / "loop"
    folder.mkdir()
    nodes = {node.op_type: node for node in loaded(models.with_loop(), folder).graph.nodes}
    assert {"start", "captured"} <= set(nodes["Loop"].inputs)


def test_an_output_that_is_an_input_gets_a_node(tmp_path: Path) -> None:
    model = loaded(models.many_ports(), tmp_path)
    assert len(model.graph.outputs) == 3
    written = {name for node in model.graph.nodes for name in node.outputs}
    assert set(model.graph.outputs) <= written


def test_tensors_of_data_dependent_shape_are_absent(tmp_path: Path) -> None:
    model = loaded(models.data_dependent(), tmp_path)
    assert "where" not in model.graph.tensors
    assert "r" in model.graph.tensors


def test_dynamic_shape_is_chosen(tmp_path: Path) -> None:
    model = loaded(models.dynamic(), tmp_path, {"x": (3, 8)})
    assert model.graph.tensors["y"].shape == (3, 8)


def test_the_same_file_is_loaded_once_and_the_same_way(tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    cache, other = BuildCache(tmp_path / "a"), BuildCache(tmp_path / "b")
    first, second = load(path, {}, cache), load(path, {}, cache)
    assert cache.hits == 1
    assert first == second
    assert load(path, {}, other).digest == first.digest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"this is no model at all, but a sentence", "not an ONNX model"),
        (b"", "not an ONNX model"),
        (b"\x08", "not an ONNX model, or truncated"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load(path, {}, BuildCache(tmp_path / "cache"))


def test_a_truncated_model_is_refused(tmp_path: Path) -> None:
    path = models.save(models.chain(), tmp_path / "net.onnx")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="truncated"):
        load(path, {}, BuildCache(tmp_path / "cache"))


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / "absent.onnx", {}, BuildCache(tmp_path / "cache"))


def _external(folder: Path) -> Path:
    path = folder / "net.onnx"
    onnx.save(
        models.chain(), str(path), save_as_external_data=True, location="w.bin", size_threshold=0
    )
    return path


def test_missing_and_short_external_data_are_refused(tmp_path: Path) -> None:
    path = _external(tmp_path)
    os.truncate(tmp_path / "w.bin", 5000)
    with pytest.raises(ModelError, match=r"w\.bin: 4\.88 KiB, but weight .* ends at"):
        load(path, {}, BuildCache(tmp_path / "cache"))
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError, match=r"'w\.bin', which is missing or no regular file; copy"):
        load(path, {}, BuildCache(tmp_path / "cache"))


def test_external_data_outside_the_folder_is_refused(tmp_path: Path) -> None:
    path = _external(tmp_path)
    proto = onnx.load(str(path), load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../../etc/passwd"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="outside the model's folder"):
        load(path, {}, BuildCache(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("offset", "abc", r"net\.onnx: weight 'w0': external data has the offset 'abc'"),
        ("offset", "-4096", "the offset '-4096', expected bytes from 0 on"),
        ("length", "1e3", "the length '1e3'"),
        ("length", "9" * 5000, "the length '999"),
        ("length", "100", r"weight 'w0' has 100 B of external data, its shape needs 4 KiB"),
        ("length", "0", "has 0 B of external data"),
        ("location", "w\0.bin", "outside the model's folder"),
    ],
)
def test_impossible_external_ranges_are_refused(
    key: str, value: str, message: str, tmp_path: Path
) -> None:
    path = _external(tmp_path)
    proto = onnx.load(str(path), load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == key:
            entry.value = value
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=message):
        load(path, {}, BuildCache(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data_type": 999}, r"net\.onnx: weight 'w0' has the unknown data type 999"),
        ({"data_type": 0}, "the unknown data type 0"),
        ({"data_type": onnx.TensorProto.STRING}, "holds strings"),
        ({"dims": [-4, 4]}, r"the impossible shape \[-4, 4\]"),
        ({"dims": [-4, -4]}, r"the impossible shape \[-4, -4\]"),
        ({"dims": [2**32, 2**32]}, "the impossible shape"),  # wraps round to 0 in 64 bits
        ({"dims": [2**62] * 30}, "the impossible shape"),
    ],
)
def test_impossible_external_weights_are_refused(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = _external(tmp_path)
    proto = onnx.load(str(path), load_external_data=False)
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].MergeFrom(onnx.TensorProto(**fields))
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=message):
        load(path, {}, BuildCache(tmp_path / "cache"))


@pytest.mark.parametrize("kind", ["directory", "pipe", "loop of links", "name too long"])
def test_external_data_that_is_no_regular_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = _external(tmp_path)
    (tmp_path / "w.bin").unlink()
    if kind == "directory":
        (tmp_path / "w.bin").mkdir()
    elif kind == "pipe":
        os.mkfifo(tmp_path / "w.bin")
    elif kind == "loop of links":
        (tmp_path / "w.bin").symlink_to("back")
        (tmp_path / "back").symlink_to("w.bin")
    else:
        proto = onnx.load(str(path), load_external_data=False)
        proto.graph.initializer[0].external_data[0].value = "x" * 300
        path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="which is missing or no regular file"):
        load(path, {}, BuildCache(tmp_path / "cache"))


def test_packed_weights_need_half_a_byte_an_element() -> None:
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.INT4, dims=[3, 3])
    assert external_range(tensor) == ("", 0, 5)


def _saved_external(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "net.onnx"
    onnx.save(proto, str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    return path


def _location_after_simplify(path: Path, name: str) -> int:
    simple = simplify.simplify(read(path), {}, "net").proto
    (location,) = [t.data_location for t in simple.graph.initializer if t.name == name]
    return int(location)


def test_quantized_weights_are_not_read_into_the_graph(tmp_path: Path) -> None:
    path = _saved_external(models.quantized_weight(), tmp_path)
    assert _location_after_simplify(path, "w") == onnx.TensorProto.EXTERNAL
    model = load(path, {}, BuildCache(tmp_path / "cache"))
    assert [node.op_type for node in model.graph.nodes] == ["DequantizeLinear", "MatMul"]


def _transposed() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"], "transpose"),
        helper.make_node("Neg", ["wt"], ["wn"], "neg"),
        helper.make_node("MatMul", ["x", "wn"], ["y"], "matmul"),
    ]
    interface = [models.f32("x", [4, 64])], [models.f32("y", [4, 64])]
    return models.model_of(nodes, *interface, [models.weight("w", 64, 64)])


def test_huge_weights_stay_in_their_file_and_are_not_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _saved_external(_transposed(), tmp_path)
    monkeypatch.setattr(simplify, "MAX_FOLD_BYTES", 64 * 64 * 4 - 1)
    assert _location_after_simplify(path, "w") == onnx.TensorProto.EXTERNAL
    model = load(path, {}, BuildCache(tmp_path / "cache"))
    assert [node.op_type for node in model.graph.nodes] == ["Transpose", "Neg", "MatMul"]
    (written,) = onnx.load(str(model.path)).graph.initializer
    expected = numpy_helper.to_array(models.weight("w", 64, 64))
    assert np.array_equal(numpy_helper.to_array(written), expected)


def test_constants_cannot_be_folded_without_onnx_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = models.save(_transposed(), tmp_path / "net.onnx")
    cache = BuildCache(tmp_path / "cache")
    load(path, {}, cache)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"'transpose' computes a constant.*pip install onnxrunt"):
        load(path, {}, cache)
    chain = models.save(models.chain(), tmp_path / "chain.onnx")
    assert load(chain, {}, cache).graph.num_nodes == 12


def test_names_are_unique_across_subgraphs(tmp_path: Path) -> None:
    proto = models.with_if()
    branches = next(node for node in proto.graph.node if node.op_type == "If").attribute
    for branch in branches:
        branch.g.node[0].name = "add"
    proto.graph.node[0].name = "add_5"
    model = loaded(proto, tmp_path)
    written = onnx.load(str(model.path), load_external_data=False)
    names = [node.name for graph in all_graphs(written.graph) for node in graph.node]
    assert len(set(names)) == len(names)
    assert "add" in [node.name for node in model.graph.nodes]


def test_an_output_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    proto = models.chain()
    proto.graph.output.append(proto.graph.output[0])
    with pytest.raises(ModelError, match="is listed 2 times among the outputs; list it once"):
        loaded(proto, tmp_path)


def test_checker_invalid_model(tmp_path: Path) -> None:
    proto = models.chain()
    proto.graph.node[2].input[0] = "nobody"
    with pytest.raises(ModelError, match=r"checker refuses it.*nobody"):
        loaded(proto, tmp_path)


def test_unknown_operator_is_named(tmp_path: Path) -> None:
    proto = models.chain()
    proto.graph.node[1].op_type = "Reluu"
    with pytest.raises(ModelError, match="Reluu"):
        loaded(proto, tmp_path)


def test_a_constant_output_is_refused(tmp_path: Path) -> None:
    proto = models.chain()
    proto.graph.output.append(models.f32("w0", [32, 32]))
    with pytest.raises(ModelError, match=r"output .w0. is a constant.*remove it"):
        loaded(proto, tmp_path)


def test_sparse_weights_and_strings_are_refused(tmp_path: Path) -> None:
    proto = models.chain()
    proto.graph.input.append(helper.make_tensor_value_info("words", onnx.TensorProto.STRING, [1]))
    with pytest.raises(ModelError, match="'words' holds strings"):
        loaded(proto, tmp_path)
    proto = models.chain()
    values = helper.make_tensor("sparse", onnx.TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("indices", onnx.TensorProto.INT64, [1], [3])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [32]))
    with pytest.raises(ModelError, match="weight 'sparse' is sparse"):
        loaded(proto, tmp_path)


def test_a_path_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / ("x" * 300), {}, BuildCache(tmp_path / "cache"))


def test_dynamic_shape_without_a_choice(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'x' has the dynamic shape \[batch, 8\].*--shape x=1x8"):
        loaded(models.dynamic(), tmp_path)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"y": (1, 8)}, "--shape names 'y', the inputs are x"),
        ({"x": (1, 9)}, r"--shape x=1x9 contradicts the model's \[batch, 8\]"),
        ({"x": (1, 8, 1)}, "has 3 dimensions"),
        ({"x": (1 << 40, 8)}, "larger than 64 GiB"),
        ({"x": (1 << 59, 8)}, "larger than 64 GiB"),  # wraps round to 0 in 64 bits
        ({"x": (0, 8)}, "impossible"),
    ],
)
def test_impossible_shapes(tmp_path: Path, shapes: Shapes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        loaded(models.dynamic(), tmp_path, shapes)


def test_declared_shape_too_large(tmp_path: Path) -> None:
    proto = models.dynamic(None)
    dim = proto.graph.input[0].type.tensor_type.shape.dim[0]
    dim.dim_value = 1 << 50
    with pytest.raises(ModelError, match="larger than 64 GiB"):
        loaded(proto, tmp_path)
    assert not list((tmp_path / "cache" / "load").glob("*"))


def test_a_pipe_is_said_to_be_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="pipe: is a pipe or a device; give the path of an ONNX"):
        read(tmp_path / "pipe")
