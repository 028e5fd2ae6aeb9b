"""Build segments as engines, measure them by CUDA events, compare their outputs."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from preempt_runtime.backends.cuda import Stream, open_cuda
from preempt_runtime.backends.tensorrt import (
    Scratch,
    TrtBuffers,
    bind,
    deserialize,
    scratch_bytes,
    weights_bytes,
)
from preempt_runtime.errors import BuildError, DeviceError
from preempt_runtime.inputs import random_inputs
from preempt_runtime.manifest import TensorSpec
from preemptc.backends import Artefacts, EngineMemory, Measurement, Tensors, Tolerance
from preemptc.backends.reference import SourceReference
from preemptc.backends.stats import latency_from_samples, median_with_error
from preemptc.backends.tensorrt.engine_builder import EngineBuilder
from preemptc.backends.tensorrt.formats import FORMATS, boundary_formats, stored_spec
from preemptc.backends.tensorrt.lower import read_groups
from preemptc.backends.tensorrt.timing import Row, time_in_turn
from preemptc.interface import graph_spec
from preemptc.model import Lowered, Model
from preemptc.onnx_io.files import read_graph, save_piece
from preemptc.onnx_io.graphs import extract
from preemptc.segments import Segment, boundary_names, segments_from_split_points

WHOLE_ENGINE = "whole.engine"
_GLANCE_RUNS = 50
_FORMAT_RUNS = 50
_TOLERANCE = Tolerance(
    chained_frac=2e-2,
    source_frac=5e-2,
    reason="fp16 and TF32 round to 11 bits, segments may choose kernels that sum in another order,"
    " and the errors of tens of layers add up",
)

Built = tuple[int, int, str]


class TrtBench:
    """Engines of one lowered graph's segments, each built once and kept."""

    tolerance = _TOLERANCE

    def __init__(self, model: Model, lowered: Lowered, builder: EngineBuilder) -> None:
        self._model, self._lowered, self._builder = model, lowered, builder
        self._built_before_ns = builder.build_ns
        self._folder = lowered.path.parent
        self._proto = read_graph(lowered.path)
        self._edges = read_groups(self._folder).edges
        self._engines: dict[Built, Any] = {}
        self._failed: dict[Built, str] = {}
        self._source = SourceReference(model.path)
        self._format: str | None = None
        self._whole: TrtBuffers | None = None
        self._whole_engine: Any = None
        self._scratches: dict[int, Scratch] = {}
        self._chains: dict[tuple[int, ...], TrtBuffers] = {}
        self.num_built = 0

    def __enter__(self) -> "TrtBench":
        self._cuda = open_cuda()
        self._stream = Stream(priority="high")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for buffers in (*self._chains.values(), *([self._whole] if self._whole else ())):
            self._release(buffers)
        self._chains.clear()
        self._engines.clear()
        self._whole = self._whole_engine = None
        self._stream.close()
        self._cuda.close()

    @property
    def library_ns(self) -> int:
        """How long TensorRT built segments."""
        return self._builder.build_ns - self._built_before_ns

    def build(self, start: int, end: int) -> Path:
        """The engine of executed nodes [start, end), in the boundary format that was chosen.

        That of all nodes is the whole engine, which exists: no boundary, so nothing to choose.

        Raises:
            BuildError: TensorRT refused this piece; it is remembered.
        """
        if (start, end) == (0, self._lowered.graph.num_nodes):
            return self._folder / WHOLE_ENGINE
        return self._build(start, end, self._format or FORMATS[0])

    def _build(self, start: int, end: int, tensor_format: str) -> Path:
        built = (start, end, tensor_format)
        path = self._folder / f"segment-{start}-{end}-{tensor_format}.engine"
        if built in self._failed:
            raise BuildError(self._failed[built])
        if built not in self._engines:
            try:
                if not path.is_file():
                    self._write_engine(start, end, tensor_format, path)
                    self.num_built += 1
                self._engines[built] = deserialize(path.read_bytes(), path.name)
            except (BuildError, DeviceError) as err:
                self._failed[built] = str(err)
                raise BuildError(str(err)) from err
        return path

    def _write_engine(self, start: int, end: int, tensor_format: str, path: Path) -> None:
        (segment,) = [s for s in self._segments([start, end]) if (s.start, s.end) == (start, end)]
        tensors = self._lowered.graph.tensors
        nodes = self._proto.graph.node[self._edges[start] : self._edges[end]]
        piece = extract(
            self._proto,
            nodes,
            [tensors[name] for name in segment.inputs],
            [tensors[name] for name in segment.outputs],
        )
        piece_path = path.with_suffix(".onnx")
        save_piece(piece, piece_path)
        inner = [
            tensors[name]
            for name in (*segment.inputs, *segment.outputs)
            if name not in (*self._lowered.graph.inputs, *self._lowered.graph.outputs)
        ]
        engine = self._builder.build(piece_path, boundary_formats(inner, tensor_format))
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.write_bytes(engine)
        os.replace(partial, path)

    def _segments(self, edges: Sequence[int]) -> tuple[Segment, ...]:
        graph = self._lowered.graph
        return segments_from_split_points(graph, [e for e in edges if 0 < e < graph.num_nodes])

    def measure(self, split_points: Sequence[int], *, min_runs: int, budget_ns: int) -> Measurement:
        """Chain and whole in turn, each graph after the other without the host in between.

        The first segmentation is built and measured in every boundary format; the fastest stays.
        """
        if self._format is None and split_points:
            self._format = self._fastest_format(split_points)
        chain, whole = self._chain(split_points), self._whole_buffers()
        self._feed(chain)
        self._feed(whole)
        rows = time_in_turn(
            chain.graphs, whole.graphs, self._stream, min_rows=min_runs, budget_ns=budget_ns
        )
        times = np.asarray([row.segments_ns for row in rows], dtype=np.int64)
        chained = np.asarray([row.chained_ns for row in rows], dtype=np.int64)
        wholes = np.asarray([row.whole_ns for row in rows], dtype=np.int64)
        ratio_p50, ratio_error = median_with_error(chained / wholes) if split_points else (1.0, 0.0)
        return Measurement(
            segments=tuple(latency_from_samples(times[:, i]) for i in range(times.shape[1])),
            chained=latency_from_samples(chained),
            whole=latency_from_samples(wholes),
            ratio_p50=ratio_p50,
            ratio_error=ratio_error,
        )

    def _fastest_format(self, split_points: Sequence[int]) -> str:
        found: dict[str, int] = {}
        for tensor_format in FORMATS:
            self._format = tensor_format
            try:
                chain = self._chain(split_points)
            except BuildError:
                continue
            self._feed(chain)
            rows = self._times_of(chain, _FORMAT_RUNS)
            found[tensor_format] = latency_from_samples([row.chained_ns for row in rows]).p50_ns
        self._format = None
        if not found:
            raise BuildError("the segments were built in no boundary format; try other points")
        return min(found, key=lambda name: found[name])

    def _times_of(self, buffers: TrtBuffers, num_runs: int) -> list[Row]:
        graphs = buffers.graphs
        return time_in_turn(graphs, graphs, self._stream, min_rows=num_runs, budget_ns=0)

    def whole_ns(self) -> int:
        """Median time of the whole network now, over a few runs."""
        whole = self._whole_buffers()
        self._feed(whole)
        rows = self._times_of(whole, _GLANCE_RUNS)
        return latency_from_samples([row.whole_ns for row in rows]).p50_ns

    def outputs(self, split_points: Sequence[int] | None, inputs: Tensors) -> dict[str, Any]:
        """Outputs of the chain, or of the whole engine."""
        buffers = self._whole_buffers() if split_points is None else self._chain(split_points)
        buffers.write_inputs(inputs)
        for idx in range(len(buffers.graphs)):
            buffers.launch(idx, self._stream)
        self._stream.synchronize()
        outputs: dict[str, Any] = buffers.read_outputs()
        return outputs

    def source_outputs(self, inputs: Tensors) -> dict[str, Any]:
        """Outputs of the source graph in its own precision, by ONNX Runtime on the CPU."""
        return self._source.outputs(self._lowered.graph.outputs, inputs)

    def boundary_specs(self, split_points: Sequence[int]) -> tuple[TensorSpec, ...]:
        """The boundary tensors as the engines store them."""
        names = boundary_names(self._lowered.graph, self._segments(split_points))
        tensors = self._lowered.graph.tensors
        formats = boundary_formats([tensors[n] for n in names], self._format or FORMATS[0])
        return tuple(stored_spec(tensors[name], formats.get(name)) for name in names)

    def artefacts(self, split_points: Sequence[int]) -> Artefacts:
        """The engines of the whole network and of the segments."""
        segments = self._segments(split_points)
        paths = tuple(self.build(segment.start, segment.end) for segment in segments)
        whole = self._folder / WHOLE_ENGINE
        self._whole_buffers()
        engines = {whole: self._whole_engine}
        for segment, path in zip(segments, paths, strict=True):
            if path != whole:
                tensor_format = self._format or FORMATS[0]
                engines[path] = self._engines[segment.start, segment.end, tensor_format]
        return Artefacts(
            whole=whole,
            segments=paths,
            shared=(),
            memory={path: _memory_of(engine) for path, engine in engines.items()},
        )

    def _whole_buffers(self) -> TrtBuffers:
        if self._whole is None:
            path = self._folder / WHOLE_ENGINE
            self._whole_engine = deserialize(path.read_bytes(), path.name)
            interface = (self._lowered.graph.inputs, self._lowered.graph.outputs)
            self._whole = self._bind([self._whole_engine], [interface], ())
        return self._whole

    def _chain(self, split_points: Sequence[int]) -> TrtBuffers:
        if not split_points:
            return self._whole_buffers()
        segments = self._segments(split_points)
        paths = [self.build(segment.start, segment.end) for segment in segments]
        key = tuple(hash(path.name) for path in paths)
        if key not in self._chains:
            while self._chains:  # one at a time: device memory is short on small boards
                self._release(self._chains.popitem()[1])
            tensor_format = self._format or FORMATS[0]
            engines = [self._engines[s.start, s.end, tensor_format] for s in segments]
            self._chains[key] = self._bind(
                engines,
                [(segment.inputs, segment.outputs) for segment in segments],
                self.boundary_specs(split_points),
            )
        return self._chains[key]

    def _bind(
        self,
        engines: Sequence[Any],
        interfaces: Sequence[tuple[Sequence[str], Sequence[str]]],
        boundaries: Sequence[TensorSpec],
    ) -> TrtBuffers:
        spec, name = graph_spec(self._lowered), self._model.name
        with ExitStack() as stack:
            scratch = stack.enter_context(Scratch(engines))
            buffers = bind(engines, interfaces, spec, boundaries, name, scratch, self._stream)
            stack.pop_all()
        self._scratches[id(buffers)] = scratch
        return buffers

    def _release(self, buffers: TrtBuffers) -> None:
        buffers.close()
        self._scratches.pop(id(buffers)).close()

    def _feed(self, buffers: TrtBuffers) -> None:
        """Random inputs, not zeros: a GPU runs faster on zeros."""
        inputs = random_inputs(graph_spec(self._lowered), seed=0, task="profile")
        buffers.write_inputs(inputs)
        for idx in range(len(buffers.graphs)):
            buffers.launch(idx, self._stream)
        self._stream.synchronize()


def _memory_of(engine: Any) -> EngineMemory:
    return EngineMemory(scratch_bytes=scratch_bytes(engine), weights_bytes=weights_bytes(engine))
