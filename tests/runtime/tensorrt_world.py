"""A fake driver and a fake TensorRT put in place, and bundles of fake engines."""

import dataclasses
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from preempt_runtime.backends import cuda_driver
from preempt_runtime.bundle import Bundle, open_bundle
from preempt_runtime.manifest import (
    MANIFEST_NAME,
    Artefact,
    GraphSpec,
    Latency,
    Manifest,
    PlanSpec,
    TensorSpec,
    hash_key,
)
from preempt_runtime.manifest_json import json_from_manifest
from preempt_runtime.testing import segment_specs
from tests.runtime.fake_cuda import FakeDriver
from tests.runtime.fake_tensorrt import FakeTensorRT, blob_of

FIELDS: dict[str, str | int] = {
    "backend": "tensorrt",
    "tensorrt": "8.6.1",
    "cuda_driver": 12060,
    "gpu": "Testium 9000",
    "num_sms": 14,
    "compute_capability": "8.7",
}


def tensor(name: str, dtype: str = "float32", shape: tuple[int, ...] = (2, 3)) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


GRAPH = GraphSpec(
    id="net",
    variant="full",
    exit_of=None,
    inputs=(tensor("x"), tensor("scale", shape=(1,))),
    outputs=(tensor("early", shape=(2,)), tensor("y", shape=())),
)
BOUNDARIES = (tensor("b1", "float16", (4,)), tensor("b2", "float16", (1,)))
SEGMENTS = ((("x",), ("b1", "early")), (("b1", "scale"), ("b2",)), (("b2",), ("y",)))
"""A later segment reads a graph input, the first one writes a graph output."""


def blobs() -> list[bytes]:
    """Engines that add 1, 10 and 100 to the sum of their inputs."""
    specs = {spec.name: spec for spec in (*GRAPH.inputs, *GRAPH.outputs, *BOUNDARIES)}
    return [
        blob_of(
            [specs[name] for name in inputs],
            [specs[name] for name in outputs],
            add=10.0**idx,
            scratch_bytes=1000 * (idx + 1),
        )
        for idx, (inputs, outputs) in enumerate(SEGMENTS)
    ]


def expected(x_sum: float, scale: float) -> dict[str, float]:
    """What the three engines make of their inputs; a boundary is an array of equal numbers."""
    first = x_sum + 1
    second = 4 * first + scale + 10
    return {"early": first, "y": second + 100}


def install(
    monkeypatch: pytest.MonkeyPatch, version: str = "8.6.1", memory_bytes: int = 1 << 20
) -> FakeTensorRT:
    """Put the fakes in place of the libraries."""
    driver = FakeDriver(memory_bytes)
    trt = FakeTensorRT(driver, version)
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    monkeypatch.setattr(cuda_driver, "driver", driver)
    monkeypatch.setitem(sys.modules, "tensorrt", trt.module)
    return trt


def whole_blob() -> bytes:
    """One engine of the same interface, which adds 7 to the sum of all inputs."""
    return blob_of(GRAPH.inputs, GRAPH.outputs, add=7.0, scratch_bytes=5000)


def write_both_plans(
    root: Path, contents: Sequence[bytes] | None = None, whole: bytes | None = None
) -> Bundle:
    """A bundle with the measured plans `segments`, of three engines, and `whole`, of one."""
    bundle = write_bundle(root, contents=contents)
    content = whole or whole_blob()
    (cut,) = bundle.manifest.plans
    path = f"engines/{cut.key}/whole.engine"
    (root / path).write_bytes(content)
    latency = Latency(p50_ns=1000, p99_ns=1100, max_ns=1200, num_samples=30)
    segments = tuple(dataclasses.replace(each, latency=latency) for each in cut.segments)
    one = dataclasses.replace(
        segments[0],
        path=path,
        range=(0, 3),
        source_range=(0, 3),
        inputs=tuple(spec.name for spec in GRAPH.inputs),
        outputs=tuple(spec.name for spec in GRAPH.outputs),
        live_bytes=0,
    )
    measured = dataclasses.replace(cut, source="measured", chained=latency)
    plans = (
        dataclasses.replace(measured, id="segments", segments=segments, bound_ns=2000),
        dataclasses.replace(measured, id="whole", segments=(one,), boundaries=()),
    )
    artefact = Artefact(
        path=path,
        num_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        key=cut.key,
    )
    artefacts = tuple(sorted((*bundle.manifest.artefacts, artefact), key=lambda each: each.path))
    manifest = dataclasses.replace(bundle.manifest, plans=plans, artefacts=artefacts)
    (root / MANIFEST_NAME).write_text(json_from_manifest(manifest), encoding="utf-8")
    return open_bundle(root)


def write_bundle(
    root: Path,
    fields: Mapping[str, str | int] = FIELDS,
    contents: Sequence[bytes] | None = None,
    extensions: Mapping[str, Any] | None = None,
) -> Bundle:
    """A bundle of the three engines, and a file more under their key."""
    key = hash_key(fields)
    folder = f"engines/{key}"
    files = {f"{folder}/segment-{i:03d}.engine": b for i, b in enumerate(contents or blobs())}
    segments = tuple(
        dataclasses.replace(spec, path=path, inputs=inputs, outputs=outputs)
        for spec, path, (inputs, outputs) in zip(
            segment_specs([1000] * 3), files, SEGMENTS, strict=True
        )
    )
    files[f"{folder}/timing.cache"] = b"timing"
    plan = PlanSpec(
        id="cut",
        graph="net",
        target="native",
        key=key,
        mechanism="segments",
        bound_ns=None,
        bound_quantile="p50",
        margin_frac=0.0,
        source="estimated",
        boundaries=BOUNDARIES,
        segments=segments,
        chained=None,
    )
    manifest = Manifest(
        requires=("segments",),
        graphs=(GRAPH,),
        plans=(plan,),
        keys={key: fields},
        artefacts=tuple(
            Artefact(
                path=path,
                num_bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                key=key,
            )
            for path, content in files.items()
        ),
        check=None,
        toolchain={},
        extensions=extensions or {},
    )
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    (root / MANIFEST_NAME).write_text(json_from_manifest(manifest), encoding="utf-8")
    return open_bundle(root)
