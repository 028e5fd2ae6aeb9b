"""The pair's benchmark with gates, and the captured graph in pieces, on fakes."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import gate_bundles, gpu_pair
from bench.cut_graphs import CutNetwork
from bench.gated_pair import GatedWay, run_gated_way
from bench.gpu_modes import WAYS, ways
from bench.gpu_pair_page import way_table
from bench.modes import Workload
from preempt_runtime.backends.tensorrt import TrtDevice
from preempt_runtime.bundle import open_bundle
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.errors import InfeasibleError
from preempt_runtime.executor import Executor
from preempt_runtime.gate_dispatcher import GateDispatcher
from preempt_runtime.task import Task
from preemptc.cache import BuildCache
from preemptc.compile_options import CompileOptions
from preemptc.goal import Goal
from tests.runtime.fake_tensorrt import FakeTensorRT
from tests.runtime.gated_trt_world import gated_bundle, install_graphs

pytestmark = pytest.mark.slow  # the fake GPU interprets its gates

INPUTS = {
    "x": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scale": np.full(1, 0.5, np.float32),
}


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeTensorRT]:
    found = install_graphs(monkeypatch, tmp_path)
    yield found
    assert found.driver.open == {}, "left open"


def pair_options(folder: Path, *more: str) -> Any:
    return gpu_pair._options(
        ["--jobs", "18", "--blocks", "1", "--period-us", "50000", "--gates", "--out", str(folder),
         "--work", str(folder / "work"), *more]
    )  # fmt: skip


def test_a_graph_in_pieces_runs_every_node_once_and_in_order(
    trt: FakeTensorRT, tmp_path: Path
) -> None:
    bundle = gated_bundle(tmp_path / "net.bundle", cuts=(2, 4))
    with (
        closing(TrtDevice(zero_copy=False)) as device,
        closing(CutNetwork(open_bundle(bundle.root), zero_copy=False)) as network,
        Executor(device, "fixed-priority", MonotonicClock(), depth=2) as executor,
    ):
        executor.add_task(Task(name="be", network=network))
        trt.driver.log.clear()
        handle = executor.submit("be", INPUTS)
        executor.run()
        assert float(handle.result()["y"]) == 15 + 0.5 + 7
    ran = [line.partition(": ")[2] for line in trt.driver.log if "+7" in line]
    assert ran == [*(f"kernel {number} of +7" for number in range(1, 6)), "engine +7"]


def test_every_way_runs_with_gates_too(
    trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_pair, "_NUM_WARM_UP", 2)
    bundle = gated_bundle(tmp_path / "net.bundle").root
    options = pair_options(tmp_path)
    roles = ("urgent", "long", "urgent_gates", "long_gates")

    def keep(result: Any, is_complete: bool) -> None:
        assert is_complete
        gpu_pair.write(result, tmp_path)

    gpu_pair.measure(dict.fromkeys(roles, bundle), options, keep)
    found = json.loads((tmp_path / "gpu-pair.json").read_text())
    assert list(found["ways"]) == [way.name for way in WAYS]
    for way in ways(has_gates=True):
        entry = found["ways"][way.name]
        assert (entry["urgent"] is not None) == way.has_urgent
        assert (entry["long_per_s"] is not None) == way.has_long
    assert found["gates"]["long"]["gates"] == 3
    assert found["ways"]["gates_exclusive"]["kept"] > 0
    assert found["ways"]["long_alone_2"]["rate_to_alone"] > 0
    page = (tmp_path / "gpu-pair.md").read_text()
    assert "gates, exclusive, announced 100 us ahead" in page
    assert "3 gates in 6 kernel nodes" in page


def test_without_plans_of_gates_their_ways_are_left_out() -> None:
    names = [way.name for way in ways(has_gates=False)]
    assert not [name for name in names if name.startswith(("gates", "cut"))]
    assert "segments_1" in names


def test_two_jobs_of_the_long_network_are_in_flight_where_a_way_says_so(
    trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[int, int] = {}

    class Watched(GateDispatcher):
        def _look(self, *, leaves: bool = True) -> bool:
            found[len(self._running)] = found.get(len(self._running), 0) + 1
            return super()._look(leaves=leaves)

    monkeypatch.setattr("preempt_runtime.executor.GateDispatcher", Watched)
    bundle = gated_bundle(tmp_path / "net.bundle").root
    with closing(TrtDevice(zero_copy=False)) as device:
        load = Workload(
            device=device, urgent=None, whole=None, segments=None,  # type: ignore[arg-type]
            urgent_samples=[INPUTS], long_samples=[INPUTS], period_ns=50_000_000, jitter_ns=0,
            num_jobs=4, num_warm_up=1,
        )  # fmt: skip
        bundles = {"urgent": bundle, "long": bundle}
        way = GatedWay(mode="exclusive")
        run = run_gated_way(way, "best_effort_alone", load, bundles, seed=0)
    assert max(found) == 2
    assert run.best_effort_per_s is not None
    assert run.gate_faults == ()


def test_a_way_that_cannot_be_run_says_why_and_the_others_go_on(
    trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_pair, "_NUM_WARM_UP", 2)
    bundle = gated_bundle(tmp_path / "net.bundle").root
    other = gated_bundle(tmp_path / "other.bundle", fingerprint="0123456789abcdef").root
    options = pair_options(tmp_path, "--ways", "gates_exclusive", "raw_alone")
    bundles = {"urgent": bundle, "long": bundle, "urgent_gates": bundle, "long_gates": other}
    found = gpu_pair.measure(bundles, options, lambda result, _: None)["ways"]
    assert set(found) == {"alone", "long_alone_2", "gates_exclusive", "raw_alone", "raw_long_alone"}
    assert "0123456789abcdef" in found["gates_exclusive"]["error"]
    assert found["gates_exclusive"]["urgent"] is None
    assert found["raw_alone"]["p99_to_alone"] == 1.0
    assert [line for line in way_table(found) if line.startswith("* gates, exclusive: ")]


def test_a_bound_that_no_gates_keep_is_raised_step_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[int] = []

    def compile_model(model: Path, place: Path, asked: CompileOptions, cache: Any) -> Any:
        assert asked.mechanism == "gates"
        if asked.goal.num_segments == 1:
            return {"gates": {"longest_node_ns": longest_ns, "gate_ns": 1000}}
        assert asked.goal.max_segment_ns is not None
        tried.append(asked.goal.max_segment_ns)
        if asked.goal.max_segment_ns < least_ns:
            raise InfeasibleError("one kernel alone takes more")
        return {"segments": 5, "wall_s": 1.0}

    monkeypatch.setattr(gate_bundles, "compile_model", compile_model)
    some = CompileOptions(target="native", goal=Goal(num_segments=1))
    arguments = (tmp_path / "net.onnx", tmp_path / "b", some, BuildCache(tmp_path), 100)
    longest_ns, least_ns = 30_000, 0
    assert gate_bundles.compile_gated(*arguments)["bound_ns"] == 100_000
    longest_ns, least_ns = 199_000, 220_000
    report = gate_bundles.compile_gated(*arguments)
    assert tried == [100_000, 210_000, 220_500]
    assert (report["bound_ns"], report["asked_bound_ns"]) == (220_500, 100_000)
    assert "5 stretches under 220 us" in capsys.readouterr().out
    least_ns = 900_000
    with pytest.raises(InfeasibleError):
        gate_bundles.compile_gated(*arguments)
