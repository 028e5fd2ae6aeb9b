"""A bundle's two plans through the runtime's device: paired times, outputs, device memory.

Nothing here is taken from the compile's own report, so that the report can be compared with it.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.intervals import median_interval
from preempt_runtime.backends.cuda import Stream, open_cuda
from preempt_runtime.backends.tensorrt import TrtBuffers, TrtDevice
from preempt_runtime.bundle import Bundle, open_bundle
from preempt_runtime.inputs import random_inputs
from preempt_runtime.manifest import SEGMENTS_PLAN_ID, WHOLE_PLAN_ID, GraphSpec
from preemptc.backends.stats import latency_from_samples
from preemptc.backends.tensorrt.timing import time_in_turn
from preemptc.check import largest, max_abs_diff

SEED = 7  # other inputs than those of the compile's own check
_MIN_PAIRS, _PAIRS_BUDGET_NS = 100, 1_000_000_000
_MEMORY_ROUNDS = 3

Outputs = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Both plans of a bundle on the device, fed with the same random inputs.

    `whole` is None where the bundle holds the segments alone, as the library builds the network
    wrong in one piece.
    """

    graph: GraphSpec
    chain: TrtBuffers
    whole: TrtBuffers | None
    stream: Stream
    inputs: Mapping[str, Any]


@contextmanager
def loaded(path: Path) -> Iterator[Loaded]:
    """Both plans of the bundle at `path`; released on exit.

    Raises:
        BundleError: it was not made for this machine, or is damaged.
        DeviceError: TensorRT or the driver refused.
    """
    bundle = open_bundle(path)
    with ExitStack() as stack:
        chain = stack.enter_context(_held(bundle, SEGMENTS_PLAN_ID))
        whole = None
        if WHOLE_PLAN_ID in _plans(bundle):
            whole = stack.enter_context(_held(bundle, WHOLE_PLAN_ID))
        graph = bundle.manifest.graphs[0]
        inputs = random_inputs(graph, seed=SEED, task="bench")
        stream = stack.enter_context(Stream(priority="high"))
        for buffers in (chain, whole):
            if buffers is not None:
                buffers.write_inputs(inputs)
                buffers.run(stream)
        yield Loaded(graph=graph, chain=chain, whole=whole, stream=stream, inputs=inputs)


def _plans(bundle: Bundle) -> tuple[str, ...]:
    """The plans that are measured, the whole network first."""
    there = {plan.id for plan in bundle.manifest.plans}
    return tuple(plan_id for plan_id in (WHOLE_PLAN_ID, SEGMENTS_PLAN_ID) if plan_id in there)


@contextmanager
def _held(bundle: Bundle, plan_id: str) -> Iterator[TrtBuffers]:
    """One job's buffers of one plan, on a device of their own; all of it released on exit."""
    device = TrtDevice()
    try:
        network = device.load(bundle, plan_id)
        try:
            with network.new_buffers() as buffers:
                yield buffers
        finally:
            network.close()
    finally:
        device.close()


def _run(buffers: TrtBuffers, stream: Stream) -> Outputs:
    buffers.run(stream)
    return buffers.read_outputs()


def paired_times(
    it: Loaded, *, min_pairs: int = _MIN_PAIRS, budget_ns: int = _PAIRS_BUDGET_NS
) -> dict[str, Any]:
    """Chain and whole in turn: every segment's p50, p99 and max, and the paired ratios.

    Times are the device's, by CUDA events, in ns; `ratio` has the median of chained over whole,
    pair by pair, with its 95 % bootstrap interval. Without a whole both are None.
    """
    whole = it.whole or it.chain
    rows = time_in_turn(
        it.chain.graphs, whole.graphs, it.stream, min_rows=min_pairs, budget_ns=budget_ns
    )
    ratio = median_interval([row.chained_ns / row.whole_ns for row in rows], seed=0)
    by_segment = zip(*(row.segments_ns for row in rows), strict=True)
    compared = {
        "ratio": {
            "median": round(ratio.median, 4),
            "low": round(ratio.low, 4),
            "high": round(ratio.high, 4),
        },
        "whole": asdict(latency_from_samples([row.whole_ns for row in rows])),
    }
    return {
        "pairs": ratio.num_samples,
        **(compared if it.whole else dict.fromkeys(compared)),
        "chained": asdict(latency_from_samples([row.chained_ns for row in rows])),
        "segments": [asdict(latency_from_samples(times)) for times in by_segment],
    }


def compared_outputs(
    it: Loaded, reference: Callable[[Sequence[str], Outputs], Outputs]
) -> dict[str, dict[str, float]]:
    """How far each output is from the whole engine's, and the whole's from the reference.

    `largest` is the reference's largest absolute value, of which tolerances are shares.

    Args:
        it: the loaded bundle.
        reference: the named outputs of the source graph in its own precision.
    """
    chained = _run(it.chain, it.stream)
    whole = _run(it.whole, it.stream) if it.whole else None
    expected = reference([spec.name for spec in it.graph.outputs], it.inputs)
    found = {}
    for name, array in expected.items():
        found[name] = {
            "largest": largest(array),
            "chained_to_source": max_abs_diff(array, chained[name]),
        }
        if whole is not None:
            found[name]["chained_to_whole"] = max_abs_diff(whole[name], chained[name])
            found[name]["whole_to_source"] = max_abs_diff(array, whole[name])
    return found


def memory_of(path: Path) -> dict[str, dict[str, int]]:
    """Device memory of each plan by the driver's free bytes, alone in this process, in bytes.

    `device` is what loading the engines and one job's buffers took: weights, one scratch block,
    tensors, captured graphs. Every plan is loaded once before that is counted, for what the driver
    and TensorRT keep from then on; of the rounds after it the median counts.
    """
    bundle = open_bundle(path)
    found: dict[str, dict[str, int]] = {}
    with open_cuda() as cuda:
        rounds: dict[str, list[int]] = {plan_id: [] for plan_id in _plans(bundle)}
        for _ in range(1 + _MEMORY_ROUNDS):
            for plan_id, taken in rounds.items():
                gc.collect()
                free_bytes = cuda.free_bytes()
                with _held(bundle, plan_id) as buffers:
                    taken.append(free_bytes - cuda.free_bytes())
                    found[plan_id] = {
                        "scratch": buffers.scratch.num_bytes,
                        "tensors": sum(t.stored.num_bytes for t in buffers.tensors.values()),
                        "engine_files": _engine_bytes(bundle, plan_id),
                    }
    return {
        plan_id: {"device": round(median(taken[1:])), **found[plan_id]}
        for plan_id, taken in rounds.items()
    }


def _engine_bytes(bundle: Bundle, plan_id: str) -> int:
    (plan,) = (plan for plan in bundle.manifest.plans if plan.id == plan_id)
    sizes = {artefact.path: artefact.num_bytes for artefact in bundle.manifest.artefacts}
    return sum(sizes[segment.path] for segment in plan.segments)
