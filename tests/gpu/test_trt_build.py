"""Building on a GPU: quantised networks, boundary formats, kept times, builds that are ended."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.make import make
from preempt_runtime.backends.tensorrt import local_fields
from preempt_runtime.bundle import open_bundle
from preempt_runtime.errors import DeviceError
from preempt_runtime.inputs import random_inputs
from preemptc.backends import BackendOptions, silent
from preemptc.backends.tensorrt import engine_builder
from preemptc.backends.tensorrt.bench import TrtBench
from preemptc.backends.tensorrt.build_watch import BuildWatch
from preemptc.backends.tensorrt.engine_builder import EngineBuilder, EngineOptions
from preemptc.backends.tensorrt.formats import boundary_formats
from preemptc.backends.tensorrt.timing_cache import TimingFile
from preemptc.cache import BuildCache
from preemptc.compile_options import CompileOptions
from preemptc.goal import Goal
from preemptc.interface import graph_spec
from preemptc.pipeline import compile_model
from preemptc.prepare import Prepared, prepare
from preemptc.segments import boundary_names, segments_from_split_points
from tests.unit import onnx_models

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]
LEVEL = 1
_QUANTUM_FRAC = 0.02  # int8 steps of 1/127 that fall on the other side, averaged over a channel


@pytest.fixture(autouse=True)
def _gpu() -> Iterator[None]:
    try:
        local_fields()
    except DeviceError as err:
        pytest.skip(str(err))
    yield
    engine_builder.shared_builder.cache_clear()


def options_of(precision: str, num_segments: int = 2) -> CompileOptions:
    return CompileOptions(
        target="native",
        goal=Goal(num_segments=num_segments),
        backend=BackendOptions(precision=precision, level=LEVEL),  # type: ignore[arg-type]
    )


def bench_of(prepared: Prepared) -> TrtBench:
    bench = prepared.backend.bench(prepared.model, prepared.lowered)
    assert isinstance(bench, TrtBench)
    return bench


def assert_close(found: dict[str, Any], expected: dict[str, Any], frac: float) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert len(np.unique(array)) > 1
        assert np.abs(found[name] - array).max() <= frac * np.abs(array).max(), name


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_quantised_network_computes_what_onnx_runtime_does(
    precision: str, has_bias: bool, tmp_path: Path
) -> None:
    path = onnx_models.save(onnx_models.quantised(has_bias=has_bias), tmp_path / "net.onnx")
    options, cache = options_of(precision), BuildCache(tmp_path / "cache")
    report = compile_model(path, tmp_path / "net.bundle", options, cache)
    assert report["segments"] == 2
    prepared = prepare(path, options, cache)
    inputs = random_inputs(graph_spec(prepared.lowered), seed=3, task="t")
    plan = open_bundle(tmp_path / "net.bundle").manifest.plans[0]
    points = [segment.range[1] for segment in plan.segments[:-1]]
    with bench_of(prepared) as bench:
        expected = bench.source_outputs(inputs)
        assert_close(bench.outputs(None, inputs), expected, _QUANTUM_FRAC)
        assert_close(bench.outputs(points, inputs), expected, _QUANTUM_FRAC)


def test_a_quantised_network_is_cut_where_int8_crosses(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.quantised(), tmp_path / "net.onnx")
    prepared = prepare(path, options_of("fp32"), BuildCache(tmp_path / "cache"))
    graph = prepared.lowered.graph
    print([(node.name, node.outputs) for node in graph.nodes])
    written = [name for node in graph.nodes for name in node.outputs]
    point = 1 + next(i for i, node in enumerate(graph.nodes) if "relu0.q" in node.outputs)
    assert graph.tensors["relu0.q"].dtype == "int8"
    assert "relu0" not in written, "Q is part of the layer that feeds it"
    inputs = random_inputs(graph_spec(prepared.lowered), seed=3, task="t")
    with bench_of(prepared) as bench:
        expected = bench.source_outputs(inputs)
        for name in ("LINEAR", "CHW4", "CHW32"):
            bench._layout = {"int8": name}
            (spec,) = bench.boundary_specs([point])
            print(name, spec.shape)
            assert_close(bench.outputs([point], inputs), expected, _QUANTUM_FRAC)


@pytest.mark.parametrize(
    ("precision", "dtype", "names"),
    [("fp32", "float32", ("HWC", "CHW32")), ("fp16", "float16", ("HWC8", "CHW2"))],
)
def test_every_format_hands_over_the_same_values(
    precision: str, dtype: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    path = make("tiny_branchy", tmp_path / "net.onnx")
    prepared = prepare(path, options_of(precision), BuildCache(tmp_path / "cache"))
    graph = prepared.lowered.graph
    inputs = random_inputs(graph_spec(prepared.lowered), seed=3, task="t")
    tried: set[str] = set()
    with bench_of(prepared) as bench:
        expected = bench.outputs(None, inputs)
        for point in range(1, graph.num_nodes, max(1, graph.num_nodes // 3)):
            for name in names:
                bench._layout = {dtype: name}
                boundaries = boundary_names(graph, segments_from_split_points(graph, [point]))
                tensors = [graph.tensors[boundary] for boundary in boundaries]
                tried.update(boundary_formats(tensors, bench._layout).values())
                assert_close(bench.outputs([point], inputs), expected, 0.02)
    assert tried == set(names)


def test_times_are_of_use_to_the_next_process_or_known_to_be_of_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make("tiny_branchy", tmp_path / "net.onnx")
    options = EngineOptions(precision="fp32", level=3)
    file = TimingFile(tmp_path / "cache", local_fields())
    took_s = []
    for _ in range(3):
        builder = EngineBuilder(options, TimingFile(tmp_path / "cache", local_fields()))
        assert builder.build(path, {}, BuildWatch("net", 0.0, silent))
        took_s.append(builder.build_ns / 1e9)
    print(f"builds took {took_s} s; the file has {len(file.read())} bytes, {file.refusal=}")
    assert file.read() or file.refusal
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == (1 if file.refusal else 0)


def command(folder: Path) -> list[str]:
    return [
        sys.executable, "-c",
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from preemptc.start import main; main()",
        "compile", "net.onnx", "--target", "native", "--precision", "fp16", "--opt-level",
        str(LEVEL), "--segments", "3", "-o", "net.bundle", "--json",
    ]  # fmt: skip


def started(folder: Path) -> "subprocess.Popen[str]":
    paths = f"{ROOT}{os.pathsep}{ROOT / 'runtime'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return subprocess.Popen(
        command(folder), cwd=folder, env={**os.environ, "PYTHONPATH": paths}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_until_inside(process: "subprocess.Popen[str]", text: str) -> None:
    """Until the command tells that it builds: with a colon at the end, for two seconds already."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return
    raise AssertionError(f"it ended before it was in the midst of a build: {lines}")


