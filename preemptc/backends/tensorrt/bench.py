"""Build segments as engines, measure them by CUDA events, compare their outputs."""

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
from preempt_runtime.errors import BuildError
from preempt_runtime.inputs import random_inputs
from preempt_runtime.manifest import TensorSpec
from preemptc.backends import (
    Artefacts,
    EngineMemory,
    Measurement,
    Progress,
    Tensors,
    Tolerance,
    silent,
)
from preemptc.backends.reference import SourceReference
from preemptc.backends.stats import latency_from_samples, measurement_from_samples
from preemptc.backends.tensorrt.engine_builder import EngineBuilder
from preemptc.backends.tensorrt.formats import (
    ALL_LINEAR,
    LIKELIEST,
    Layout,
    boundary_formats,
    stored_spec,
)
from preemptc.backends.tensorrt.gate_bench import TrtGateBench
from preemptc.backends.tensorrt.segment_engines import SegmentEngines
from preemptc.backends.tensorrt.timing import Row, time_in_turn
from preemptc.interface import graph_spec
from preemptc.model import Lowered, Model
from preemptc.segments import Segment, boundary_names, segment_of_nodes, segments_from_split_points

WHOLE_ENGINE = "whole.engine"
_GLANCE_RUNS = 50
_FORMAT_RUNS = 50
_GOOD_RATIO = 1.02  # of the whole network: no other format could gain what building it takes
_TOLERANCE = Tolerance(
    chained_frac=2e-2,
    source_frac=5e-2,
    reason="fp16 and TF32 round to 11 bits, segments may choose kernels that sum in another order,"
    " and the errors of tens of layers add up",
)


class TrtBench:
    """Engines of one lowered graph's segments, each built once and kept."""

    tolerance = _TOLERANCE

    def __init__(
        self, model: Model, lowered: Lowered, builder: EngineBuilder, progress: Progress = silent
    ) -> None:
        self._model, self._lowered, self._builder = model, lowered, builder
        self._built_before_ns = builder.build_ns
        self._folder = lowered.path.parent
        self._engines = SegmentEngines(lowered, builder, progress)
        self._source = SourceReference(model.path)
        self._layout: Layout | None = None
        self._whole: TrtBuffers | None = None
        self._whole_engine: Any = None
        self._scratches: dict[int, Scratch] = {}
        self._chains: dict[tuple[Path, ...], TrtBuffers] = {}

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
        self._engines.close()
        self._whole = self._whole_engine = None
        self._stream.close()
        self._cuda.close()

    @property
    def num_built(self) -> int:
        """How many engines of segments were built so far."""
        return self._engines.num_built

    @property
    def library_ns(self) -> int:
        """How long TensorRT built segments."""
        return self._builder.build_ns - self._built_before_ns

    def build(self, start: int, end: int) -> Path:
        """The engine of executed nodes [start, end), in the boundary formats that were chosen.

        That of all nodes is the whole engine, which exists: no boundary, so nothing to choose.

        Raises:
            BuildError: TensorRT refused this piece; it is remembered.
        """
        if (start, end) == (0, self._lowered.graph.num_nodes):
            return self._folder / WHOLE_ENGINE
        segment = segment_of_nodes(self._lowered.graph, start, end)
        layout = self._current
        try:
            self._engines.engine(segment, layout)
        except BuildError:
            linear = self._engines.path(segment, ALL_LINEAR)
            if self._layout is not None or self._engines.path(segment, layout) == linear:
                raise
            layout = ALL_LINEAR  # the formats are not chosen yet: it may be them that are refused
            self._engines.engine(segment, layout)
        return self._engines.path(segment, layout)

    @property
    def _current(self) -> Layout:
        return LIKELIEST if self._layout is None else self._layout

    def _segments(self, split_points: Sequence[int]) -> tuple[Segment, ...]:
        return segments_from_split_points(self._lowered.graph, split_points)

    def measure(self, split_points: Sequence[int], *, min_runs: int, budget_ns: int) -> Measurement:
        """Chain and whole in turn, each graph after the other without the host in between.

        The first segmentation is built and measured in the formats that suit what crosses its
        boundaries; the fastest stays.
        """
        if self._layout is None and split_points:
            self._layout = self._fastest_layout(split_points)
        chain, whole = self._chain(split_points), self._whole_buffers()
        self._feed(chain)
        self._feed(whole)
        rows = time_in_turn(
            chain.graphs, whole.graphs, self._stream, min_rows=min_runs, budget_ns=budget_ns
        )
        times = np.asarray([row.segments_ns for row in rows], dtype=np.int64)
        chained = np.asarray([row.chained_ns for row in rows], dtype=np.int64)
        wholes = np.asarray([row.whole_ns for row in rows], dtype=np.int64)
        return measurement_from_samples(times, chained, wholes)

    def _fastest_layout(self, split_points: Sequence[int]) -> Layout:
        """The layout of the fastest chain, or the first whose chain is about as fast as the whole.

        All linear is tried last, and only if nothing else can be built.

        Raises:
            BuildError: the segments were built in none.
        """
        names = boundary_names(self._lowered.graph, self._segments(split_points))
        whole = self._whole_buffers()
        found: list[tuple[float, int, Layout]] = []
        for layout in (*self._engines.layouts(names), ALL_LINEAR):
            if layout is ALL_LINEAR and found:
                break
            self._layout = layout
            try:
                chain = self._chain(split_points)
            except BuildError:
                continue
            finally:
                self._layout = None
            for buffers in (chain, whole):
                self._feed(buffers)
            found.append((self._ratio(chain, whole), len(found), layout))
            if found[-1][0] <= _GOOD_RATIO:
                break
        if not found:
            raise BuildError("the segments were built in no boundary format; try other points")
        return min(found)[2]

    def _ratio(self, chain: TrtBuffers, whole: TrtBuffers) -> float:
        rows = time_in_turn(
            chain.graphs, whole.graphs, self._stream, min_rows=_FORMAT_RUNS, budget_ns=0
        )
        return float(np.median([row.chained_ns / row.whole_ns for row in rows]))

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
        buffers.run(self._stream)
        outputs: dict[str, Any] = buffers.read_outputs()
        return outputs

    def source_outputs(self, inputs: Tensors) -> dict[str, Any]:
        """Outputs of the source graph in its own precision, by ONNX Runtime on the CPU."""
        return self._source.outputs(self._lowered.graph.outputs, inputs)

    def boundary_specs(self, split_points: Sequence[int]) -> tuple[TensorSpec, ...]:
        """The boundary tensors as the engines store them."""
        names = boundary_names(self._lowered.graph, self._segments(split_points))
        tensors = self._lowered.graph.tensors
        formats = boundary_formats([tensors[name] for name in names], self._current)
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
                engines[path] = self._engines.engine(segment, self._current)
        return Artefacts(
            whole=whole,
            segments=paths,
            shared=(),
            memory={path: _memory_of(engine) for path, engine in engines.items()},
        )

    def gates(self) -> TrtGateBench:
        """The whole engine, to put gates into."""
        return TrtGateBench(self._whole_buffers(), graph_spec(self._lowered), self._stream)

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
        engines = [self._engines.engine(segment, self._current) for segment in segments]
        key = tuple(self._engines.path(segment, self._current) for segment in segments)
        if key not in self._chains:
            while self._chains:  # one at a time: device memory is short on small boards
                self._release(self._chains.popitem()[1])
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
        buffers.run(self._stream)


def _memory_of(engine: Any) -> EngineMemory:
    return EngineMemory(scratch_bytes=scratch_bytes(engine), weights_bytes=weights_bytes(engine))
