"""The GPU benchmarks' measurements on a driver and a TensorRT made of Python."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import gpu_bundle, gpu_deadlines, gpu_pair
from bench.deadlines_report import CUT, UNCUT
from bench.gpu_layers import LayerTime, layer_lines, layer_report, layer_times
from bench.gpu_modes import WAYS, on_device, run_way, ways
from bench.modes import Workload
from models.make import make
from preempt_runtime.backends.tensorrt import TrtDevice
from preempt_runtime.bundle import open_bundle
from preempt_runtime.taskset import TaskSetSpec, read_taskset
from preemptc.plan import TaskSetPlan, plan_taskset
from preemptc.plan_problem import PlanOptions
from tests.runtime.fake_tensorrt import FakeTensorRT, blob_of
from tests.runtime.tensorrt_world import (
    BOUNDARIES,
    GRAPH,
    SEGMENTS,
    expected,
    install,
    write_both_plans,
)


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorRT]:
    found = install(monkeypatch)
    yield found
    left = {kind for kind in found.driver.open.values()}
    assert not left, f"left open: {left}"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_both_plans(tmp_path / "net.bundle").root


def test_chain_and_whole_are_measured_in_turn_and_their_outputs_compared(
    trt: FakeTensorRT, bundle: Path
) -> None:
    def reference(names: Any, inputs: Any) -> dict[str, Any]:
        return {name: np.full((1,), 5.0) for name in names}

    with gpu_bundle.loaded(bundle) as it:
        times = gpu_bundle.paired_times(it, min_pairs=8, budget_ns=0)
        outputs = gpu_bundle.compared_outputs(it, reference)
        x, scale = it.inputs["x"], it.inputs["scale"]
    assert (times["pairs"], times["ratio"]["median"], len(times["segments"])) == (8, 1.0, 3)
    assert times["segments"][0]["p99_ns"] == 1_500_000  # what the fake's events say
    chain = expected(float(x.sum()), float(scale.sum()))
    whole = float(x.sum() + scale.sum()) + 7
    for name, found in outputs.items():
        assert found["largest"] == 5.0
        assert found["chained_to_whole"] == pytest.approx(abs(chain[name] - whole), rel=1e-2)
        assert found["whole_to_source"] == pytest.approx(abs(5 - whole), rel=1e-5)
        assert found["chained_to_source"] == pytest.approx(abs(5 - chain[name]), rel=1e-2)


def test_segments_alone_are_measured_where_the_bundle_has_no_whole(
    trt: FakeTensorRT, bundle: Path
) -> None:
    document = json.loads((bundle / "manifest.json").read_text())
    document["plans"] = [plan for plan in document["plans"] if plan["id"] == "segments"]
    (bundle / "manifest.json").write_text(json.dumps(document))
    with gpu_bundle.loaded(bundle) as it:
        times = gpu_bundle.paired_times(it, min_pairs=8, budget_ns=0)
        outputs = gpu_bundle.compared_outputs(
            it, lambda names, inputs: {name: np.zeros(1) for name in names}
        )
    assert (times["ratio"], times["whole"], len(times["segments"])) == (None, None, 3)
    assert all(found.keys() == {"largest", "chained_to_source"} for found in outputs.values())
    assert gpu_bundle.memory_of(bundle).keys() == {"segments"}


def test_memory_is_what_the_driver_has_less_of(trt: FakeTensorRT, bundle: Path) -> None:
    found = gpu_bundle.memory_of(bundle)
    assert found["segments"]["scratch"] == 3072  # the largest of 1000, 2000 and 3000, aligned
    assert found["whole"]["scratch"] == 5120
    for plan in ("whole", "segments"):
        assert found[plan]["device"] == found[plan]["scratch"] + found[plan]["tensors"]
        assert found[plan]["engine_files"] > 0


def test_layers_of_both_are_joined_by_the_nodes_in_them(trt: FakeTensorRT, tmp_path: Path) -> None:
    model = make("tiny_cnn", tmp_path / "tiny.onnx")
    names = [node.name for node in read_nodes(model)]
    first, second, third = names[:3]
    specs = {spec.name: spec for spec in (*GRAPH.inputs, *GRAPH.outputs, *BOUNDARIES)}
    layers: list[dict[str, float]] = [
        {first: 0.02},
        {"Reformatting CopyNode for Input Tensor 0": 0.005, f"{second} + {third}": 0.03},
        {"Reformatting CopyNode for Output Tensor 0": 0.002},
    ]
    contents = [
        blob_of(
            [specs[n] for n in inputs],
            [specs[n] for n in outputs],
            add=10.0**idx,
            layers=layers[idx],
        )
        for idx, (inputs, outputs) in enumerate(SEGMENTS)
    ]
    whole = blob_of(
        GRAPH.inputs, GRAPH.outputs, add=7.0, layers={f"{first} + {second}": 0.03, third: 0.01}
    )
    root = write_both_plans(tmp_path / "net.bundle", contents, whole).root
    with gpu_bundle.loaded(root) as it:
        report = layer_report(layer_times(it, model), 41_000, [21_000, 36_000, 3_000])
    engines = report["engines"]
    assert engines["whole"] == {
        "layers": 2, "layers_ns": 40_000, "graph_ns": 41_000, "outside_ns": 1000, "reformats": 0,
        "reformats_ns": 0,
    }  # fmt: skip
    assert (engines["segment 1"]["reformats"], engines["segment 1"]["reformats_ns"]) == (1, 5000)
    by_more = [(group["more_ns"], group["segments"]) for group in report["groups"]]
    assert by_more == [(10_000, [0, 1]), (5000, [1]), (2000, [2])]
    assert (report["groups"][0]["whole_layers"], report["groups"][0]["chain_layers"]) == (2, 2)
    text = "\n".join(layer_lines(report))
    assert "| all segments | 4 | 57 us | 60 us | 3 us | 2 | 7 us |" in text
    assert "| 0, 1 | 2 > 2 | 40 us | 50 us | 10 us |" in text


def read_nodes(model: Path) -> Any:
    from preemptc.onnx_io.files import read_graph

    return read_graph(model).graph.node


def test_a_fusion_that_joins_two_groups_makes_one_of_them() -> None:
    def layer(segment: int | None, *nodes: str) -> LayerTime:
        return LayerTime(name="+".join(nodes), segment=segment, time_ns=1, nodes=nodes)

    layers = [layer(None, "a"), layer(None, "b"), layer(0, "a", "b"), layer(1, "c")]
    groups = layer_report(layers, 2, [1, 1])["groups"]
    assert sorted((each["whole_layers"], each["chain_layers"]) for each in groups) == [
        (0, 1),
        (2, 1),
    ]


def pair_options(tmp_path: Path) -> Any:
    options = gpu_pair._options(
        [
            "--jobs",
            "5",
            "--blocks",
            "2",
            "--period-us",
            "4000",
            "--out",
            str(tmp_path / "out"),
            "--work",
            str(tmp_path / "work"),
        ]
    )
    return options


@pytest.mark.slow
def test_every_way_of_sharing_runs_and_each_block_is_written(
    trt: FakeTensorRT, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_pair, "_NUM_WARM_UP", 2)
    written: list[tuple[int, bool]] = []

    def keep(result: Any, is_complete: bool) -> None:
        written.append((result["blocks_done"], is_complete))
        gpu_pair.write(result, tmp_path / "out")

    options = pair_options(tmp_path)
    first = gpu_pair.measure({"urgent": bundle, "long": bundle}, options, keep)
    assert written == [(1, False), (2, True)]
    again = gpu_pair.measure({"urgent": bundle, "long": bundle}, options, keep)
    assert written[2:] == [(2, True)], "both blocks were kept"
    assert again["ways"] == first["ways"]
    found = json.loads((tmp_path / "out" / "gpu-pair.json").read_text())
    assert list(found["ways"]) == [way.name for way in ways(has_gates=False)]
    for way in ways(has_gates=False):
        entry = found["ways"][way.name]
        assert (entry["urgent"] is not None) == way.has_urgent
        assert (entry["long_per_s"] is not None) == way.has_long
        if way.has_urgent:
            assert entry["urgent"]["num_samples"] == 10
            assert 0 < entry["urgent"]["p50_ns"] <= entry["urgent"]["max_ns"]
    assert found["ways"]["raw_alone"]["p99_to_alone"] == 1.0
    assert found["ways"]["long_alone_2"]["rate_to_alone"] == 1.0
    page = (tmp_path / "out" / "gpu-pair.md").read_text()
    assert page.count("\n| ") == 2 + len(ways(has_gates=False))
    assert "3 segments under a bound of 2 us" in page


@pytest.mark.parametrize("way_name", [way.name for way in WAYS if way.mode is None])
def test_a_raw_way_uses_one_stream_or_one_of_each_priority(
    trt: FakeTensorRT, bundle: Path, way_name: str
) -> None:
    (way,) = (each for each in WAYS if each.name == way_name)
    device = TrtDevice()
    network = device.load(open_bundle(bundle), "whole")
    with on_device(network, 0) as inputs:
        mark = len(trt.driver.log)
        load = Workload(
            device=device,
            urgent=network,
            whole=network,
            segments=network,
            urgent_samples=(),
            long_samples=(),
            period_ns=4_000_000,
            jitter_ns=0,
            num_jobs=5,
            num_warm_up=1,
        )
        run = run_way(way, load, (inputs, inputs), seed=0)
    network.close()
    device.close()
    ran = [line.split(":")[0] for line in trt.driver.log[mark:] if "engine +7" in line]
    num_warm_ups = way.has_urgent + way.has_long  # on the device's own stream, of low priority
    high, low = ran.count("high"), ran.count("low") - num_warm_ups
    num_urgent = 6 * way.has_urgent
    assert (high > num_urgent) == (way.has_long and way.num_streams == 1)
    assert high >= num_urgent
    assert (low > 0) == (way.has_long and way.num_streams == 2)
    assert len(run.response_ns) == (5 if way.has_urgent else 0)
    assert (run.long_per_s is not None) == way.has_long


def planned_from_bundles(
    taskset: TaskSetSpec, planning: PlanOptions, caches: Any
) -> tuple[TaskSetPlan, int]:
    """In place of compiling: the bundles are there; what their manifests say is measured."""
    assert (planning.target, planning.precision, planning.level) == ("native", "fp16", 1)
    tasks = tuple(replace(task, model=None) for task in taskset.tasks)
    bundles = replace(taskset, tasks=tasks)
    plan = plan_taskset(bundles, planning, next(iter(caches)), lambda what, frac: None)
    return replace(plan, is_compiled=True), 1


def run_deadlines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """The result's file, of two networks that are there already."""
    work = tmp_path / "work"
    options = gpu_deadlines._options(
        ["--networks", "a/b", "c", "--work", str(work), "--out", str(tmp_path / "out"),
         "--cache", str(tmp_path / "cache"), "--jobs", "60", "--rounds", "2", "--loads", "0.3",
         "--calibration-jobs", "20", *arguments]
    )  # fmt: skip
    wholes = [write_both_plans(work / f"{name}-whole.bundle").root for name in ("a-b", "c")]
    for name in ("a-b", "c"):
        (work / f"{name}.onnx").write_bytes(b"")
        for depth in (1, 2):
            write_both_plans(work / f"{name}-depth{depth}.bundle")
    monkeypatch.setattr(gpu_deadlines, "compile_whole", lambda options, cache: wholes)
    cut = write_both_plans(work / "a-b-cut.bundle").root
    monkeypatch.setattr(gpu_deadlines, "compile_in", lambda *_: cut)
    monkeypatch.setattr(gpu_deadlines, "compiled", planned_from_bundles)
    gpu_deadlines.measure(options)
    return json.loads((tmp_path / "out" / "gpu-deadlines.json").read_text())


