"""Measured costs: every node by ONNX Runtime's profiler, every boundary by chains of sessions."""

import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from preempt_runtime.backends.ort import (
    OrtBuffers,
    bind,
    local_fields,
    open_session,
    session_options,
)
from preempt_runtime.device import Array
from preempt_runtime.errors import BuildError
from preempt_runtime.inputs import random_inputs
from preempt_runtime.manifest import GraphSpec, TensorSpec
from preemptc.backends import Progress, silent
from preemptc.backends.stats import interquartile_mean, latency_from_samples
from preemptc.interface import graph_spec
from preemptc.model import Lowered
from preemptc.onnx_io.files import check_disk, one_line
from preemptc.profile import BoundaryCost, LatencyProfile

_BUDGET_NS = 3_000_000_000
_MIN_RUNS, _MAX_RUNS = 15, 200
_WARM_UP_RUNS = 3
_CHAIN_LENGTH = 8
_CHAIN_RUNS = 60
_BOUNDARY_BYTES = (4 << 10, 128 << 10, 1 << 20, 4 << 20)


def profile(lowered: Lowered, threads: int, progress: Progress) -> LatencyProfile:
    """Node costs over enough runs to be stable, scaled to the unprofiled whole network.

    The profiler's clock has a resolution of 1 us and costs time itself, hence the scaling and
    the interquartile mean.

    Raises:
        BuildError: a run failed, with ONNX Runtime's text.
    """
    whole = latency_from_samples(_time_whole(lowered, threads, progress))
    num_runs = int(np.clip(_BUDGET_NS // max(1, whole.p50_ns), _MIN_RUNS, _MAX_RUNS))
    samples = _node_samples(lowered, threads, num_runs, progress)
    boundary = measure_boundary(threads, progress)
    progress("profile: done", 1.0)
    means = [interquartile_mean(samples[node.name]) for node in lowered.graph.nodes]
    scale = whole.p50_ns / max(1.0, sum(means))
    return LatencyProfile(
        graph_digest=lowered.graph_digest,
        target=lowered.target,
        source="measured",
        node_names=tuple(node.name for node in lowered.graph.nodes),
        node_ns=tuple(round(mean * scale) for mean in means),
        node_latency=tuple(latency_from_samples(samples[n.name]) for n in lowered.graph.nodes),
        whole=whole,
        boundary=boundary,
        machine={**local_fields(), "threads": threads, "cores": os.cpu_count() or 1},
    )


def whole_buffers(lowered: Lowered, threads: int) -> OrtBuffers:
    """The whole executed graph as one session, bound to its inputs and outputs."""
    graph = lowered.graph
    return bind(
        [open_session(lowered.path, threads)],
        [(graph.inputs, graph.outputs)],
        graph_spec(lowered),
        (),
        lowered.path.parent.name,
    )


def profiling_inputs(lowered: Lowered) -> dict[str, Array]:
    """The seeded random inputs that every measurement of this graph uses."""
    return random_inputs(graph_spec(lowered), seed=0, task="profile")


def _time_whole(lowered: Lowered, threads: int, progress: Progress) -> list[int]:
    def alive() -> None:
        progress("profile: whole network", 0.0)

    alive()
    buffers = whole_buffers(lowered, threads)
    buffers.write_inputs(profiling_inputs(lowered))
    return _timed(lambda: buffers.run_segment(0), alive, _BUDGET_NS, _MIN_RUNS, _MAX_RUNS)


def _timed(
    run: Callable[[], None],
    alive: Callable[[], None],
    budget_ns: int,
    min_runs: int,
    max_runs: int,
) -> list[int]:
    for _ in range(_WARM_UP_RUNS):
        run()
    samples: list[int] = []
    begin_ns = time.perf_counter_ns()
    while len(samples) < max_runs:
        start_ns = time.perf_counter_ns()
        run()
        end_ns = time.perf_counter_ns()
        samples.append(end_ns - start_ns)
        alive()
        if len(samples) >= min_runs and end_ns - begin_ns > budget_ns:
            break
    return samples


def _node_samples(
    lowered: Lowered, threads: int, num_runs: int, progress: Progress
) -> dict[str, list[int]]:
    progress("profile: nodes", 0.3)
    inputs = profiling_inputs(lowered)
    # Beside the graph: that is where a user chose to have space.
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=lowered.path.parent) as folder:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = ort.InferenceSession(
                str(lowered.path), options, providers=["CPUExecutionProvider"]
            )
            for idx in range(num_runs + _WARM_UP_RUNS):
                session.run(None, inputs)
                progress("profile: nodes", 0.3 + 0.4 * idx / (num_runs + _WARM_UP_RUNS))
            events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
        except Exception as err:  # onnxruntime raises its own classes, without a common root
            check_disk(Path(folder))
            raise BuildError(f"profiling failed in ONNX Runtime: {one_line(err)}") from err
    return samples_from_events(events, [node.name for node in lowered.graph.nodes])


def samples_from_events(
    events: Sequence[Mapping[str, Any]], node_names: Sequence[str]
) -> dict[str, list[int]]:
    """Nanoseconds of every run of every node, the warm-up runs left out.

    A node without an event (removed or never reached) counts as taking no time.
    """
    samples: dict[str, list[int]] = {name: [] for name in node_names}
    for event in events:
        name = str(event.get("name", "")).removesuffix("_kernel_time")
        if event.get("cat") == "Node" and name in samples and name != event["name"]:
            samples[name].append(1000 * int(event["dur"]))
    return {name: times[_WARM_UP_RUNS:] or [0] for name, times in samples.items()}


def measure_boundary(threads: int, progress: Progress = silent) -> BoundaryCost:
    """What one more segment costs here: `_CHAIN_LENGTH` operators as one session and as many.

    Fits fixed and per-byte cost to the paired difference at several tensor sizes, by least
    squares of the relative error, neither below zero.
    """
    sizes, costs = [], []
    for num_bytes in _BOUNDARY_BYTES:
        progress("profile: boundaries", 0.7)
        sizes.append(num_bytes)
        costs.append(max(1.0, _boundary_ns(num_bytes, threads)))
    x, y = np.asarray(sizes, dtype=float), np.asarray(costs)
    design = np.stack([1 / y, x / y], axis=1)
    (fixed, slope), *_ = np.linalg.lstsq(design, np.ones_like(y), rcond=None)
    if slope < 0:
        fixed, slope = float(np.median(y)), 0.0
    return BoundaryCost(fixed_ns=max(0, round(fixed)), ns_per_byte=max(0.0, float(slope)))


def _boundary_ns(num_bytes: int, threads: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        names = [f"t{idx}" for idx in range(_CHAIN_LENGTH + 1)]
        specs = [TensorSpec(name=n, dtype="float32", shape=(num_bytes // 4,)) for n in names]
        graph = GraphSpec(
            id="chain", variant="", exit_of=None, inputs=(specs[0],), outputs=(specs[-1],)
        )
        pieces = [_chain_piece(Path(folder), names[i : i + 2], num_bytes) for i in range(8)]
        whole = _chain_piece(Path(folder), names, num_bytes)
        chain = bind(
            [open_session(piece, threads) for piece in pieces],
            [((names[i],), (names[i + 1],)) for i in range(_CHAIN_LENGTH)],
            graph,
            specs[1:-1],
            "chain",
        )
        one = bind(
            [open_session(whole, threads)], [((names[0],), (names[-1],))], graph, (), "whole"
        )
        differences = [_chain_difference(chain, one) for _ in range(_CHAIN_RUNS)]
    return float(np.median(differences[_WARM_UP_RUNS:])) / (_CHAIN_LENGTH - 1)


def _chain_difference(chain: OrtBuffers, whole: OrtBuffers) -> int:
    start_ns = time.perf_counter_ns()
    for idx in range(_CHAIN_LENGTH):
        chain.run_segment(idx)
    middle_ns = time.perf_counter_ns()
    whole.run_segment(0)
    return (middle_ns - start_ns) - (time.perf_counter_ns() - middle_ns)


def _chain_piece(folder: Path, names: Sequence[str], num_bytes: int) -> Path:
    nodes = [
        helper.make_node("Sigmoid", [source], [target])
        for source, target in itertools.pairwise(names)
    ]
    value = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [num_bytes // 4])
        for name in (names[0], names[-1])
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "chain", value[:1], value[1:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    path = folder / f"{names[0]}-{names[-1]}.onnx"
    onnx.save(model, str(path))
    return path
