"""Agenda: jobs whose release is still to come, and the sources that release them."""

import heapq
import logging
from collections.abc import Callable
from typing import Any

from preempt_runtime.books import Books
from preempt_runtime.job import NEVER_NS, Job
from preempt_runtime.mailbox import TaskQueue
from preempt_runtime.records import JobState
from preempt_runtime.source import Source
from preempt_runtime.task import checked_submission

_log = logging.getLogger(__name__)
_MAX_RELEASING_NS = 10_000_000  # in one turn, before the device gets work again
_NUM_BETWEEN_LOOKS = 64  # releases, of 10 to 20 us each
_PAUSE_AFTER_FAILURE_NS = 1_000_000  # a device that refuses everything is not asked all the time


class Agenda:
    """Hands every job to the books at its release; nothing is released from the horizon on.

    `announce` is called with the queue of a task that announces its jobs, that long before each
    release that is known.
    """

    def __init__(
        self, books: Books, now_ns: Callable[[], int], new_job_id: Callable[[], int]
    ) -> None:
        self.horizon_ns = NEVER_NS
        self.timed: list[tuple[int, int, Callable[[int, Any], None], Any]] = []
        self._books = books
        self._now_ns = now_ns
        self._new_job_id = new_job_id
        self._num_timed = 0
        self.announce: Callable[[TaskQueue], None] | None = None
        self._loops: dict[int, Source] = {}
        books.after_end = self._after_end

    def arrive(self, job: Job) -> None:
        """Admit a submitted job, now or at its release; what prevents that cancels it."""
        try:
            if job.release_ns > self._now_ns():
                self._announce_before(job.release_ns, job.task.name)
                self._schedule(job.release_ns, lambda _, due: self._books.admit(due), job)
            else:
                self._books.admit(job)
        except BaseException:  # nobody else knows of it, unless the books do
            if not job.is_admitted:
                job.end(JobState.CANCELLED, self._now_ns())
                job.notify()
            raise

    def start_source(self, source: Source, origin_ns: int) -> None:
        """Time the source's first release, its offsets counting from `origin_ns`."""
        source.origin_ns = origin_ns
        self._schedule_release(source.first_ns(), source)

    def close_sources(self) -> None:
        """Release what fell due before the horizon, then forget all that was to come."""
        now_ns = self._now_ns()
        while self._is_due(now_ns):
            self.release_due(now_ns)
        self.clear()

    def clear(self) -> None:
        """Cancel the jobs that were to come, and stop the sources."""
        self._loops.clear()
        while self.timed:  # one by one, lest jobs be lost where a callback is interrupted
            _, _, _, item = heapq.heappop(self.timed)
            if isinstance(item, Job):
                item.end(JobState.CANCELLED, self._now_ns())
                self._books.admit(item)

    def release_due(self, now_ns: int) -> None:
        """Admit the jobs whose release has come, in the order of releases.

        Where that takes long, some stay for the next turn: releases may come faster than they are
        admitted, and this one has to end.
        """
        timed, num_released = self.timed, 0
        while self._is_due(now_ns):
            release_ns, _, action, item = heapq.heappop(timed)
            action(release_ns, item)
            num_released += 1
            if (
                num_released % _NUM_BETWEEN_LOOKS == 0
                and self._now_ns() - now_ns > _MAX_RELEASING_NS
            ):
                return

    def _is_due(self, now_ns: int) -> bool:
        return bool(self.timed) and self.timed[0][0] <= min(now_ns, self.horizon_ns - 1)

    def next_due_ns(self) -> int | None:
        """The next known release before the horizon."""
        if self.timed and self.timed[0][0] < self.horizon_ns:
            return self.timed[0][0]
        return None

    def _schedule(
        self, at_ns: int | None, action: Callable[[int, Any], None], item: object
    ) -> None:
        if at_ns is not None:
            heapq.heappush(self.timed, (at_ns, self._num_timed, action, item))
            self._num_timed += 1

    def _release(self, release_ns: int, source: Source) -> None:
        queue = self._books.queues.get(source.task)
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
            self._schedule_release(source.next_ns(), source)
        self._books.admit(job)

    def _after_end(self, job: Job) -> None:
        source = self._loops.pop(job.id, None)
        if source is not None and job.end_ns is not None:
            pause_ns = _PAUSE_AFTER_FAILURE_NS if job.state is JobState.FAILED else 0
            self._schedule_release(source.after_end_ns(job.end_ns + pause_ns), source)

    def _schedule_release(self, at_ns: int | None, source: Source) -> None:
        if at_ns is not None:
            self._announce_before(at_ns, source.task)
            self._schedule(at_ns, self._release, source)

    def _announce_before(self, release_ns: int, task: str) -> None:
        """Have a release announced, if its task wants that and the device can."""
        queue = self._books.queues.get(task)
        if self.announce is None or queue is None or not queue.task.announce_ns:
            return
        self._schedule(release_ns - queue.task.announce_ns, self._announce, queue)

    def _announce(self, at_ns: int, queue: TaskQueue) -> None:
        if self.announce is not None:
            self.announce(queue)
