"""Networks and bundles that the tests on a GPU share: each is built once, in seconds."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.make import make
from preempt_runtime.backends.tensorrt import TrtDevice
from preempt_runtime.bundle import Bundle
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.device import Array
from preempt_runtime.executor import Executor
from preempt_runtime.inputs import random_inputs
from preempt_runtime.policies import FixedPriority
from preempt_runtime.task import Task
from preemptc import trials
from preemptc.targets import TARGETS, local_devices
from tests.gpu import bad_bundles
from tests.gpu.commands import Compiler, elsewhere

QUICK = ("--opt-level", "0")
_SOURCE_TOLERANCE = 5e-2  # of the largest value, as the manifest states for GPUs


@dataclass(frozen=True)
class Workshop:
    """Networks, one cache, and bundles that were compiled once."""

    folder: Path
    compiler: Compiler

    def network(self, name: str) -> Path:
        path = self.folder / f"{name}.onnx"
        if not path.exists():
            make(name, path)
        return path


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """Measures each plan in few runs: what is tested is not how long a segment takes."""
    folder = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_TRIAL_RUNS", "_FINAL_RUNS"):
            patch.setattr(trials, name, 50)
        for name in ("_TRIAL_BUDGET_NS", "_FINAL_BUDGET_NS"):
            patch.setattr(trials, name, 0)
        yield Workshop(folder=folder, compiler=Compiler(folder / "cache"))


@pytest.fixture(scope="session")
def report(shop: Workshop) -> Any:
    """What `compile --target native` of the chain in two segments tells."""
    return shop.compiler.json(
        "compile", shop.network("tiny_cnn"), "--target", "native", "--segments", "2", *QUICK,
        "--engines", "require", "-o", shop.folder / "native.bundle",
    )  # fmt: skip


@pytest.fixture(scope="session")
def native(report: Any) -> Path:
    return Path(report["bundle"])


@pytest.fixture(scope="session")
def portable(shop: Workshop) -> Path:
    """The branchy network, compiled for a GPU that is not here."""
    devices = local_devices((TARGETS["orin"], TARGETS["h200"]))
    target = next(device.target.name for device in devices if not device.is_available)
    path = shop.folder / "portable.bundle"
    shop.compiler.json(
        "compile", shop.network("tiny_branchy"), "--target", target, "--segments", "2", *QUICK,
        "-o", path,
    )  # fmt: skip
    return path


def executed(device: TrtDevice, network: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    with Executor(device, FixedPriority(), MonotonicClock()) as executor:
        executor.add_task(Task(name="net", network=network, priority=1))
        handle = executor.submit("net", inputs)
        executor.run()
        result: dict[str, Array] = handle.result(timeout=0)
        return result


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
