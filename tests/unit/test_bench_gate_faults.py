"""Soaks, held gates and faults of `bench.gpu_gates` on fakes."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bench import gate_fault_processes, gate_faults, gate_held, gate_soak
from bench.gate_fault_trials import Found
from bench.gate_inversions import StretchLog
from preempt_runtime.backends.cuda import open_cuda
from preempt_runtime.backends.gate_board import GateBoard
from preempt_runtime.gate_keys import EMPTY
from preempt_runtime.gated_device import StretchTimes
from tests.runtime.fake_graphs import GraphDriver
from tests.runtime.fake_tensorrt import FakeTensorRT
from tests.unit.gate_bench_world import Steps, installed, stand_in

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


SOAK = ("soak", "--seconds", "0.6", "--max-rate", "12", "--inputs", "3")


@pytest.mark.parametrize("mode", ["exclusive", "overlap"])
def test_a_soak_loses_no_job_and_knows_every_output(mode: str, step: Steps, bundle: Path) -> None:
    part = step(*SOAK, "--mode", mode)[f"soak-{mode}-1"]
    assert part["is_complete"]
    assert len(part["tasks"]) == 6
    assert [task["priority"] for task in part["tasks"].values()] == [4, 3, 2, 1, None, None]
    for task in part["tasks"].values():
        assert task["counts"]["released"] == task["counts"]["finished"] == task["ended"] > 0
        assert task["wrong"] == 0
        assert task["response_ns"]["num_samples"] == task["ended"]
    found = part["inversions"]
    assert found["num_stretches"] == 3 * sum(task["ended"] for task in part["tasks"].values())
    assert found["longest_stretch_ns"] > 0
    assert found["longest_ns"] <= found["longest_stretch_ns"]
    assert found["number"] <= found["num_waits"] / 4  # a gate that has decided writes that late
    assert part["gate_faults"] == []


def test_a_soak_counts_wrong_outputs(
    step: Steps, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = gate_soak.known_outputs

    def swapped(path: Path, num_inputs: int) -> Any:
        inputs, outputs = known(path, num_inputs)
        return inputs, [outputs[1], *outputs[1:]]

    monkeypatch.setattr(gate_soak, "known_outputs", swapped)
    part = step(*SOAK)["soak-exclusive-1"]
    for task in part["tasks"].values():
        assert task["wrong"] == -(-task["ended"] // 3)  # every third, from the first on


def test_a_soak_tells_how_far_it_is(
    step: Steps, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate_soak, "_REPORT_S", 0.1)
    step(*SOAK)
    assert len([line for line in capsys.readouterr().out.splitlines() if " wrong" in line]) >= 1


def log_of(*jobs: tuple[int, tuple[int, ...], tuple[int, ...], int]) -> StretchLog:
    log = StretchLog()
    for key, arrived, passed, end in jobs:
        log.add(key, StretchTimes(arrived_ns=arrived, passed_ns=passed, end_ns=end))
    return log


def test_a_stretch_that_runs_when_an_urgent_job_comes_is_no_inversion() -> None:
    found = log_of((9, (0, 50), (0, 70), 90), (1, (20,), (50,), 70)).inversions()
    assert (found.number, found.num_waits, found.longest_stretch_ns) == (0, 2, 50)


def test_a_stretch_that_begins_while_an_urgent_job_waits_is_one() -> None:
    found = log_of((9, (0, 10, 60), (0, 30, 60), 90), (1, (20,), (60,), 70)).inversions()
    assert (found.number, found.total_ns, found.longest_ns) == (1, 30, 30)
    more_urgent = log_of((0, (0, 10, 60), (0, 30, 60), 90), (1, (20,), (60,), 70)).inversions()
    assert more_urgent.number == 0


def test_inversions_of_random_jobs_are_those_that_every_pair_tells() -> None:
    rng = Random(5)
    jobs = []
    for _ in range(60):
        moments = sorted(rng.sample(range(1000), 7))
        jobs.append((rng.randrange(20), tuple(moments[0:6:2]), tuple(moments[1:6:2]), moments[6]))
    number = total = 0
    for key, arrived, passed, _ in jobs:
        for since, until in zip(arrived, passed, strict=True):
            for other, begun, started, end in jobs:
                for begin, stop in zip(started, (*begun[1:], end), strict=True):
                    if other > key and since < begin < until:
                        number += 1
                        total += min(stop, until) - begin
    found = log_of(*jobs).inversions()
    assert number > 10
    assert (found.number, found.total_ns) == (number, total)


def test_no_jobs_no_inversions() -> None:
    assert StretchLog().inversions().number == 0


def one_sm(driver: GraphDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU so small that kernels of one warp fill it."""
    driver.attributes[16] = 1
    small = [replace(each, block=32, blocks_per_sm=1) for each in gate_held.FILLERS]
    small[-1] = replace(small[-1], kernel="long_step", cluster=1)
    monkeypatch.setattr(gate_held, "FILLERS", small)
    monkeypatch.setattr(gate_held, "_FILLER_NS", 20_000)
    monkeypatch.setattr(gate_held, "_RUNS", 2)


