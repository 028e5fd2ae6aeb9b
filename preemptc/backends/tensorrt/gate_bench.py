"""Gates in a whole engine: its enqueue as one graph, measured and compared with and without them.

EXPERIMENTAL: one kind of GPU has run this so far, the H200. What is captured runs whole and in its
own order, never a piece of it: a kernel may wait for ever for what an earlier node prepares.
Nothing else runs meanwhile, and a gate that waits all the same passes by itself after a while.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preempt_runtime.backends.cuda import Stream
from preempt_runtime.backends.cuda_graph import CudaGraph
from preempt_runtime.backends.gate_board import GateBoard, Mode
from preempt_runtime.backends.gates import GatedGraph, run_gated
from preempt_runtime.backends.graph_shape import GraphShape
from preempt_runtime.backends.tensorrt import TrtBuffers
from preempt_runtime.errors import DeviceError
from preempt_runtime.gate_keys import key_of
from preempt_runtime.gated_device import StretchTimes
from preempt_runtime.inputs import random_inputs
from preempt_runtime.manifest import GraphSpec
from preempt_runtime.units import fmt_ns
from preemptc.backends import GateMeasurement, GateRefusal, Measurement, Tensors
from preemptc.backends.stats import interquartile_mean, latency_from_samples, median_with_error
from preemptc.backends.tensorrt.timing import time_in_turn

MODE: Mode = "exclusive"
"""In which gates are measured: they do more in it than in `overlap`."""

_MAX_WAIT_NS = 200_000_000
_WARM_UP_RUNS = 3
_MAX_RUNS = 1000
_MAX_CLOCK_RATIO = 2.0  # of a run by the gates' clock to one by events
_CLOCK_SLACK_NS = 20_000  # events see a graph's start, too
_DECOY_SEED = 1


class TrtGateBench:
    """One engine bound to the tensors of one job, and the graph of its enqueue.

    Args:
        buffers: of one engine, warmed up; they outlive this, as does the stream.
        graph: the network's interface.
        stream: nobody else may use it meanwhile.
        mode: of the gates.

    Raises:
        GateRefusal: gates cannot be put in; names the node or what else is in the way.
    """

    def __init__(
        self,
        buffers: TrtBuffers,
        graph: GraphSpec,
        stream: Stream,
        *,
        mode: Mode = MODE,
    ) -> None:
        self.buffers, self.stream = buffers, stream
        self._graph = graph
        with ExitStack() as stack:
            try:
                self._feed(0)
                buffers.warm_up(stream)  # once more: some kernels are loaded by the second run
                captured = buffers.capture_segment(0, stream)
                self.captured: CudaGraph = stack.enter_context(captured)
                self.shape: GraphShape = self.captured.shape()
                if (reason := self.shape.unfit()) is not None:
                    raise GateRefusal(reason)
                board = GateBoard(mode=mode, max_wait_ns=_MAX_WAIT_NS)
                self._board = stack.enter_context(board)
                self._alone = stack.enter_context(self.captured.instantiate())
                self._alone.upload(stream)
            except DeviceError as err:
                raise GateRefusal(str(err)) from err
            self._slot = board.take_slot()
            self._key = key_of("real-time", 0, self._slot)
            self._gated_graph: tuple[tuple[int, ...], GatedGraph] | None = None
            self._stack = stack.pop_all()

    def __enter__(self) -> "TrtGateBench":
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()
        self._stack.close()

    def measure(self, cuts: Sequence[int], *, min_runs: int, budget_ns: int) -> GateMeasurement:
        """Stretches by the gates' stamps; then the graph with gates and without, in turn.

        With gates a job raises its key, too, as it has to. Inputs and outputs are not copied.

        Raises:
            GateRefusal: the gates' clock does not tell time.
            DeviceError: a gate passed without need, or the driver's own text.
        """
        self._feed(0)
        runs = self._stamped(cuts, min_runs, budget_ns)
        job = _RaisedJob(self._gated(cuts), self._board, self._key)
        rows = time_in_turn(
            [job], [self._alone], self.stream, min_rows=min_runs, budget_ns=budget_ns
        )
        self._check_board()
        gated = np.asarray([row.chained_ns for row in rows], dtype=np.int64)
        alone = np.asarray([row.whole_ns for row in rows], dtype=np.int64)
        if not (gated.min() > 0 and alone.min() > 0):
            raise DeviceError(
                "the network took 0 ns by CUDA events, more was expected: the device's clock does"
                " not tell so short a time; take a larger network or batch"
            )
        spans = [times.end_ns - times.arrived_ns[0] for times in runs]
        _check_clock(interquartile_mean(spans), interquartile_mean(gated.tolist()))
        ratio_p50, ratio_error = median_with_error(gated / alone)
        stretches = _stretches(runs)
        return GateMeasurement(
            times=Measurement(
                segments=tuple(latency_from_samples(each) for each in stretches.T),
                chained=latency_from_samples(gated),
                whole=latency_from_samples(alone),
                ratio_p50=ratio_p50,
                ratio_error=ratio_error,
            ),
            mean_ns=tuple(round(interquartile_mean(each.tolist())) for each in stretches.T),
        )

    def outputs(self, cuts: Sequence[int] | None, inputs: Tensors) -> dict[str, Any]:
        """The outputs; other inputs run before, so that nothing right stands there already."""
        self._feed(_DECOY_SEED)
        self.buffers.write_inputs(inputs)
        if cuts is None:
            self.buffers.run(self.stream)
        else:
            run_gated(
                self._gated(cuts),
                self._board,
                self._key,
                self.stream,
                before=lambda: self.buffers.copy_inputs(self.stream),
                after=lambda: self.buffers.copy_outputs(self.stream),
            )
            self.stream.synchronize()
            self._check_board()
        outputs: dict[str, Any] = self.buffers.read_outputs()
        return outputs

    def _feed(self, seed: int) -> None:
        """Random inputs, not zeros: a GPU runs faster on zeros."""
        self.buffers.write_inputs(random_inputs(self._graph, seed=seed, task="gates"))
        self.buffers.run(self.stream)

    def _stamped(self, cuts: Sequence[int], min_runs: int, budget_ns: int) -> list[StretchTimes]:
        """What gates wrote down, run by run."""
        runs: list[StretchTimes] = []
        graph = self._gated(cuts)
        begin_ns = time.perf_counter_ns()
        while len(runs) < min_runs + _WARM_UP_RUNS or (
            len(runs) < _MAX_RUNS and time.perf_counter_ns() - begin_ns < budget_ns
        ):
            self._alone.launch(self.stream)  # the device is busy while the host enqueues
            run_gated(graph, self._board, self._key, self.stream)
            self.stream.synchronize()
            runs.append(graph.times())
        return runs[_WARM_UP_RUNS:]

    def _gated(self, cuts: Sequence[int]) -> GatedGraph:
        """The graph with gates there, which write stamps as in any run; the last one is kept."""
        key = tuple(cuts)
        if self._gated_graph is None or self._gated_graph[0] != key:
            self._drop()
            graph = GatedGraph(
                self.captured, key, self._board, self._slot, self.stream, is_timed=True
            )
            self._gated_graph = key, graph
        return self._gated_graph[1]

    def _drop(self) -> None:
        if self._gated_graph is not None:
            self._gated_graph[1].close()
            self._gated_graph = None

    def _check_board(self) -> None:
        if given_up := self._board.give_ups():
            raise DeviceError(
                f"gates: {len(given_up)} passed by their limits while nothing else was to run"
                f" ({given_up[0].reason}); another process may use the GPU"
            )


class _RaisedJob:
    """A job as it runs: its key is raised, then comes its graph."""

    def __init__(self, graph: GatedGraph, board: GateBoard, key: int) -> None:
        self._graph, self._board, self._key = graph, board, key

    def launch(self, stream: Stream) -> None:
        """Enqueue both."""
        run_gated(self._graph, self._board, self._key, stream)


def _stretches(runs: Sequence[StretchTimes]) -> NDArray[Any]:
    """The time of each stretch, `[runs, stretches]`; two SMs' clocks may differ by a step."""
    return np.maximum(np.asarray([times.stretch_ns for times in runs], dtype=np.int64), 0)


def _check_clock(stamped_ns: float, events_ns: float) -> None:
    """Bounds rest on the gates' clock: it must go at the pace of the driver's.

    Raises:
        GateRefusal: it does not.
    """
    least_ns = events_ns / _MAX_CLOCK_RATIO - _CLOCK_SLACK_NS
    if not least_ns <= stamped_ns <= events_ns * _MAX_CLOCK_RATIO + _CLOCK_SLACK_NS:
        raise GateRefusal(
            f"by the clock that gates read the network takes {fmt_ns(round(stamped_ns))}, by CUDA"
            f" events {fmt_ns(round(events_ns))}: the times of its stretches cannot be trusted"
        )
