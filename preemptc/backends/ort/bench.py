"""Build segments of an optimised graph as sessions, measure them, compare their outputs."""

import gc
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import onnxruntime as ort

from preempt_runtime.backends.ort import OrtBuffers, bind, open_session
from preempt_runtime.errors import BuildError, DeviceError
from preempt_runtime.manifest import TensorSpec
from preempt_runtime.units import fmt_count
from preemptc.backends import Artefacts, GateRefusal, Measurement, Progress, Tensors, silent
from preemptc.backends.ort.profiler import profiling_inputs, whole_buffers
from preemptc.backends.ort.tolerance import tolerance_of
from preemptc.backends.reference import SourceReference
from preemptc.backends.stats import latency_from_samples, measurement_from_samples
from preemptc.interface import graph_spec, tensor_spec
from preemptc.model import Lowered, Model
from preemptc.onnx_io.files import WEIGHTS_FILE, read_graph, save_piece
from preemptc.onnx_io.graphs import extract
from preemptc.segments import Segment, boundary_names, segment_of_nodes, segments_from_split_points

_WARM_UP_RUNS = 3
_GLANCE_RUNS = 9


class OrtBench:
    """Sessions of one lowered graph's segments, each opened once and kept."""

    def __init__(
        self, model: Model, lowered: Lowered, threads: int, progress: Progress = silent
    ) -> None:
        self._model, self._lowered, self._threads = model, lowered, threads
        self._progress = progress
        self._proto = read_graph(lowered.path)
        self._sessions: dict[tuple[int, int], ort.InferenceSession] = {}
        self._failed: dict[tuple[int, int], str] = {}
        self._whole: OrtBuffers | None = None
        self._source = SourceReference(model.path, threads)
        self.tolerance = tolerance_of(read_graph(model.path), model.path.parent)
        self.num_built = 0
        self.library_ns = 0

    def __enter__(self) -> "OrtBench":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sessions.clear()
        self._whole = None

    def build(self, start: int, end: int) -> Path:
        """The piece of nodes [start, end) beside the graph's weights, loaded as a session."""
        path = self._lowered.path.with_name(f"segment-{start}-{end}.onnx")
        if (start, end) in self._failed:
            raise BuildError(self._failed[start, end])
        if (start, end) not in self._sessions:
            try:
                self._write(segment_of_nodes(self._lowered.graph, start, end), path)
                begin_ns = time.perf_counter_ns()
                self._sessions[start, end] = open_session(path, self._threads)
                self.library_ns += time.perf_counter_ns() - begin_ns
            except DeviceError as err:
                self._failed[start, end] = str(err)
                raise BuildError(str(err)) from err
            self.num_built += 1
        return path

    def _segments(self, split_points: Sequence[int]) -> tuple[Segment, ...]:
        return segments_from_split_points(self._lowered.graph, split_points)

    def _write(self, segment: Segment, path: Path) -> None:
        tensors = self._lowered.graph.tensors
        piece = extract(
            self._proto,
            self._proto.graph.node[segment.start : segment.end],
            [tensors[name] for name in segment.inputs],
            [tensors[name] for name in segment.outputs],
        )
        save_piece(piece, path)

    def measure(self, split_points: Sequence[int], *, min_runs: int, budget_ns: int) -> Measurement:
        """Alternate the chain with the whole network until the time budget is used."""
        chain, whole = self._chain(split_points), self._whole_buffers()
        inputs = profiling_inputs(self._lowered)
        chain.write_inputs(inputs)
        whole.write_inputs(inputs)
        num_segments = len(chain.bindings)
        what = f"measure: {fmt_count(num_segments, 'segment')} beside the whole network"
        rows: list[tuple[list[int], int]] = []
        gc.collect()
        begin_ns = time.perf_counter_ns()
        while len(rows) < min_runs or time.perf_counter_ns() - begin_ns < budget_ns:
            self._progress(what, 0.0)
            rows.append((_time_chain(chain, num_segments), _time_chain(whole, 1)[0]))
        rows = rows[_WARM_UP_RUNS:] if len(rows) > 2 * _WARM_UP_RUNS else rows
        times = np.asarray([row for row, _ in rows], dtype=np.int64)
        wholes = np.asarray([whole_ns for _, whole_ns in rows], dtype=np.int64)
        return measurement_from_samples(times, times.sum(axis=1), wholes)

    def whole_ns(self) -> int:
        """Median time of the whole network now, over a few runs."""
        whole = self._whole_buffers()
        whole.write_inputs(profiling_inputs(self._lowered))
        times = [_time_chain(whole, 1)[0] for _ in range(_WARM_UP_RUNS + _GLANCE_RUNS)]
        return latency_from_samples(times[_WARM_UP_RUNS:]).p50_ns

    def outputs(self, split_points: Sequence[int] | None, inputs: Tensors) -> dict[str, Any]:
        """Outputs of the chain, or of the whole optimised graph."""
        buffers = self._whole_buffers() if split_points is None else self._chain(split_points)
        buffers.write_inputs(inputs)
        _time_chain(buffers, len(buffers.bindings))
        return buffers.read_outputs()

    def source_outputs(self, inputs: Tensors) -> dict[str, Any]:
        """Outputs of the source graph, without any optimisation of ONNX Runtime."""
        return self._source.outputs(self._lowered.graph.outputs, inputs)

    def boundary_specs(self, split_points: Sequence[int]) -> tuple[TensorSpec, ...]:
        """The boundary tensors in the layout that ONNX Runtime uses."""
        names = boundary_names(self._lowered.graph, self._segments(split_points))
        return tuple(tensor_spec(self._lowered, name) for name in names)

    def artefacts(self, split_points: Sequence[int]) -> Artefacts:
        """The graphs of the whole network and of the segments, and the weights of both."""
        segments = self._segments(split_points)
        return Artefacts(
            whole=self._lowered.path,
            segments=tuple(self.build(segment.start, segment.end) for segment in segments),
            shared=(self._lowered.path.with_name(WEIGHTS_FILE),),
        )

    def gates(self) -> NoReturn:
        """None: an operator of ONNX Runtime on a CPU ends before the next one is asked for."""
        raise GateRefusal("gates need TensorRT, this is ONNX Runtime on the CPU")

    def _whole_buffers(self) -> OrtBuffers:
        if self._whole is None:
            self._whole = whole_buffers(self._lowered, self._threads)
        return self._whole

    def _chain(self, split_points: Sequence[int]) -> OrtBuffers:
        segments = self._segments(split_points)
        for segment in segments:
            self.build(segment.start, segment.end)
        return bind(
            [self._sessions[segment.start, segment.end] for segment in segments],
            [(segment.inputs, segment.outputs) for segment in segments],
            graph_spec(self._lowered),
            self.boundary_specs(split_points),
            self._model.name,
        )


def _time_chain(buffers: OrtBuffers, num_segments: int) -> list[int]:
    times = []
    for idx in range(num_segments):
        start_ns = time.perf_counter_ns()
        buffers.run_segment(idx)
        times.append(time.perf_counter_ns() - start_ns)
    return times
