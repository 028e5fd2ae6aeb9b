"""Costs without running anything: counts of operations and bytes, and a roofline of a GPU.

Estimates are good enough to prune and to compare cuts of one network; never a basis for a bound.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from preempt_runtime.manifest import ITEM_BYTES
from preemptc.gpu_specs import GpuSpec
from preemptc.model import Graph, Lowered, Node, TensorInfo
from preemptc.profile import BoundaryCost, LatencyProfile

Precision = Literal["fp32", "fp16"]

# Shares of the published peaks that one kernel is taken to reach. ResNet-152 at batch 32 takes
# 2592 us on an H200, 0.29 of the peak over the whole network; its large convolutions do better.
# Source: that measurement, and the usual 0.7 to 0.8 of a copy kernel; both are assumptions.
_COMPUTE_FRAC = 0.45
_BANDWIDTH_FRAC = 0.75
# What a kernel takes that has hardly any work: ResNet-50 at batch 1 takes 341 us for a chain of
# 105 kernels on an H200, that is 3.2 us each. Scaled with the clock for other GPUs.
# Source: that measurement; 1.98 GHz is the H200's highest clock.
_KERNEL_CYCLES = 3.2e-6 * 1.98e9
# A boundary: the host waits for one segment's end before it launches the next, 5.9 us measured
# on a host with an H200; a board's host is slower. What crosses is written once and read once.
_TURN_ROUND_NS = 6_000

_CONVOLUTIONS = frozenset(
    {"Conv", "FusedConv", "NhwcConv", "NhwcFusedConv", "ConvInteger", "QLinearConv"}
)
_CHANNELS_LAST = frozenset({"NhwcConv", "NhwcFusedConv"})
_MATRIX_OPS = frozenset(
    {
        "Gemm", "FusedGemm", "QGemm", "MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul",
        "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits",
    }
)  # fmt: skip
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_ATTENTION = frozenset({"Attention", "MultiHeadAttention", "GroupQueryAttention"})
_QUANTISED = frozenset(
    {
        "ConvInteger", "QLinearConv", "QGemm", "MatMulInteger", "QLinearMatMul",
        "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    }
)  # fmt: skip
# Operations per output element; one for whatever is not named here.
_PER_OUTPUT = MappingProxyType(
    {
        "BatchNormalization": 2,
        "Softmax": 5,  # maximum, subtract, exponential, sum, divide
        "LogSoftmax": 6,
        "LayerNormalization": 8,  # mean, subtract, square, mean, root, divide, scale, shift
        "SimplifiedLayerNormalization": 5,
        "RMSNormalization": 5,
        "SkipLayerNormalization": 9,
        "InstanceNormalization": 8,
        "GroupNormalization": 8,
    }
)
_VIEWS = frozenset(
    {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Shape", "Constant"}
)
_MOVES = frozenset(
    {
        "Transpose", "Concat", "Split", "Slice", "Gather", "Expand", "Tile", "Pad", "Cast",
        "ReorderInput", "ReorderOutput", "DepthToSpace", "SpaceToDepth", "ScatterND",
    }
)  # fmt: skip
_LOOK_UPS = frozenset({"Gather", "GatherND", "GatherElements", "Slice"})  # read what they copy
_FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
_PER_INPUT_PREFIXES = ("Reduce", "MaxPool", "AveragePool", "LpPool", "Global", "ArgM", "QLinearGl")
# What TensorRT computes at the end of the kernel before it.
_POINTWISE = frozenset(
    {
        "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish",
        "Tanh", "Erf", "Gelu", "FastGelu", "BiasGelu", "QuickGelu", "Mish", "Softplus", "Swish",
        "Add", "Sub", "Mul", "Div", "Sum", "Min", "Max", "Pow", "Sqrt", "Exp", "Log", "Neg", "Abs",
        "Reciprocal", "Where", "Cast", "BatchNormalization", "QuantizeLinear", "DequantizeLinear",
    }
)  # fmt: skip


def flops(node: Node, graph: Graph) -> int:
    """Operations of a node, a multiply-add counted as two.

    Exact for convolutions (groups, transposed), matrix products, attention over the keys that it
    is given, and recurrent layers without their pointwise part. Normalisation, softmax and
    elementwise ops have a number per output element; pooling and reductions count each input
    element once, though windows may overlap. What only moves data has none. An op that is not
    known counts one per output element.
    """
    op_type = node.op_type
    outputs = sum(_elements(name, graph) for name in node.outputs)
    if op_type in _CONVOLUTIONS:
        return _convolution(node, graph)
    if op_type == "ConvTranspose":
        return _transposed_convolution(node, graph)
    if op_type in _MATRIX_OPS:
        return 2 * _elements(node.outputs[0], graph) * _depth(node, graph)
    if op_type in _ATTENTION:
        return _attention(node, graph)
    if op_type in _RECURRENT:
        return 2 * sum(_weights(node, graph)) * math.prod(_shape(node.inputs, 0, graph)[:2])
    if op_type in _VIEWS or op_type in _MOVES:
        return 0
    if op_type.startswith(_PER_INPUT_PREFIXES):
        return max(outputs, _elements(node.inputs[0], graph) if node.inputs else 0)
    return outputs * _PER_OUTPUT.get(op_type, 1)


def moved_bytes(node: Node, graph: Graph, *, float_bytes: int = 4) -> int:
    """Bytes that a node reads and writes when nothing stays in a cache.

    Args:
        float_bytes: what a float32 element takes; 2 where the target computes in half precision.
    """
    if node.op_type in _LOOK_UPS:
        copied = (graph.tensors[n] for n in node.outputs if n in graph.tensors)
        return 2 * sum(_bytes(info, float_bytes) for info in copied)
    names = (*node.inputs, *node.outputs)
    tensors = sum(_bytes(graph.tensors[n], float_bytes) for n in names if n in graph.tensors)
    weights = sum(graph.weight_bytes[name] for name in node.weights)
    is_float32 = node.op_type not in _QUANTISED and _dtype(node, graph) == "float32"
    return tensors + (weights * float_bytes // 4 if is_float32 else weights)


def estimate_gpu(lowered: Lowered, spec: GpuSpec, precision: Precision) -> LatencyProfile:
    """A profile of a graph on a GPU that need not be here, labelled `estimated`.

    A kernel costs `kernel + max(operations / (0.45 peak), bytes / (0.75 bandwidth))`. Pointwise
    nodes that read only what the node before computed are part of its kernel: they cost the bytes
    of their other inputs. Reshapes cost nothing.

    Source: the shares and the kernel's own time are stated at the top of this module.
    """
    graph = lowered.graph
    narrow = 2 if precision == "fp16" else 4
    carried = _carried_inputs(graph)
    kernel_s = _KERNEL_CYCLES / spec.fp32.clock_hz
    bytes_per_s = _BANDWIDTH_FRAC * spec.bandwidth_bytes_per_s

    def cost_s(idx: int, node: Node) -> float:
        if node.op_type in _VIEWS:
            return 0.0
        bytes_s = moved_bytes(node, graph, float_bytes=narrow) / bytes_per_s
        compute_s = flops(node, graph) / (_COMPUTE_FRAC * _peak(node, graph, spec, precision))
        if idx not in carried:
            return kernel_s + max(compute_s, bytes_s)
        kept = [name for name in (carried[idx], *node.outputs) if name in graph.tensors]
        return bytes_s - sum(_bytes(graph.tensors[n], narrow) for n in kept) / bytes_per_s

    return LatencyProfile(
        graph_digest=lowered.graph_digest,
        target=lowered.target,
        source="estimated",
        node_names=tuple(node.name for node in graph.nodes),
        node_ns=tuple(
            max(0, round(1e9 * cost_s(idx, node))) for idx, node in enumerate(graph.nodes)
        ),
        node_latency=(),
        whole=None,
        boundary=BoundaryCost(
            fixed_ns=_TURN_ROUND_NS,
            ns_per_byte=2e9 / spec.bandwidth_bytes_per_s * _shrink(graph, narrow),
        ),
        machine={
            "gpu": spec.title,
            "compute_capability": spec.compute_capability,
            "num_sms": spec.num_sms,
            "clock_hz": spec.fp32.clock_hz,
            "precision": precision,
        },
    )


def _convolution(node: Node, graph: Graph) -> int:
    shape = _shape(node.outputs, 0, graph)
    if len(shape) < 2:
        return 0
    channels = shape[-1] if node.op_type in _CHANNELS_LAST else shape[1]
    return 2 * math.prod(shape) * (_filter_elements(node, graph, channels) // max(1, channels))


def _transposed_convolution(node: Node, graph: Graph) -> int:
    shape = _shape(node.inputs, 0, graph)
    if len(shape) < 2:
        return 0
    return 2 * math.prod(shape) * (_filter_elements(node, graph, shape[1]) // max(1, shape[1]))


def _filter_elements(node: Node, graph: Graph, channels: int) -> int:
    """Elements of the filter `[channels, ...]`, be it a weight or, as in Q/DQ models, an input."""
    second = _shape(node.inputs, 1, graph)
    largest = max(_weights(node, graph), default=0)
    if largest <= channels and len(second) > 2 and second[0] == channels:
        return math.prod(second)
    return largest


def _depth(node: Node, graph: Graph) -> int:
    """K of a matrix product `[M, K] x [K, N]`, either of which may be stored transposed."""
    out, first = _shape(node.outputs, 0, graph), _shape(node.inputs, 0, graph)
    if not out or not first:
        return 0
    if len(first) == 1 or len(out) == 1:
        return first[-1]
    rows, columns = out[-2], out[-1]
    matrix = math.prod(first[-2:])
    depth = matrix // max(1, rows)
    largest = max(_weights(node, graph), default=0)
    as_right = matrix // max(1, columns)
    is_right = len(node.inputs) == 1 and largest == rows * as_right != depth * columns
    return as_right if is_right else depth


def _attention(node: Node, graph: Graph) -> int:
    out, query = _shape(node.outputs, 0, graph), _shape(node.inputs, 0, graph)
    key = _shape(node.inputs, 1, graph)
    if not out or len(query) < 3:
        return 0
    if node.weights and len(node.inputs) == 1:  # projects its input to queries, keys and values
        projection = max(_weights(node, graph))
        return 2 * math.prod(query[:2]) * projection + 4 * math.prod(out) * query[1]
    if len(query) == 5 or len(key) < 3:  # queries, keys and values in one tensor
        return 4 * math.prod(out) * query[1]
    return 2 * (math.prod(query) + math.prod(out)) * key[-2]


def _shape(names: tuple[str, ...], idx: int, graph: Graph) -> tuple[int, ...]:
    info = graph.tensors.get(names[idx]) if idx < len(names) else None
    return info.shape if info else ()


def _elements(name: str, graph: Graph) -> int:
    info = graph.tensors.get(name)
    return math.prod(info.shape) if info else 0


def _bytes(info: TensorInfo, float_bytes: int) -> int:
    return info.num_bytes * float_bytes // 4 if info.dtype == "float32" else info.num_bytes


def _dtype(node: Node, graph: Graph) -> str:
    """What the node computes in: the type of its first floating-point tensor, else of its first."""
    known = [graph.tensors[n].dtype for n in (*node.inputs, *node.outputs) if n in graph.tensors]
    return next((dtype for dtype in known if dtype in _FLOATS), known[0] if known else "float32")


def _weights(node: Node, graph: Graph) -> list[int]:
    """Elements of each weight, which are taken to be of the type that the node computes in."""
    item_bytes = 1 if node.op_type in _QUANTISED else ITEM_BYTES.get(_dtype(node, graph), 1)
    return [graph.weight_bytes[name] // item_bytes for name in node.weights]


def _peak(node: Node, graph: Graph, spec: GpuSpec, precision: Precision) -> int:
    """The published rate that the node is held against: tensor cores for products only.

    Where no int8 rate is known, that of fp16 stands for it.
    """
    products = _CONVOLUTIONS | _MATRIX_OPS | _ATTENTION | _RECURRENT | {"ConvTranspose"}
    if node.op_type in _QUANTISED:
        return (spec.int8 or spec.fp16).ops_per_s
    is_half = precision == "fp16" or _dtype(node, graph) in {"float16", "bfloat16"}
    return (spec.fp16 if is_half and node.op_type in products else spec.fp32).ops_per_s


def _carried_inputs(graph: Graph) -> Mapping[int, str]:
    """For each node that is part of the kernel before it, the input that stays in that kernel."""
    num_readers: dict[str, int] = {}
    for name in (*graph.outputs, *(name for node in graph.nodes for name in node.inputs)):
        num_readers[name] = num_readers.get(name, 0) + 1
    makers = {
        name: node for node in graph.nodes for name in node.outputs if node.op_type not in _VIEWS
    }
    carried = {}
    for idx, node in enumerate(graph.nodes):
        if node.op_type in _POINTWISE and len(node.outputs) == 1:
            size = _elements(node.outputs[0], graph)
            for name in node.inputs:
                is_alike = name in makers and _elements(name, graph) == size
                if is_alike and num_readers[name] == 1:
                    carried[idx] = name
                    break
    return carried


def _shrink(graph: Graph, float_bytes: int) -> float:
    """What the tensors take on the target over what they take in the graph."""
    stored = sum(info.num_bytes for info in graph.tensors.values())
    taken = sum(_bytes(info, float_bytes) for info in graph.tensors.values())
    return taken / stored if stored else 1.0
