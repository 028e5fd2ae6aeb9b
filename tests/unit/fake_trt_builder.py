"""TensorRT's builder made of Python: it takes ONNX files, and times each node once per cache."""

import json
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from preempt_runtime.manifest import TensorSpec
from preemptc.onnx_io.graphs import graph_from_proto
from tests.runtime.fake_tensorrt import FakeTensorRT, Severity, blob_of

_FORMATS = ("LINEAR", "CHW2", "HWC8", "CHW4", "CHW16", "CHW32", "DHWC8", "CDHW32", "HWC")
_VECTORS = {"CHW2": 2, "CHW4": 4, "HWC8": 8, "CHW32": 32}
_STEP_S = 0.02


class TimingCache:
    """The nodes that were timed; `is_reloaded` as TensorRT cannot tell but the fake can."""

    def __init__(self, content: bytes) -> None:
        self.timed: set[str] = set(json.loads(content)["timed"]) if content else set()
        self.is_reloaded = bool(content)

    def serialize(self) -> bytes:
        return json.dumps({"timed": sorted(self.timed)}).encode()

    def combine(self, other: "TimingCache", ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.timed |= other.timed
        return True


class FakeBuilder:
    """Adds a builder to a fake TensorRT. What it was asked for is noted; the flags let it fail."""

    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt
        self.refused: dict[str, str] = {}  # by node: what it logs before it builds nothing
        self.refused_formats: set[str] = set()
        self.cannot_parse: dict[str, str] = {}
        self.refuses_reloaded_times = False
        self.is_foreign = False  # whether a cache that was read back is of another device
        self.steps = 0  # how long a build takes
        self.stays_in_the_library = False  # whether a build logs once and then calls nothing back
        self.builds: list[str] = []
        self.flags: list[str] = []
        self.num_timed = 0
        module = trt.module
        module.Builder = lambda logger: _Builder(self, logger)
        module.OnnxParser = lambda network, logger: _Parser(self, network)
        flags = {"EXPLICIT_BATCH": 0} | ({"STRONGLY_TYPED": 1} if trt.version >= (10, 0) else {})
        module.NetworkDefinitionCreationFlag = types.SimpleNamespace(**flags)
        module.TensorFormat = types.SimpleNamespace(**{n: i for i, n in enumerate(_FORMATS)})
        module.TacticSource = types.SimpleNamespace(CUBLAS=0, CUBLAS_LT=1, CUDNN=2)
        module.ProfilingVerbosity = types.SimpleNamespace(DETAILED=2)
        if trt.version < (11, 0):
            module.BuilderFlag = types.SimpleNamespace(FP16="FP16", INT8="INT8")
        if trt.version >= (10, 0):
            module.IProgressMonitor = _ProgressMonitor


class _ProgressMonitor:
    is_ready = False

    def __init__(self) -> None:
        self.is_ready = True


class _Builder:
    def __init__(self, fake: FakeBuilder, logger: Any) -> None:
        assert logger.is_ready
        self._fake, self._logger = fake, logger

    def create_network(self, flags: int) -> Any:
        expected = 0b01 if self._fake.trt.version < (10, 0) else 0b10
        assert flags == (expected if self._fake.trt.version < (11, 0) else 0)
        return _Network()

    def create_builder_config(self) -> Any:
        return _Config(self._fake)

    def build_serialized_network(self, network: "_Network", config: "_Config") -> bytes | None:
        fake, nodes = self._fake, [node.name for node in network.proto.graph.node]
        fake.builds.append(network.path.name)
        fake.flags = config.flags
        if fake.refuses_reloaded_times and config.cache.is_reloaded:
            self._logger.log(Severity.ERROR, "Myelin error from unknown graph")
            return None
        monitor = config.progress_monitor
        if monitor is not None:
            monitor.phase_start("Building", None, fake.steps)
        for step in range(fake.steps):
            if step and fake.stays_in_the_library:
                time.sleep(_STEP_S)
                continue
            name = nodes[step % len(nodes)]
            self._logger.log(Severity.VERBOSE, f"--------------- Timing Runner: {name} (Cask[0x1])")
            time.sleep(_STEP_S)
            if monitor is not None and not monitor.step_complete("Building", step):
                self._logger.log(Severity.ERROR, "build was cancelled by the progress monitor")
                return None
        if monitor is not None:
            monitor.phase_finish("Building")
        for name, text in fake.refused.items():
            if name in nodes:
                self._logger.log(Severity.ERROR, text)
                return None
        named = {*network.formats().values()} or {"LINEAR"}
        if refused := named & fake.refused_formats:
            self._logger.log(Severity.ERROR, f"refuses {', '.join(refused)}")
            return None
        fake.num_timed += len(set(nodes) - config.cache.timed)
        config.cache.timed |= set(nodes)
        return network.serialized()


class _Network:
    def __init__(self) -> None:
        self.proto, self.path = onnx.ModelProto(), Path()
        self._tensors: dict[str, Any] = {}

    def read(self, path: Path) -> None:
        self.path, self.proto = path, onnx.load(str(path), load_external_data=False)
        graph = graph_from_proto(self.proto)
        self._tensors = {
            name: types.SimpleNamespace(name=name, allowed_formats=1)
            for name in (*graph.inputs, *graph.outputs)
        }

    @property
    def num_inputs(self) -> int:
        return len(self.proto.graph.input)

    @property
    def num_outputs(self) -> int:
        return len(self.proto.graph.output)

    def get_input(self, idx: int) -> Any:
        return self._tensors[self.proto.graph.input[idx].name]

    def get_output(self, idx: int) -> Any:
        return self._tensors[self.proto.graph.output[idx].name]

    def formats(self) -> dict[str, str]:
        found = {}
        for name, tensor in self._tensors.items():
            assert tensor.allowed_formats.bit_count() == 1
            found[name] = _FORMATS[tensor.allowed_formats.bit_length() - 1]
        return {name: form for name, form in found.items() if form != "LINEAR"}

    def serialized(self) -> bytes:
        graph, formats = graph_from_proto(self.proto), self.formats()
        specs = {
            name: TensorSpec(name=name, dtype=info.dtype, shape=info.shape)
            for name, info in graph.tensors.items()
        }
        return blob_of(
            [specs[name] for name in graph.inputs],
            [specs[name] for name in graph.outputs],
            vector={name: (_VECTORS[f], 1) for name, f in formats.items() if f in _VECTORS},
            formats=formats,
            layers=[node.name for node in graph.nodes],
        )


class _Config:
    progress_monitor: Any = None

    def __init__(self, fake: FakeBuilder) -> None:
        self._fake = fake
        self.flags: list[str] = []
        self.cache = TimingCache(b"")

    def get_tactic_sources(self) -> int:
        return 0b11111

    def set_tactic_sources(self, sources: int) -> bool:
        assert sources == 0b11000
        return True

    def set_flag(self, flag: str) -> None:
        self.flags.append(flag)

    def create_timing_cache(self, content: bytes) -> TimingCache | None:
        try:
            return TimingCache(content)
        except (ValueError, KeyError):
            return None

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.is_reloaded and self._fake.is_foreign:
            return False
        self.cache = cache
        return True


class _Parser:
    def __init__(self, fake: FakeBuilder, network: _Network) -> None:
        self._fake, self._network = fake, network
        self._errors: list[tuple[int, str]] = []

    def parse_from_file(self, path: str) -> bool:
        self._network.read(Path(path))
        nodes = [node.name for node in self._network.proto.graph.node]
        failures: Mapping[str, str] = self._fake.cannot_parse
        self._errors = [(nodes.index(n), text) for n, text in failures.items() if n in nodes]
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, idx: int) -> Any:
        node, text = self._errors[idx]
        return types.SimpleNamespace(node=lambda: node, desc=lambda: text)
