"""Measured costs: every fused layer by TensorRT's profiler, the boundary by what it is made of."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from preempt_runtime.backends.cuda import DeviceMemory, Event, Stream, capture, copy_async
from preempt_runtime.backends.tensorrt import TrtBuffers, library, local_fields
from preemptc.backends.stats import interquartile_mean, latency_from_samples
from preemptc.backends.tensorrt.lower import Groups
from preemptc.model import Lowered
from preemptc.profile import BoundaryCost, LatencyProfile

_WARM_UP_RUNS = 3
_RUNS = 50
_COPY_BYTES = 64 << 20
_TINY_BYTES = 256
_ROW_LENGTH = 32
_BUSY_NS = 100_000_000  # reading the clocks takes a few milliseconds


def layer_samples(buffers: TrtBuffers, stream: Stream) -> dict[str, list[int]]:
    """Times of every layer of the whole engine, in ns, over enough runs."""
    (samples,) = samples_by_context(buffers.contexts, stream)
    return samples


def samples_by_context(contexts: Sequence[Any], stream: Stream) -> list[dict[str, list[int]]]:
    """Times of every layer of each context's engine, in ns, over enough runs of all in order."""
    samples = [_profiled(context) for context in contexts]
    for _ in range(_WARM_UP_RUNS + _RUNS):
        for context in contexts:
            context.execute_async_v3(int(stream.handle))
            stream.synchronize()
    return [{name: times[_WARM_UP_RUNS:] for name, times in found.items()} for found in samples]


def _profiled(context: Any) -> dict[str, list[int]]:
    """Where the context's layers report their times from now on, by name."""
    trt = library()
    samples: dict[str, list[int]] = {}

    class LayerTimes(trt.IProfiler):  # type: ignore[misc, name-defined]
        """Collects what TensorRT reports."""

        def __init__(self) -> None:
            super().__init__()

        def report_layer_time(self, name: str, ms: float) -> None:
            """Take one layer's time of one run."""
            samples.setdefault(name, []).append(round(ms * 1e6))

    context.profiler = LayerTimes()
    return samples


def node_samples(
    lowered: Lowered, groups: Groups, samples: Mapping[str, Sequence[int]], weights: Sequence[int]
) -> list[list[int]]:
    """The layers' times as times of executed nodes.

    A layer of several executed nodes, an opaque one too, is shared out by `weights`, an estimate
    of each node's cost.
    """
    found = [[0] * _RUNS for _ in lowered.graph.nodes]
    named = {member for _, members in groups.layers for member in members}
    unnamed = [idx for idx in range(lowered.graph.num_nodes) if idx not in named]
    for name, members in groups.layers:
        shared = list(members) or unnamed
        times = samples.get(name, ())
        total = sum(weights[idx] for idx in shared) or 1
        for idx in shared:
            for run, time_ns in enumerate(times[:_RUNS]):
                found[idx][run] += round(time_ns * weights[idx] / total)
    return found


def measured_profile(
    lowered: Lowered,
    samples: Sequence[Sequence[int]],
    whole_samples: Sequence[int],
    boundary: BoundaryCost,
    machine: Mapping[str, Any],
) -> LatencyProfile:
    """Node costs scaled to the whole engine's time as one graph.

    The layers' sum is off in both directions: profiling adds launches, and layers overlap.
    `machine` are the clocks at which it was measured.
    """
    whole = latency_from_samples(whole_samples)
    means = [interquartile_mean(times) for times in samples]
    scale = whole.p50_ns / max(1.0, sum(means))
    return LatencyProfile(
        graph_digest=lowered.graph_digest,
        target=lowered.target,
        source="measured",
        node_names=tuple(node.name for node in lowered.graph.nodes),
        node_ns=tuple(round(mean * scale) for mean in means),
        node_latency=tuple(latency_from_samples(times) for times in samples),
        whole=whole,
        boundary=boundary,
        machine={**local_fields(), "options": lowered.key_fields["options"], **machine},
    )


def busy_clocks(
    buffers: TrtBuffers,
    stream: Stream,
    read_clocks: Callable[[], Mapping[str, str | int]],
    whole_ns: int,
) -> Mapping[str, str | int]:
    """Clocks and power state while the network runs: an idle GPU is clocked down.

    Args:
        buffers: the whole network's.
        stream: where it runs.
        read_clocks: what tells them.
        whole_ns: what one run takes.
    """
    for _ in range(1 + _BUSY_NS // max(1, whole_ns)):
        buffers.graphs[0].launch(stream)
    try:
        return read_clocks()
    finally:
        stream.synchronize()


def measure_boundary(stream: Stream) -> BoundaryCost:
    """What one more segment costs: a graph more in a row, a tensor written and read.

    What a cut costs in lost fusions is not in it; the segments are measured for that.
    """
    with DeviceMemory(_COPY_BYTES) as left, DeviceMemory(_COPY_BYTES) as right:

        def copy(num_bytes: int) -> None:
            copy_async(right.pointer, left.pointer, num_bytes, stream)

        copies = _times(stream, lambda: copy(_COPY_BYTES), 1)
        with capture(stream, lambda: copy(_TINY_BYTES)) as tiny:
            row = _times(stream, lambda: tiny.launch(stream), _ROW_LENGTH)
            one = _times(stream, lambda: tiny.launch(stream), 1)
    return BoundaryCost(
        fixed_ns=max(1, round((np.median(row) - np.median(one)) / (_ROW_LENGTH - 1))),
        # A copy reads and writes each byte once, as a boundary does.
        ns_per_byte=float(np.median(copies)) / _COPY_BYTES,
    )


def _times(stream: Stream, work: Callable[[], None], num_in_a_row: int) -> list[int]:
    with Event(timing=True) as begin, Event(timing=True) as end:
        times = []
        for _ in range(_RUNS):
            begin.record(stream)
            for _ in range(num_in_a_row):
                work()
            end.record(stream)
            stream.synchronize()
            times.append(end.elapsed_ns(begin))
    return times
