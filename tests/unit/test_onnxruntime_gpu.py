"""With onnxruntime-gpu instead of onnxruntime: the CPU target works, and nobody promises CUDA."""

import json
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import machine
from models.make import make
from preempt_runtime.backends import ort
from preemptc.cli import main
from tests.gpu.commands import command, environment, refusal

PROVIDERS = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

# As if CUDA came first, and the wheel had the other name.
GPU_WHEEL = f"""
from importlib import metadata
import onnxruntime
onnxruntime.get_available_providers = lambda: {PROVIDERS}
installed = metadata.version
def version(name):
    if name == "onnxruntime":
        raise metadata.PackageNotFoundError(name)
    return "1.31.1" if name == "onnxruntime-gpu" else installed(name)
metadata.version = version
"""


def _run(program: str, *arguments: Any, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(program, *arguments, first=GPU_WHEEL),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )


def test_the_cpu_target_works_and_says_what_is_not_used(tmp_path: Path) -> None:
    make("tiny_cnn", tmp_path / "net.onnx")
    done = _run("preemptc", "analyze", "net.onnx", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    done = _run("preemptc", "targets", "--json", folder=tmp_path)
    notes = {entry["name"]: entry["notes"] for entry in json.loads(done.stdout)["targets"]}
    assert notes.pop("cpu") == [
        "not used of this ONNX Runtime: TensorrtExecutionProvider, CUDAExecutionProvider;"
        " see native"
    ]
    assert not any(notes.values())
    done = _run("preemptc", "targets", folder=tmp_path)
    assert "not used of this ONNX Runtime: TensorrtExecutionProvider, CUDAEx" in done.stdout
    assert max(map(len, done.stdout.partition("\n\n")[0].splitlines())) <= 100
    done = _run("preempt-rt", "doctor", "--json", folder=tmp_path)
    (finding,) = [
        each for each in json.loads(done.stdout)["findings"] if each["what"] == "ONNX Runtime"
    ]
    assert (finding["level"], finding["found"]) == (
        "ok",
        "onnxruntime-gpu 1.31.1, used on the CPU; GPUs run by TensorRT",
    )


def test_without_other_providers_nothing_is_said() -> None:
    assert ort.unused_providers() == ()


@pytest.mark.parametrize("module", [None, object()])
def test_without_a_sound_onnx_runtime_there_are_no_providers(
    monkeypatch: pytest.MonkeyPatch, module: object
) -> None:
    monkeypatch.setattr(ort, "ort", module)
    assert ort.unused_providers() == ()


@pytest.mark.parametrize("word", ["cuda", "gpu", "CUDAExecutionProvider", "onnxruntime-gpu"])
def test_whoever_asks_for_the_cuda_provider_is_told(word: str) -> None:
    result = CliRunner().invoke(main, ["compile", "net.onnx", "--target", word])
    assert (result.exit_code, result.stdout) == (2, "")
    text = " ".join(result.stderr.split())
    assert f"{word!r} is unknown; networks run on GPUs by TensorRT, for the one that is" in text
    assert "write native (ONNX Runtime's CUDA provider is not used)" in text


def test_benchmarks_record_the_version_of_either_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name.startswith("onnxruntime"):
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(machine, "version", version)
    assert machine.MachineWatch().describe()["onnxruntime"] == ort.library_version()


NO_ORT = "sys.modules['onnxruntime'] = None"


def test_without_onnx_runtime_a_portable_bundle_is_written(tmp_path: Path) -> None:
    make("tiny_cnn", tmp_path / "net.onnx")
    words = command("preemptc", "compile", "net.onnx", "--target", "orin", first=NO_ORT)
    subprocess.run(words, cwd=tmp_path, env=environment(), check=True, capture_output=True)
    assert (tmp_path / "net.bundle" / "manifest.json").is_file()


# A GPU that TensorRT could build for; ONNX Runtime is asked for before it does.
GPU = """
import types
from preempt_runtime.backends import cuda_driver
from tests.runtime.fake_cuda import FakeDriver
cuda_driver.driver = FakeDriver()
sys.modules["tensorrt"] = trt = types.ModuleType("tensorrt")
trt.__version__, trt.Runtime = "10.3.0", object
"""


def test_without_onnx_runtime_a_gpu_compile_is_refused_before_it_builds(tmp_path: Path) -> None:
    make("tiny_cnn", tmp_path / "net.onnx")
    words = command(
        "preemptc", "compile", "net.onnx", "--target", "native", first=f"{NO_ORT}\n{GPU}"
    )
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    line = refusal(done.returncode, done.stdout, done.stderr)
    assert line.startswith("ONNX Runtime is missing or broken; install it with `pip install onnx")
    assert "lower" not in done.stderr
