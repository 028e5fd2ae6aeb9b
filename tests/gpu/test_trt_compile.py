"""The whole way on a GPU: compile, build, run, and what both command lines refuse.

Networks are tiny and the builder's level is 0, so that a build takes seconds; what is built once
is shared by all tests.
"""

import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from onnx import helper

from preempt_runtime.backends.cuda import (
    DeviceMemory,
    PinnedMemory,
    Stream,
    copy_async,
    open_cuda,
)
from preempt_runtime.backends.tensorrt import TrtDevice, library, local_fields
from preempt_runtime.bundle import Bundle, open_bundle
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.device import Array
from preempt_runtime.errors import DeviceError
from preempt_runtime.executor import Executor
from preempt_runtime.inputs import random_inputs
from preempt_runtime.policies import FixedPriority
from preempt_runtime.task import Task
from tests.gpu import bad_bundles
from tests.gpu.commands import (
    NO_TENSORRT,
    OLD_TENSORRT,
    Compiler,
    command,
    elsewhere,
    environment,
    refusal,
)
from tests.gpu.workshop import QUICK, Workshop, executed
from tests.unit import onnx_models

pytestmark = pytest.mark.gpu

_SOURCE_TOLERANCE = 5e-2  # of the largest value, as the manifest states for GPUs
_SMALLEST_BYTES = 512
_NO_MEMORY = re.compile(r"out ?of ?_?memory|no device memory|could not be allocated", re.I)


def outputs_of(bundle: Bundle, inputs: Mapping[str, Array], plan_id: str) -> dict[str, Array]:
    with closing(TrtDevice()) as device, closing(device.load(bundle, plan_id)) as network:
        return executed(device, network, inputs)


def check_against_source(bundle: Bundle, model: Path) -> None:
    """Every plan's outputs on random inputs, against ONNX Runtime in fp32."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    inputs = random_inputs(bundle.manifest.graphs[0], seed=3, task="test")
    names = [output.name for output in bundle.manifest.graphs[0].outputs]
    expected = dict(zip(names, session.run(names, inputs), strict=True))
    for plan in bundle.manifest.plans:
        found = outputs_of(bundle, inputs, plan.id)
        assert found.keys() == expected.keys()
        for name, array in found.items():
            assert len(np.unique(array)) > 1
            limit = _SOURCE_TOLERANCE * np.abs(expected[name]).max()
            np.testing.assert_allclose(array, expected[name], atol=limit, rtol=0)


def run_taskset(bundle: Path, folder: Path, **how: Any) -> tuple[int, str, str]:
    """`preempt-rt run` of one task, in a process of its own."""
    taskset = bad_bundles.taskset_of(bundle, folder)
    return elsewhere("preempt-rt", "run", taskset, "--duration", "100ms", folder=folder, **how)


# What works


def test_a_native_compile_is_measured_and_checked(report: Any, native: Path) -> None:
    manifest = open_bundle(native).manifest
    assert {plan.source for plan in manifest.plans} == {"measured"}
    assert {plan.target for plan in manifest.plans} == {"native"}
    (key,) = manifest.keys
    assert {plan.key for plan in manifest.plans} == {key}
    assert local_fields().items() <= manifest.keys[key].items()
    plan = manifest.plans[0]
    assert len(plan.segments) == report["segments"] == 2
    for segment in plan.segments:
        assert segment.latency is not None
        assert 0 < segment.latency.p50_ns <= segment.latency.p99_ns <= segment.latency.max_ns
        assert segment.path.startswith(f"engines/{key}/")
    assert manifest.check is not None
    assert report["measured"]["overhead_ratio"] > 0
    assert report["built"] >= 2


def test_its_outputs_are_the_sources(shop: Workshop, native: Path) -> None:
    check_against_source(open_bundle(native), shop.network("tiny_cnn"))


def test_the_same_again_comes_from_the_cache(shop: Workshop, native: Path) -> None:
    again = shop.folder / "again.bundle"
    found = shop.compiler.json(
        "compile", shop.network("tiny_cnn"), "--target", "native", "--segments", "2", *QUICK,
        "-o", again,
    )  # fmt: skip
    assert found["cache_hits"] >= 1
    for path in sorted(path for path in native.rglob("*") if path.is_file()):
        assert (again / path.relative_to(native)).read_bytes() == path.read_bytes()


def test_verify_and_inspect_take_it(shop: Workshop, native: Path) -> None:
    verified = shop.compiler.json("verify", native)
    assert [plan["skipped"] for plan in verified["plans"]] == [None] * len(verified["plans"])
    code, stdout, stderr = shop.compiler("inspect", native)
    assert (code, stderr) == (0, "")
    assert stdout.count("runs here        yes") == len(verified["plans"]) == 2


def test_half_precision_in_three_segments(shop: Workshop) -> None:
    path = shop.folder / "half.bundle"
    shop.compiler.json(
        "compile", shop.network("tiny_cnn"), "--target", "native", "--segments", "3", *QUICK,
        "--precision", "fp16", "-o", path,
    )  # fmt: skip
    bundle = open_bundle(path)
    assert len(bundle.manifest.plans[0].segments) == 3
    assert {spec.dtype for spec in bundle.manifest.plans[0].boundaries} <= {"float16", "float32"}
    check_against_source(bundle, shop.network("tiny_cnn"))


def test_a_profile_taken_here_plans_a_compile(shop: Workshop, native: Path) -> None:
    costs = shop.folder / "costs.json"
    model = shop.network("tiny_cnn")
    shop.compiler.json("profile", model, "--target", "native", *QUICK, "-o", costs)
    assert json.loads(costs.read_text())["source"] == "measured"
    path = shop.folder / "profiled.bundle"
    shop.compiler.json(
        "compile", model, "--target", "native", "--segments", "2", *QUICK, "--profile", costs,
        "-o", path,
    )  # fmt: skip
    assert open_bundle(path).manifest.plans[0].source == "measured"


def test_a_portable_bundle_is_built_where_the_gpu_is(
    shop: Workshop, portable: Path, tmp_path: Path
) -> None:
    planned = open_bundle(portable).manifest
    assert [(plan.source, plan.key) for plan in planned.plans] == [("estimated", None)]
    assert not (portable / "engines").exists()
    line = refusal(*run_taskset(portable, tmp_path))
    assert line.endswith(
        "nothing is built for it yet; build it on this machine:"
        f" preemptc build {portable.resolve()}"
    )
    report = shop.compiler.json("build", portable)
    built = open_bundle(portable)
    assert {plan.source for plan in built.manifest.plans} == {"measured"}
    assert built.manifest.plans[0].target == "native"
    assert report["planned_segments"] == len(planned.plans[0].segments)
    assert [path.name for path in portable.parent.iterdir() if path.name.startswith(".tmp-")] == []
    check_against_source(built, shop.network("tiny_branchy"))
    code, stdout, stderr = run_taskset(portable, tmp_path)
    assert code == 0, stderr
    assert "net" in stdout


class Interface:
    """Device memory with a `__cuda_array_interface__`, written in the order of the job's stream."""

    def __init__(self, memory: DeviceMemory, like: Array) -> None:
        self.memory = memory
        self.__cuda_array_interface__ = {
            "shape": like.shape,
            "typestr": like.dtype.str,
            "data": (memory.pointer, False),
            "strides": None,
            "version": 3,
        }


