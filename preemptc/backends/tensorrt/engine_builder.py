"""From an ONNX file to a serialised engine, by the TensorRT that is installed."""

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from preempt_runtime.backends.tensorrt import EngineLogger, library
from preempt_runtime.errors import BuildError
from preemptc.backends.tensorrt.parser_errors import parser_refusal

_LIBRARIES_TO_LEAVE_OUT = ("CUBLAS", "CUBLAS_LT", "CUDNN")  # deprecated since TensorRT 10


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What an engine depends on beside its graph.

    `precision` is the graph's: TensorRT 8.6 must be allowed to use it. `level` is TensorRT's
    builder optimisation level, 0 (fast) to 5.
    """

    precision: Literal["fp32", "fp16"]
    level: int


class EngineBuilder:
    """Builds engines one after the other, with one timing cache.

    `build_ns` is the time spent inside TensorRT so far. A timing cache that was written and read
    back is refused by 8.6.0 ("Myelin error from unknown graph"), so the object itself is kept.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._trt = library()
        self._options = options
        self._logger = EngineLogger()
        self._builder = self._trt.Builder(self._logger)
        self._timing_cache: Any = None
        self.build_ns = 0

    def build(self, path: Path, formats: Mapping[str, str]) -> bytes:
        """The serialised engine of an ONNX file.

        Args:
            path: external weights stand beside it.
            formats: TensorRT's format for inputs and outputs that are not linear, by name.

        Raises:
            BuildError: TensorRT's own text; an operator that it does not parse is named.
        """
        start_ns = time.perf_counter_ns()
        network = self._network(path)
        self._set_formats(network, formats)
        config = self._config()
        try:
            serialised = self._builder.build_serialized_network(network, config)
        finally:
            self.build_ns += time.perf_counter_ns() - start_ns
        if serialised is None:
            raise BuildError(f"{path.name}: TensorRT builds no engine ({self._logger.last_error})")
        return bytes(serialised)

    def _network(self, path: Path) -> Any:
        trt = self._trt
        flags = 0
        creation = trt.NetworkDefinitionCreationFlag
        major = int(trt.__version__.split(".")[0])
        if major < 10:
            flags |= 1 << int(creation.EXPLICIT_BATCH)
        if major == 10:
            flags |= 1 << int(creation.STRONGLY_TYPED)
        network = self._builder.create_network(flags)
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(path)):
            raise BuildError(
                f"{path.name}: TensorRT {trt.__version__} cannot parse"
                f" {parser_refusal(parser, path, self._logger.last_error)};"
                " export the network without it, or take a newer TensorRT"
            )
        return network

    def _set_formats(self, network: Any, formats: Mapping[str, str]) -> None:
        inputs = [network.get_input(idx) for idx in range(network.num_inputs)]
        outputs = [network.get_output(idx) for idx in range(network.num_outputs)]
        for tensor in (*inputs, *outputs):
            if (name := formats.get(tensor.name)) is not None:
                tensor.allowed_formats = 1 << int(getattr(self._trt.TensorFormat, name))

    def _config(self) -> Any:
        trt = self._trt
        config = self._builder.create_builder_config()
        config.builder_optimization_level = self._options.level
        config.max_aux_streams = 0  # auxiliary streams do not carry the caller's priority
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.set_tactic_sources(_tactic_sources(trt, config))
        if self._options.precision == "fp16" and trt.__version__.startswith("8."):
            config.set_flag(trt.BuilderFlag.FP16)
        if self._timing_cache is None:
            self._timing_cache = config.create_timing_cache(b"")
        config.set_timing_cache(self._timing_cache, False)
        return config


def _tactic_sources(trt: Any, config: Any) -> int:
    sources = int(config.get_tactic_sources())
    for name in _LIBRARIES_TO_LEAVE_OUT:
        if hasattr(trt.TacticSource, name):
            sources &= ~(1 << int(getattr(trt.TacticSource, name)))
    return sources


@functools.cache
def shared_builder(options: EngineOptions) -> EngineBuilder:
    """The builder of this process for these options: what it has timed once, it knows."""
    return EngineBuilder(options)
