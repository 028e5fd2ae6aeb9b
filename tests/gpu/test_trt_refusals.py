"""What both command lines refuse on a GPU: one line, exit code 1, and the process goes on."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from preempt_runtime.backends.cuda import (
    DeviceMemory,
    open_cuda,
)
from preempt_runtime.backends.tensorrt import TrtDevice, library, local_fields
from preempt_runtime.bundle import open_bundle
from preempt_runtime.errors import DeviceError
from preempt_runtime.inputs import random_inputs
from tests.gpu import bad_bundles
from tests.gpu.commands import (
    NO_TENSORRT,
    OLD_TENSORRT,
    elsewhere,
    refusal,
)
from tests.gpu.workshop import QUICK, Workshop, check_against_source, executed, run_taskset
from tests.unit import onnx_models

pytestmark = pytest.mark.gpu

_SMALLEST_BYTES = 512
_NO_MEMORY = re.compile(r"out ?of ?_?memory|no device memory|could not be allocated", re.I)


# Engines


def random_bytes(engine: bytes) -> bytes:
    return np.random.default_rng(0).bytes(len(engine))


ENGINES: Mapping[str, Callable[[bytes], bytes]] = {
    "truncated": lambda engine: engine[: len(engine) // 2],
    "of random bytes": random_bytes,
}


@pytest.mark.parametrize("what", ENGINES)
def test_an_engine_that_only_its_hash_vouches_for_is_refused(
    native: Path, tmp_path: Path, what: str
) -> None:
    path = bad_bundles.with_engine(native, tmp_path / "bad.bundle", ENGINES[what])
    segment = open_bundle(path).manifest.plans[0].segments[0].path
    line = refusal(*run_taskset(path, tmp_path))
    assert line.startswith(f"bad.bundle: {segment}: TensorRT refused it (")
    assert line.endswith("); build the bundle again on this machine: preemptc build")
    assert "it gave no reason" not in line


def test_the_process_goes_on_after_a_refused_engine(native: Path, tmp_path: Path) -> None:
    path = bad_bundles.with_engine(native, tmp_path / "bad.bundle", random_bytes)
    with closing(TrtDevice()) as device:
        with pytest.raises(DeviceError, match="TensorRT refused it"):
            device.load(open_bundle(path))
        bundle = open_bundle(native)
        inputs = random_inputs(bundle.manifest.graphs[0], seed=1, task="test")
        with closing(device.load(bundle)) as network:
            assert executed(device, network, inputs)


def test_a_bundle_for_another_gpu_is_refused_with_each_field(
    shop: Workshop, native: Path, tmp_path: Path
) -> None:
    here = local_fields()
    other: dict[str, str | int] = {
        "gpu": "Other",
        "num_sms": 1,
        "compute_capability": "1.0",
        "tensorrt": "8.5.3",
    }
    path = bad_bundles.with_key_fields(native, tmp_path / "other.bundle", **other)
    line = refusal(*run_taskset(path, tmp_path))
    for field, value in other.items():
        assert f"{field}: bundle has {value!r}, this machine {here[field]!r}" in line
    assert "cuda_driver:" not in line, "it is the same"
    assert "preemptc compile" in line
    assert shop.compiler.refused("verify", path).count("bundle has") == len(other)


def test_a_forged_key_is_refused(shop: Workshop, native: Path, tmp_path: Path) -> None:
    path = bad_bundles.with_forged_key(native, tmp_path / "forged.bundle", gpu="Other")
    line = refusal(*run_taskset(path, tmp_path))
    assert "is not the hash of its fields" in line
    assert shop.compiler.refused("verify", path) == line


# Networks


def test_an_operator_that_tensorrt_does_not_parse_is_named_with_its_node(
    shop: Workshop, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "before"),
        helper.make_node("Det", ["m"], ["d"], "volume"),
        helper.make_node("Relu", ["d"], ["y"], "after"),
    ]
    model = onnx_models.model_of(
        nodes,
        [onnx_models.f32("x", [2, 4, 4])],
        [onnx_models.f32("y", [2])],
        [onnx_models.weight("w", 4, 4)],
    )
    path = onnx_models.save(model, tmp_path / "det.onnx")
    output = tmp_path / "det.bundle"
    line = shop.compiler.refused("compile", path, "--target", "native", *QUICK, "-o", output)
    version = library().__version__
    assert f": TensorRT {version} cannot parse operator Det of node 'volume': " in line
    assert line.endswith("export the network without it, or take a newer TensorRT")
    assert not output.exists()


def test_dynamic_shapes_need_shape(shop: Workshop, tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.dynamic(), tmp_path / "dynamic.onnx")
    words = ("compile", path, "--target", "native", *QUICK, "-o", tmp_path / "net.bundle")
    line = shop.compiler.refused(*words)
    assert line == (
        "dynamic.onnx: input 'x' has the dynamic shape [batch, 8]; give a static one, such as"
        " --shape x=1x8"
    )
    shop.compiler.json(*words, "--shape", "x=4x8", "--segments", "1")
    check_against_source(open_bundle(tmp_path / "net.bundle"), path)


# No memory


@contextmanager
def all_memory_taken() -> Iterator[None]:
    """Plain allocations hold whatever the device has left."""
    with ExitStack() as stack:
        num_bytes = 1 << 40
        while num_bytes >= _SMALLEST_BYTES:
            try:
                stack.enter_context(DeviceMemory(num_bytes))
            except DeviceError:
                num_bytes //= 2
        yield


def test_without_memory_loading_is_refused_and_the_process_goes_on(native: Path) -> None:
    bundle = open_bundle(native)
    inputs = random_inputs(bundle.manifest.graphs[0], seed=2, task="test")
    with closing(TrtDevice()) as device:
        with (
            all_memory_taken(),
            pytest.raises(DeviceError) as caught,
            closing(device.load(bundle)) as network,
        ):
            network.new_buffers().close()
        assert _NO_MEMORY.search(str(caught.value)), caught.value
        assert "run fewer or smaller networks" in str(caught.value)
        with closing(device.load(bundle)) as network:
            assert executed(device, network, inputs)


def test_a_command_on_a_full_gpu_says_so(native: Path, tmp_path: Path) -> None:
    with open_cuda(), all_memory_taken():
        line = refusal(*run_taskset(native, tmp_path))
    assert _NO_MEMORY.search(line), line
    assert re.search("nvidia-smi|run fewer or smaller networks", line), line


# Something is missing


@pytest.fixture(params=["compile", "build", "run"])
def refused_without(
    request: pytest.FixtureRequest, shop: Workshop, native: Path, tmp_path: Path
) -> Callable[..., str]:
    """The line of a command in a process that lacks something; nothing is written."""
    output = tmp_path / "net.bundle"

    def ask(**how: Any) -> str:
        if request.param == "run":
            line = refusal(*run_taskset(native, tmp_path, **how))
        else:
            model = shop.network("tiny_cnn")
            words = {
                "compile": ("compile", model, "--target", "native"),
                "build": ("build", native),
            }[request.param]
            line = refusal(*elsewhere("preemptc", *words, "-o", output, folder=tmp_path, **how))
        assert not output.exists()
        return line

    return ask


def test_no_gpu(refused_without: Callable[..., str]) -> None:
    line = refused_without(variables={"CUDA_VISIBLE_DEVICES": "-1"})
    assert "no usable NVIDIA GPU: cuInit failed: CUDA_ERROR_NO_DEVICE" in line
    assert "CUDA_VISIBLE_DEVICES is '-1'" in line


def test_no_tensorrt(refused_without: Callable[..., str]) -> None:
    line = refused_without(first=NO_TENSORRT)
    assert "TensorRT cannot be imported" in line
    assert "pip install tensorrt" in line


def test_a_tensorrt_that_is_too_old(refused_without: Callable[..., str]) -> None:
    line = refused_without(first=OLD_TENSORRT)
    assert "TensorRT is 8.4.3.1, at least 8.6 is needed; install JetPack 6.0" in line


def test_without_a_gpu_a_portable_bundle_is_written_all_the_same(
    shop: Workshop, tmp_path: Path
) -> None:
    model, output = shop.network("tiny_cnn"), tmp_path / "net.bundle"
    words = ("compile", model, "--target", "orin", "-o", output)
    hidden = {"CUDA_VISIBLE_DEVICES": "-1"}
    code, stdout, stderr = elsewhere("preemptc", *words, folder=tmp_path, variables=hidden)
    assert code == 0, stderr
    assert f"run `preemptc build {output}` there" in stdout
    code, stdout, stderr = elsewhere("preemptc", "targets", folder=tmp_path, variables=hidden)
    assert code == 0, stderr
    assert "no: no usable NVIDIA GPU" in stdout
