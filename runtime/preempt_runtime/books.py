"""Books: every unfinished job is in one queue, and what became of it is counted once."""

import copy
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable

from preempt_runtime.buffer_pool import DeviceOutputs
from preempt_runtime.errors import PreemptError
from preempt_runtime.in_flight import Launch
from preempt_runtime.instruments import Instruments
from preempt_runtime.job import Job, Key
from preempt_runtime.mailbox import Level, TaskQueue
from preempt_runtime.policies import Policy, key_of
from preempt_runtime.records import JobState
from preempt_runtime.task import LatePolicy, Task

_log = logging.getLogger(__name__)
LATE_STATES: dict[LatePolicy, JobState] = {"skip": JobState.SKIPPED, "drop": JobState.DROPPED}


class Books:
    """Whose turn it may be, who waits behind whom, and who was blocked for how long.

    `in_flight` is what was launched and has not completed, the oldest first. `after_end` is called
    with every job that has ended; `returned`, on any thread, with the queue whose lent buffers came
    back, and must see to it that the dispatcher calls `relist`. Tasks are added on any thread, all
    else is the dispatcher's.
    """

    def __init__(self, policy: Policy, now_ns: Callable[[], int], instruments: Instruments) -> None:
        self.queues: dict[str, TaskQueue] = {}
        self.ready: list[Job] = []
        self.in_flight: deque[Launch] = deque()
        self.last: Job | None = None
        self.after_end: Callable[[Job], None] = lambda _: None
        self.returned: Callable[[TaskQueue], None] = lambda _: None
        self.instruments = instruments
        self.free_ns = 0  # when the device last became free
        self._policy = policy
        self._now_ns = now_ns
        self._tasks_lock = threading.Lock()  # guards changes of `queues`, `_levels`
        self._levels: dict[Key, Level] = {}
        self._levels_version = 0  # grows when there are others
        self._num_turns = 0
        self._busy: Launch | None = None
        self._busy_start_ns = 0

    # Tasks

    def add_queue(self, task: Task) -> None:
        """Make the task known; its buffers are allocated here, not in the middle of a run."""
        queue = TaskQueue(task, Level(self._policy.rank(task)))
        with self._tasks_lock:
            queue.level = self._level(task)
            self.queues[task.name] = queue

    def change_task(self, queue: TaskQueue, task: Task) -> None:
        """Give the task other values; its unfinished jobs take over all but their deadlines."""
        before = queue.level
        with self._tasks_lock:
            if self.queues.get(task.name) is not queue:
                return  # it was removed meanwhile
            queue.level = self._level(task)
            queue.levels_version = -1
            queue.task = task
            self._leave(before)
        for job in queue.jobs:
            blocked_ns = before.blocked_ns - job.blocked_before_ns  # so far
            job.blocked_before_ns = queue.level.blocked_ns - blocked_ns
            job.take_over(task)
        if queue.listed is not None:
            queue.listed.key = key_of(self._policy, queue.listed)

    def _level(self, task: Task) -> Level:
        """The level of the task's rank, which has one task more now."""
        rank = self._policy.rank(task)
        level = self._levels.get(rank)
        if level is None:
            level = self._levels[rank] = Level(rank)
            self._levels_version += 1
        level.num_tasks += 1
        return level

    def _leave(self, level: Level) -> None:
        level.num_tasks -= 1
        if level.num_tasks == 0:
            del self._levels[level.rank]
            self._levels_version += 1

    def _look_above(self, queue: TaskQueue) -> None:
        """Have the queue know the levels above its own; once for all tasks that were added."""
        own = queue.level.rank
        with self._tasks_lock:
            queue.levels_above = tuple(level for level in self._levels.values() if level.rank > own)
            queue.levels_version = self._levels_version

    def close_queue(self, queue: TaskQueue, *, drain: bool) -> None:
        """Admit nothing more; forget the queue as soon as its jobs have ended."""
        queue.is_closed = True
        if not drain:
            self.cancel_jobs(queue)
        self._forget_if_empty(queue)

    def cancel_jobs(self, queue: TaskQueue) -> None:
        """End all of a task's jobs; of which something is in flight, once that has completed."""
        now_ns = self._now_ns()
        waiting = list(itertools.islice(queue.jobs, queue.num_started(), None))
        for _ in waiting:  # all at once: hundreds of thousands may be waiting
            queue.jobs.pop()
        self.relist(queue)
        for job in reversed(waiting):
            job.blocking_ns = queue.level.blocked_ns - job.blocked_before_ns
            job.end(JobState.CANCELLED, now_ns)
            self._count(job, queue)
        for job in reversed(list(queue.jobs)):
            self.stop(job, queue, JobState.CANCELLED, now_ns)
        self._forget_if_empty(queue)
        for job in reversed(waiting):
            job.notify()

    def close_buffers(self) -> None:
        """Release the memory of every task that is still known; none of them may run again."""
        for queue in list(self.queues.values()):
            queue.pool.close()
            if num_lent := queue.pool.num_lent:
                _log.warning(
                    "task %s: outputs of %d jobs are held on the device; release them before their"
                    " network is closed",
                    queue.task.name,
                    num_lent,
                )

    # Jobs

    def admit(self, job: Job) -> None:
        """Take in a job whose release has come."""
        queue = self.queues.get(job.task.name)
        if queue is None or queue.is_closed:
            job.end(JobState.CANCELLED, self._now_ns())
            job.notify()
            return
        if job.task is not queue.task:
            job.take_over(queue.task)  # it was changed between submission and release
        job.is_admitted = True
        queue.num_released += 1
        self._note_blocking(job, queue)
        try:
            self.instruments.job_released(job.id, job.task.name, job.release_ns)
        except BaseException:  # interrupted: the job must be found where all are cancelled
            queue.offer(job)
            raise
        if job.is_done:
            self._settle(job, queue)
            return
        if queue.task.late != "run":  # here, too: a task that is never picked must not hoard jobs
            now_ns = self._now_ns()
            for late in queue.late_before(job, now_ns):
                self.stop(late, queue, LATE_STATES[queue.task.late], now_ns)
        for skipped in queue.offer(job):
            self.stop(skipped, queue, JobState.SKIPPED, self._now_ns())
        self.relist(queue)

    def queue_of_picked(self, picked: Job) -> TaskQueue:
        """The queue of what the policy picked.

        Raises:
            PreemptError: it is none of the ready jobs.
        """
        task = getattr(picked, "task", None)
        queue = None if task is None else self.queues.get(task.name)
        if queue is not None and queue.listed is picked:
            return queue
        what = repr(picked)[:80] if task is None else f"a job of task {task.name!r}"
        raise PreemptError(
            f"policy {self._policy.name!r} picked {what}, which is not among the"
            f" {len(self.ready)} ready jobs; its `pick` must return one of those it is given"
        )

    def turned_to(self, job: Job) -> None:
        """Note that the device goes to this job; one that it leaves unfinished is preempted."""
        if self.last is not None:
            self.last.num_preemptions += 1
        self.last = job

    def started(self, job: Job, queue: TaskQueue) -> None:
        """Note that it has: its task has had its turn."""
        self._num_turns += 1
        queue.turn = self._num_turns
        self.rekey(job)

    def rekey(self, job: Job) -> None:
        """Ask the policy for the job's urgency once more."""
        job.key = key_of(self._policy, job)

    def hold(self, job: Job, queue: TaskQueue) -> None:
        """Nothing more of it is to be launched; it ends when what is in flight has completed."""
        job.is_held = True
        if self.last is job:
            self.last = None  # whatever is launched next preempts nobody
        self.relist(queue)

    def stop(
        self,
        job: Job,
        queue: TaskQueue,
        state: JobState,
        now_ns: int,
        error: Exception | None = None,
    ) -> None:
        """End it, or see to it that it ends when what is in flight of it has completed."""
        if job.num_in_flight:
            if job.fate is None:
                job.fate = state, error
                self.hold(job, queue)
            return
        job.blocking_ns = queue.level.blocked_ns - job.blocked_before_ns
        value = job.value
        job.end(state, now_ns, error)
        if isinstance(value, DeviceOutputs):
            if job.state is not JobState.FINISHED:
                value.release()
            elif self._busy is not None and self._busy.job is job:
                self._busy.job = copy.copy(job)  # whoever has the handle holds the outputs, not we
                self._busy.job.value = None
        self._settle(job, queue)

    def reap(self, job: Job) -> None:
        """Settle a job that was cancelled; one not yet admitted is met at its release."""
        queue = self.queues.get(job.task.name)
        if queue is not None and job.is_admitted and not job.is_settled:
            self.stop(job, queue, JobState.CANCELLED, self._now_ns())

    def relist(self, queue: TaskQueue) -> None:
        """Have the queue's head, and no other job of it, among the ready ones."""
        head = queue.head()
        if head is not queue.listed:
            if queue.listed is not None:
                self.ready.remove(queue.listed)
            if head is not None:
                head.turn = queue.turn
                head.key = key_of(self._policy, head)
                self.ready.append(head)
            queue.listed = head

    # Blocking

    def occupied(self, launch: Launch, start_ns: int, end_ns: int) -> None:
        """Charge a segment to those whom it kept waiting."""
        queue = launch.queue
        if queue.levels_version != self._levels_version:
            self._look_above(queue)
        for level in queue.levels_above:
            level.blocked_ns += end_ns - start_ns
        for job in launch.overtaken:
            job.blocked_before_ns -= end_ns - max(start_ns, job.release_ns)
        self._busy, self._busy_start_ns, self.free_ns = launch, start_ns, end_ns

    def _note_blocking(self, job: Job, queue: TaskQueue) -> None:
        """From now on its level counts; here what it does not: the segments that run already."""
        job.blocked_before_ns = queue.level.blocked_ns
        if self._busy is not None and self.free_ns > job.release_ns:
            # It was released in the middle of a segment that has just ended.
            rank = self._busy.queue.level.rank
            if rank < queue.level.rank or self._overtakes(job, queue, self._busy):
                start_ns = max(self._busy_start_ns, job.release_ns)
                job.blocked_before_ns -= self.free_ns - start_ns
        for launch in self.in_flight:
            if self._overtakes(job, queue, launch):
                launch.overtaken = (*launch.overtaken, job)

    def _overtakes(self, job: Job, queue: TaskQueue, launch: Launch) -> bool:
        """Whether a job of equal rank would have been picked before what was launched."""
        if launch.queue.level is not queue.level or launch.queue is queue:
            return False
        job.turn = queue.turn
        job.key = key_of(self._policy, job)
        return self._policy.pick((launch.job, job), self._now_ns()) is job

    # Ends

    def _settle(self, job: Job, queue: TaskQueue) -> None:
        if job.buffers is not None:
            queue.pool.put(job.buffers)
            job.buffers = None
        if self.last is job:
            self.last = None
        jobs = queue.jobs
        if jobs and jobs[-1] is job:
            jobs.pop()
        elif jobs and jobs[0] is job:
            jobs.popleft()
        elif job in jobs:
            jobs.remove(job)
        self.relist(queue)
        self._count(job, queue)
        self._forget_if_empty(queue)
        job.notify()

    def _count(self, job: Job, queue: TaskQueue) -> None:
        """Count a job that has left its queue."""
        job.is_settled = True
        queue.ended[job.state] += 1
        if self.instruments.active:
            self.instruments.job_ended(job.record())
        self.after_end(job)

    def _forget_if_empty(self, queue: TaskQueue) -> None:
        if queue.is_closed and not queue.jobs and self.queues.get(queue.task.name) is queue:
            with self._tasks_lock:
                del self.queues[queue.task.name]
                self._leave(queue.level)
            queue.pool.close()
            queue.removed.set()
