"""A small bundle with files of random bytes: everything that a manifest can say, no network."""

import hashlib
import random
from dataclasses import replace
from pathlib import Path

from preempt_runtime.manifest import (
    MANIFEST_NAME,
    Artefact,
    CheckSpec,
    GateSpec,
    GraphSpec,
    Latency,
    Manifest,
    PlanSpec,
    SegmentSpec,
    TensorSpec,
    hash_key,
)
from preempt_runtime.manifest_json import json_from_manifest

LOCAL_FIELDS: dict[str, str | int] = {"cpu_model": "Prüfstand 9", "runtime": "1.2.3", "threads": 2}
KEY_FIELDS: dict[str, str | int] = {**LOCAL_FIELDS, "graph_sha256": "ab" * 32}
KEY = hash_key(KEY_FIELDS)
GRAPH = GraphSpec(
    id="main",
    variant="fp32",
    exit_of=None,
    inputs=(TensorSpec(name="x", dtype="float32", shape=(1, 3, 8, 8)),),
    outputs=(
        TensorSpec(name="early", dtype="float32", shape=(1, 4)),
        TensorSpec(name="y", dtype="int64", shape=(1, 0)),
    ),
)
EXIT = GraphSpec(
    id="exit", variant="fp32", exit_of="main", inputs=GRAPH.inputs, outputs=GRAPH.outputs[:1]
)


def make_test_files() -> dict[str, bytes]:
    """Every file of the bundle but its manifest."""
    rng = random.Random(7)
    sizes = {
        "graph/model.onnx": 300,
        "graph/weights.data": 2000,
        "graph/segment-000.onnx": 120,
        "graph/segment-001.onnx": 0,
        f"engines/{KEY}/segment-000.onnx": 90,
        f"engines/{KEY}/segment-001.onnx": 91,
        f"engines/{KEY}/segment-002.onnx": 92,
        "profile.json": 40,
    }
    return {path: rng.randbytes(size) for path, size in sizes.items()}


def make_test_manifest() -> Manifest:
    """Two graphs; a measured plan of three segments with a skip, and an unbuilt one of two."""
    return Manifest(
        requires=("segments",),
        graphs=(GRAPH, EXIT),
        plans=(_measured_plan(), _portable_plan()),
        keys={KEY: KEY_FIELDS},
        artefacts=tuple(
            Artefact(
                path=path,
                num_bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                key=KEY if path.startswith("engines/") else None,
            )
            for path, content in make_test_files().items()
        ),
        check=CheckSpec(
            reference="whole optimised graph",
            num_inputs=3,
            seed=0,
            bitwise=True,
            max_abs_diff=0.0,
            tolerance_frac=1e-5,
            source_max_abs_diff=2.5e-7,
        ),
        toolchain={"preemptc": "0.1.0"},
        extensions={"vendor": {"note": [1, None, {"deep": True}]}},
    )


def make_test_bundle(folder: Path, manifest: Manifest | None = None) -> Path:
    """Write the bundle into `folder`, which must not exist yet; returns `folder`."""
    for path, content in make_test_files().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    text = json_from_manifest(manifest or make_test_manifest())
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
    return folder


def _segment(
    path: str,
    nodes: tuple[int, int],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    latency: Latency | None,
) -> SegmentSpec:
    return SegmentSpec(
        path=path,
        range=nodes,
        source_range=(2 * nodes[0] + 1, 2 * nodes[1] + 1),
        inputs=inputs,
        outputs=outputs,
        live_bytes=64,
        predicted_ns=1000 * (nodes[1] - nodes[0]),
        latency=latency,
    )


def manifest_with_gates() -> Manifest:
    """The same with a plan of gates."""
    manifest = make_test_manifest()
    return replace(manifest, plans=(*manifest.plans, make_gates_plan()))


def make_gates_plan() -> PlanSpec:
    """A plan of three stretches of the engine that the first segment's file stands for."""
    latency = Latency(p50_ns=1000, p99_ns=1200, max_ns=1500, num_samples=50)
    ranges = ((0, 3), (3, 50), (50, 105))
    return PlanSpec(
        id="gates",
        graph="main",
        target="cpu",
        key=KEY,
        mechanism="gates",
        bound_ns=2000,
        bound_quantile="p99",
        margin_frac=0.0,
        source="measured",
        boundaries=(),
        segments=tuple(
            SegmentSpec(
                path=f"engines/{KEY}/segment-000.onnx",
                range=nodes,
                source_range=(0, 9),
                inputs=("x",) if nodes[0] == 0 else (),
                outputs=("early", "y") if nodes[1] == 105 else (),
                live_bytes=0,
                predicted_ns=1000,
                latency=latency,
            )
            for nodes in ranges
        ),
        chained=Latency(p50_ns=3100, p99_ns=3500, max_ns=3600, num_samples=50),
        gates=GateSpec(fingerprint="0123456789abcdef", num_nodes=105, gate_ns=850),
    )


def _measured_plan() -> PlanSpec:
    latency = Latency(p50_ns=1000, p99_ns=1200, max_ns=1500, num_samples=50)
    folder = f"engines/{KEY}"
    return PlanSpec(
        id="cpu",
        graph="main",
        target="cpu",
        key=KEY,
        mechanism="segments",
        bound_ns=2000,
        bound_quantile="p99",
        margin_frac=0.05,
        source="measured",
        boundaries=(
            TensorSpec(name="skip", dtype="float32", shape=(1, 8, 4, 4)),
            TensorSpec(name="a", dtype="float16", shape=(1, 8)),
        ),
        segments=(
            _segment(f"{folder}/segment-000.onnx", (0, 2), ("x",), ("skip", "a"), latency),
            _segment(f"{folder}/segment-001.onnx", (2, 3), ("a",), ("early",), latency),
            _segment(f"{folder}/segment-002.onnx", (3, 7), ("early", "skip", "x"), ("y",), latency),
        ),
        chained=Latency(p50_ns=3100, p99_ns=3500, max_ns=3600, num_samples=50),
    )


def _portable_plan() -> PlanSpec:
    return PlanSpec(
        id="portable",
        graph="exit",
        target="orin",
        key=None,
        mechanism="segments",
        bound_ns=None,
        bound_quantile="p50",
        margin_frac=0.0,
        source="estimated",
        boundaries=(TensorSpec(name="a", dtype="float16", shape=(1, 8)),),
        segments=(
            _segment("graph/segment-000.onnx", (0, 2), ("x",), ("a",), None),
            _segment("graph/segment-001.onnx", (2, 3), ("a",), ("early",), None),
        ),
        chained=None,
    )
