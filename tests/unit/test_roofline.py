"""Operation counts by hand, and estimates of a GPU against what an H200 took."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from models.make import describe
from preemptc.backends.roofline import estimate_gpu, flops, moved_bytes
from preemptc.gpu_specs import GpuSpec, gpu_specs
from preemptc.model import Graph, Lowered, Node, TensorInfo
from preemptc.onnx_io.graphs import graph_from_proto

SPECS = {spec.name: spec for spec in gpu_specs()}
H200 = SPECS["h200"]
KERNEL_NS = 3_200  # of an H200, as the module states it

Shape = tuple[int, ...]


def node(
    op_type: str, inputs: Sequence[str], outputs: Sequence[str], weights: Sequence[str] = ()
) -> Node:
    return Node(
        name=f"{op_type}_{outputs[0]}",
        op_type=op_type,
        domain="",
        inputs=tuple(inputs),
        weights=tuple(weights),
        outputs=tuple(outputs),
    )


def graph(
    nodes: Sequence[Node],
    shapes: Mapping[str, Shape],
    weight_bytes: Mapping[str, int] | None = None,
    dtypes: Mapping[str, str] | None = None,
) -> Graph:
    """Tensors are float32 unless `dtypes` says otherwise."""
    made = {name for each in nodes for name in each.outputs}
    read = {name for each in nodes for name in each.inputs}
    tensors = {
        name: TensorInfo(name=name, dtype=(dtypes or {}).get(name, "float32"), shape=shape)
        for name, shape in shapes.items()
    }
    return Graph(
        nodes=tuple(nodes),
        inputs=tuple(sorted(read - made)),
        outputs=tuple(sorted(made - read)),
        tensors=tensors,
        weight_bytes=weight_bytes or {},
    )


def lowered(net: Graph) -> Lowered:
    return Lowered(
        target="h200",
        path=Path("model.onnx"),
        graph_digest="0" * 64,
        graph=net,
        source_positions=tuple(range(net.num_nodes + 1)),
        key="0" * 16,
        key_fields={},
    )


def zoo(name: str, batch: int) -> Graph:
    """A network of `models/`, its weights not drawn."""
    network = describe(name, batch=batch)
    weights = [
        TensorProto(name=weight.name, data_type=TensorProto.FLOAT, dims=weight.shape)
        for weight in network.weights
    ]
    proto = helper.make_graph(
        list(network.nodes),
        network.name,
        list(network.inputs),
        list(network.outputs),
        initializer=[*weights, *network.constants],
        value_info=list(network.value_infos),
    )
    return graph_from_proto(helper.make_model(proto))


@pytest.mark.parametrize(
    ("op_type", "shapes", "weights", "expected"),
    [
        # 8 filters of 3x3 over 4 channels, on 5x5: 2 * 8*25 * 4*9
        ("Conv", [(1, 4, 7, 7), (1, 8, 5, 5)], [8 * 4 * 9, 8], 2 * 200 * 36),
        ("Conv", [(2, 4, 7, 7), (2, 8, 5, 5)], [8 * 4 * 9, 8], 2 * 400 * 36),
        ("Conv", [(1, 8, 7, 7), (1, 8, 5, 5)], [8 * 2 * 9, 8], 2 * 200 * 18),  # 4 groups
        ("Conv", [(1, 8, 7, 7), (1, 8, 5, 5)], [8 * 1 * 9, 8], 2 * 200 * 9),  # depthwise
        ("Conv", [(1, 4, 7), (1, 8, 5)], [8 * 4 * 3, 8], 2 * 40 * 12),
        ("FusedConv", [(1, 4, 7, 7), (1, 8, 5, 5), (1, 8, 5, 5)], [288], 2 * 200 * 36),
        ("Conv", [(1, 4, 7, 7), (8, 4, 3, 3), (1, 8, 5, 5)], [8], 2 * 200 * 36),  # Q/DQ filter
        ("NhwcFusedConv", [(1, 7, 7, 4), (1, 5, 5, 8)], [8 * 4 * 9, 8], 2 * 200 * 36),
        ("ConvTranspose", [(1, 4, 5, 5), (1, 8, 10, 10)], [4 * 8 * 4, 8], 2 * 100 * 32),
        ("Gemm", [(3, 16), (3, 10)], [160, 10], 2 * 30 * 16),
        ("Gemm", [(16, 3), (3, 10)], [160, 10], 2 * 30 * 16),  # transA
        ("MatMul", [(2, 7, 16), (2, 7, 10)], [160], 2 * 140 * 16),
        ("MatMul", [(16, 10), (7, 10)], [7 * 16], 2 * 70 * 16),  # the weight is on the left
        ("MatMul", [(16, 16), (16, 16)], [256], 2 * 256 * 16),
        ("MatMul", [(2, 4, 7, 16), (2, 4, 16, 7), (2, 4, 7, 7)], [], 2 * 392 * 16),
        ("FusedMatMul", [(2, 16, 7), (2, 16, 5), (2, 7, 5)], [], 2 * 70 * 16),  # transA
        ("MatMul", [(16,), (16, 5), (5,)], [], 2 * 5 * 16),
        ("MatMulNBits", [(7, 32), (7, 10)], [40], 2 * 70 * 32),
        # queries of 3 tokens, 5 keys, 8 channels: twice 2 * 3*5*8
        ("MultiHeadAttention", [(1, 3, 8), (1, 5, 8), (1, 5, 8), (1, 3, 8)], [], 480),
        ("Attention", [(1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4), (1, 2, 3, 4)], [], 480),
        # 3 tokens are projected from 8 to 24 channels: 2 * 3*8*24, then 4 * 3*3*8
        ("Attention", [(1, 3, 8), (1, 3, 8)], [8 * 24, 24], 1152 + 288),
        ("LSTM", [(6, 2, 3), (6, 1, 2, 4)], [16 * 3, 16 * 4], 2 * 12 * 112),
        ("MaxPool", [(1, 4, 8, 8), (1, 4, 4, 4)], [], 256),
        ("GlobalAveragePool", [(1, 4, 8, 8), (1, 4, 1, 1)], [], 256),
        ("ReduceMean", [(1, 4, 8), (1, 4, 1)], [], 32),
        ("Relu", [(3, 4), (3, 4)], [], 12),
        ("Add", [(3, 4), (4,), (3, 4)], [], 12),
        ("BatchNormalization", [(1, 3, 4, 4), (1, 3, 4, 4)], [3, 3, 3, 3], 96),
        ("LayerNormalization", [(3, 4), (3, 4)], [4, 4], 96),
        ("Softmax", [(3, 4), (3, 4)], [], 60),
        ("Reshape", [(3, 4), (12,)], [], 0),
        ("Transpose", [(3, 4), (4, 3)], [], 0),
        ("SomethingNew", [(3, 4), (3, 4)], [], 12),
    ],
)
def test_operations_by_hand(
    op_type: str, shapes: list[Shape], weights: list[int], expected: int
) -> None:
    *inputs, _ = names = [f"t{idx}" for idx in range(len(shapes))]
    weight_bytes = {f"w{idx}": 4 * elements for idx, elements in enumerate(weights)}
    each = node(op_type, inputs, names[-1:], list(weight_bytes))
    net = graph([each], dict(zip(names, shapes, strict=True)), weight_bytes)
    assert flops(each, net) == expected


@pytest.mark.parametrize(("dtype", "item_bytes"), [("float16", 2), ("float32", 4)])
def test_operations_do_not_depend_on_the_type(dtype: str, item_bytes: int) -> None:
    conv = node("Conv", ["x"], ["y"], ["w", "b"])
    shapes = {"x": (1, 4, 7, 7), "y": (1, 8, 5, 5)}
    weight_bytes = {"w": 288 * item_bytes, "b": 8 * item_bytes}
    net = graph([conv], shapes, weight_bytes, dict.fromkeys(shapes, dtype))
    assert flops(conv, net) == 2 * 200 * 36


def test_quantised_filters_are_bytes() -> None:
    conv = node("QLinearConv", ["x"], ["y"], ["w"])
    types = {"x": "uint8", "y": "uint8"}
    net = graph([conv], {"x": (1, 4, 7, 7), "y": (1, 8, 5, 5)}, {"w": 288}, types)
    assert flops(conv, net) == 2 * 200 * 36
    assert moved_bytes(conv, net, float_bytes=2) == 196 + 200 + 288


def test_a_tensor_of_unknown_shape_counts_nothing() -> None:
    for op_type in ("Conv", "ConvTranspose", "MatMul", "Attention", "LSTM", "Relu", "MaxPool"):
        each = node(op_type, ["x"], ["y"])
        assert flops(each, graph([each], {})) == 0


@pytest.mark.parametrize(
    ("name", "giga_macs"),
    [("resnet50", 4.1), ("resnet152", 11.5), ("vgg19", 19.6), ("mobilenet_v2", 0.3),
     ("densenet201", 4.3), ("inception_v3", 5.7), ("vit_b_16", 17.6)],
)  # fmt: skip
def test_networks_have_their_published_multiply_adds(name: str, giga_macs: float) -> None:
    net = zoo(name, 1)
    total = sum(flops(each, net) for each in net.nodes)
    assert total / 2e9 == pytest.approx(giga_macs, rel=0.06)


def test_bytes_of_half_precision() -> None:
    add = node("Add", ["x", "ids"], ["y"], ["w"])
    shapes = {"x": (10,), "ids": (10,), "y": (10,)}
    net = graph([add], shapes, {"w": 40}, {"ids": "int64"})
    assert moved_bytes(add, net) == 40 + 80 + 40 + 40
    assert moved_bytes(add, net, float_bytes=2) == 20 + 80 + 20 + 20


def test_a_look_up_reads_what_it_copies() -> None:
    gather = node("Gather", ["ids"], ["y"], ["table"])
    net = graph([gather], {"ids": (3,), "y": (3, 8)}, {"table": 4_000_000}, {"ids": "int64"})
    assert moved_bytes(gather, net) == 2 * 96


def test_a_kernel_costs_the_larger_of_work_and_traffic() -> None:
    matmul = node("MatMul", ["x"], ["y"], ["w"])
    square = graph([matmul], {"x": (8192, 8192), "y": (8192, 8192)}, {"w": 4 * 8192**2})
    (fp16_ns,) = estimate_gpu(lowered(square), H200, "fp16").node_ns
    work_s = 2 * 8192**3 / (0.45 * 989.4e12)
    assert fp16_ns == pytest.approx(KERNEL_NS + 1e9 * work_s, rel=1e-4)
    (fp32_ns,) = estimate_gpu(lowered(square), H200, "fp32").node_ns
    assert fp32_ns == pytest.approx(KERNEL_NS + 1e9 * 2 * 8192**3 / (0.45 * 66.9e12), rel=1e-4)
    row = graph([matmul], {"x": (1, 8192), "y": (1, 8192)}, {"w": 4 * 8192**2})
    (row_ns,) = estimate_gpu(lowered(row), H200, "fp16").node_ns
    traffic_s = 2 * (8192**2 + 2 * 8192) / (0.75 * 4.8e12)
    assert row_ns == pytest.approx(KERNEL_NS + 1e9 * traffic_s, rel=1e-4)


def test_a_half_precision_graph_runs_at_its_rate_whatever_is_asked() -> None:
    matmul = node("MatMul", ["x"], ["y"], ["w"])
    shapes = {"x": (8192, 8192), "y": (8192, 8192)}
    net = graph([matmul], shapes, {"w": 2 * 8192**2}, dict.fromkeys(shapes, "float16"))
    costs = [estimate_gpu(lowered(net), H200, p).node_ns for p in ("fp32", "fp16")]
    assert costs[0] == costs[1]


def test_int8_runs_at_its_rate_where_one_is_known() -> None:
    product = node("MatMulInteger", ["x"], ["y"], ["w"])
    types = {"x": "uint8", "y": "int32"}
    net = graph([product], {"x": (8192, 8192), "y": (8192, 8192)}, {"w": 8192**2}, types)
    (cost,) = estimate_gpu(lowered(net), H200, "fp32").node_ns
    assert cost == pytest.approx(KERNEL_NS + 1e9 * 2 * 8192**3 / (0.45 * 1978.9e12), rel=1e-4)
    thor = SPECS["thor"]  # no int8 rate is known
    kernel_ns = KERNEL_NS * 1.98e9 / thor.fp32.clock_hz
    (thor_ns,) = estimate_gpu(lowered(net), thor, "fp32").node_ns
    assert thor_ns == pytest.approx(kernel_ns + 1e9 * 2 * 8192**3 / (0.45 * 258.75e12), rel=1e-4)


def test_pointwise_nodes_are_part_of_the_kernel_before_them() -> None:
    size = (1, 8, 64, 64)
    num_bytes = 4 * 8 * 64 * 64
    nodes = [
        node("Conv", ["x"], ["c"], ["w"]),
        node("BatchNormalization", ["c"], ["n"]),
        node("Add", ["n", "x"], ["a"]),  # reads x once more
        node("Relu", ["a"], ["r"]),  # r is read twice, so the next two are kernels
        node("Sigmoid", ["r"], ["s"]),
        node("Mul", ["r", "s"], ["m"]),  # takes s from its kernel, reads r
        node("Reshape", ["m"], ["v"]),
        node("Relu", ["v"], ["y"]),  # nothing to join: a view made v
    ]
    shapes = {name: size for each in nodes for name in (*each.inputs, *each.outputs)}
    costs = estimate_gpu(lowered(graph(nodes, shapes, {"w": 256})), H200, "fp32").node_ns
    once_ns = 1e9 * num_bytes / (0.75 * 4.8e12)
    alone_ns = KERNEL_NS + 2 * once_ns
    expected = [alone_ns, 0, once_ns, 0, alone_ns, once_ns, 0, alone_ns]
    assert costs == pytest.approx(expected, abs=5)


def test_an_output_of_the_network_ends_a_kernel() -> None:
    nodes = [node("Conv", ["x"], ["c"], ["w"]), node("Relu", ["c"], ["y"])]
    net = graph(nodes, dict.fromkeys(("x", "c", "y"), (1, 8, 8, 8)), {"w": 256})
    assert estimate_gpu(lowered(net), H200, "fp32").node_ns[1] == 0
    with_output = Graph(
        nodes=net.nodes,
        inputs=net.inputs,
        outputs=("c", "y"),
        tensors=net.tensors,
        weight_bytes=net.weight_bytes,
    )
    assert estimate_gpu(lowered(with_output), H200, "fp32").node_ns[1] >= KERNEL_NS


@pytest.mark.parametrize(
    ("name", "batch", "measured_ns"), [("resnet50", 1, 350_000), ("resnet152", 32, 2_600_000)]
)
def test_an_h200_takes_within_a_factor_of_three(name: str, batch: int, measured_ns: int) -> None:
    """Whole engines in one CUDA graph, FP16, TensorRT 8.6.0, driver 580.159.04, 2026-11-21."""
    profile = estimate_gpu(lowered(zoo(name, batch)), H200, "fp16")
    assert measured_ns / 3 < profile.total_ns < measured_ns * 3


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_estimates_say_that_they_are(spec: GpuSpec, precision: str) -> None:
    profile = estimate_gpu(lowered(zoo("tiny_branchy", 1)), spec, precision)  # type: ignore[arg-type]
    assert (profile.source, profile.whole, profile.node_latency) == ("estimated", None, ())
    assert profile.total_ns > 0
    assert profile.machine["gpu"] == spec.title
    assert profile.machine["precision"] == precision
    share = 0.5 if precision == "fp16" else 1.0
    assert profile.boundary.fixed_ns == 6_000
    assert profile.boundary.ns_per_byte == pytest.approx(
        share * 2e9 / spec.bandwidth_bytes_per_s, rel=0.01
    )


def test_smaller_gpus_take_longer() -> None:
    net = lowered(zoo("resnet50", 1))
    names = ("h200", "h100", "thor", "orin", "orin-32gb", "orin-nx", "orin-nano")
    totals = [estimate_gpu(net, SPECS[name], "fp16").total_ns for name in names]
    assert totals == sorted(totals)
