"""The ways in which two networks are run side by side, and what one run of one of them yields."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from preempt_runtime.arrivals import ClosedLoop, Periodic, release_offsets
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.device import Array, Device, Network
from preempt_runtime.errors import DeviceError, InputError
from preempt_runtime.executor import Executor
from preempt_runtime.gated_device import GatedDevice
from preempt_runtime.policies import Fifo, FixedPriority, Policy
from preempt_runtime.process import ProcessOptions, apply_memory
from preempt_runtime.records import JobState, SegmentRecord
from preempt_runtime.task import Task
from preempt_runtime.testing import Recording

URGENT, BEST_EFFORT = "urgent", "best_effort"
MODES = ("alone", "best_effort_alone", "fifo", "preemptive")
SEGMENTS_ALONE = "segments_alone"
"""The long network alone and cut; the demo does without it, it has `overhead_ratio`."""
MIN_BEST_EFFORT_JOBS = 3
_URGENT_PRIORITY = 10

Samples = Sequence[Mapping[str, Array]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Two loaded networks, the long one twice, and when the urgent one's jobs are released.

    The urgent jobs come every `period_ns`, late by a uniform part of `jitter_ns`; the first
    `num_warm_up` are not counted. The long network runs in a closed loop. The dispatcher polls for
    `spin_ns` before a release.
    """

    device: Device | GatedDevice
    urgent: Network
    whole: Network
    segments: Network
    urgent_samples: Samples
    long_samples: Samples
    period_ns: int
    jitter_ns: int
    num_jobs: int
    num_warm_up: int
    spin_ns: int = 0

    @property
    def warm_up_ns(self) -> int:
        """From the start of a run to the first release that counts, at the earliest."""
        return self.num_warm_up * self.period_ns

    @property
    def duration_ns(self) -> int:
        """From the start of a run to its last release, at the latest."""
        return (self.num_warm_up + self.num_jobs) * self.period_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeRun:
    """One run of one mode, its warm-up left out.

    `response_ns` are the urgent jobs' response times, `segment_ns[k]` the times that the long
    network's segment k took. Both are empty, and the rate is None, for what did not run.
    `gate_faults` are what gates did that voids bounds.
    """

    mode: str
    response_ns: tuple[int, ...]
    segment_ns: tuple[tuple[int, ...], ...]
    best_effort_per_s: float | None
    recording: Recording
    gate_faults: tuple[str, ...] = ()


def run_mode(
    mode: str,
    load: Workload,
    *,
    seed: int,
    depth: int = 1,
    num_best_effort: int = 1,
    announce_ns: int = 0,
    warms_up: bool = False,
) -> ModeRun:
    """Run one mode once, `depth` segments in flight; a seed gives every mode the same releases.

    Args:
        mode: one of `MODES`, or `SEGMENTS_ALONE`.
        load: what runs.
        seed: of the releases.
        depth: how many segments may be in flight.
        num_best_effort: how many jobs of the long network may be.
        announce_ns: how long before their release urgent jobs are announced.
        warms_up: run both networks once before, as gates need it.

    Raises:
        DeviceError: a job failed.
        InputError: the run was too short for the long network.
    """
    recording, clock = Recording(), MonotonicClock(spin_ns=load.spin_ns)
    policy: Policy = FixedPriority() if mode == "preemptive" else Fifo()
    with Executor(load.device, policy, clock, [recording], depth=depth) as executor:
        if mode not in ("best_effort_alone", SEGMENTS_ALONE):
            executor.add_task(
                Task(
                    name=URGENT,
                    network=load.urgent,
                    priority=_URGENT_PRIORITY,
                    announce_ns=announce_ns,
                )
            )
            if warms_up:
                executor.warm_up(URGENT, load.urgent_samples[0])
            executor.add_source(URGENT, _releases(load, seed), _cycle(load.urgent_samples))
        if mode != "alone":
            is_cut = mode in ("preemptive", SEGMENTS_ALONE)
            network = load.segments if is_cut else load.whole
            executor.add_task(Task(name=BEST_EFFORT, network=network, buffers=num_best_effort))
            if warms_up:
                executor.warm_up(BEST_EFFORT, load.long_samples[0])
            for _ in range(num_best_effort):  # one loop has one job at a time
                executor.add_source(BEST_EFFORT, ClosedLoop(), _cycle(load.long_samples))
        with apply_memory(ProcessOptions()):
            start_ns = clock.now_ns()
            executor.run(load.duration_ns)
        executor.check_integrity()
        faults = executor.gate_faults()
    return replace(_mode_run(mode, recording, load, start_ns), gate_faults=faults)


def _releases(load: Workload, seed: int) -> Iterator[int]:
    arrival = Periodic(period_ns=load.period_ns, jitter_ns=load.jitter_ns)
    offsets = release_offsets(arrival, seed=seed, task=URGENT)
    return itertools.islice(offsets, load.num_warm_up + load.num_jobs)


def _cycle(samples: Samples) -> Callable[[int], Mapping[str, Array]]:
    return lambda job_idx: samples[job_idx % len(samples)]


def _mode_run(mode: str, recording: Recording, load: Workload, start_ns: int) -> ModeRun:
    if failed := [job for job in recording.jobs if job.state is not JobState.FINISHED]:
        job = failed[0]
        raise DeviceError(f"mode {mode}: a job of {job.task} {job.state.value}: {job.error}")
    urgent = sorted(
        (job for job in recording.jobs if job.task == URGENT), key=lambda job: job.release_ns
    )[load.num_warm_up :]
    counted_from_ns = start_ns + load.warm_up_ns
    ends_ns = [
        job.end_ns
        for job in recording.jobs
        if job.task == BEST_EFFORT
        and job.end_ns is not None
        and counted_from_ns <= job.end_ns <= start_ns + load.duration_ns
    ]
    return ModeRun(
        mode=mode,
        response_ns=tuple(job.response_ns for job in urgent if job.response_ns is not None),
        segment_ns=_segment_times(recording.segments, counted_from_ns),
        best_effort_per_s=None if mode == "alone" else rate_per_s(ends_ns),
        recording=recording,
    )


def _segment_times(
    records: Sequence[SegmentRecord], counted_from_ns: int
) -> tuple[tuple[int, ...], ...]:
    times: dict[int, list[int]] = {}
    for record in records:
        if record.task == BEST_EFFORT and record.start_ns >= counted_from_ns:
            assert isinstance(record.segment_idx, int)
            times.setdefault(record.segment_idx, []).append(record.elapsed_ns)
    return tuple(tuple(times[idx]) for idx in sorted(times))


def rate_per_s(ends_ns: Sequence[int]) -> float:
    """Jobs per second between the first and the last end: counts no part of a job.

    Raises:
        InputError: too few ends.

    >>> rate_per_s([0, 250_000_000, 500_000_000])
    4.0
    """
    if len(ends_ns) < MIN_BEST_EFFORT_JOBS:
        raise InputError(
            f"{len(ends_ns)} jobs of the long network ended in a block, needed"
            f" {MIN_BEST_EFFORT_JOBS}; raise --jobs"
        )
    return (len(ends_ns) - 1) * 1e9 / (max(ends_ns) - min(ends_ns))