def test_callables_enqueue_on_the_jobs_stream(native: Path) -> None:
    bundle = open_bundle(native)
    inputs = random_inputs(bundle.manifest.graphs[0], seed=5, task="test")
    ((name, image),) = inputs.items()
    with ExitStack() as stack:
        device = stack.enter_context(closing(TrtDevice()))
        network = stack.enter_context(closing(device.load(bundle)))
        expected = executed(device, network, inputs)
        there = stack.enter_context(DeviceMemory(image.nbytes))
        pinned = stack.enter_context(PinnedMemory(image.nbytes))
        seen: list[tuple[str, int]] = []

        def pre(given: Mapping[str, Array], stream: object) -> Mapping[str, Array]:
            assert isinstance(stream, Stream)
            pinned.array[:] = np.ascontiguousarray(given[name]).reshape(-1).view(np.uint8)
            copy_async(there.pointer, pinned.pointer, image.nbytes, stream)
            seen.append(("pre", stream.handle))
            return cast("Mapping[str, Array]", {name: Interface(there, image)})

        def post(outputs: dict[str, Array], stream: object) -> dict[str, Array]:
            assert isinstance(stream, Stream)
            there.fill(0)
            copy_async(pinned.pointer, there.pointer, image.nbytes, stream)
            seen.append(("post", stream.handle))
            return outputs

        executor = stack.enter_context(Executor(device, FixedPriority(), MonotonicClock()))
        executor.add_task(Task(name="net", network=network, priority=1, pre=pre, post=post))
        handle = executor.submit("net", inputs)
        executor.run()
        urgent = device.stream(is_urgent=True).handle
        assert seen == [("pre", urgent), ("post", urgent)]
        assert not pinned.array.any(), "what post enqueued was waited for"
        for output, array in handle.result(timeout=0).items():
            assert np.array_equal(array, expected[output])


# A build that is killed


def test_a_compile_that_is_killed_leaves_nothing_and_goes_through_again(
    shop: Workshop, tmp_path: Path
) -> None:
    output, cache = tmp_path / "killed.bundle", tmp_path / "cache"
    words = (
        "compile", shop.network("tiny_branchy"), "--target", "native", "--segments", "2", *QUICK,
    )  # fmt: skip
    process = subprocess.Popen(
        command("preemptc", *words, "-o", output, "--cache", cache),
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    with process, process.stderr:
        said = next((line for line in process.stderr if "plan: round" in line), None)
        process.send_signal(signal.SIGKILL)
    assert said is not None, "it ended before it built a segment"
    assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    report = Compiler(cache).json(*words, "-o", output)
    assert report["cache_hits"] >= 2, "what was finished before is not done again"
    bundle = open_bundle(output)
    bundle.verify_files()
    check_against_source(bundle, shop.network("tiny_branchy"))


# What is refused: engines


def other_version(engine: bytes) -> bytes:
    """The engine with another TensorRT's version in its header."""
    version = bytes(int(part) for part in library().__version__.split(".")[:3])
    at = engine[:64].find(version)
    if at < 0:
        pytest.skip("where the version stands in an engine of this TensorRT is not known")
    return engine[:at] + bytes([version[0] - 1, 9, 3]) + engine[at + 3 :]


def random_bytes(engine: bytes) -> bytes:
    return np.random.default_rng(0).bytes(len(engine))


ENGINES: Mapping[str, Callable[[bytes], bytes]] = {
    "of another version": other_version,
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
    if what == "of another version":
        assert re.search("version", line, re.I), line


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


# What is refused: networks


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


# What is refused: no memory


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


# What is refused: something is missing


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
