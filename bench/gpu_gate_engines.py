"""Gates in TensorRT engines: their overhead, and an urgent network beside a long one.

EXPERIMENTAL, see bench.gpu_gates. Every job in flight has a network loaded for itself: jobs that
gates interleave must not share scratch memory.
"""

import argparse
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np

from bench.gate_trials import finish
from bench.gpu_gates import MODES, paired_ns
from bench.intervals import quantiles_of
from preempt_runtime.backends.cuda import Event, Stream
from preempt_runtime.backends.cuda_graph import CudaGraph, capture_graph
from preempt_runtime.backends.gate_board import GateBoard
from preempt_runtime.backends.gates import GatedGraph, run_gated
from preempt_runtime.backends.tensorrt import TrtBuffers, TrtDevice
from preempt_runtime.backends.trt_buffers import execute
from preempt_runtime.bundle import open_bundle
from preempt_runtime.device import Array
from preempt_runtime.errors import InfeasibleError
from preempt_runtime.gate_keys import Tier, key_of, priority_rank
from preempt_runtime.inputs import random_inputs
from preemptc.gate_search import node_times, place_gates

_EVERY = (1, 2, 4, 8, 16)
_TIMED_RUNS = 50


@dataclass
class Loaded:
    """A network of a bundle in one engine, its buffers, and what its enqueue was captured as."""

    buffers: TrtBuffers
    captured: CudaGraph
    stream: Stream
    inputs: list[dict[str, Array]]

    def alone(self, idx: int) -> dict[str, Array]:
        """Outputs of the graph without gates."""
        self.buffers.write_inputs(self.inputs[idx])
        self.buffers.launch(0, self.stream)
        finish(self.stream)
        return self.buffers.read_outputs()


def load(
    device: TrtDevice, path: Path, stack: ExitStack, num_inputs: int, *, is_urgent: bool
) -> Loaded:
    """A network of its own, with scratch memory of its own, and a stream of its own."""
    network = device.load(open_bundle(path), "whole")
    stack.callback(network.close)
    buffers = stack.enter_context(network.new_buffers())
    stream = stack.enter_context(Stream(priority="high" if is_urgent else "low"))
    inputs = [random_inputs(network.graph, seed=seed, task="gates") for seed in range(num_inputs)]
    buffers.write_inputs(inputs[0])
    (context,) = buffers.contexts
    captured = capture_graph(stream, lambda: execute(context, path.name, stream))
    stack.enter_context(captured)
    return Loaded(buffers, captured, stream, inputs)


def run(loaded: Loaded, graph: GatedGraph, board: GateBoard, tier: Tier, order: int) -> None:
    """Enqueue one job, with its copies."""
    key = key_of(tier, priority_rank(0, order), graph.slot)
    run_gated(
        graph,
        board,
        key,
        loaded.stream,
        before=lambda: loaded.buffers.copy_inputs(loaded.stream),
        after=lambda: loaded.buffers.copy_outputs(loaded.stream),
    )


def measured_nodes(
    loaded: Loaded, board: GateBoard, slot: int, num_rounds: int
) -> tuple[tuple[int, ...], int]:
    """The time of each node by one run with all gates, and the cost of one gate."""
    shape = loaded.captured.shape()
    cuts, stream = shape.cuts(), loaded.stream
    with (
        loaded.captured.instantiate() as alone,
        GatedGraph(loaded.captured, cuts, board, slot, stream, is_timed=True) as timed,
    ):
        stretches = []
        for order in range(_TIMED_RUNS):
            run(loaded, timed, board, "real-time", order)
            finish(stream)
            stretches.append(timed.times().stretch_ns)
        whole, gated = (
            median(taken) for taken in paired_ns([alone, timed.graph], stream, num_rounds)
        )
    medians = [round(median(each)) for each in zip(*stretches, strict=True)]
    gate_ns = max(round((gated - whole) / timed.num_gates), 1)
    return node_times(medians, cuts, len(shape.nodes), round(whole)), gate_ns


def engine(options: argparse.Namespace) -> Any:
    """Overhead paired with the graph without gates, and outputs bit by bit."""
    with closing(TrtDevice(zero_copy=False)) as device, ExitStack() as stack:
        loaded = load(device, options.bundle, stack, options.inputs, is_urgent=False)
        shape = loaded.captured.shape()
        result: dict[str, Any] = {
            "shape": shape.summary(),
            "fingerprint": shape.fingerprint(),
            "positions": len(shape.cuts()),
            "unfit": shape.unfit(),
            "kernels": [node.name for node in shape.nodes],
            "rows": [],
        }
        if shape.unfit():
            return result
        for mode in MODES:
            board = stack.enter_context(GateBoard(mode=mode, max_wait_ns=200_000_000))
            slot = board.take_slot()
            node_ns, gate_ns = measured_nodes(loaded, board, slot, options.rounds)
            result[f"gate_ns_{mode}"] = gate_ns
            result["longest_kernel_ns"] = max(node_ns)
            choices = {f"every {every}": shape.cuts()[every - 1 :: every] for every in _EVERY}
            try:
                plan = place_gates(node_ns, shape.cuts(), gate_ns, options.stretch_us * 1000)
                choices[f"placed, {options.stretch_us} us"] = plan.split_points
            except InfeasibleError as err:
                result["infeasible"] = str(err)
            for name, cuts in choices.items():
                result["rows"].append(
                    {"mode": mode, "gates": name, **_overhead(loaded, board, slot, cuts, options)}
                )
            result[f"give_ups_{mode}"] = len(board.give_ups())
        return result


