"""What `preemptc build` reads of what the compile was asked for; what it cannot use it names."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from preempt_runtime.bundle import open_bundle
from preempt_runtime.errors import DeviceError
from preemptc import targets
from preemptc.backends import BackendOptions
from preemptc.cache import BuildCache
from preemptc.cli import main
from preemptc.compile_options import CompileOptions, options_from_request
from preemptc.goal import Goal
from preemptc.pipeline import compile_model
from tests.unit import onnx_models

OPTIONS = CompileOptions(
    target="orin",
    goal=Goal(num_segments=2, quantile="p99"),
    backend=BackendOptions(precision="fp16", level=4, engines="skip"),
    max_live_bytes=1 << 20,
    seed=7,
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = onnx_models.save(onnx_models.chain(), tmp_path / "net.onnx")
    compile_model(path, tmp_path / "net.bundle", OPTIONS, BuildCache(tmp_path / "cache"))
    return tmp_path / "net.bundle"


def refusal(bundle: Path) -> str:
    result = CliRunner().invoke(main, ["build", str(bundle)], catch_exceptions=False)
    assert result.exit_code == 1
    return result.stderr


def test_a_build_without_a_gpu_says_which_one_is_needed_or_that_none_is(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_library(name: str) -> Any:
        raise DeviceError("no TensorRT")

    monkeypatch.setattr(targets, "open_backend", no_library)
    message = refusal(bundle)
    assert "net.bundle: compiled for orin: engines are built on a machine with that GPU" in message
    assert "`preemptc build` there; here no TensorRT" in message
    options = CompileOptions(target="cpu", goal=Goal(num_segments=1))
    compile_model(
        tmp_path / "net.onnx", tmp_path / "cpu.bundle", options, BuildCache(tmp_path / "cache")
    )
    assert "compiled for cpu, so it needs no build and runs as it is" in refusal(
        tmp_path / "cpu.bundle"
    )


def test_what_was_asked_comes_back(bundle: Path) -> None:
    found = options_from_request(open_bundle(bundle), "native")
    assert (found.goal, found.max_live_bytes, found.seed) == (OPTIONS.goal, 1 << 20, 7)
    assert (found.backend.precision, found.backend.level) == ("fp16", 4)
    assert (found.target, found.backend.engines) == ("native", "require")


def test_bundles_from_before_there_were_gates_ask_for_segments(bundle: Path) -> None:
    manifest = bundle / "manifest.json"
    document = json.loads(manifest.read_text())
    assert document["extensions"]["preemptc"]["request"].pop("mechanism")
    manifest.write_text(json.dumps(document))
    assert options_from_request(open_bundle(bundle), "native").mechanism == "segments"


REQUEST = "extensions.preemptc.request"
NOT_THERE = "not there; the bundle does not say what it was compiled for"
ONE_OF_THREE = "expected one of max_segment_ns, num_segments and max_overhead_frac, not null"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((), {}, f"extensions.preemptc: {NOT_THERE}"),
        (("preemptc",), {}, f"{REQUEST}: {NOT_THERE}"),
        (("preemptc",), [], f"{REQUEST}: {NOT_THERE}"),
        (("preemptc", "request"), "p50", f"{REQUEST}: found 'p50', expected an object"),
        (("preemptc", "request"), {}, f"{REQUEST}.goal: this field is missing"),
        (("preemptc", "request", "goal"), None, f"{REQUEST}.goal: found None, expected an object"),
        (("preemptc", "request", "goal", "num_segments"), None, f"{REQUEST}.goal: {ONE_OF_THREE}"),
        (
            ("preemptc", "request", "goal", "num_segments"),
            "2",
            f"{REQUEST}.goal.num_segments: found '2', expected an integer",
        ),
        (
            ("preemptc", "request", "goal", "num_segments"),
            0,
            f"{REQUEST}.goal.num_segments: found 0, at least 1",
        ),
        (
            ("preemptc", "request", "goal", "quantile"),
            "p75",
            f"{REQUEST}.goal.quantile: found 'p75', expected one of p50, p99, max",
        ),
        (
            ("preemptc", "request", "precision"),
            ["fp16"],
            f"{REQUEST}.precision: found ['fp16'], expected one of null, fp32, fp16",
        ),
        (
            ("preemptc", "request", "level"),
            6,
            f"{REQUEST}.level: found 6, expected one of null, 0, 1, 2, 3, 4, 5",
        ),
        (
            ("preemptc", "request", "level"),
            True,
            f"{REQUEST}.level: found True, expected an integer",
        ),
        (
            ("preemptc", "request", "max_live_bytes"),
            -1,
            f"{REQUEST}.max_live_bytes: found -1, at least 0",
        ),
        (
            ("preemptc", "request", "mechanism"),
            "dla",
            f"{REQUEST}.mechanism: found 'dla', expected one of auto, segments, gates",
        ),
        (("preemptc", "request", "seed"), -7, f"{REQUEST}.seed: found -7, at least 0"),
    ],
)
def test_a_request_that_cannot_be_used_is_one_line(
    path: tuple[str, ...], value: object, message: str, bundle: Path
) -> None:
    manifest = bundle / "manifest.json"
    document: dict[str, Any] = json.loads(manifest.read_text())
    at = document
    for name in ("extensions", *path)[:-1]:
        at = at[name]
    at[("extensions", *path)[-1]] = value
    manifest.write_text(json.dumps(document))
    result = CliRunner().invoke(main, ["build", str(bundle)], catch_exceptions=False)
    todo = "compile it again with `preemptc compile`"
    assert result.exit_code == 1
    assert result.stderr == f"preemptc: error: {manifest}: {message}; {todo}\n"
