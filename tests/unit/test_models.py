import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.graph_builder import GraphBuilder
from models.image_layers import add
from models.inference import random_inputs, run_once
from models.make import NAMES, describe, main, make
from models.network import Weight
from models.network_file import write_network
from models.published import PUBLISHED_PARAMETERS

QUICK = ["tiny_cnn", "tiny_branchy", "mobilenet_v2", "light/squeezenet", "light/shufflenet"]


def assert_informative(path: Path) -> None:
    for name, output in run_once(path).items():
        assert np.isfinite(output).all(), name
        assert len(np.unique(output)) > 100, name


def weight(name: str = "w", spread: float = 2.0) -> Weight:
    return Weight(
        name=name,
        shape=(100, 100),
        distribution="normal",
        center=1.0,
        spread=spread,
        is_learnable=True,
    )


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_parameter_count_is_the_published_one(name: str) -> None:
    assert describe(name).num_parameters == PUBLISHED_PARAMETERS[name]


@pytest.mark.parametrize("name", [name for name in NAMES if "/" not in name])
def test_batch_is_the_first_dimension_of_inputs_and_outputs(name: str) -> None:
    network = describe(name, batch=3)
    for info in (*network.inputs, *network.outputs):
        assert info.type.tensor_type.shape.dim[0].dim_value == 3
    assert network.num_parameters == describe(name).num_parameters


@pytest.mark.parametrize("name", NAMES)
def test_every_node_has_its_own_name(name: str) -> None:
    nodes = describe(name).nodes
    assert all(node.name for node in nodes)
    assert len({node.name for node in nodes}) == len(nodes)


@pytest.mark.parametrize("name", NAMES)
def test_the_shape_of_every_tensor_is_written(name: str) -> None:
    network = describe(name)
    known = {info.name for info in (*network.value_infos, *network.outputs)}
    assert {tensor for node in network.nodes for tensor in node.output} == known


@pytest.mark.parametrize("name", QUICK)
def test_quick_networks_are_valid_and_informative(name: str, tmp_path: Path) -> None:
    assert_informative(make(name, tmp_path / "model.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_network_is_valid_and_informative(name: str, tmp_path: Path) -> None:
    path = make(name, tmp_path / "model.onnx")
    assert_informative(path)
    for file in tmp_path.iterdir():
        file.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet", "vit_b_16", "bert_base", "segformer_b0"])
def test_larger_batches_run(name: str, tmp_path: Path) -> None:
    path = make(name, tmp_path / "model.onnx", batch=2)
    assert_informative(path)
    for file in tmp_path.iterdir():
        file.unlink()


@pytest.mark.parametrize("name", ["tiny_branchy", "light/squeezenet"])
def test_same_seed_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    first, again, other = (tmp_path / file for file in ("a.onnx", "b.onnx", "c.onnx"))
    make(name, first, seed=7)
    make(name, again, seed=7)
    make(name, other, seed=8)
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    here, there = tmp_path / "here.onnx", tmp_path / "there.onnx"
    make("tiny_cnn", here)
    command = [sys.executable, "-m", "models.make", "tiny_cnn", "-o", str(there)]
    subprocess.run(command, check=True)
    assert here.read_bytes() == there.read_bytes()


def test_external_data_gives_the_same_outputs_and_bytes(tmp_path: Path) -> None:
    inside = make("tiny_branchy", tmp_path / "inside.onnx")
    outside = make("tiny_branchy", tmp_path / "a" / "outside.onnx", external_data=True)
    again = make("tiny_branchy", tmp_path / "b" / "outside.onnx", external_data=True)
    data = outside.with_name("outside.onnx.data")
    assert data.stat().st_size > 0
    assert stat.S_IMODE(data.stat().st_mode) == stat.S_IMODE(outside.stat().st_mode) == 0o644
    assert sorted(path.name for path in outside.parent.iterdir()) == [outside.name, data.name]
    assert outside.read_bytes() == again.read_bytes()
    assert data.read_bytes() == again.with_name(data.name).read_bytes()
    expected, found = run_once(inside), run_once(outside)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_weights_above_64_mib_are_external() -> None:
    assert describe("resnet50").weight_bytes > 64 * 1024 * 1024
    assert describe("mobilenet_v2").weight_bytes < 64 * 1024 * 1024


def test_a_weight_depends_on_seed_network_and_name_only() -> None:
    values = weight().draw(0, "net")
    assert values.dtype == np.float32
    assert abs(values.mean() - 1) < 0.1
    assert abs(values.std() - 2) < 0.1
    assert np.array_equal(values, weight().draw(0, "net"))
    for other in (weight("v").draw(0, "net"), weight().draw(1, "net"), weight().draw(0, "ten")):
        assert not np.array_equal(values, other)


def test_a_weight_refuses_a_negative_seed() -> None:
    with pytest.raises(ValueError, match="seed -1 is negative"):
        weight().draw(-1, "net")


def test_layers_share_a_weight_only_if_they_mean_the_same() -> None:
    graph = GraphBuilder("net")
    graph.normal("w", (2, 3), 1.0)
    graph.normal("w", (2, 3), 1.0)
    assert graph.network().num_parameters == 6
    with pytest.raises(ValueError, match=r"w: .* differs"):
        graph.normal("w", (3, 2), 1.0)


def test_random_inputs_have_the_shapes_and_types_of_the_graph(tmp_path: Path) -> None:
    graph = GraphBuilder("net")
    int64 = describe("bert_base").inputs[0].type.tensor_type.elem_type
    ids = graph.input("ids", (2, 50), int64)
    image = graph.input("image", (2, 50, 4))
    rows = graph.node("Gather", [graph.normal("table", (2, 4), 1.0), ids], "rows", (2, 50, 4))
    graph.output("sum", add(graph, rows, image, "add"))
    path = write_network(graph.network(), tmp_path / "model.onnx")
    inputs = random_inputs(path)
    assert inputs["image"].shape == (2, 50, 4)
    assert inputs["image"].dtype == np.float32
    assert inputs["ids"].shape == (2, 50)
    assert set(inputs["ids"].flat) == {0, 1}
    assert np.array_equal(inputs["image"], random_inputs(path)["image"])
    assert not np.array_equal(inputs["image"], random_inputs(path, seed=1)["image"])


def test_list_prints_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert tuple(capsys.readouterr().out.split()) == NAMES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_net", "-o", "x.onnx"], "no network 'no_such_net'"),
        (["tiny_cnn", "-o", "x.onnx", "--batch", "0"], "batch 0, must be 1 or more"),
        (["light/vgg19", "-o", "x.onnx", "--batch", "2"], "only batch 1"),
    ],
)
def test_what_cannot_be_made_is_one_line_and_exit_1(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="negative"):
        make("tiny_cnn", tmp_path / "model.onnx", seed=-1, external_data=True)
    assert list(tmp_path.iterdir()) == []
