"""A fake GPU on which a whole compile runs: kernels take the time that a test says.

An engine is a kernel for each node of its network, by the node's name; the last one computes
what ONNX Runtime does.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from preempt_runtime.backends import cuda_driver
from preemptc import gate_plan, trials
from preemptc.backends.tensorrt import bench, engine_builder, profiler, timing
from tests.runtime.fake_graphs import Graph, GraphDriver
from tests.runtime.fake_tensorrt import FakeTensorRT
from tests.unit.fake_trt_builder import FakeBuilder

KERNEL_NS = 50_000


class TimedDriver(GraphDriver):
    """`kernel_ns` says what a kernel takes, by its name; `takes` what it takes at its n-th run."""

    def __init__(self, **how: int) -> None:
        super().__init__(**how)
        self.memory_bytes = 1 << 26
        self.attributes |= {20: 0, 90: 1}
        self.kernel_ns: dict[str, int] = {}
        self.takes: Callable[[str, int], int] = lambda label, ns: ns
        self.event_rate = 1.0
        self._at: dict[int, int] = {}

    def _worked(self, stream: int, label: str, work: Callable[[], None]) -> Iterator[None]:
        if not label.startswith(("copy", "write", "event")):
            self.now_ns += self.takes(label, self.kernel_ns.get(label, KERNEL_NS))
        yield from super()._worked(stream, label, work)

    def _graph_of(self, works: list[Any]) -> Graph:
        edges = self.captured_edges
        if len(works) == 1:  # no engine, but a copy
            self.captured_edges = None
        try:
            return super()._graph_of(works)
        finally:
            self.captured_edges = edges

    def cuEventRecord(self, event: int, stream: int) -> tuple[int]:
        def stamp() -> Iterator[None]:
            self._at[event] = self.now_ns
            return
            yield

        self._recorded[event] = self._put(stream, "event", stamp())
        return (0,)

    def cuEventElapsedTime(self, start: int, end: int) -> tuple[int, float]:
        return 0, (self._at[end] - self._at[start]) * self.event_rate / 1e6


class Gpu:
    """The driver, TensorRT and its builder."""

    def __init__(self, driver: TimedDriver, tensorrt: str) -> None:
        self.driver = driver
        self.trt = FakeTensorRT(driver, tensorrt)
        self.trt.has_kernel_per_layer = True
        self.builder = FakeBuilder(self.trt)

    def computes(self, model: Path) -> None:
        """Let engines compute what this network does."""
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]

        def run(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
            return dict(zip(names, session.run(names, dict(inputs)), strict=True))

        self.trt.computes = run


def installed(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tensorrt: str = "10.3.0", **how: int
) -> Iterator[Gpu]:
    """Put the fakes in place of the libraries, and let few runs do; nothing must stay open.

    The lock on the GPU stands in `folder`.
    """
    gpu = Gpu(TimedDriver(**how), tensorrt)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(cuda_driver, "driver", gpu.driver)
    monkeypatch.setattr(cuda_driver, "library", lambda: gpu.driver.library)
    monkeypatch.setitem(sys.modules, "tensorrt", gpu.trt.module)
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    monkeypatch.setattr(gate_plan, "_MIN_RUNS", 3)
    monkeypatch.setattr(gate_plan, "_BUDGET_NS", 0)
    monkeypatch.setattr(timing, "_WARM_UP_ROWS", 1)
    for name in ("_TRIAL_RUNS", "_FINAL_RUNS"):
        monkeypatch.setattr(trials, name, 3)
    for name in ("_TRIAL_BUDGET_NS", "_FINAL_BUDGET_NS"):
        monkeypatch.setattr(trials, name, 0)
    monkeypatch.setattr(profiler, "_COPY_BYTES", 1 << 12)
    monkeypatch.setattr(profiler, "_RUNS", 3)
    monkeypatch.setattr(profiler, "_BUSY_NS", 0)
    monkeypatch.setattr(bench, "_GLANCE_RUNS", 3)
    engine_builder.shared_builder.cache_clear()
    yield gpu
    engine_builder.shared_builder.cache_clear()
    assert gpu.driver.open == {}, "something was not given back"
