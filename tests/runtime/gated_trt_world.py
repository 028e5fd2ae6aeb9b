"""A fake TensorRT on a driver with graphs, and a bundle with a plan of gates."""

import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from preempt_runtime.backends import cuda_driver, trt_gated
from preempt_runtime.backends.gate_board import Mode
from preempt_runtime.backends.gate_canary import held_up
from preempt_runtime.backends.trt_gated import GatedTrtDevice
from preempt_runtime.bundle import Bundle, open_bundle
from preempt_runtime.errors import DeviceError
from preempt_runtime.manifest import MANIFEST_NAME, GateSpec, Latency
from preempt_runtime.manifest_json import json_from_manifest
from tests.runtime.fake_graphs import GraphDriver
from tests.runtime.fake_tensorrt import FakeTensorRT, blob_of
from tests.runtime.tensorrt_world import GRAPH, write_both_plans

NUM_KERNELS = 6
LATENCY = Latency(p50_ns=1000, p99_ns=1100, max_ns=1200, num_samples=30)


def install_graphs(
    monkeypatch: pytest.MonkeyPatch, folder: Path, **driver_options: int
) -> FakeTensorRT:
    """Put fakes in place whose streams make progress when somebody looks; locks go to `folder`."""
    driver = GraphDriver(version=12060, bindings=12, **driver_options)
    found = FakeTensorRT(driver, "8.6.1")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    monkeypatch.setattr(cuda_driver, "driver", driver)
    monkeypatch.setattr(cuda_driver, "library", lambda: driver.library)
    monkeypatch.setitem(sys.modules, "tensorrt", found.module)
    patient = partial(held_up, timeout_ns=5_000_000_000)  # the fake's steps are slow
    monkeypatch.setattr(trt_gated, "held_up", patient)
    return found


def fingerprint_of(bundle: Bundle) -> str:
    """Of the graph that the fake captures of the whole engine, as a refusal tells it."""
    with open_device() as device, pytest.raises(DeviceError, match="captures") as caught:
        device.load(bundle, "gates")
    return str(caught.value).partition("this driver captures ")[2][:16]


class open_device:
    """A device that is closed in the end."""

    def __init__(self, mode: Mode = "exclusive") -> None:
        self.device = GatedTrtDevice(mode=mode)

    def __enter__(self) -> GatedTrtDevice:
        return self.device

    def __exit__(self, *_: object) -> None:
        self.device.close()


def gated_bundle(root: Path, cuts: tuple[int, ...] = (2, 4), fingerprint: str = "") -> Bundle:
    """The plans `segments`, `whole`, and one of gates on the whole engine of six kernels."""
    whole = blob_of(GRAPH.inputs, GRAPH.outputs, add=7, scratch_bytes=5000, num_kernels=NUM_KERNELS)
    bundle = write_both_plans(root, whole=whole)
    one = bundle.manifest.plans[1]
    bounds = (0, *cuts, NUM_KERNELS)
    (segment,) = one.segments
    stretches = tuple(
        replace(
            segment,
            range=(bounds[idx], bounds[idx + 1]),
            source_range=(0, 3),
            inputs=segment.inputs if idx == 0 else (),
            outputs=segment.outputs if idx == len(cuts) else (),
            latency=LATENCY,
        )
        for idx in range(len(cuts) + 1)
    )
    gates = replace(
        one,
        id="gates",
        mechanism="gates",
        segments=stretches,
        gates=GateSpec(fingerprint=fingerprint or "0" * 16, num_nodes=NUM_KERNELS, gate_ns=800),
    )
    manifest = replace(bundle.manifest, plans=(*bundle.manifest.plans, gates))
    (root / MANIFEST_NAME).write_text(json_from_manifest(manifest), encoding="utf-8")
    found = open_bundle(root)
    return found if fingerprint else gated_bundle(root, cuts, fingerprint_of(found))
