"""JobHandle: how the submitter of a job follows it, from any thread or event loop."""

import threading
from collections.abc import Callable, Generator
from typing import Any

from preempt_runtime.errors import JobCancelledError
from preempt_runtime.job import Job
from preempt_runtime.records import JobRecord, JobState


class JobHandle:
    """Follows one job, from any thread or event loop.

    The inputs are borrowed: leave them unchanged until the job's first network segment has
    started. The outputs are fresh arrays that belong to the caller.
    """

    __slots__ = ("_cancel", "_job")

    def __init__(self, job: Job, cancel: Callable[[Job], bool]) -> None:
        self._job = job
        self._cancel = cancel

    @property
    def job_id(self) -> int:
        """The id under which records and traces know the job."""
        return self._job.id

    @property
    def state(self) -> JobState:
        """Where the job is."""
        return self._job.state

    @property
    def record(self) -> JobRecord:
        """The job as it stands."""
        return self._job.record()

    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._job.is_done

    def cancel(self) -> bool:
        """Whether the job is or will be cancelled.

        A pending job is cancelled at once, a running one at its next preemption point. False: it
        had already ended.
        """
        return self._cancel(self._job)

    def add_done_callback(self, callback: Callable[["JobHandle"], object]) -> None:
        """Call `callback(handle)` when the job ends: on the dispatcher, so keep it short."""
        self._job.add_done_callback(lambda: callback(self))

    def result(self, timeout: float | None = None) -> Any:
        """The outputs by name, or what the task's `post` returned; blocks at most `timeout` s.

        Raises:
            TimeoutError: it has not ended by then; it goes on.
            JobCancelledError: it was cancelled, skipped or dropped.
            Exception: what its segment, `pre` or `post` raised.
        """
        if not self.done():
            ended = threading.Lock()
            ended.acquire()
            self._job.add_done_callback(ended.release)
            if not ended.acquire(timeout=-1 if timeout is None else max(timeout, 0.0)):
                raise TimeoutError(f"{self._label()} is {self.state.value} after {timeout} s")
        return self._outcome()

    def __await__(self) -> Generator[Any, None, Any]:
        """As `result`, without blocking the event loop; cancelling the wait leaves the job."""
        import asyncio  # 40 ms to import on a small board, and most applications never await

        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def wake() -> None:
            if not ended.done():
                ended.set_result(None)

        def signal() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(wake)

        self._job.add_done_callback(signal)
        yield from ended
        return self._outcome()

    def _outcome(self) -> Any:
        job = self._job
        if job.error is not None:
            raise job.error
        if job.state is not JobState.FINISHED:
            raise JobCancelledError(f"{self._label()} was {job.state.value}")
        return job.value

    def _label(self) -> str:
        return f"task {self._job.task.name!r}: job {self._job.id}"
