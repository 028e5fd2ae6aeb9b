"""Fusion groups: what TensorRT says of its layers becomes the nodes that can be cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preemptc.backends.tensorrt.groups import FusedLayer, fusion_groups, merged_graph
from preemptc.backends.tensorrt.inspector import layers_from_json
from preemptc.model import Graph, Node, TensorInfo


def graph_of(*nodes: tuple[str, str, str]) -> Graph:
    """Nodes as (op, inputs, outputs), names separated by blanks; `x` goes in, the last comes out.

    A node is called after its first output.
    """
    made = tuple(
        Node(
            name=outputs.split()[0],
            op_type=op,
            domain="",
            inputs=tuple(inputs.split()),
            weights=(),
            outputs=tuple(outputs.split()),
        )
        for op, inputs, outputs in nodes
    )
    names = ["x", *(name for node in made for name in node.outputs)]
    tensors = {name: TensorInfo(name=name, dtype="float16", shape=(1, 8)) for name in names}
    return Graph(nodes=made, inputs=("x",), outputs=(names[-1],), tensors=tensors, weight_bytes={})


BLOCK = graph_of(
    ("Conv", "x", "a"),
    ("Relu", "a", "b"),
    ("Conv", "b", "c"),
    ("Add", "c b", "d"),
    ("Relu", "d", "e"),
)


def names(graph: Graph, groups: tuple[tuple[int, ...], ...]) -> list[str]:
    return ["".join(graph.nodes[idx].name for idx in group) for group in groups]


def test_layers_become_groups_in_topological_order() -> None:
    layers = [
        FusedLayer(name="a + b", node_names=("a", "b")),
        FusedLayer(name="c + d + e", node_names=("c", "d", "e")),
    ]
    groups = fusion_groups(BLOCK, layers)
    assert names(BLOCK, groups) == ["ab", "cde"]
    merged = merged_graph(BLOCK, groups)
    assert [node.name for node in merged.nodes] == ["a + b", "c + d + e"]
    assert [node.inputs for node in merged.nodes] == [("x",), ("b",)]
    assert [node.outputs for node in merged.nodes] == [("b",), ("e",)]


def test_a_node_that_no_layer_names_goes_with_its_reader() -> None:
    graph = graph_of(("Conv", "x", "a"), ("Reshape", "a", "b"), ("Gemm", "b", "c"))
    layers = [FusedLayer(name=name, node_names=(name,)) for name in "ac"]
    assert names(graph, fusion_groups(graph, layers)) == ["a", "bc"]


def test_an_opaque_layer_leaves_followers_with_what_feeds_them() -> None:
    layers = [FusedLayer(name="{ForeignNode[a...e]}", node_names=(), is_opaque=True)]
    # b is read twice, so the second convolution's sum goes with that convolution
    assert names(BLOCK, fusion_groups(BLOCK, layers)) == ["ab", "cde"]
    assert fusion_groups(BLOCK, []) == fusion_groups(BLOCK, layers)


def test_groups_that_wait_for_each_other_become_one() -> None:
    layers = [
        FusedLayer(name="a + c", node_names=("a", "c")),
        FusedLayer(name="b", node_names=("b",)),
        FusedLayer(name="d + e", node_names=("d", "e")),
    ]
    assert names(BLOCK, fusion_groups(BLOCK, layers)) == ["abc", "de"]


@given(st.data())
def test_groups_are_a_partition_that_can_run_in_order(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 12))
    nodes = []
    for idx in range(size):
        inputs = data.draw(st.lists(st.integers(-1, idx - 1), min_size=1, max_size=2, unique=True))
        fed_by = " ".join("x" if i < 0 else f"t{i}" for i in inputs)
        nodes.append((data.draw(st.sampled_from(["Conv", "Relu", "Add"])), fed_by, f"t{idx}"))
    graph = graph_of(*nodes)
    owner = data.draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    layers = [
        FusedLayer(
            name=str(layer), node_names=tuple(f"t{i}" for i in range(size) if owner[i] == layer)
        )
        for layer in range(data.draw(st.integers(0, 4)))
    ]
    groups = fusion_groups(graph, layers)
    assert sorted(idx for group in groups for idx in group) == list(range(size))
    done = {"x"}
    for node in merged_graph(graph, groups).nodes:
        assert set(node.inputs) <= done
        done.update(node.outputs)


def document(*layers: object) -> str:
    return json.dumps({"Layers": layers, "Bindings": ["x", "y"]})


KNOWN = ["conv1", "relu1", "/layer1/conv", "fc"]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ({"Name": "conv1 + relu1", "LayerType": "CaskConvolution"}, ("conv1", "relu1")),
        ("conv1 + relu1", ("conv1", "relu1")),
        ({"Name": "PWN(relu1)", "LayerType": "PointWise"}, ("relu1",)),
        ({"Name": "Reformatting CopyNode for Input Tensor 0 to /layer1/conv"}, ("/layer1/conv",)),
        (
            {"Name": "gemm", "Metadata": "[ONNX Layer: fc]\x1e[ONNX Layer: conv1]"},
            ("fc", "conv1"),
        ),
    ],
)
def test_nodes_are_read_from_names_and_metadata(layer: object, expected: tuple[str, ...]) -> None:
    (found,) = layers_from_json(document(layer), KNOWN)
    assert (found.node_names, found.is_opaque) == (expected, False)


def test_a_stretch_under_two_names_is_opaque() -> None:
    (found,) = layers_from_json(document({"Name": "{ForeignNode[conv1...fc]}"}), KNOWN)
    assert found.is_opaque
    assert found.node_names == ()


QUANTISED = graph_of(
    ("QuantizeLinear", "x", "xq"),
    ("DequantizeLinear", "xq", "xd"),
    ("DequantizeLinear", "", "wd"),
    ("Conv", "xd wd", "a"),
    ("Relu", "a", "b"),
    ("QuantizeLinear", "b", "bq"),
    ("DequantizeLinear", "bq", "bd"),
    ("DequantizeLinear", "bq", "skip"),
    ("DequantizeLinear", "", "vd"),
    ("Conv", "bd vd", "c"),
    ("QuantizeLinear", "c", "cq"),
    ("DequantizeLinear", "cq", "cd"),
    ("Add", "cd skip", "d"),
)


@pytest.mark.parametrize(
    "layers",
    [
        [],
        [FusedLayer(name="{ForeignNode[a...d]}", node_names=(), is_opaque=True)],
        [FusedLayer(name=n, node_names=tuple(n.split("+"))) for n in ("a+b", "c", "d")],
        [FusedLayer(name=n, node_names=tuple(n.split("+"))) for n in ("wd+a+b", "vd+c", "d")],
    ],
    ids=["nothing built", "opaque", "no quantiser named", "those of weights named"],
)
def test_a_cut_comes_between_a_quantiser_and_its_dequantisers(layers: list[FusedLayer]) -> None:
    merged = merged_graph(QUANTISED, fusion_groups(QUANTISED, layers))
    outputs = [node.outputs for node in merged.nodes]
    assert outputs == [("bq",), ("cq",), ("d",)]
    assert [set(node.inputs) for node in merged.nodes] == [{"x"}, {"bq"}, {"bq", "cq"}]


def test_a_quantiser_that_is_a_layer_of_its_own_stays_one() -> None:
    layers = [
        FusedLayer(name=n, node_names=tuple(n.split("+"))) for n in ("xq", "a+b", "bq", "c", "d")
    ]
    merged = merged_graph(QUANTISED, fusion_groups(QUANTISED, layers))
    assert [node.outputs for node in merged.nodes] == [("xq",), ("b",), ("bq",), ("cq",), ("d",)]
