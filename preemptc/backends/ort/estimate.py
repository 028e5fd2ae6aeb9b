"""Costs without running anything: a roofline over multiply-adds and bytes, labelled `estimated`.

Good enough to prune and to compare cuts of one network; never a basis for a bound.
"""

import math
from collections.abc import Mapping

from preempt_runtime.backends.ort import local_fields
from preemptc.model import Graph, Lowered, Node
from preemptc.profile import BoundaryCost, LatencyProfile

# Sustained per core, not peak: half of one FMA port at 2.5 GHz for the widest float32 vectors.
# Source: vector widths of the instruction sets; the frequency and the half are assumptions.
_FLOPS_PER_NS = {"avx512f": 40.0, "avx2": 20.0, "asimd": 10.0}
_FLOPS_PER_NS_OTHERWISE = 5.0
_BYTES_PER_NS = 10.0
_NODE_NS = 1_000
_BOUNDARY = BoundaryCost(fixed_ns=30_000, ns_per_byte=0.1)
_MULTIPLY_ADD_OPS = frozenset({"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm"})
_MATRIX_OPS = frozenset({"MatMul", "FusedMatMul", "Attention", "MultiHeadAttention"})


def estimate(lowered: Lowered, threads: int) -> LatencyProfile:
    """A profile of the executed graph from operation and byte counts."""
    isa = str(local_fields()["isa"]).split()
    per_core = next((v for k, v in _FLOPS_PER_NS.items() if k in isa), _FLOPS_PER_NS_OTHERWISE)
    weights = _weight_elements(lowered.graph)
    costs = tuple(
        round(
            _NODE_NS
            + max(
                flops(node, lowered.graph, weights) / (per_core * threads),
                moved_bytes(node, lowered.graph) / _BYTES_PER_NS,
            )
        )
        for node in lowered.graph.nodes
    )
    return LatencyProfile(
        graph_digest=lowered.graph_digest,
        target=lowered.target,
        source="estimated",
        node_names=tuple(node.name for node in lowered.graph.nodes),
        node_ns=costs,
        node_latency=(),
        whole=None,
        boundary=_BOUNDARY,
        machine={**local_fields(), "threads": threads},
    )


def _weight_elements(graph: Graph) -> Mapping[str, int]:
    return {name: num_bytes // 4 for name, num_bytes in graph.weight_bytes.items()}


def _elements(name: str, graph: Graph) -> int:
    info = graph.tensors.get(name)
    return math.prod(info.shape) if info else 0


def flops(node: Node, graph: Graph, weights: Mapping[str, int]) -> int:
    """Floating-point operations of a node: 2 per multiply-add, 1 per output element otherwise."""
    outputs = sum(_elements(name, graph) for name in node.outputs)
    largest = max((weights[name] for name in node.weights), default=0)
    if node.op_type in _MULTIPLY_ADD_OPS and largest:
        info = graph.tensors.get(node.outputs[0])
        channels = info.shape[1] if info and len(info.shape) > 1 else 1
        return 2 * outputs * max(1, largest // max(1, channels))
    if node.op_type in _MULTIPLY_ADD_OPS | _MATRIX_OPS:
        info = graph.tensors.get(node.outputs[0])
        last = info.shape[-1] if info and info.shape else 1
        if largest:
            return 2 * outputs * max(1, largest // max(1, last))
        shapes = [graph.tensors[n].shape for n in node.inputs if n in graph.tensors]
        return 2 * outputs * max((shape[-1] for shape in shapes[:1] if shape), default=1)
    return outputs


def moved_bytes(node: Node, graph: Graph) -> int:
    """Bytes that a node reads and writes when nothing stays in a cache."""
    tensors = sum(
        graph.tensors[name].num_bytes
        for name in (*node.inputs, *node.outputs)
        if name in graph.tensors
    )
    return tensors + sum(graph.weight_bytes[name] for name in node.weights)
