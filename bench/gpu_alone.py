"""What networks take alone on the GPU, through the runtime: what a task set's periods rest on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

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

_CALIBRATION_PERIOD_NS = 4_000_000
_DISPATCH_QUANTILE = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What each network takes alone: its median on the device, and from release to result.

    `dispatch_ns` is by how much the latter exceeds the former for some network, in all but one of
    a hundred jobs: what the analysis adds to every segment for copies and the dispatcher. What a
    shared machine takes from a dispatcher now and then is no part of it: as a bound on every
    segment it left no load at all, and the result counts the misses and the times above a bound.
    """

    whole_ns: tuple[int, ...]
    response_ns: tuple[int, ...]
    dispatch_ns: int


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


def costs_alone(bundles: Sequence[Path], num_jobs: int) -> Costs:
    """Run each bundle's jobs alone through the runtime."""
    found = [_alone(path, num_jobs) for path in bundles]
    whole_ns = tuple(whole for whole, _ in found)
    excess = [
        times[math.ceil(_DISPATCH_QUANTILE * len(times)) - 1] - whole for whole, times in found
    ]
    return Costs(
        whole_ns=whole_ns,
        response_ns=tuple(times[len(times) // 2] for _, times in found),
        dispatch_ns=max(1, *excess),
    )


def _alone(path: Path, num_jobs: int) -> tuple[int, list[int]]:
    """The bundle's median on the device, and its jobs' response times in ascending order."""
    bundle = open_bundle(path)
    (plan,) = (plan for plan in bundle.manifest.plans if plan.id == WHOLE_PLAN_ID)
    latency = plan.segments[0].latency
    assert latency is not None
    responses = _Responses()
    device = open_backend("tensorrt").open_device()
    try:
        network = device.load(bundle, plan.id)
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
    return latency.p50_ns, sorted(responses.times_ns)
