"""The executor's books: what was released must be somewhere, and in one place."""

from collections.abc import Mapping, Sequence

from preempt_runtime.job import Job
from preempt_runtime.mailbox import TaskQueue
from preempt_runtime.records import JobState


def counts_from_queue(queue: TaskQueue) -> dict[str, int]:
    """How many jobs of a task were released, and how many are in each state."""
    counts = {state.value: queue.ended.get(state, 0) for state in JobState}
    for job in list(queue.jobs):
        counts[job.state.value] += 1
    return {"released": queue.num_released, **counts}


def check_books(queues: Mapping[str, TaskQueue], ready: Sequence[Job]) -> None:
    """Between turns: counts add up, and of every task the first job is ready, no other.

    A job that is wholly in flight is not ready, the one after it is.

    Raises:
        AssertionError: a bug of the executor.
    """
    for name, queue in queues.items():
        counts = counts_from_queue(queue)
        released = counts.pop("released")
        assert released == sum(counts.values()), f"task {name}: {released} of {counts}"
        assert not any(job.is_started for job in queue.jobs[1:]), f"task {name}: two started"
        assert not any(job.is_settled for job in queue.jobs), f"task {name}: settled, queued"
    heads = []
    for queue in queues.values():
        launchable = [job for job in queue.jobs if not job.is_held]
        heads += [job.id for job in launchable[:1]]
        held = queue.jobs[: len(queue.jobs) - len(launchable)]
        assert [bool(job.num_in_flight) for job in held] in ([], [True]), f"held: {held}"
    listed = [job.id for job in ready]
    assert sorted(heads) == sorted(listed), f"ready {listed}, heads {heads}"
