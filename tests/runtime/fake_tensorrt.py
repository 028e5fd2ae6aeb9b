"""A TensorRT made of Python, with the interface of 8.6, 10.0 or 10.3 and newer.

An engine adds up its inputs and a number, and writes the sum to every output. Put `module` into
`sys.modules["tensorrt"]`; it works on a `FakeDriver`.
"""

import ctypes
import json
import math
import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

import numpy as np

from preempt_runtime.manifest import TensorSpec
from tests.runtime.fake_cuda import FakeDriver

_NAMES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "int8": "INT8",
    "int32": "INT32",
    "int64": "INT64",
    "bool": "BOOL",
    "bfloat16": "BF16",
}


class Severity(Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    VERBOSE = Severity.VERBOSE
    is_ready = False

    def __init__(self) -> None:
        self.is_ready = True

    def log(self, severity: Severity, message: str) -> None:
        raise NotImplementedError


class IProfiler:
    is_ready = False

    def __init__(self) -> None:
        self.is_ready = True

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class LayerInformationFormat(Enum):
    ONELINE = 0
    JSON = 1


class Strategy(Enum):
    STATIC = 0
    USER_MANAGED = 2


class EngineStat(Enum):
    TOTAL_WEIGHTS_SIZE = 0


def blob_of(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    add: float = 1.0,
    scratch_bytes: int = 1000,
    num_aux_streams: int = 0,
    vector: Mapping[str, tuple[int, int]] | None = None,
    formats: Mapping[str, str] | None = None,
    layers: Mapping[str, float] | Sequence[str] = (),
    num_kernels: int = 1,
) -> bytes:
    """A serialised engine; `vector` gives (components per element, dimension) of a layout.

    `formats` are TensorRT's names of layouts that are not linear, `layers` what the inspector says,
    with each one's time in ms as a profiler is told it. Of several kernels the first leaves in the
    scratch block what the last one makes the outputs of.
    """

    def described(specs: Sequence[TensorSpec]) -> list[list[Any]]:
        return [[spec.name, spec.dtype, list(spec.shape)] for spec in specs]

    fields = {
        "inputs": described(inputs),
        "outputs": described(outputs),
        "add": add,
        "scratch_bytes": scratch_bytes,
        "num_aux_streams": num_aux_streams,
        "vector": vector or {},
        "formats": formats or {},
        "num_kernels": num_kernels,
        "layers": layers if isinstance(layers, Mapping) else dict.fromkeys(layers, 0.01),
    }
    return json.dumps(fields).encode()


class FakeTensorRT:
    """`events` is what was asked of it; the flags let its calls fail.

    `computes` makes outputs of an engine's inputs in place of the sum. `scratch_of_runs` is where
    each execution had its scratch memory, the captured ones included.
    """

    def __init__(self, driver: FakeDriver, version: str = "8.6.1") -> None:
        self.driver = driver
        self.events: list[str] = []
        self.has_no_contexts = False
        self.has_no_memory = False
        self.refuses_address = False
        self.refuses_capture = False
        self.fails_execution_of: float | None = None
        self.has_kernel_per_layer = False  # the last one computes
        self.extra_kernels: tuple[str, ...] = ()  # before those
        self.computes: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
        self.loggers: list[Any] = []
        self.scratch_of_runs: list[int] = []
        self.version = tuple(int(part) for part in version.split(".")[:2])
        module: Any = types.ModuleType("tensorrt")
        module.__version__ = version
        module.ILogger = ILogger
        module.IProfiler = IProfiler
        module.LayerInformationFormat = LayerInformationFormat
        module.Runtime = lambda logger: Runtime(self, logger)
        if self.version >= (10, 0):
            module.ExecutionContextAllocationStrategy = Strategy
        if self.version >= (10, 16):
            module.EngineStat = EngineStat
        self.module = module


class Runtime:
    def __init__(self, trt: FakeTensorRT, logger: Any) -> None:
        assert logger.is_ready, "super().__init__() was not called"
        trt.loggers.append(logger)
        self._trt, self._logger = trt, logger

    def deserialize_cuda_engine(self, blob: bytes) -> Any:
        self._trt.events.append("deserialize")
        self._logger.log(Severity.VERBOSE, "reading")
        self._logger.log(Severity.INFO, "Loaded engine size: 1 MiB")
        if self._trt.has_no_memory:
            self._logger.log(
                Severity.ERROR, "1: [defaultAllocator.cpp] Cuda Runtime (out of memory)"
            )
            self._logger.log(Severity.ERROR, "2: [engine.cpp] Error Code 2: no further information")
            return None
        try:
            fields = json.loads(blob)
        except ValueError:
            self._logger.log(Severity.ERROR, "1: [stdArchiveReader.cpp::6]\n  Error Code 1: bad")
            return None
        if blob.startswith(b'{"raise'):
            raise RuntimeError("pybind11 says no")
        kinds: dict[tuple[int, ...], type[Engine]] = {(8, 6): Engine8, (10, 0): Engine10}
        newest = Engine1016 if self._trt.version >= (10, 16) else Engine103
        return kinds.get(self._trt.version, newest)(self._trt, self._logger, fields)


class Engine:
    def __init__(self, trt: FakeTensorRT, logger: Any, fields: Mapping[str, Any]) -> None:
        self.trt, self.logger, self.fields = trt, logger, fields
        self.num_aux_streams = fields["num_aux_streams"]
        self.modes = {name: "INPUT" for name, _, _ in fields["inputs"]}
        self.modes |= {name: "OUTPUT" for name, _, _ in fields["outputs"]}
        self.specs: dict[str, tuple[str, tuple[int, ...]]] = {
            name: (dtype, tuple(shape))
            for name, dtype, shape in (*fields["inputs"], *fields["outputs"])
        }

    @property
    def num_io_tensors(self) -> int:
        return len(self.specs)

    def get_tensor_name(self, idx: int) -> str:
        return list(self.specs)[idx]

    def get_tensor_mode(self, name: str) -> Any:
        return types.SimpleNamespace(name=self.modes[name])

    def get_tensor_dtype(self, name: str) -> Any:
        return types.SimpleNamespace(name=_NAMES[self.specs[name][0]])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.specs[name][1]

    def get_tensor_format(self, name: str) -> Any:
        return types.SimpleNamespace(name=self.fields["formats"].get(name, "LINEAR"))

    def get_tensor_components_per_element(self, name: str) -> int:
        return int(self.fields["vector"].get(name, (-1, -1))[0])

    def get_tensor_vectorized_dim(self, name: str) -> int:
        return int(self.fields["vector"].get(name, (-1, -1))[1])

    def create_engine_inspector(self) -> Any:
        def get_engine_information(form: LayerInformationFormat) -> str:
            assert form is LayerInformationFormat.JSON
            return json.dumps({"Layers": [{"Name": name} for name in self.fields["layers"]]})

        return types.SimpleNamespace(get_engine_information=get_engine_information)

    def new_context(self, kind: type[Any], event: str) -> Any:
        self.trt.events.append(event)
        if self.trt.has_no_contexts:
            self.logger.log(Severity.ERROR, "Cuda Runtime (out of memory)")
            return None
        return kind(self)


class Engine8(Engine):
    @property
    def device_memory_size(self) -> int:
        return int(self.fields["scratch_bytes"])

    def create_execution_context_without_device_memory(self) -> Any:
        return self.new_context(Context, "context without memory")


class Engine10(Engine8):
    def create_execution_context_without_device_memory(self) -> Any:
        raise AssertionError("deprecated in 10, gone in 11")

    def create_execution_context(self, strategy: Strategy = Strategy.STATIC) -> Any:
        return self.new_context(Context, f"context {strategy.name}")


class Engine103(Engine):
    @property
    def device_memory_size_v2(self) -> int:
        return int(self.fields["scratch_bytes"])

    def create_execution_context(self, strategy: Strategy = Strategy.STATIC) -> Any:
        return self.new_context(Context103, f"context {strategy.name}")


class Engine1016(Engine103):
    def get_engine_stat(self, stat: EngineStat) -> int:
        return {EngineStat.TOTAL_WEIGHTS_SIZE: 40}[stat]


class Context:
    profiler: Any = None

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._scratch = 0
        self.profiler: Any = None

    @property
    def engine(self) -> Engine:
        return self._engine

    @property
    def device_memory(self) -> int:
        raise AttributeError("write-only")

    @device_memory.setter
    def device_memory(self, pointer: int) -> None:
        self._engine.trt.events.append("device_memory =")
        assert pointer % 256 == 0
        self._scratch = pointer

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        assert isinstance(pointer, int)
        if self._engine.trt.refuses_address:
            self._engine.logger.log(Severity.ERROR, f"{name}: no such tensor")
            return False
        self._addresses[name] = pointer
        return True

    def execute_async_v3(self, stream: int) -> bool:
        trt, add = self._engine.trt, self._engine.fields["add"]
        assert set(self._addresses) == set(self._engine.specs)
        fails = trt.fails_execution_of == add or (trt.refuses_capture and trt.driver.is_capturing())
        if fails:
            self._engine.logger.log(Severity.ERROR, "myelinGraphExecute failed")
            return False
        scratch = self._scratch
        if trt.has_kernel_per_layer:
            layers: list[str] = list(self._engine.fields["layers"])
            *before, last = [*trt.extra_kernels, *layers]
            for label in before:
                trt.driver.enqueue(stream, label, lambda: None)
        else:
            last = f"engine +{add:g}"
            for number in range(1, self._engine.fields["num_kernels"]):
                work = (lambda: self._begin(scratch)) if number == 1 else (lambda: None)
                trt.driver.enqueue(stream, f"kernel {number} of +{add:g}", work)
        trt.driver.enqueue(stream, last, lambda: self._compute(scratch))
        if self.profiler is not None and not trt.driver.is_capturing():
            assert self.profiler.is_ready, "super().__init__() was not called"
            for name, ms in self._engine.fields["layers"].items():
                self.profiler.report_layer_time(name, ms)
        return True

    def _compute(self, scratch: int) -> None:
        assert self._engine.trt.driver.open.get(scratch) == "memory", "scratch memory is gone"
        self._engine.trt.scratch_of_runs.append(scratch)
        fields = self._engine.fields
        if (computes := self._engine.trt.computes) is not None:
            found = computes({name: self._array(name) for name, _, _ in fields["inputs"]})
            for name, value in found.items():
                self._array(name)[...] = value
            return
        if fields["num_kernels"] == 1:
            self._begin(scratch)
        total = ctypes.c_double.from_address(scratch).value
        for name, _, _ in fields["outputs"]:
            self._array(name)[...] = total + fields["add"]

    def _begin(self, scratch: int) -> None:
        names = [name for name, _, _ in self._engine.fields["inputs"]]
        total = sum(self._array(name).astype(np.float64).sum() for name in names)
        ctypes.c_double.from_address(scratch).value = total

    def _array(self, name: str) -> Any:
        dtype, shape = self._engine.specs[name]
        num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        block = (ctypes.c_uint8 * num_bytes).from_address(self._addresses[name])
        return np.ctypeslib.as_array(block).view(dtype).reshape(shape)


class Context103(Context):
    def set_device_memory(self, pointer: int, num_bytes: int) -> None:
        self._engine.trt.events.append(f"set_device_memory {num_bytes}")
        self._scratch = pointer
