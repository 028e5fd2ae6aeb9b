"""The whole way on a GPU: compile, build, run, callables, and a build that is killed.

Networks are tiny and the builder's level is 0, so that a build takes seconds; what is built once
is shared by all tests.
"""

import json
import signal
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from preempt_runtime.backends.cuda import (
    DeviceMemory,
    PinnedMemory,
    Stream,
    copy_async,
)
from preempt_runtime.backends.tensorrt import TrtDevice, local_fields
from preempt_runtime.bundle import open_bundle
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.device import Array
from preempt_runtime.executor import Executor
from preempt_runtime.inputs import random_inputs
from preempt_runtime.policies import FixedPriority
from preempt_runtime.task import Task
from tests.gpu.commands import (
    Compiler,
    command,
    environment,
    refusal,
)
from tests.gpu.workshop import QUICK, Workshop, check_against_source, executed, run_taskset

pytestmark = pytest.mark.gpu


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
        f"plan 'segments' is made for {planned.plans[0].target}, nothing is built for it yet:"
        f" `preemptc build {portable.resolve()}` on the board or machine with that GPU"
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
