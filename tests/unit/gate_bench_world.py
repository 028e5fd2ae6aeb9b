"""A fake GPU on which the steps of `bench.gpu_gates` run, and a bundle in place of compiling."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import (
    gate_bundles,
    gate_costs,
    gate_fault_trials,
    gate_faults,
    gate_held,
    gate_networks,
    gate_points,
    gate_preemption,
    gate_soak,
    gpu_gates,
)
from bench.gate_workshop import Sizes
from preemptc.backends.tensorrt import gate_bench, timing
from tests.runtime.fake_graphs import GraphDriver
from tests.runtime.fake_tensorrt import FakeTensorRT
from tests.runtime.gated_trt_world import gated_bundle, install_graphs

SMALL = Sizes(count=32, block=32, duration_ns=20_000, num_long=16, num_short=3)
COMPILED = {
    "bound_ns": 50_000, "asked_bound_ns": 50_000, "segments": 3, "wall_s": 1.0,
    "measured": {"whole_p50_ns": 100_000, "overhead_ratio": 1.01},
    "gates": {"longest_node_ns": 30_000, "node_names": ["a", "b"], "longest_node": 1,
              "positions": 5, "gate_ns": 800},
}  # fmt: skip


def installed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[FakeTensorRT]:
    """Put the fakes in place, and let few runs of small chains do; nothing must stay open."""
    found = install_graphs(monkeypatch, folder, seed=2)
    fake = found.driver
    assert isinstance(fake, GraphDriver)
    fake.step_ns = 1_000
    fake.attributes |= {20: 0, 90: 1}
    for each in (gate_costs, gate_points):
        monkeypatch.setattr(each, "SIZES", SMALL)
    monkeypatch.setattr(gate_preemption, "CHAINS", {"chain": SMALL, "full": SMALL})
    monkeypatch.setattr(gate_preemption, "_ALONE_RUNS", 2)
    monkeypatch.setattr(gate_fault_trials, "SIZES", replace(SMALL, num_long=4))
    monkeypatch.setattr(timing, "_WARM_UP_ROWS", 1)
    monkeypatch.setattr(gate_bench, "_MAX_CLOCK_RATIO", 1e9)  # events of this fake are constant
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda *_, **__: None)
    yield found
    assert fake.open == {}, "left open"


class Steps:
    """Runs steps; calling it gives the parts that there are by then, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str | Path) -> dict[str, Any]:
        out = self.folder / "parts"
        place = ["--out", out, "--work", self.folder / "work"]
        assert gpu_gates.main([str(each) for each in (*arguments, *place)]) == 0
        return {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """In place of compiling: each network is this bundle of six kernels in three stretches."""
    root = gated_bundle(folder / "net.bundle").root
    monkeypatch.setattr(gate_bundles, "model_of", lambda *_: folder / "net.onnx")
    for module in (gate_faults, gate_held, gate_networks, gate_preemption, gate_soak):
        monkeypatch.setattr(module, "gated_bundle", lambda case, options: (root, COMPILED))
    return root