def test_deadlines_begin_no_blocks_after_their_time(
    trt: FakeTensorRT,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = run_deadlines(tmp_path, monkeypatch, "--limit-s", "0")
    assert list(found["depths"]) == ["1"]
    assert list(found["depths"]["1"]["variants"]) == [CUT, UNCUT]
    assert "s are left, a pair of blocks takes" in capsys.readouterr().out


def test_deadlines_run_with_and_without_points_at_each_depth(
    trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run_deadlines(tmp_path, monkeypatch)
    assert found["dispatch_ns"] > 0
    assert found["job_dispatch_ns"] > 0
    assert {read_taskset(path).job_dispatch_ns for path in (tmp_path / "work").glob("*.toml")} == {
        found["job_dispatch_ns"]
    }
    assert list(found["depths"]) == ["1", "2"]
    for depth in found["depths"].values():
        assert (depth["load"], list(depth["variants"])) == (0.3, [CUT, UNCUT])
        for variant, num_segments in ((CUT, 3), (UNCUT, 1)):
            tasks = depth["variants"][variant]["tasks"]
            assert sum(task["jobs"] for task in tasks.values()) >= 60
            for task in tasks.values():
                assert task["segments_run"] == num_segments * task["jobs"]
    assert trt_depths(tmp_path / "work") == {1, 2}
    page = (tmp_path / "out" / "gpu-deadlines.md").read_text()
    assert "## D = 2: the task set at a load of 30%" in page
    assert re.search(r"\* uncut: \d+ of \d+ jobs missed", page)


def trt_depths(work: Path) -> set[int]:
    return {read_taskset(path).depth for path in work.glob("tasks*.toml")}
