"""What networks take alone on the GPU, through the runtime: what a task set's periods rest on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from bench.deadline_runs import say
from bench.gpu_modes import SPIN_NS
from preempt_runtime.arrivals import Periodic, release_offsets
from preempt_runtime.bundle import open_bundle
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.executor import Executor
from preempt_runtime.inputs import random_inputs
from preempt_runtime.loading import open_backend
from preempt_runtime.manifest import WHOLE_PLAN_ID
from preempt_runtime.policies import Fifo
from preempt_runtime.process import ProcessOptions, apply_memory
from preempt_runtime.records import JobRecord, SegmentRecord
from preempt_runtime.task import Task
from preempt_runtime.units import fmt_ns

_CALIBRATION_PERIOD_NS = 4_000_000
_QUANTILE = 0.95
_TOLD = (0.5, 0.95, 0.99, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What each network takes alone: its median on the device, and from release to result.

    `job_dispatch_ns` is by how much the latter exceeds the former for some network, in all but one
    of twenty jobs: copies, the dispatcher, what wakes it. `dispatch_ns` is what each further
    segment adds to that, by a network that is cut. What a shared machine takes from a dispatcher
    now and then is no part of either: as a bound on every segment it left no load at all, and the
    result counts the misses and the times above a bound.
    """

    whole_ns: tuple[int, ...]
    response_ns: tuple[int, ...]
    dispatch_ns: int
    job_dispatch_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Alone:
    """The sum of the segments' medians on the device, how many there are, and response times."""

    device_ns: int
    num_segments: int
    times_ns: list[int]

    def excess_ns(self, quantile: float) -> int:
        """By how much a response time exceeds the time on the device."""
        ordered = sorted(self.times_ns)
        return ordered[math.ceil(quantile * len(ordered)) - 1] - self.device_ns


class _Responses:
    """An instrument that keeps response times."""

    def __init__(self) -> None:
        self.times_ns: list[int] = []

    def job_released(self, job_id: int, task: str, release_ns: int) -> None:
        """Not of interest here."""

    def segment_ended(self, record: SegmentRecord) -> None:
        """Not of interest here."""

    def job_ended(self, record: JobRecord) -> None:
        """Keep it."""
        if record.response_ns is not None:
            self.times_ns.append(record.response_ns)


def costs_alone(bundles: Sequence[Path], cut: Path, num_jobs: int) -> Costs:
    """Run each bundle's jobs alone through the runtime.

    Args:
        bundles: of one engine each.
        cut: the first of them once more, in several segments.
        num_jobs: of each.
    """
    found = [_alone(path, WHOLE_PLAN_ID, num_jobs) for path in bundles]
    pieces = _alone(cut, None, num_jobs)
    for path, each in zip((*bundles, cut), (*found, pieces), strict=True):
        excess = ", ".join(f"p{100 * q:g} {fmt_ns(each.excess_ns(q))}" for q in _TOLD)
        say(f"{path.name}: {fmt_ns(each.device_ns)} on the device, more by {excess}")
    more = [pieces.excess_ns(each) - found[0].excess_ns(each) for each in (0.5, _QUANTILE)]
    return Costs(
        whole_ns=tuple(each.device_ns for each in found),
        response_ns=tuple(each.device_ns + each.excess_ns(0.5) for each in found),
        dispatch_ns=max(1, math.ceil(max(more) / max(1, pieces.num_segments - 1))),
        job_dispatch_ns=max(1, *(each.excess_ns(_QUANTILE) for each in found)),
    )


def _alone(path: Path, plan_id: str | None, num_jobs: int) -> _Alone:
    """Run the bundle's jobs, by its plan of that id or its first."""
    bundle = open_bundle(path)
    responses = _Responses()
    device = open_backend("tensorrt").open_device()
    try:
        network = device.load(bundle, plan_id)
        latencies = [segment.latency for segment in network.segments]
        inputs = random_inputs(network.graph, seed=0, task="alone")
        with Executor(device, Fifo(), MonotonicClock(spin_ns=SPIN_NS), [responses]) as executor:
            executor.add_task(Task(name="alone", network=network, priority=1))
            executor.warm_up("alone", inputs, num_runs=20)
            arrival = Periodic(period_ns=_CALIBRATION_PERIOD_NS)
            offsets = islice(release_offsets(arrival, seed=0, task="alone"), num_jobs)
            executor.add_source("alone", offsets, lambda job_idx: inputs)
            with apply_memory(ProcessOptions()):
                executor.run(num_jobs * _CALIBRATION_PERIOD_NS)
        network.close()
    finally:
        device.close()
    return _Alone(
        device_ns=sum(each.p50_ns for each in latencies if each is not None),
        num_segments=len(latencies),
        times_ns=responses.times_ns,
    )
