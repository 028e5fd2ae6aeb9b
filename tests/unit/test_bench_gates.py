"""The steps of `bench.gpu_gates` on the fake driver: that they run, and what their figures mean."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench import (
    gate_costs,
    gate_cpu,
    gate_networks,
    gate_pair,
    gpu_gates,
    gpu_gates_page,
    gpu_pair,
)
from bench.gate_parts import Parts
from bench.gate_preemption import Tally
from bench.gate_workshop import Hang
from preempt_runtime.errors import DeviceError
from preempt_runtime.gated_device import StretchTimes
from tests.runtime.fake_graphs import GraphDriver
from tests.runtime.fake_tensorrt import FakeTensorRT
from tests.runtime.gated_trt_world import gated_bundle
from tests.unit.gate_bench_world import COMPILED, Steps, installed, stand_in

pytestmark = pytest.mark.slow  # the fake GPU interprets its gates


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeTensorRT]:
    yield from installed(monkeypatch, tmp_path)


@pytest.fixture
def driver(trt: FakeTensorRT) -> GraphDriver:
    assert isinstance(trt.driver, GraphDriver)
    return trt.driver


@pytest.fixture
def step(trt: FakeTensorRT, tmp_path: Path) -> Steps:
    return Steps(tmp_path)


@pytest.fixture
def bundle(trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return stand_in(monkeypatch, tmp_path)


def test_cost(step: Steps) -> None:
    part = step("cost", "--rounds", "1")["cost"]
    assert [(row["mode"], row["timed"]) for row in part["rows"]] == [
        ("exclusive", False), ("exclusive", True), ("overlap", False), ("overlap", True),
    ]  # fmt: skip
    assert [list(row["ns_per_gate"]) for row in part["rows"]] == [["2", "4", "8", "16"]] * 4
    assert (part["step"], part["is_complete"]) == ("cost", True)
    assert part["machine"]["gpu"] == "Testium 9000"
    assert part["command"].startswith("python -m bench.gpu_gates cost --rounds 1")


def test_calls(step: Steps, driver: GraphDriver) -> None:
    driver.step_ns = 20_000
    rows = step("calls")["calls"]["rows"]
    assert len(rows) == 14
    assert all(row["ms"] is not None for row in rows.values())
    assert rows["cuMemGetInfo"]["waits"] is False
    assert driver.num_calls["cuCtxSynchronize"] == 2


NETWORKS = ("networks", "--rounds", "3", "--seconds", "0", "--inputs", "4")


def test_networks_are_measured_one_by_one_and_once(
    step: Steps, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = step(*NETWORKS, "--only", "resnet50", "vit_b_16")
    assert sorted(parts) == ["network-resnet50-b1-50us", "network-vit_b_16-b1-100us"]
    part = parts["network-resnet50-b1-50us"]
    assert part["is_complete"]
    assert (part["graph"], part["kernels"]) == ("6 kernels, a plain chain", 6)
    assert (part["is_chain"], part["width"], part["aux_streams"]) == (True, 1, 0)
    assert (part["gates"], part["goal"], part["compiled"]["gate_ns"]) == (3, 1.03, 800)
    for found in part["modes"].values():
        assert (found["equal"], found["inputs"], found["give_ups"]) == (4, 4, 0)
        assert found["overhead"]["low"] <= found["overhead"]["median"] <= found["overhead"]["high"]
        longest = found["stretches"]
        assert 0 < longest["p50_ns"] <= longest["p99_ns"] <= longest["max_ns"]
    before = part["date"]
    capsys.readouterr()
    assert step(*NETWORKS, "--only", "resnet50")["network-resnet50-b1-50us"]["date"] == before
    assert "skipped, it stands in" in capsys.readouterr().out


def test_no_other_network_is_begun_when_time_is_short(
    step: Steps, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ("--only", "resnet50", "vit_b_16", "--limit-s", "100")
    assert list(step(*NETWORKS, *chosen)) == ["network-resnet50-b1-50us"]
    assert "s are left; run this again" in capsys.readouterr().out
    assert len(step(*NETWORKS, *chosen)) == 2


def test_an_output_that_differs_is_counted(step: Steps, bundle: Path, trt: FakeTensorRT) -> None:
    runs = iter(range(10**6))
    trt.computes = lambda inputs: {"y": float(next(runs)), "early": 0.0}
    part = step(*NETWORKS, "--only", "resnet50")["network-resnet50-b1-50us"]
    assert {found["equal"] for found in part["modes"].values()} == {0}


def test_a_network_that_cannot_have_gates_says_why_and_the_next_is_measured(
    step: Steps, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = gated_bundle(tmp_path / "other.bundle", fingerprint="0123456789abcdef").root
    chosen = {"resnet50": other, "vit_b_16": bundle}
    monkeypatch.setattr(
        gate_networks, "gated_bundle", lambda case, options: (chosen[case.network], COMPILED)
    )
    parts = step(*NETWORKS, "--only", *chosen)
    refused = parts["network-resnet50-b1-50us"]
    assert "its plan is of 0123456789abcdef" in refused["error"]
    assert not refused["is_complete"]
    assert parts["network-vit_b_16-b1-100us"]["is_complete"]


def test_bundles_may_be_built_before(step: Steps, bundle: Path) -> None:
    part = step("networks", "--only", "resnet50", "--build-only")["network-resnet50-b1-50us"]
    assert not part["is_complete"]
    assert part["compiled"]["overhead"] == 1.01
    assert "modes" not in part


def test_a_quick_try_stays_out_of_the_parts_to_be_published() -> None:
    options = gpu_gates._options(["networks", "--quick"])
    assert {options.out.parts[:2], options.work.parts[:2]} == {("build_cache", "bench-gpu-quick")}


def test_a_part_is_skipped_until_it_is_asked_for_again(trt: FakeTensorRT, tmp_path: Path) -> None:
    make = partial(Parts, tmp_path, "cost", "a command", limit_s=0)
    first = make().open("cost")
    assert first is not None
    first.write({}, is_complete=False)
    assert make().open("cost") is not None, "it was not complete"
    first.write({}, is_complete=True)
    assert make().open("cost") is None
    assert make(again=True).open("cost") is not None
    assert not make().budget.allows(1)


def test_every_pair_is_a_part_of_its_own(
    step: Steps, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles = ("urgent", "long", "urgent_gates", "long_gates")
    asked = []

    def compile_pair(options: Any) -> Any:
        asked.append((options.long, options.batch, options.period_us, options.gates))
        return dict.fromkeys(roles, bundle)

    monkeypatch.setattr(gate_pair, "compile_pair", compile_pair)
    monkeypatch.setattr(gpu_pair, "_NUM_WARM_UP", 2)
    other, case = (  # the fake GPU interprets its gates: a job takes it some ms
        gate_pair.PairCase(long=long, batch=64, period_us=25_000) for long in ("vgg19", "resnet50")
    )
    monkeypatch.setattr(gate_pair, "PAIRS", (other, case))
    name = "resnet50-b64-25000us"
    parts = step(
        "pair", "--only", name, "--jobs", "80", "--blocks", "1", "--ways", "gates_announced"
    )
    assert list(parts) == [f"pair-{name}-50us"]
    assert asked == [("resnet50", 64, 25_000, True)]
    part = parts[f"pair-{name}-50us"]
    assert part["is_complete"]
    assert set(part["ways"]) == {"alone", "long_alone_2", "gates_announced"}
    assert part["ways"]["gates_announced"]["rate_to_alone"] > 0
    assert part["settings"]["period_us"] == 25_000


def test_preemptions_are_timed_from_the_raise_to_the_gate_that_holds_the_job(
    step: Steps, bundle: Path
) -> None:
    parts = step("preempt", "--preemptions", "12", "--limit-s", "60")
    assert sorted(parts) == ["preempt-chain", "preempt-engine", "preempt-full"]
    for part in parts.values():
        assert part["is_complete"]
        assert [(row["mode"], row["raising"]) for row in part["rows"]] == [
            ("exclusive", "kernel"), ("exclusive", "write"),
            ("overlap", "kernel"), ("overlap", "write"),
        ]  # fmt: skip
        for row in part["rows"]:
            assert row["right"] == row["victims"] > 0
            assert row["give_ups"] == 0
            assert row["preemptions"] >= 12
            assert 0 <= row["parked_ns"]["p50"] <= row["parked_ns"]["max"]
            assert row["late_starts"] <= 1
            if row["mode"] == "exclusive":
                assert row["unparked"] == 0
                assert row["parked_ns"]["max"] <= row["start_ns"]["max"]
    assert parts["preempt-engine"]["network"] == "resnet152-b32-100us"


def times_of(arrived: tuple[int, ...], passed: tuple[int, ...], end: int) -> StretchTimes:
    return StretchTimes(arrived_ns=arrived, passed_ns=passed, end_ns=end)


def test_what_a_preemption_took_is_counted_where_the_victim_ran() -> None:
    victim = times_of((0, 100, 200), (0, 160, 200), 300)
    urgent = times_of((70,), (105,), 155)
    tally = Tally()
    tally.add(60, urgent, victim)
    assert (tally.parked_ns, tally.start_ns, tally.late_starts) == ([40], [45], 0)
    tally.add(320, times_of((325,), (325,), 340), victim)  # when it had ended
    assert len(tally.parked_ns) == 1
    tally.add(10, times_of((12,), (12,), 50), victim)  # beside it, and over before it parked
    assert (len(tally.parked_ns), tally.num_unparked) == (1, 1)
    tally.add(95, times_of((96,), (301,), 310), times_of((0, 100), (0, 100), 300))
    assert (tally.parked_ns, tally.late_starts) == ([40, 205], 1)


@pytest.mark.parametrize("bindings", [12, 13])
def test_points_of_every_mechanism_leave_the_chain_right(
    bindings: int, step: Steps, driver: GraphDriver
) -> None:
    driver.bindings = bindings
    part = step("points", "--rounds", "1")["points"]
    assert part["is_complete"]
    found = {row["name"]: row for row in part["rows"]}
    assert [row["points"] for row in part["rows"]] == [16, 16, 15, 15, 15, 15]
    assert all(row["is_right"] and "error" not in row for row in part["rows"])
    assert found["launches"]["host_ns"] > found["wait_node"]["host_ns"]
    assert driver.log.count("low: wait for a word") == 15 * 6  # once, once to compare, 4 in turn


def test_a_mechanism_that_the_driver_lacks_is_told(step: Steps, driver: GraphDriver) -> None:
    driver.failures["cuGraphConditionalHandleCreate"] = 801
    rows = {row["name"]: row for row in step("points", "--rounds", "1")["points"]["rows"]}
    assert "cuGraphConditionalHandleCreate failed" in rows["conditional"]["error"]
    assert rows["events"]["is_right"]


def test_the_dispatchers_time_is_counted_for_each_job(
    step: Steps, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_cpu, "_WARM_UP_JOBS", 1)
    monkeypatch.setattr(
        gate_cpu, "compile_pair", lambda options: {"long": bundle, "long_gates": bundle}
    )
    part = step("cpu", "--jobs", "4")["cpu-resnet152-b32"]
    assert part["is_complete"]
    rows = {(row["case"], row["buffers"]): row for row in part["rows"]}
    assert len(rows) == 10
    assert rows["segments, D = 2, best effort", 2]["segments"] == 3
    assert rows["gates, exclusive, real time", 1]["segments"] == 3
    assert rows["whole, D = 1, best effort", 1]["segments"] == 1
    for row in part["rows"]:
        assert row["jobs"] >= 4
        assert 0 < row["cpu_ns"] <= row["wall_ns"] * 1.5


def test_what_was_measured_before_an_error_is_kept(
    step: Steps, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(10))
    measured = gate_networks.num_equal

    def num_equal(*args: Any) -> int:
        if next(calls) == 1:
            raise DeviceError("the second mode was told to fail")
        return measured(*args)

    monkeypatch.setattr(gate_networks, "num_equal", num_equal)
    part = step(*NETWORKS, "--only", "resnet50")["network-resnet50-b1-50us"]
    assert not part["is_complete"]
    assert part["error"] == "the second mode was told to fail"
    assert list(part["modes"]) == ["exclusive"]
    text = gpu_gates_page.markdown({part["part"]: part})
    assert "| resnet50 b1, exclusive |" in text
    assert "network-resnet50-b1-50us: the second mode was told to fail" in text


def test_bindings_that_lack_something_cost_one_row(
    step: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(GraphDriver, "CUgraphConditionalNodeType")
    rows = {row["name"]: row for row in step("points", "--rounds", "1")["points"]["rows"]}
    assert rows["conditional"]["error"].startswith("AttributeError: ")
    assert rows["events"]["is_right"]


def test_a_call_that_the_driver_refuses_is_told_as_that(step: Steps, driver: GraphDriver) -> None:
    driver.step_ns = 20_000
    driver.failures["cuMemGetInfo"] = 801
    part = step("calls")["calls"]
    assert part["is_complete"]
    found = part["rows"]["cuMemGetInfo"]
    assert (found["ms"], found["waits"]) == (None, False)
    assert "cuMemGetInfo failed" in found["error"]
    assert part["rows"]["cuCtxSynchronize"]["ms"] is not None
    assert "| cuMemGetInfo | cuMemGetInfo failed" in gpu_gates_page.markdown({"calls": part})


def test_rows_of_costs_are_written_and_printed_as_they_come(
    step: Steps, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut off in the third of four, here by a hang, which ends the step."""
    paired, calls = gate_costs.paired_ns, iter(range(10))

    def hang(*args: Any) -> Any:
        if next(calls) == 2:
            raise Hang("told to hang")
        return paired(*args)

    monkeypatch.setattr(gate_costs, "paired_ns", hang)
    with pytest.raises(Hang):
        step("cost", "--rounds", "1")
    part = json.loads((step.folder / "parts" / "cost.json").read_text())
    assert [(row["mode"], row["timed"]) for row in part["rows"]] == [
        ("exclusive", False), ("exclusive", True),
    ]  # fmt: skip
    assert (part["is_complete"], part["error"]) == (False, "Hang: told to hang")
    assert capsys.readouterr().out.count("'ns_per_gate'") == 2


