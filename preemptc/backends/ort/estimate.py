"""Costs without running anything: a roofline over multiply-adds and bytes, labelled `estimated`.

Good enough to prune and to compare cuts of one network; never a basis for a bound.
"""

from preempt_runtime.backends.ort import local_fields
from preemptc.backends.roofline import flops, moved_bytes
from preemptc.model import Lowered
from preemptc.profile import BoundaryCost, LatencyProfile

# Sustained per core, not peak: half of one FMA port at 2.5 GHz for the widest float32 vectors.
# Source: vector widths of the instruction sets; the frequency and the half are assumptions.
_FLOPS_PER_NS = {"avx512f": 40.0, "avx2": 20.0, "asimd": 10.0}
_FLOPS_PER_NS_OTHERWISE = 5.0
_BYTES_PER_NS = 10.0
_NODE_NS = 1_000
_BOUNDARY = BoundaryCost(fixed_ns=30_000, ns_per_byte=0.1)


def estimate(lowered: Lowered, threads: int) -> LatencyProfile:
    """A profile of the executed graph from operation and byte counts."""
    isa = str(local_fields()["isa"]).split()
    per_core = next((v for k, v in _FLOPS_PER_NS.items() if k in isa), _FLOPS_PER_NS_OTHERWISE)
    costs = tuple(
        round(
            _NODE_NS
            + max(
                flops(node, lowered.graph) / (per_core * threads),
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
