"""Building engines, on fakes: flags, refusals, signs of life, and how a build is stopped."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import onnx
import pytest

from preempt_runtime.errors import BuildError, DeviceError
from preemptc.backends import Progress, silent
from preemptc.backends.tensorrt import build_watch
from preemptc.backends.tensorrt.build_watch import BuildWatch
from preemptc.backends.tensorrt.engine_builder import (
    EngineBuilder,
    EngineOptions,
    PassingBuildError,
)
from tests.runtime.tensorrt_world import install
from tests.unit import onnx_models
from tests.unit.fake_trt_builder import FakeBuilder

Make = Callable[[str], FakeBuilder]
VERSIONS = ["8.6.1", "10.3.0", "11.4.0"]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    return lambda version: FakeBuilder(install(monkeypatch, version))


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return onnx_models.save(onnx_models.chain(3), tmp_path / "net.onnx")


def options(precision: str = "fp32") -> EngineOptions:
    return EngineOptions(precision=precision, level=2)  # type: ignore[arg-type]


def watch(progress: Progress = silent) -> BuildWatch:
    return BuildWatch("the network", 0.25, progress)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("is_quantized", [False, True])
def test_only_old_versions_need_flags(
    version: str, is_quantized: bool, make: Make, net: Path
) -> None:
    fake = make(version)
    EngineBuilder(options("fp16")).build(net, {}, watch(), is_quantized=is_quantized)
    expected = ["FP16", *(["INT8"] if is_quantized else [])]
    assert fake.flags == (expected if version.startswith("8") else [])


def test_an_operator_that_tensorrt_does_not_parse_is_named(make: Make, net: Path) -> None:
    make("8.6.1").cannot_parse["mm1"] = "Assertion failed: Plugin not found"
    text = "8.6.1 cannot parse operator MatMul of node 'mm1': Assertion failed: Plugin not found; "
    with pytest.raises(BuildError, match=text) as caught:
        EngineBuilder(options()).build(net, {}, watch())
    assert not isinstance(caught.value, PassingBuildError)


@pytest.mark.parametrize(
    ("text", "may_pass"),
    [
        ("Error Code 10: Could not find any implementation for node mm1", False),
        ("Error Code 4: mm1 has no int8 scale", False),
        ("Error Code 1: Cuda Runtime (out of memory)", True),
        ("Error Code 2: OutOfMemory (no further information)", True),
        ("Device memory is insufficient to use tactic", True),
        ("Error Code 1: Cuda Driver (no CUDA-capable device is detected)", True),
        ("Error Code 1: Cuda Runtime (unspecified launch failure)", True),
    ],
)
def test_what_may_pass_is_told_from_what_will_not(
    text: str, may_pass: bool, make: Make, net: Path
) -> None:
    make("8.6.1").refused["mm1"] = text
    with pytest.raises(BuildError) as caught:
        EngineBuilder(options()).build(net, {}, watch())
    assert text in str(caught.value)
    assert isinstance(caught.value, PassingBuildError) is may_pass


def test_without_a_gpu_there_is_no_builder(make: Make, net: Path) -> None:
    def refuse(logger: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    make("8.6.1").trt.module.Builder = refuse
    text = r"TensorRT makes no builder .*; see whether `nvidia-smi`"
    with pytest.raises(DeviceError, match=text):
        EngineBuilder(options()).build(net, {}, watch())


@pytest.mark.parametrize(
    ("version", "detail"),
    [("8.6.1", r"timing (mm|relu)\d"), ("10.3.0", r"Building \d+ of 30")],
    ids=["log", "monitor"],
)
def test_a_long_build_shows_that_it_goes_on(
    version: str, detail: str, make: Make, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_watch, "_QUICK_S", 0.1)
    make(version).steps = 30
    told: list[tuple[str, float, int]] = []

    def progress(what: str, frac: float) -> None:
        told.append((what, frac, threading.get_ident()))

    EngineBuilder(options()).build(net, {}, watch(progress))
    texts = [what for what, _, _ in told]
    assert texts[0] == "the network"
    assert len(texts) > 2
    pattern = rf"the network: \d+ s, {detail}"
    assert all(re.fullmatch(pattern, text) for text in texts[1:-1]), texts
    assert {frac for _, frac, _ in told} == {0.25}
    assert {thread for _, _, thread in told} == {threading.get_ident()}


def test_signs_of_life_come_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    told: list[float] = []
    watched = watch(lambda what, frac: told.append(now_s - 1000))
    while now_s < 1060:
        watched.tick("")
        now_s += 0.1
    pauses = [later - sooner for sooner, later in pairwise(told)]
    assert max(pauses) < 5.2
    assert len(told) < 25, "nor too often, for a log file keeps each line"


def test_the_innermost_phase_is_what_is_told() -> None:
    told: list[str] = []
    watched = BuildWatch("net", 0.0, lambda what, frac: told.append(what))
    watched._told_s -= 10
    watched.begin_phase("Building", 4)
    watched.begin_phase("Timing " + "x" * 100, 12)
    assert watched.complete_step("Timing " + "x" * 100, 2)
    watched.tick("")
    assert told[-1] == "net: 0 s, Timing " + "x" * 50 + "... 3 of 12"
    watched.end_phase("Timing " + "x" * 100)
    watched._told_s -= 10
    watched.tick("")
    assert told[-1] == "net: 0 s, Building 0 of 4"


def test_an_interrupt_stops_a_build_that_can_be_stopped(make: Make, net: Path) -> None:
    fake = make("10.3.0")
    fake.steps = 3000
    builder, told = EngineBuilder(options()), watch()
    told.tick = lambda newest: os.kill(os.getpid(), signal.SIGINT)  # type: ignore[method-assign]
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    begin_s = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            builder.build(net, {}, told)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert time.monotonic() - begin_s < 5
    fake.steps = 0
    assert builder.build(net, {}, watch()), "the builder is of use after that"


def test_a_quantised_piece_is_recognised() -> None:
    from preemptc.onnx_io.quantized import is_quantized

    assert is_quantized(onnx_models.quantised())
    assert not is_quantized(onnx_models.chain())
    assert not is_quantized(onnx.ModelProto())
