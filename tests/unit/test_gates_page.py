"""The page of gates, from parts that a fake GPU or nobody measured."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import gate_cpu, gate_pair, gpu_pair
from bench.gate_parts import merged
from bench.gpu_gates_page import SECTIONS, markdown, not_measured
from bench.publish import publish_gates
from tests.runtime.fake_graphs import GraphDriver
from tests.runtime.fake_tensorrt import FakeTensorRT
from tests.unit.gate_bench_world import Steps, installed, stand_in

MACHINE = {"gpu": "GPU X", "tensorrt": "8.6.0", "cuda_driver": 13000}


def part(step: str, name: str, **figures: Any) -> dict[str, Any]:
    head = {
        "step": step,
        "part": name,
        "command": f"python -m bench.gpu_gates {step}",
        "is_complete": True,
        "machine": MACHINE,
        "date": "2026-11-28T10:00:00+00:00",
    }
    return {**head, **figures}


def network(median: float = 1.024, **changes: Any) -> dict[str, Any]:
    mode = {
        "pairs": 500,
        "overhead": {"median": median, "low": 1.021, "high": 1.031, "p99": 1.04},
        "gated_ns": {"p50": 358_000, "p99": 366_000},
        "alone_ns": {"p50": 350_000, "p99": 352_000},
        "stretches": {"runs": 500, "longest": 3, "p50_ns": 48_000, "p99_ns": 49_000,
                      "max_ns": 52_000},
        "inputs": 100, "equal": 100, "give_ups": 0,
    }  # fmt: skip
    compiled = {
        "bound_ns": 50_000, "asked_bound_ns": 50_000, "whole_p50_ns": 350_000, "overhead": 1.02,
        "longest_kernel_ns": 12_000, "longest_kernel": "conv", "positions": 104, "gate_ns": 800,
    }  # fmt: skip
    figures = {
        "network": "resnet50", "batch": 1, "goal": 1.03, "compiled": compiled, "gates": 8,
        "graph": "105 kernels, a plain chain", "width": 1, "aux_streams": 0, "kernels": 105,
        "modes": {"exclusive": mode}, **changes,
    }  # fmt: skip
    return part("networks", "network-resnet50-b1-50us", **figures)


def test_a_network_stands_beside_its_goal() -> None:
    text = markdown({"a": network()})
    row = "| resnet50 b1, exclusive | 350 us | 8 | 1.024 | 1.021 to 1.031 | 1.040 | 1.03 | yes |"
    assert f"{row} 48 us | 49 us | 52 us | 50 us | 100 of 100 |" in text
    assert "105 kernels, a plain chain, at most 1 side by side, 0 auxiliary streams" in text
    assert "`python -m bench.gpu_gates networks`; GPU X, TensorRT 8.6.0" in text
    assert "| 1.03 | **no** |" in markdown({"a": network(median=1.031)})


def test_a_bound_that_had_to_be_raised_is_told_beside_what_was_asked() -> None:
    found = network()
    found["compiled"] = {**found["compiled"], "bound_ns": 63_000}
    assert "| 63 us (asked 50 us) |" in markdown({"a": found})


def test_what_was_not_run_or_broke_off_is_said() -> None:
    broken = part(
        "networks", "network-resnet152-b32-100us", error="no gates: node 3 is a host node"
    )
    half = {**part("points", "points", rows=[]), "is_complete": False}
    found = {each["part"]: each for each in (network(), broken, half)}
    lines = not_measured(found)
    assert "Networks: network-resnet152-b32-100us: no gates: node 3 is a host node" in lines
    assert "Networks: network-vit_b_16-b1-100us has not been run" in lines
    assert "Other mechanisms: points was not run to its end" in lines
    assert "Soak: soak-exclusive-2 has not been run" in lines
    assert not [line for line in lines if "network-resnet50" in line]
    text = markdown(found)
    assert "## Not measured" in text
    assert "## Soak" not in text


def latencies(mode: str, p99_ns: int) -> dict[str, Any]:
    return {
        "mode": mode, "raising": "write", "asked": 10_000, "preemptions": 10_000, "unparked": 0,
        "late_starts": 0, "victims": 700, "right": 700, "give_ups": 0,
        "stretches": {"runs": 50, "longest": 0, "p50_ns": 40_000, "p99_ns": 41_000,
                      "max_ns": 42_000},
        "parked_ns": {"p50": 20_000, "p99": p99_ns, "max": 95_000},
        "start_ns": {"p50": 21_000, "p99": 41_000, "max": 53_000},
    }  # fmt: skip


@pytest.mark.parametrize(("mode", "p99_ns", "expected"), [
    ("exclusive", 52_000, "yes"), ("exclusive", 52_001, "**no**"), ("overlap", 90_000, "-"),
])  # fmt: skip
def test_a_preemption_may_take_ten_us_longer_than_the_longest_stretch(
    mode: str, p99_ns: int, expected: str
) -> None:
    rows = [latencies(mode, p99_ns)]
    found = part("preempt", "preempt-chain", victim="chain", network=None, rows=rows)
    (line,) = [each for each in markdown({"a": found}).splitlines() if "chain, " in each[:10]]
    assert line.split(" | ")[7] == expected
    assert "| 10000 of 10000 |" in line


def way(ratio: float, kept: float) -> dict[str, Any]:
    times = {f"{name}_ns": 400_000 for name in ("p50", "p95", "p99", "max")}
    return {
        "text": "gates", "urgent": {**times, "num_samples": 500}, "long_per_s": 350.0,
        "p99_to_alone": ratio, "rate_to_alone": 0.88, "kept": kept, "gate_faults": 2,
    }  # fmt: skip


def test_a_pairs_goals_stand_beside_its_figures() -> None:
    gates = {"gates": 60, "nodes": 326, "longest_p50_ns": 48_000, "longest_max_ns": 55_000}
    ways = {"gates_exclusive": way(1.12, 0.96), "gates_announced": way(1.04, 0.95)}
    settings = {"urgent": "resnet50", "long": "resnet152", "batch": 32, "period_us": 4000,
                "blocks": 5}  # fmt: skip
    found = part("pair", "pair-resnet152-b32-4000us-50us", settings=settings, blocks_done=4,
                 gates={"long": gates}, segments=11, longest_p50_ns=264_000, ways=ways)  # fmt: skip
    text = markdown({"a": found})
    assert "| gates | 1.120 | 1.12 | yes | 0.960 | 0.96 | yes | 2 |" in text
    assert "| gates | 1.040 | 1.03 | **no** | 0.950 | 0.96 | **no** | 2 |" in text
    assert "4 of 5 blocks" in text
    assert "### resnet50 every 4000 us beside resnet152 b32" in text


def test_a_finished_part_is_replaced_by_a_newer_finished_one_alone() -> None:
    old, newer = network(), {**network(), "date": "2026-11-29T10:00:00+00:00"}
    assert merged({"a": old}, {"a": {**newer, "is_complete": False}}) == {"a": old}
    assert merged({"a": old}, {"a": newer}) == {"a": newer}
    assert merged({"a": newer}, {"a": old, "b": old}) == {"a": newer, "b": old}


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeTensorRT]:
    yield from installed(monkeypatch, tmp_path)


def test_without_parts_there_is_no_page(tmp_path: Path) -> None:
    assert not publish_gates(tmp_path / "parts", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_every_step_leaves_becomes_a_table(
    trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = stand_in(monkeypatch, tmp_path)
    assert isinstance(trt.driver, GraphDriver)
    roles = ("urgent", "long", "urgent_gates", "long_gates")
    for module in (gate_cpu, gate_pair):
        monkeypatch.setattr(module, "compile_pair", lambda options: dict.fromkeys(roles, bundle))
    monkeypatch.setattr(gpu_pair, "_NUM_WARM_UP", 2)
    monkeypatch.setattr("bench.gate_held.FILLERS", ())
    step = Steps(tmp_path)
    step("cost", "--rounds", "1")
    step("points", "--rounds", "1")
    trt.driver.step_ns = 20_000  # the gate's limit of 50 ms comes soon
    step("calls")
    trt.driver.step_ns = 1_000
    step("networks", "--only", "resnet50", "--rounds", "2", "--seconds", "0", "--inputs", "1")
    step("pair", "--only", "resnet152-b32-4000us", "--jobs", "80", "--blocks", "1", "--ways",
         "gates_overlap")  # fmt: skip
    step("preempt", "--only", "chain", "--preemptions", "3")
    step("held", "--rounds", "1")
    step("soak", "--seconds", "0.3", "--max-rate", "20", "--inputs", "1")
    step("faults", "--only", "fingerprint")
    parts = step("cpu", "--jobs", "2")
    out = tmp_path / "results"
    assert publish_gates(tmp_path / "parts", out)
    text = (out / "gpu-gates.md").read_text()
    for section in SECTIONS:
        assert f"## {section.title}\n" in text
    tables = [line for line in text.splitlines() if line.startswith("|---")]
    assert len(tables) == len(SECTIONS) + 1  # a pair has one of ways and one of goals
    assert "refused: other.bundle" in text
    assert "network-vit_b_16-b1-100us has not been run" in text
    published = json.loads((out / "gpu-gates.json").read_text())["parts"]
    assert published == parts
    for path in (tmp_path / "parts").iterdir():
        path.unlink()
    assert publish_gates(tmp_path / "parts", out), "what was published stays"
    assert (out / "gpu-gates.md").read_text() == text
