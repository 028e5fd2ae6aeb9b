"""Networks and bundles that the tests on a GPU share: each is built once, in seconds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from models.make import make
from preempt_runtime.backends.tensorrt import TrtDevice
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.device import Array
from preempt_runtime.executor import Executor
from preempt_runtime.policies import FixedPriority
from preempt_runtime.task import Task
from preemptc import replan
from preemptc.targets import TARGETS, local_devices
from tests.gpu.commands import Compiler

QUICK = ("--opt-level", "0")


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
            patch.setattr(replan, name, 50)
        for name in ("_TRIAL_BUDGET_NS", "_FINAL_BUDGET_NS"):
            patch.setattr(replan, name, 0)
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
