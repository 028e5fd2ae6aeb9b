"""A task's released jobs in release order, and what its mailbox does with one too many."""

import itertools
import threading
from collections import deque
from operator import attrgetter

from preempt_runtime.buffer_pool import BufferPool
from preempt_runtime.job import Job, Key
from preempt_runtime.records import JobState
from preempt_runtime.task import Task

_by_release = attrgetter("release_ns", "id")


class Level:
    """All tasks of one rank, as the policy ranks them.

    `blocked_ns` is how long lower ranks have occupied the device. It only grows: what one job was
    blocked is the difference between its end and its release, so a segment costs one addition per
    rank and not one per waiting job. `num_tasks` are those that have the rank now.
    """

    __slots__ = ("blocked_ns", "num_tasks", "rank")

    def __init__(self, rank: Key) -> None:
        self.rank = rank
        self.blocked_ns = 0
        self.num_tasks = 0


class TaskQueue:
    """One task on the executor: its unfinished jobs, and what it counts.

    Jobs of one task start in the order of release, and none before all of the one before it has
    been launched. So those that have started come first in `jobs`, and of these all but the last
    are wholly in flight; each has buffers from `pool`. `newest_task` is the task as it was last
    changed; `task` becomes that at the next preemption point. `levels_above` are those of higher
    rank as `levels_version` of the books has them.
    """

    __slots__ = (
        "ended",
        "is_closed",
        "is_refusing",
        "jobs",
        "last_segment",
        "level",
        "levels_above",
        "levels_version",
        "listed",
        "newest_task",
        "num_released",
        "pool",
        "removed",
        "steps",
        "task",
        "turn",
    )

    def __init__(self, task: Task, level: Level) -> None:
        num_segments = len(task.network.segments)
        self.task = self.newest_task = task
        self.level = level
        self.levels_above: tuple[Level, ...] = ()
        self.levels_version = -1
        self.pool = BufferPool(task)
        self.jobs: deque[Job] = deque()
        self.listed: Job | None = None
        self.last_segment = num_segments - 1
        self.steps = task.steps
        self.num_released = 0
        self.turn = 0  # grows with every job of any task that starts
        self.ended = dict.fromkeys((state for state in JobState if state.is_final), 0)
        self.is_refusing = False
        self.is_closed = False
        self.removed = threading.Event()

    def num_started(self) -> int:
        """How many unfinished jobs have started; they are the first."""
        count = 0
        for job in self.jobs:
            if not job.is_started:
                break
            count += 1
        return count

    def head(self) -> Job | None:
        """The first job of which something is left to launch, unless it waits for lent buffers.

        It may have to wait for those of a job that is in flight. It is the head all the same: else
        a less urgent job would be launched, and keep it waiting even longer.
        """
        for job in self.jobs:
            if not job.is_held:
                return job if job.is_started or self.pool.has_any else None
        return None

    def late_before(self, newer: Job, now_ns: int) -> list[Job]:
        """Jobs that have not started, are late and older than one that is about to come."""
        first = self.num_started()
        late = itertools.takewhile(
            lambda job: job.late_ns <= now_ns and job.release_ns <= newer.release_ns,
            itertools.islice(self.jobs, first, None),
        )
        return list(late)

    def gives_up(self, late: Job) -> bool:
        """Whether a job of this task that is late, and would be next, need not run any more."""
        if self.task.late == "drop":
            return True
        return not late.is_started and self.jobs[-1] is not late

    def offer(self, job: Job) -> list[Job]:
        """Take the job in by its release; the jobs that must be skipped for it."""
        first = self.num_started()
        self._insert(job, first)
        if self.task.mailbox == "latest":
            return list(itertools.islice(self.jobs, first, len(self.jobs) - 1))
        limit = self.task.max_pending
        if limit is not None and len(self.jobs) - first > limit:
            return [self.jobs[-1]]
        return []

    def _insert(self, job: Job, first: int) -> None:
        """Behind all that were released before it; nearly always that is the end."""
        jobs, place = self.jobs, len(self.jobs)
        while place > first and _by_release(jobs[place - 1]) > _by_release(job):
            place -= 1
        jobs.insert(place, job)
