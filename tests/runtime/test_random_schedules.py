"""Random task sets: what must hold of every schedule, checked against its definition."""

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from preempt_runtime.job import ReadyJob
from preempt_runtime.metrics import metrics_from_records
from preempt_runtime.policies import Fifo, FixedPriority, Policy
from preempt_runtime.records import JobRecord, SegmentRecord
from preempt_runtime.task import Task
from preempt_runtime.testing import EXAMPLE_INPUTS
from tests.runtime.executor_world import World, task


class CheckedPolicy:
    """Fixed priorities; at every pick the choice must be of the highest rank."""

    name = "checked"

    def pick(self, ready: Any, now_ns: int) -> Any:
        job: ReadyJob = FixedPriority().pick(ready, now_ns)
        assert all(other.release_ns <= now_ns for other in ready)
        assert _rank(job) == max(map(_rank, ready))
        return job


def _rank(job: ReadyJob) -> tuple[bool, int]:
    return (job.priority is not None, job.priority or 0)


@st.composite
def task_sets(draw: st.DrawFn) -> tuple[list[Task], list[tuple[int, str]]]:
    num_tasks = draw(st.integers(1, 4))
    tasks = [
        task(
            f"t{idx}",
            *draw(st.lists(st.integers(1, 20), min_size=1, max_size=4)),
            priority=draw(st.none() | st.integers(-2, 2)),
            mailbox=(mailbox := draw(st.sampled_from(["queue", "latest"]))),
            max_pending=draw(st.none() | st.integers(1, 2)) if mailbox == "queue" else None,
            relative_deadline_ns=draw(st.none() | st.integers(1, 50)),
        )
        for idx in range(num_tasks)
    ]
    times = sorted(draw(st.lists(st.integers(0, 120), max_size=12)))
    names = [f"t{draw(st.integers(0, num_tasks - 1))}" for _ in times]
    return tasks, list(zip(times, names, strict=True))


@settings(max_examples=150, deadline=None)
@given(
    task_set=task_sets(),
    failures=st.sets(st.tuples(st.sampled_from(["t0", "t1"]), st.integers(0, 2)), max_size=2),
    cancels=st.lists(st.tuples(st.integers(0, 150), st.integers(0, 11)), max_size=4),
    is_fifo=st.booleans(),
)
def test_every_job_ends_once_and_the_device_never_idles_in_vain(
    task_set: tuple[list[Task], list[tuple[int, str]]],
    failures: set[tuple[str, int]],
    cancels: list[tuple[int, int]],
    is_fifo: bool,
) -> None:
    tasks, releases = task_set
    policy: Policy = Fifo() if is_fifo else CheckedPolicy()
    world = World(*tasks, policy=policy, failures=tuple(failures))
    handles = [
        world.executor.submit(name, EXAMPLE_INPUTS, release_ns=at_ns) for at_ns, name in releases
    ]
    for at_ns, idx in cancels:
        if idx < len(handles):
            world.clock.call_at(at_ns, handles[idx].cancel)
    world.executor.run()
    world.executor.check_integrity()
    records, segments = world.recording.jobs, world.recording.segments
    assert sorted(job.job_id for job in records) == list(range(len(releases)))
    assert [handle.record for handle in handles] == sorted(records, key=lambda job: job.job_id)
    assert _blocking_by_definition(records, segments) == {
        job.job_id: job.blocking_ns for job in records if job.start_ns is not None
    }
    _check_work_conserving(records, segments)
    released = sum(entry.released for entry in metrics_from_records(records, 1).values())
    assert released == len(world.recording.releases) == len(releases)


def _blocking_by_definition(jobs: list[JobRecord], segments: list[SegmentRecord]) -> dict[int, int]:
    rank = {job.job_id: (job.priority is not None, job.priority or 0) for job in jobs}
    return {
        job.job_id: sum(
            max(0, min(seg.end_ns, job.end_ns or 0) - max(seg.start_ns, job.release_ns))
            for seg in segments
            if rank[seg.job_id] < rank[job.job_id]
        )
        for job in jobs
        if job.start_ns is not None
    }


def _check_work_conserving(jobs: list[JobRecord], segments: list[SegmentRecord]) -> None:
    """No gap between two segments in which a job was released and unfinished."""
    starts = [seg.start_ns for seg in segments]
    assert starts == sorted(starts)
    for before, after in itertools.pairwise(segments):
        assert before.end_ns <= after.start_ns
        for job in jobs:
            if job.release_ns < after.start_ns and (job.end_ns or 0) > before.end_ns:
                waiting_ns = max(before.end_ns, job.release_ns)
                assert waiting_ns >= min(after.start_ns, job.end_ns or 0), (before, after, job)
