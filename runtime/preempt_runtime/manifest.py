"""The contract between compiler and runtime: what `manifest.json` of a bundle says, as values.

Compatibility: `schema_version` is read first. A newer major version and an unknown entry under
`requires` are refused. A missing field is an error, an unknown field is one too, except where the
file has a newer minor version than this reader; `extensions` may hold anything.
`manifest_json` reads and writes it, `manifest_check` says what must hold between its parts. The
shipped JSON Schema, `manifest.schema.json`, and docs/bundle-format.md say the same to other
languages.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCHEMA = "preemptc/manifest"
SCHEMA_MAJOR = 1
SCHEMA_MINOR = 1
KNOWN_FEATURES = frozenset({"segments"})
SEGMENTS, GATES = "segments", "gates"
MECHANISMS = frozenset({SEGMENTS, GATES})
GATES_FIRST = (GATES, SEGMENTS)
"""What a device with gates runs, what it had better run first."""
QUANTILES = ("p50", "p99", "max")
SOURCES = ("measured", "estimated")
MANIFEST_NAME = "manifest.json"
PROFILE_NAME = "profile.json"
SEGMENTS_PLAN_ID = "segments"
GATES_PLAN_ID = "gates"
WHOLE_PLAN_ID = "whole"
"""The plan of the network in one piece, which others are compared with."""
MAX_MANIFEST_BYTES = 64 << 20
MAX_PROFILE_BYTES = 256 << 20
MAX_TENSOR_BYTES = 64 << 30
MAX_RANK = 32  # what numpy 1.x can hold
ITEM_BYTES = {
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "bfloat16": 2,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "bool": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A tensor's name, numpy dtype name and static shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the dense tensor."""
        return ITEM_BYTES[self.dtype] * math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """A measured latency distribution; never an estimate."""

    p50_ns: int
    p99_ns: int
    max_ns: int
    num_samples: int

    def at(self, quantile: str) -> int:
        """The value at `p50`, `p99` or `max`."""
        return {"p50": self.p50_ns, "p99": self.p99_ns, "max": self.max_ns}[quantile]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSpec:
    """One non-preemptive stretch of a network.

    `range` are node positions [start, end) in the graph that the device executes, `source_range`
    the positions in `graph/model.onnx`. `live_bytes` is what lives across the segment's end.
    """

    path: str
    range: tuple[int, int]
    source_range: tuple[int, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    live_bytes: int
    predicted_ns: int
    latency: Latency | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSpec:
    """What of one engine's captured graph a plan of gates rests on.

    `fingerprint` is that of the graph without gates: another one at load means that other kernels
    run, and that the plan does not apply. `num_nodes` are the graph's nodes, `gate_ns` what a gate
    costs that nobody has to wait at.
    """

    fingerprint: str
    num_nodes: int
    gate_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSpec:
    """One way to run one graph on one device: its segments in order, and the bound they keep.

    Of mechanism `gates` all segments are stretches of one engine, `range` are nodes of the graph
    that its enqueue is captured into, and a gate stands before each stretch.

    `key` names the device artefacts (None: nothing is built yet). `boundaries` are the tensors
    that segments hand over, in the layout that the device uses; the graph's inputs and outputs,
    which a later segment may read too, are not repeated there. `bound_ns` is None where no bound
    was asked. `margin_frac` is the share of the bound that planning left free.
    """

    id: str
    graph: str
    target: str
    key: str | None
    mechanism: str
    bound_ns: int | None
    bound_quantile: str
    margin_frac: float
    source: str
    boundaries: tuple[TensorSpec, ...]
    segments: tuple[SegmentSpec, ...]
    chained: Latency | None
    gates: GateSpec | None = None

    @property
    def files(self) -> tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]:
        """What is loaded, in order: a path, and the tensors that it reads and writes."""
        if self.mechanism == GATES:
            first, last = self.segments[0], self.segments[-1]
            return ((first.path, first.inputs, last.outputs),)
        return tuple((each.path, each.inputs, each.outputs) for each in self.segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSpec:
    """A network's interface; `exit_of` names the graph of which this one is an early exit."""

    id: str
    variant: str
    exit_of: str | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """A file of the bundle; `key` is None for the portable ones."""

    path: str
    num_bytes: int
    sha256: str
    key: str | None


SOURCE_REFERENCE = "source graph in ONNX Runtime"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckSpec:
    """How the chained segments compared with the whole network at compile time.

    `reference` says what the whole network was, or begins with `SOURCE_REFERENCE` where the
    library built that wrong; `source_max_abs_diff` compares the device's graph with the source
    graph, unoptimised.
    """

    reference: str
    num_inputs: int
    seed: int
    bitwise: bool
    max_abs_diff: float
    tolerance_frac: float
    source_max_abs_diff: float

    @property
    def is_against_whole(self) -> bool:
        """Whether the reference was the network built in one piece, as it should be."""
        return not self.reference.startswith(SOURCE_REFERENCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that a runtime needs to know of a bundle before it opens another file.

    `keys` maps each KEY to the fields that it is a hash of, so that a mismatch can be named.
    """

    requires: tuple[str, ...]
    graphs: tuple[GraphSpec, ...]
    plans: tuple[PlanSpec, ...]
    keys: Mapping[str, Mapping[str, str | int]]
    artefacts: tuple[Artefact, ...]
    check: CheckSpec | None
    toolchain: Mapping[str, str]
    extensions: Mapping[str, Any] = field(default_factory=dict)

    def graph_of(self, plan: PlanSpec) -> GraphSpec:
        """The network that a plan runs; a manifest's reader checks that there is one."""
        return next(graph for graph in self.graphs if graph.id == plan.graph)


def hash_key(fields: Mapping[str, str | int]) -> str:
    r"""The KEY of device artefacts: first 16 hex digits of the sha256 of its fields.

    The hash is over canonical JSON: keys sorted by code point, no white space, everything outside
    ASCII as `\uXXXX` in lower case.

    >>> hash_key({"threads": 2, "cpu_model": "X"}) == hash_key({"cpu_model": "X", "threads": 2})
    True
    """
    canonical = json.dumps(dict(fields), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:16]