def test_a_compile_killed_in_mid_build_can_be_started_again(tmp_path: Path) -> None:
    make("mobilenet_v2", tmp_path / "net.onnx")
    with started(tmp_path) as process:
        wait_until_inside(process, "lower: the whole network: ")
        process.kill()
        process.wait()
    assert not (tmp_path / "net.bundle").exists()
    with started(tmp_path) as process:
        out, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert json.loads(out)["segments"] == 3
    open_bundle(tmp_path / "net.bundle").verify_files()
    assert not list(tmp_path.rglob(".tmp-*"))


@pytest.mark.parametrize(
    ("network", "text"),
    [("mobilenet_v2", "lower: the whole network: "), ("tiny_branchy", "build: nodes ")],
    ids=["whole", "segment"],
)
def test_ctrl_c_in_mid_build_ends_the_command_at_once(
    network: str, text: str, tmp_path: Path
) -> None:
    make(network, tmp_path / "net.onnx")
    with started(tmp_path) as process:
        wait_until_inside(process, text)
        begin_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
        took_s = time.monotonic() - begin_s
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
    print(f"ended after {took_s:.2f} s")
    assert code == 130, lines
    assert took_s < 3
    assert lines[-1] == "preemptc: interrupted; nothing half-written"
    assert not (tmp_path / "net.bundle").exists()
    assert not list(tmp_path.rglob(".tmp-*"))
