"""The pair's benchmark with gates, and the captured graph in pieces, on fakes."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import gpu_pair
from bench.cut_graphs import CutNetwork
from bench.gpu_modes import WAYS, ways
from preempt_runtime.backends import trt_library
from preempt_runtime.backends.tensorrt import TrtDevice
from preempt_runtime.bundle import open_bundle
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.executor import Executor
from preempt_runtime.task import Task
from tests.runtime.fake_tensorrt import FakeTensorRT
from tests.runtime.gated_trt_world import gated_bundle, install_graphs

INPUTS = {
    "x": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scale": np.full(1, 0.5, np.float32),
}


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeTensorRT]:
    found = install_graphs(monkeypatch, tmp_path)
    yield found
    trt_library.local_fields.cache_clear()
    assert found.driver.open == {}, "left open"


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
    options = gpu_pair._options(
        ["--jobs", "10", "--blocks", "1", "--period-us", "50000", "--gates", "--out", str(tmp_path)]
    )
    roles = ("urgent", "long", "urgent_gates", "long_gates")
    gpu_pair.measure(dict.fromkeys(roles, bundle), options)
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


def test_a_bound_that_no_gates_keep_is_raised_step_by_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from preempt_runtime.errors import InfeasibleError
    from preemptc.cache import BuildCache
    from preemptc.compile_options import CompileOptions
    from preemptc.goal import Goal

    tried: list[int] = []

    def compile_model(model: Path, place: Path, asked: CompileOptions, cache: Any) -> Any:
        assert asked.mechanism == "gates"
        assert asked.goal.max_segment_ns is not None
        tried.append(asked.goal.max_segment_ns)
        if asked.goal.max_segment_ns < least_ns:
            raise InfeasibleError("one kernel alone takes more")
        return {"segments": 5, "wall_s": 1.0}

    monkeypatch.setattr(gpu_pair, "compile_model", compile_model)
    some = CompileOptions(target="native", goal=Goal(num_segments=1))
    least_ns = 150_000
    arguments = (tmp_path / "net.onnx", tmp_path / "b", some, BuildCache(tmp_path), 100)
    gpu_pair.compile_gates(*arguments)
    assert tried == [100_000, 141_421, 200_000]
    assert "5 stretches under 200 us" in capsys.readouterr().out
    least_ns = 900_000
    with pytest.raises(InfeasibleError):
        gpu_pair.compile_gates(*arguments)
    assert tried[-1] == 800_000