def test_a_network_and_kernels_that_fill_an_sm_run_beside_held_gates(
    step: Steps, bundle: Path, driver: GraphDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_sm(driver, monkeypatch)
    part = step("held", "--rounds", "2")["held"]
    assert part["is_complete"]
    rows = {row["name"]: row for row in part["rows"]}
    assert list(rows) == ["network", "registers", "shared", "threads", "clusters"]
    for row in rows.values():
        assert row["give_ups"] == 0
        assert list(row["held"]) == ["0", "1", "5"]
        assert row["runs"] == 4
        assert row["held"]["0"]["p99_ratio"] == 1.0


def test_so_many_gates_wait_meanwhile_and_none_after(
    trt: FakeTensorRT, driver: GraphDriver
) -> None:
    with (
        open_cuda(),
        GateBoard(mode="exclusive", max_wait_ns=2_000_000_000) as board,
        ExitStack() as stack,
    ):
        gates = gate_held.HeldGates(board, stack)
        for number in (1, 5):
            with gates.held(number):
                driver.advance(200)
                begun = driver.log.count("low: preempt_gate_exclusive")
                ended = driver.log.count("low: end of preempt_gate_exclusive")
                assert begun - ended == number
        assert driver.log.count("low: end of preempt_gate_exclusive") == 6
        assert set(board.slots()) == {EMPTY}


def test_a_launch_that_a_gpu_does_not_have_is_told(
    step: Steps, bundle: Path, driver: GraphDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_sm(driver, monkeypatch)
    fillers = [*gate_held.FILLERS[:1], replace(gate_held.FILLERS[-1], cluster=2)]
    monkeypatch.setattr(gate_held, "FILLERS", fillers)
    driver.failures["cuLaunchKernelEx"] = 801
    rows = {row["name"]: row for row in step("held", "--rounds", "1")["held"]["rows"]}
    assert "cuLaunchKernelEx failed" in rows["clusters"]["error"]
    assert "held" in rows["registers"]


SINGLE = ("dead-client-exclusive", "dead-client-overlap", "lost-owner", "branches", "fingerprint")


def test_faults_that_one_process_makes_are_as_expected(
    step: Steps, bundle: Path, driver: GraphDriver
) -> None:
    driver.step_ns = 50_000  # limits of 50 ms come soon
    parts = step("faults", "--only", *SINGLE)
    for name in SINGLE:
        part = parts[f"fault-{name}"]
        assert part["is_expected"], part["found"]
        assert part["is_complete"]
    assert "the holder of a key did nothing" in parts["fault-dead-client-overlap"]["found"]
    assert "the owner of the GPU did nothing" in parts["fault-lost-owner"]["found"]
    assert "8 kernels, 6 edges, no chain; 8 gates" in parts["fault-branches"]["found"]
    assert "0123456789abcdef" in parts["fault-fingerprint"]["found"]


def test_a_thread_that_allocates_all_the_time_is_counted(step: Steps, bundle: Path) -> None:
    part = step("faults", "--only", "allocations", "--seconds", "1.5")["fault-allocations"]
    assert part["is_expected"], part["found"]
    assert re.fullmatch(
        r"\d+ allocations; \d+ jobs ended, 0 wrong, 0 lost, \d+ gates gave up", part["found"]
    )


PROCESSES = ("second-process", "killed-process", "one-queue")


def test_faults_of_processes_are_as_expected(
    step: Steps, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = [sys.executable, "-m", "tests.unit.fake_gate_child"]
    monkeypatch.setattr(gate_fault_processes, "CHILD", child)
    monkeypatch.setattr(gate_fault_processes, "_AFTER_S", 0.3)
    monkeypatch.setenv("FAKE_FOLDER", str(tmp_path))
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), str(root / "runtime")]))
    parts = step("faults", "--only", *PROCESSES, "--seconds", "0.2")
    found = {name: parts[f"fault-{name}"] for name in PROCESSES}
    assert [each["found"] for each in found.values() if not each["is_expected"]] == []
    assert "another process runs jobs with gates on it: process" in found["second-process"]["found"]
    assert " 0 wrong, 0 lost" in found["killed-process"]["found"]
    assert "share a hardware queue" in found["one-queue"]["found"]


def test_what_is_not_as_expected_and_what_raises_is_told(
    step: Steps, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(path: Path, seconds: float) -> Found:
        raise KeyboardInterrupt

    def fails(path: Path, seconds: float) -> Found:
        raise RuntimeError("no such thing")

    trial = gate_faults.TRIALS[0]
    trials = [replace(trial, name="fails", run=fails), replace(trial, name="hangs", run=hangs)]
    monkeypatch.setattr(gate_faults, "TRIALS", trials)
    with pytest.raises(KeyboardInterrupt):
        step("faults")
    monkeypatch.setattr(gate_faults, "TRIALS", ())
    parts = step("faults")
    assert parts["fault-fails"]["found"] == "RuntimeError: no such thing"
    assert parts["fault-hangs"]["found"] == gate_faults.HUNG
    assert not any(part["is_expected"] for part in parts.values())


def test_a_soak_that_has_less_time_runs_that_long_and_is_not_complete(
    step: Steps, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate_soak, "_LOADING_S", 0.0)
    part = step("soak", "--seconds", "600", "--max-rate", "12", "--limit-s", "4")
    found = part["soak-exclusive-1"]
    assert not found["is_complete"]
    assert 0 < found["ran_s"] < 60
    assert found["inversions"]["num_stretches"] > 0
    assert "s are left of 600: run this again" in capsys.readouterr().out


def test_no_trial_is_begun_when_time_is_short(
    step: Steps, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert step("faults", "--limit-s", "30") == {}
    assert "dead-client-exclusive: 30 s are left; run this again" in capsys.readouterr().out
