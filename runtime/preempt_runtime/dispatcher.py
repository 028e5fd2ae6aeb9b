"""Dispatcher: the single-threaded heart of the executor. Pick, run to the next preemption point."""

import contextlib
import heapq
import logging
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

from preempt_runtime.clock import Clock
from preempt_runtime.device import Array, Device
from preempt_runtime.errors import PreemptError
from preempt_runtime.instruments import Instruments
from preempt_runtime.job import NEVER_NS, Job
from preempt_runtime.mailbox import Level, TaskQueue
from preempt_runtime.policies import Policy
from preempt_runtime.records import JobState, SegmentRecord
from preempt_runtime.source import Source
from preempt_runtime.task import LatePolicy, Task, checked_inputs, checked_submission

_log = logging.getLogger(__name__)
_FINISHED = JobState.FINISHED  # looked up once, as in job.py
_LATE_STATES: dict[LatePolicy, JobState] = {"skip": JobState.SKIPPED, "drop": JobState.DROPPED}


class Dispatcher:
    """Driven by one thread at a time, which `Executor` sees to; `add_queue` may come from any."""

    def __init__(
        self,
        device: Device,
        policy: Policy,
        clock: Clock,
        instruments: Instruments,
        new_job_id: Callable[[], int],
    ) -> None:
        self.queues: dict[str, TaskQueue] = {}
        self.ready: list[Job] = []
        self.horizon_ns = NEVER_NS
        self._device = device
        self._policy = policy
        self._now_ns = clock.now_ns
        self._instruments = instruments
        self._new_job_id = new_job_id
        self._levels: dict[tuple[int, int], Level] = {}
        self._timed: list[tuple[int, int, Callable[[int, Any], None], Any]] = []
        self._num_timed = 0
        self._loops: dict[int, Source] = {}
        self._last: Job | None = None
        self._busy_ns = (0, 0)
        self._busy_rank = (0, 0)

    # Tasks and sources

    def add_queue(self, task: Task) -> None:
        """Make the task known; its buffers are allocated here, not in the middle of a run."""
        queue = TaskQueue(task, self._levels.setdefault(task.rank, Level(task.rank)))
        for other in (queue, *self.queues.values()):
            rank = other.level.rank
            other.levels_above = tuple(
                level for level in self._levels.values() if level.rank > rank
            )
        self.queues[task.name] = queue

    def close_queue(self, queue: TaskQueue, *, drain: bool) -> None:
        """Admit nothing more; forget the queue as soon as its jobs have ended."""
        queue.is_closed = True
        if not drain:
            self._cancel_jobs(queue)
        self._forget_if_empty(queue)

    def start_source(self, source: Source, origin_ns: int) -> None:
        """Time the source's first release, its offsets counting from `origin_ns`."""
        source.origin_ns = origin_ns
        self._schedule(source.first_ns(), self._release, source)

    def close_sources(self) -> None:
        """Release what fell due before the horizon, then forget all that was to come."""
        self.release_due(self._now_ns())
        self._drop_timed()

    def cancel_all(self) -> None:
        """End every job and forget all that was to come."""
        self._drop_timed()
        for queue in list(self.queues.values()):
            self._cancel_jobs(queue)

    def quiesce(self) -> None:
        """After an error, leave nothing in flight that would still use a job's buffers."""
        with contextlib.suppress(Exception):
            self._device.wait()

    def close_buffers(self) -> None:
        """Release the memory of every task that is still known; none of them may run again."""
        for queue in list(self.queues.values()):
            queue.buffers.close()

    def warm_up(self, queue: TaskQueue, inputs: Mapping[str, Array]) -> None:
        """Run all steps of the task in its own buffers, on the device but in no books."""
        if queue.jobs and queue.jobs[0].is_started:
            raise PreemptError(
                f"task {queue.task.name!r}: job {queue.jobs[0].id} is in its buffers;"
                " let it end first"
            )
        job = Job(id=-1, task=queue.task, inputs=inputs, release_ns=self._now_ns())
        try:
            for step in queue.steps:
                if isinstance(step, int):
                    self._run_segment(job, queue, step)
                else:
                    self._call(job, queue.task, step)
        except BaseException:
            self.quiesce()
            raise

    # Jobs

    def arrive(self, job: Job) -> None:
        """Admit a submitted job, now or at its release."""
        if job.release_ns > self._now_ns():
            self._schedule(job.release_ns, lambda _, due: self._admit(due), job)
        else:
            self._admit(job)

    def reap(self, job: Job) -> None:
        """Do the books of a job that was cancelled; one not yet admitted is met at its release."""
        queue = self.queues.get(job.task.name)
        if queue is not None and job.is_admitted and not job.is_settled:
            self._end(job, queue, JobState.CANCELLED, self._now_ns())

    def release_due(self, now_ns: int) -> None:
        """Admit every job whose release has come, in the order of releases."""
        timed = self._timed
        while timed and timed[0][0] <= now_ns and timed[0][0] < self.horizon_ns:
            release_ns, _, action, item = heapq.heappop(timed)
            action(release_ns, item)

    def next_due_ns(self) -> int | None:
        """The next known release before the horizon."""
        if self._timed and self._timed[0][0] < self.horizon_ns:
            return self._timed[0][0]
        return None

    # The turn

    def turn(self) -> bool:
        """Whether there was a job to run to its next preemption point."""
        now_ns = self._now_ns()
        if self._timed and self._timed[0][0] <= now_ns:
            self.release_due(now_ns)
        if not self.ready:
            return False
        job = self._policy.pick(self.ready, now_ns)
        queue = self.queues[job.task.name]
        start_ns = self._now_ns()
        if job.late_ns <= start_ns and self._is_given_up(job, queue):
            self._end(job, queue, _LATE_STATES[queue.task.late], start_ns)
            return True
        if not job.is_started and not job.start(start_ns):
            self._end(job, queue, JobState.CANCELLED, start_ns)  # since the inbox was drained
            return True
        if job is not self._last:
            if self._last is not None:
                self._last.num_preemptions += 1
            self._last = job
        self._run_step(job, queue, start_ns)
        return True

    def _is_given_up(self, job: Job, queue: TaskQueue) -> bool:
        """Whether a job that is late need not run any more."""
        if queue.task.late == "drop":
            return True
        return not job.is_started and len(queue.jobs) > 1

    def _run_step(self, job: Job, queue: TaskQueue, start_ns: int) -> None:
        step = queue.steps[job.step_idx]
        error = None
        try:
            if isinstance(step, int):
                self._run_segment(job, queue, step)
            else:
                self._call(job, queue.task, step)
        except Exception as err:  # it is the job's: its handle raises it, the others go on
            error = err
        end_ns = self._now_ns()
        self._occupied(queue, start_ns, end_ns)
        if self._instruments.active:
            self._instruments.segment_ended(
                SegmentRecord(
                    job_id=job.id,
                    task=queue.task.name,
                    segment_idx=step,
                    start_ns=start_ns,
                    end_ns=end_ns,
                    is_urgent=job.priority is not None,
                )
            )
        if error is not None:
            self._end(job, queue, JobState.FAILED, end_ns, error)
            return
        job.step_idx += 1
        job.num_segments_run += 1
        if job.step_idx == len(queue.steps):
            self._end(job, queue, _FINISHED, end_ns)

    def _run_segment(self, job: Job, queue: TaskQueue, segment_idx: int) -> None:
        buffers = queue.buffers
        try:
            if segment_idx == 0:
                assert job.inputs is not None
                buffers.write_inputs(job.inputs)
                job.inputs = None
            self._device.launch(buffers, segment_idx, is_urgent=job.priority is not None)
        except Exception:
            self.quiesce()
            raise
        self._device.wait()
        if segment_idx == queue.last_segment:
            job.value = buffers.read_outputs()

    def _call(self, job: Job, task: Task, step: str) -> None:
        stream = self._device.stream(is_urgent=job.priority is not None)
        result: Any
        try:
            if step == "pre":
                assert task.pre is not None
                assert job.inputs is not None
                result = task.pre(job.inputs, stream)
            else:
                assert task.post is not None
                result = task.post(job.value, stream)
        except Exception:
            self.quiesce()
            raise
        self._device.wait()
        if step == "pre":
            job.inputs = checked_inputs(task, result)
        else:
            job.value = result

    # The books

    def _occupied(self, queue: TaskQueue, start_ns: int, end_ns: int) -> None:
        for level in queue.levels_above:
            level.blocked_ns += end_ns - start_ns
        self._busy_ns = (start_ns, end_ns)
        self._busy_rank = queue.level.rank

    def _schedule(
        self, at_ns: int | None, action: Callable[[int, Any], None], item: object
    ) -> None:
        if at_ns is not None:
            heapq.heappush(self._timed, (at_ns, self._num_timed, action, item))
            self._num_timed += 1

    def _release(self, release_ns: int, source: Source) -> None:
        queue = self.queues.get(source.task)
        # A task that is being removed releases nothing more, even where releases come faster
        # than they can be admitted: else this turn would not end, and nobody would hear of it.
        if queue is None or queue.is_closed or queue.is_refusing:
            return
        job = Job(id=self._new_job_id(), task=queue.task, inputs={}, release_ns=release_ns)
        try:
            inputs = source.make_inputs(source.num_released)
            job.inputs = checked_submission(queue.task, inputs)
        except Exception as err:
            _log.error("task %s: its source stops, its inputs raised %s", source.task, err)
            job.end(JobState.FAILED, self._now_ns(), err)
        else:
            source.num_released += 1
            self._loops[job.id] = source
            self._schedule(source.next_ns(), self._release, source)
        self._admit(job)

    def _admit(self, job: Job) -> None:
        queue = self.queues.get(job.task.name)
        if queue is None or queue.is_closed:
            job.end(JobState.CANCELLED, self._now_ns())
            job.notify()
            return
        job.is_admitted = True
        job.blocked_before_ns = queue.level.blocked_ns
        start_ns, end_ns = self._busy_ns
        if end_ns > job.release_ns and self._busy_rank < queue.level.rank:
            # It was released in the middle of a segment that has just ended.
            job.blocked_before_ns -= end_ns - max(start_ns, job.release_ns)
        queue.num_released += 1
        self._instruments.job_released(job.id, job.task.name, job.release_ns)
        if job.is_done:
            self._settle(job, queue)
            return
        if queue.task.late != "run":  # here, too: a task that is never picked must not hoard jobs
            now_ns = self._now_ns()
            for late in queue.late_before(job, now_ns):
                self._end(late, queue, _LATE_STATES[queue.task.late], now_ns)
        for skipped in queue.offer(job):
            self._end(skipped, queue, JobState.SKIPPED, self._now_ns())
        self._relist(queue)

    def _drop_timed(self) -> None:
        timed, self._timed = sorted(self._timed, key=itemgetter(0, 1)), []
        self._loops.clear()
        for _, _, _, item in timed:
            if isinstance(item, Job):
                item.end(JobState.CANCELLED, self._now_ns())
                self._admit(item)

    def _cancel_jobs(self, queue: TaskQueue) -> None:
        for job in reversed(list(queue.jobs)):  # off the end: a million may be waiting
            self._end(job, queue, JobState.CANCELLED, self._now_ns())

    def _end(
        self,
        job: Job,
        queue: TaskQueue,
        state: JobState,
        now_ns: int,
        error: Exception | None = None,
    ) -> None:
        job.blocking_ns = queue.level.blocked_ns - job.blocked_before_ns
        job.end(state, now_ns, error)
        self._settle(job, queue)

    def _settle(self, job: Job, queue: TaskQueue) -> None:
        job.is_settled = True
        if self._last is job:
            self._last = None
        jobs = queue.jobs
        if jobs and jobs[-1] is job:
            jobs.pop()
        elif jobs and jobs[0] is job:
            del jobs[0]
        elif job in jobs:
            jobs.remove(job)
        queue.ended[job.state] += 1
        self._relist(queue)
        if self._instruments.active:
            self._instruments.job_ended(job.record())
        source = self._loops.pop(job.id, None)
        if source is not None and job.end_ns is not None:
            self._schedule(source.after_end_ns(job.end_ns), self._release, source)
        self._forget_if_empty(queue)
        job.notify()

    def _relist(self, queue: TaskQueue) -> None:
        head = queue.jobs[0] if queue.jobs else None
        if head is not queue.listed:
            if queue.listed is not None:
                self.ready.remove(queue.listed)
            if head is not None:
                self.ready.append(head)
            queue.listed = head

    def _forget_if_empty(self, queue: TaskQueue) -> None:
        if queue.is_closed and not queue.jobs and self.queues.get(queue.task.name) is queue:
            del self.queues[queue.task.name]
            queue.buffers.close()
            queue.removed.set()
