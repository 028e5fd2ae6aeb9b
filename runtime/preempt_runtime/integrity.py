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
    """Between turns: counts add up, and of every task one job is ready, or none; buffers, too.

    Jobs that are wholly in flight are not ready, the one after them is.

    Raises:
        AssertionError: a bug of the executor.
    """
    for name, queue in queues.items():
        counts = counts_from_queue(queue)
        released = counts.pop("released")
        assert released == sum(counts.values()), f"task {name}: {released} of {counts}"
        started = [job.is_started for job in queue.jobs]
        assert started == sorted(started, reverse=True), f"task {name}: {started} have started"
        assert not any(job.is_settled for job in queue.jobs), f"task {name}: settled, queued"
    heads = []
    for name, queue in queues.items():
        launchable = [job for job in queue.jobs if not job.is_held]
        waits_for_lent = launchable and not (launchable[0].is_started or queue.pool.has_any)
        heads += [] if waits_for_lent else [job.id for job in launchable[:1]]
        held = list(queue.jobs)[: len(queue.jobs) - len(launchable)]
        assert all(job.num_in_flight for job in held), f"task {name}: held {held}"
        assert not any(job.is_started for job in launchable[1:]), f"task {name}: two started"
        pool, num_used = queue.pool, sum(job.buffers is not None for job in queue.jobs)
        found = len(pool.free) + pool.num_lent + num_used
        assert pool.is_closed or found == pool.num_buffers, f"task {name}: {found} buffers"
    listed = [job.id for job in ready]
    assert sorted(heads) == sorted(listed), f"ready {listed}, heads {heads}"