def _overhead(
    loaded: Loaded, board: GateBoard, slot: int, cuts: Sequence[int], options: argparse.Namespace
) -> dict[str, Any]:
    with (
        loaded.captured.instantiate() as alone,
        GatedGraph(loaded.captured, cuts, board, slot, loaded.stream) as graph,
    ):
        times = paired_ns([alone, graph.graph], loaded.stream, options.rounds)
        ratios = [gated / whole for whole, gated in zip(*times, strict=True)]
        num_equal = 0
        for idx in range(options.inputs):
            expected = loaded.alone(idx)
            run(loaded, graph, board, "real-time", idx)
            finish(loaded.stream)
            found = loaded.buffers.read_outputs()
            num_equal += all(np.array_equal(found[name], expected[name]) for name in expected)
        return {
            "num_gates": graph.num_gates,
            "whole_us": median(times[0]) / 1000,
            "overhead": median(ratios),
            "equal": num_equal,
            "inputs": options.inputs,
        }


def pair(options: argparse.Namespace) -> Any:
    """Response of the urgent network, alone and beside the long one, and the long one's rate."""
    with closing(TrtDevice(zero_copy=False)) as device, ExitStack() as stack:
        urgent = load(device, options.urgent, stack, 1, is_urgent=True)
        others = [load(device, options.bundle, stack, 1, is_urgent=False) for _ in range(2)]
        rows: dict[str, Any] = {}
        for mode in MODES:
            with GateBoard(mode=mode, max_wait_ns=200_000_000) as board, ExitStack() as graphs:
                gated = []
                for loaded in (urgent, *others):
                    slot = board.take_slot()
                    node_ns, gate_ns = measured_nodes(loaded, board, slot, 50)
                    bound_ns = max(options.stretch_us * 1000, max(node_ns) + gate_ns)
                    cuts = loaded.captured.shape().cuts()
                    plan = place_gates(node_ns, cuts, gate_ns, bound_ns)
                    graph = GatedGraph(
                        loaded.captured, plan.split_points, board, slot, loaded.stream
                    )
                    gated.append(graphs.enter_context(graph))
                rows[mode] = {
                    "num_gates": [graph.num_gates for graph in gated],
                    "alone": _beside(urgent, [], gated, board, options),
                    "long_alone": _beside(None, others, gated, board, options),
                    "both": _beside(urgent, others, gated, board, options),
                    "give_ups": [give_up.reason for give_up in board.give_ups()],
                }
        return rows


def _beside(
    urgent: Loaded | None,
    others: Sequence[Loaded],
    gated: Sequence[GatedGraph],
    board: GateBoard,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Jittered releases of the urgent network, the others in a closed loop."""
    rng, responses, num_done, order = Random(1), [], 0, 0
    period_ns = options.period_us * 1000
    with ExitStack() as stack:
        events = [stack.enter_context(Event(timing=False)) for _ in gated]
        flying = [False] * len(gated)
        start_ns = release_ns = time.perf_counter_ns()
        end_ns = start_ns + round(options.seconds * 1e9)
        while time.perf_counter_ns() < end_ns:
            if urgent is not None:
                now_ns = time.perf_counter_ns()
                if flying[0] and events[0].is_done():
                    responses.append(time.perf_counter_ns() - release_ns)
                    flying[0] = False
                    release_ns += round(period_ns * rng.uniform(0.5, 1.5))
                if not flying[0] and now_ns >= release_ns:
                    run(urgent, gated[0], board, "real-time", order)
                    events[0].record(urgent.stream)
                    flying[0] = True
            for idx, other in enumerate(others, 1):
                if flying[idx] and events[idx].is_done():
                    num_done += 1
                    flying[idx] = False
                if not flying[idx]:
                    order += 1
                    run(other, gated[idx], board, "best-effort", order)
                    events[idx].record(other.stream)
                    flying[idx] = True
        finish(*(loaded.stream for loaded in (urgent, *others) if loaded is not None))
    result: dict[str, Any] = {"long_per_s": num_done / options.seconds}
    if responses:
        found = quantiles_of(responses[10:] or responses)
        result |= {"p50_us": found.p50_ns / 1000, "p99_us": found.p99_ns / 1000}
        result["max_us"], result["jobs"] = found.max_ns / 1000, len(responses)
    return result
