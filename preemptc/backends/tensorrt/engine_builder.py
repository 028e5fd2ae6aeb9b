"""From an ONNX file to a serialised engine, by the TensorRT that is installed."""

import functools
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from preempt_runtime.backends.tensorrt import EngineLogger, library, local_fields
from preempt_runtime.errors import BuildError, DeviceError
from preemptc.backends.tensorrt.build_watch import BuildWatch, progress_monitor
from preemptc.backends.tensorrt.parser_errors import parser_refusal
from preemptc.backends.tensorrt.timing_cache import TimingCache, TimingFile
from preemptc.interruption import stoppable
from preemptc.onnx_io.files import one_line

_LIBRARIES_TO_LEAVE_OUT = ("CUBLAS", "CUBLAS_LT", "CUDNN")  # deprecated since TensorRT 10
_PASSING = re.compile(
    r"out of memory|outofmemory|insufficient|cuda (runtime|driver|failure|error)|cudaerror"
    r"|no (cuda|space left)|bad_alloc|allocation fail",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What an engine depends on beside its graph.

    `precision` is the graph's: TensorRT 8.6 must be allowed to use it. `level` is TensorRT's
    builder optimisation level, 0 (fast) to 5.
    """

    precision: Literal["fp32", "fp16"]
    level: int


class PassingBuildError(BuildError):
    """TensorRT built nothing for a reason that may pass: no memory, no GPU, or it was stopped."""


class EngineBuilder:
    """Builds engines one after the other, with one timing cache.

    `build_ns` is the time spent inside TensorRT so far. TensorRT's own builder is made with the
    first engine: that takes seconds, in which Ctrl-C must be heard, too.
    """

    def __init__(self, options: EngineOptions, timing: TimingFile | None = None) -> None:
        self._trt = library()
        self._options = options
        self._logger = EngineLogger()
        self._builder: Any = None
        self._timing = TimingCache(timing)
        self._lock = threading.Lock()  # an abandoned build may still be going on
        self.build_ns = 0

    def build(
        self,
        path: Path,
        formats: Mapping[str, str],
        watch: BuildWatch,
        *,
        is_quantized: bool = False,
    ) -> bytes:
        """The serialised engine of an ONNX file.

        The work is done in a thread, so that this one hears Ctrl-C.

        Args:
            path: external weights stand beside it.
            formats: TensorRT's format for inputs and outputs that are not linear, by name.
            watch: told how it goes on.
            is_quantized: the file has QuantizeLinear or DequantizeLinear.

        Raises:
            BuildError: TensorRT's own text; an operator that it does not parse is named.
            PassingBuildError: trying again later may help.
            DeviceError: TensorRT makes no builder, most often for want of a GPU.
        """
        start_ns = time.perf_counter_ns()
        try:
            return stoppable(
                lambda: self._build(path, formats, watch, is_quantized),
                tick=lambda: watch.tick(self._logger.newest),
                stop=watch.stop,
            )
        finally:
            self.build_ns += time.perf_counter_ns() - start_ns

    def _build(
        self, path: Path, formats: Mapping[str, str], watch: BuildWatch, is_quantized: bool
    ) -> bytes:
        with self._lock:
            mark = self._logger.num_messages
            if self._builder is None:
                self._builder = _new_builder(self._trt, self._logger)
            network = self._network(path, formats)
            try:
                return self._serialised(path, network, watch, is_quantized)
            except PassingBuildError:
                raise
            except BuildError as err:
                if not self._timing.is_reloaded:
                    raise
                reason = self._logger.error_since(mark)
                aside = self._timing.set_aside()
                try:
                    network = self._network(path, formats)
                    blob = self._serialised(path, network, watch, is_quantized)
                except BuildError:
                    self._timing.restore(aside)
                    raise err from None
                self._timing.refuse(reason)
                return blob

    def _serialised(self, path: Path, network: Any, watch: BuildWatch, is_quantized: bool) -> bytes:
        """The engine, its times kept."""
        mark = self._logger.num_messages
        config = self._config(watch, is_quantized)
        try:
            serialised = self._builder.build_serialized_network(network, config)
        except Exception as err:  # pybind11 makes RuntimeError of what fails in C++
            raise self._failure(path, mark, watch, one_line(err)) from err
        if serialised is None:
            raise self._failure(path, mark, watch, "")
        self._timing.save(config)
        return bytes(serialised)

    def _failure(self, path: Path, mark: int, watch: BuildWatch, text: str) -> BuildError:
        reason = "; ".join(filter(None, (text, self._logger.error_since(mark))))
        said = (text, *self._logger.messages_since(mark))
        may_pass = watch.is_stopped or any(map(_PASSING.search, said))
        kind = PassingBuildError if may_pass else BuildError
        return kind(f"{path.name}: TensorRT builds no engine ({reason})")

    def _network(self, path: Path, formats: Mapping[str, str]) -> Any:
        trt = self._trt
        flags = 0
        creation = trt.NetworkDefinitionCreationFlag
        major = int(trt.__version__.split(".")[0])
        if major < 10:
            flags |= 1 << int(creation.EXPLICIT_BATCH)
        if major == 10:
            flags |= 1 << int(creation.STRONGLY_TYPED)
        mark = self._logger.num_messages
        network = self._builder.create_network(flags)
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(path)):
            raise BuildError(
                f"{path.name}: TensorRT {trt.__version__} cannot parse"
                f" {parser_refusal(parser, path, self._logger.error_since(mark))};"
                " export the network without it, or take a newer TensorRT"
            )
        self._set_formats(network, formats)
        return network

    def _set_formats(self, network: Any, formats: Mapping[str, str]) -> None:
        inputs = [network.get_input(idx) for idx in range(network.num_inputs)]
        outputs = [network.get_output(idx) for idx in range(network.num_outputs)]
        for tensor in (*inputs, *outputs):
            if (name := formats.get(tensor.name)) is not None:
                tensor.allowed_formats = 1 << int(getattr(self._trt.TensorFormat, name))

    def _config(self, watch: BuildWatch, is_quantized: bool) -> Any:
        trt = self._trt
        config = self._builder.create_builder_config()
        config.builder_optimization_level = self._options.level
        config.max_aux_streams = 0  # auxiliary streams do not carry the caller's priority
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.set_tactic_sources(_tactic_sources(trt, config))
        if self._options.precision == "fp16" and trt.__version__.startswith("8."):
            config.set_flag(trt.BuilderFlag.FP16)
        if is_quantized and trt.__version__.startswith("8."):
            config.set_flag(trt.BuilderFlag.INT8)
        if hasattr(trt, "IProgressMonitor"):
            config.progress_monitor = progress_monitor(trt, watch)
        self._timing.attach(config)
        return config


def is_strongly_typed() -> bool:
    """Whether networks keep the types of their graphs; before TensorRT 10 flags allow others."""
    return int(library().__version__.split(".")[0]) >= 10


def _new_builder(trt: Any, logger: Any) -> Any:
    mark = logger.num_messages
    try:
        return trt.Builder(logger)
    except Exception as err:  # pybind11 makes TypeError of a null pointer
        raise DeviceError(
            f"TensorRT makes no builder ({logger.error_since(mark)});"
            " see whether `nvidia-smi` shows the GPU"
        ) from err


def _tactic_sources(trt: Any, config: Any) -> int:
    sources = int(config.get_tactic_sources())
    for name in _LIBRARIES_TO_LEAVE_OUT:
        if hasattr(trt.TacticSource, name):
            sources &= ~(1 << int(getattr(trt.TacticSource, name)))
    return sources


@functools.cache
def shared_builder(options: EngineOptions, cache: Path | None = None) -> EngineBuilder:
    """The builder of this process for these options: what it has timed once, it knows.

    Args:
        options: of its engines.
        cache: the build cache, below which times are kept for the next process.
    """
    fields = {**local_fields(), "precision": options.precision, "level": options.level}
    return EngineBuilder(options, None if cache is None else TimingFile(cache, fields))
