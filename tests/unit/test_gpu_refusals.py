"""What both command lines say where TensorRT or the GPU is missing: one line and exit code 1."""

import re
import shlex
import shutil
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


def test_verify_checks_the_files_of_what_is_not_built(shop: Path, tmp_path: Path) -> None:
    root = shutil.copytree(shop / "net.bundle", tmp_path / "net.bundle")
    compiler = Compiler(shop / "cache")
    found = compiler.json("verify", root)
    (plan,) = found["plans"]
    assert (found["outputs_checked"], plan["num_inputs"]) == (False, 0)
    assert plan["skipped"] == (
        f"{root}: plan 'segments' is made for orin, nothing is built for it yet:"
        f" `preemptc build {root}` on the board or machine with that GPU"
    )
    code, stdout, _ = compiler("verify", root)
    assert code == 0
    assert stdout.startswith(f"{root}: files verified, no outputs run\n")
    assert "as the manifest says" in stdout
    assert f"not run here: {plan['skipped']}" in stdout
    with (root / "graph" / "model.onnx").open("ab") as file:
        file.write(b"x")
    assert "the manifest says" in compiler.refused("verify", root)


def test_commands_for_a_bundle_whose_name_has_spaces_can_be_pasted(
    shop: Path, tmp_path: Path
) -> None:
    root, compiler = tmp_path / "my net's.bundle", Compiler(shop / "cache")
    code, told, _ = compiler("compile", shop / "net.onnx", "--target", "orin", "-o", root)
    assert code == 0
    (plan,) = compiler.json("verify", root)["plans"]
    for text in (told, plan["skipped"]):
        (command,) = re.findall("`(preemptc build [^`]*)`", " ".join(text.split()))
        assert shlex.split(command) == ["preemptc", "build", str(root)]


def test_running_what_is_not_built_says_where_to_build_it(shop: Path, tmp_path: Path) -> None:
    root = shop / "net.bundle"
    line = refusal(*elsewhere("preempt-rt", "run", taskset_of(root, tmp_path), folder=tmp_path))
    assert line.endswith(
        f"is made for orin, nothing is built for it yet: `preemptc build {root}` on the board or"
        " machine with that GPU"
    )
