"""What both command lines say where TensorRT or the GPU is missing: one line and exit code 1."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from models.make import make
from tests.gpu.bad_bundles import taskset_of
from tests.gpu.commands import (
    NO_TENSORRT,
    OLD_TENSORRT,
    Argument,
    Compiler,
    elsewhere,
    refusal,
)
from tests.runtime.tensorrt_world import write_bundle

GPU = """
import types
from preempt_runtime.backends import cuda_driver
from tests.runtime.fake_cuda import FakeDriver
cuda_driver.driver = FakeDriver()
"""
NO_GPU = f"""{GPU}
cuda_driver.driver.failures["cuInit"] = 100
sys.modules["tensorrt"] = trt = types.ModuleType("tensorrt")
trt.__version__, trt.Runtime = "10.3.0", object
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, and its portable bundle."""
    folder = tmp_path_factory.mktemp("refusals")
    make("tiny_cnn", folder / "net.onnx")
    Compiler(folder / "cache").json(
        "compile", folder / "net.onnx", "--target", "orin", "-o", folder / "net.bundle"
    )
    return folder


@pytest.fixture(params=["compile", "require", "build", "run"])
def refused(request: pytest.FixtureRequest, shop: Path, tmp_path: Path) -> Callable[..., str]:
    output = tmp_path / "out.bundle"

    def ask(first: str, **how: Any) -> str:
        model = shop / "net.onnx"
        words: Mapping[str, Sequence[Argument]] = {
            "compile": ("compile", model, "--target", "native", "-o", output),
            "require": (
                "compile", model, "--target", "orin", "--engines", "require", "-o", output,
            ),
            "build": ("build", shop / "net.bundle", "-o", output),
            "run": ("run", taskset_of(write_bundle(tmp_path / "net.bundle").root, tmp_path)),
        }  # fmt: skip
        program = "preempt-rt" if request.param == "run" else "preemptc"
        line = refusal(
            *elsewhere(program, *words[request.param], folder=tmp_path, first=first, **how)
        )
        assert not output.exists()
        return line

    return ask


def test_no_tensorrt(refused: Callable[..., str]) -> None:
    line = refused(GPU + NO_TENSORRT)
    assert "TensorRT cannot be imported" in line
    assert line.endswith("elsewhere `pip install tensorrt`")


def test_a_tensorrt_that_is_too_old(refused: Callable[..., str]) -> None:
    line = refused(GPU + OLD_TENSORRT)
    assert "TensorRT is 8.4.3.1, at least 8.6 is needed; install JetPack 6.0" in line


def test_no_gpu(refused: Callable[..., str]) -> None:
    line = refused(NO_GPU, variables={"CUDA_VISIBLE_DEVICES": "-1"})
    assert "no usable NVIDIA GPU: cuInit failed: CUDA_ERROR_NO_DEVICE (no CUDA-capable" in line
    assert "CUDA_VISIBLE_DEVICES is '-1'" in line