def test_after_a_hang_the_process_has_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, bool]] = []
    monkeypatch.setattr(
        "faulthandler.dump_traceback_later", lambda after_s, exit: asked.append((after_s, exit))
    )
    Hang("nobody asked for an end")
    assert asked == []
    monkeypatch.setattr(Hang, "ends_after_s", 20.0)
    Hang("a stream was not done")
    assert asked == [(20.0, True)]


def test_a_case_that_fails_leaves_the_others(
    step: Steps, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_cpu, "_WARM_UP_JOBS", 1)
    monkeypatch.setattr(gate_cpu, "CASES", gate_cpu.CASES[3:6])
    bundles = {"long": bundle, "long_gates": bundle}
    monkeypatch.setattr(gate_cpu, "compile_pair", lambda options: bundles)
    measured = gate_cpu.cpu_of

    def cpu_of(case: Any, *args: Any) -> Any:
        if case.plan == "gates" and case.buffers == 2:
            raise DeviceError("told to fail")
        return measured(case, *args)

    monkeypatch.setattr(gate_cpu, "cpu_of", cpu_of)
    part = step("cpu", "--jobs", "2")["cpu-resnet152-b32"]
    assert part["is_complete"]
    assert [row.get("error") for row in part["rows"]] == [None, "told to fail", None]
    assert "best effort: told to fail | - | 2 |" in gpu_gates_page.markdown({"cpu": part})
