"""The steps of `bench.gpu_gates` on the fake driver: that they run, and what their figures mean."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import gpu_gates
from bench.gate_trials import Sizes
from preempt_runtime.backends import cuda_driver, trt_library
from preemptc import gate_plan
from preemptc.backends.tensorrt import gate_bench
from tests.runtime.fake_graphs import GraphDriver
from tests.runtime.fake_tensorrt import FakeTensorRT
from tests.runtime.tensorrt_world import FIELDS, write_both_plans

SMALL = Sizes(count=32, block=32, duration_ns=20_000, num_long=16, num_short=3)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[GraphDriver]:
    fake = GraphDriver(seed=2, version=12060, bindings=12)
    fake.step_ns = 1_000
    fake.attributes |= {20: 0, 90: 1}
    trt = FakeTensorRT(fake, "8.6.1")
    monkeypatch.setattr(cuda_driver, "driver", fake)
    monkeypatch.setattr(cuda_driver, "library", lambda: fake.library)
    monkeypatch.setitem(sys.modules, "tensorrt", trt.module)
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    for name in ("_COST_SIZES", "_FULL_SIZES"):
        monkeypatch.setattr(gpu_gates, name, SMALL)
    monkeypatch.setattr(gate_plan, "_MIN_RUNS", 2)
    monkeypatch.setattr(gate_plan, "_BUDGET_NS", 0)
    monkeypatch.setattr(gate_bench, "_MAX_CLOCK_RATIO", 1e9)  # events of this fake are constant
    monkeypatch.setattr("faulthandler.dump_traceback_later", lambda *_, **__: None)
    trt_library.local_fields.cache_clear()
    yield fake
    trt_library.local_fields.cache_clear()
    assert fake.open == {}


@pytest.fixture
def step(driver: GraphDriver, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str | Path) -> Any:
        gpu_gates.main([str(each) for each in arguments])
        return json.loads(capsys.readouterr().out)

    return run


def test_cost(step: Any) -> None:
    result = step("cost", "--rounds", "1")
    assert [(row["mode"], row["timed"]) for row in result["rows"]] == [
        ("overlap", False), ("overlap", True), ("exclusive", False), ("exclusive", True),
    ]  # fmt: skip
    assert [list(row["ns_per_gate"]) for row in result["rows"]] == [["2", "4", "8", "16"]] * 4


def test_preempt(step: Any) -> None:
    rows = step("preempt", "--rounds", "2")
    assert len(rows) == 6
    for row in rows:
        assert (row["right"], row["give_ups"]) == (2, 0)
        assert row["late_starts"] <= 1
        assert row["mode"] == "overlap" or row["overlap_ns"] == 0


def test_calls(step: Any, driver: GraphDriver) -> None:
    driver.step_ns = 20_000
    rows = step("calls")
    assert len(rows) == 10
    assert all(row["ms"] is not None for row in rows.values())
    assert rows["cuMemGetInfo"]["waits"] is False
    assert driver.num_calls["cuCtxSynchronize"] == 2


@pytest.mark.parametrize("inputs", [2])
def test_engine_and_pair(step: Any, inputs: int, tmp_path: Path) -> None:
    bundle = write_both_plans(tmp_path / "net.bundle").root
    assert FIELDS["cuda_driver"] == 12060
    result = step("engine", "--bundle", bundle, "--rounds", "2", "--inputs", str(inputs))
    assert result["shape"] == "1 kernel, a plain chain"
    assert result["unfit"] is None
    assert {row["equal"] for row in result["rows"]} == {inputs}
    assert {row["num_gates"] for row in result["rows"]} == {1}
    result = step(
        "pair", "--bundle", bundle, "--urgent", bundle, "--seconds", "0.3", "--period-us", "5000"
    )
    for row in result.values():
        assert row["give_ups"] == []
        assert row["both"]["jobs"] > 0
        assert row["both"]["long_per_s"] > 0
        assert "p50_us" not in row["long_alone"]
