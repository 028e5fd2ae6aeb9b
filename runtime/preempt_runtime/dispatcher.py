"""Dispatcher: the single-threaded heart of the executor. Pick, launch, wait for the oldest."""

import contextlib
from collections.abc import Mapping

from preempt_runtime.agenda import Agenda
from preempt_runtime.books import LATE_STATES, Books
from preempt_runtime.clock import Clock
from preempt_runtime.device import Array, Device, JobBuffers
from preempt_runtime.in_flight import Launch
from preempt_runtime.job import Job
from preempt_runtime.job_steps import JobSteps
from preempt_runtime.mailbox import TaskQueue
from preempt_runtime.policies import Policy
from preempt_runtime.records import JobState, SegmentRecord
from preempt_runtime.task import Task
from preempt_runtime.warm_up import warm_up

_FINISHED, _FAILED = JobState.FINISHED, JobState.FAILED  # looked up once, as in job.py


class Dispatcher:
    """Driven by one thread at a time, which `Executor` sees to.

    At most `depth` segments are in flight. With more than one, the next is launched while one
    runs, so that the device need not wait for the host; an urgent job then waits for all of them.
    `pre` and `post` run alone, when nothing is in flight. A picked job that cannot be launched yet,
    because all buffers of its task are with jobs in flight, is waited for: nothing less urgent is
    launched in its place.
    """

    def __init__(
        self,
        device: Device,
        policy: Policy,
        clock: Clock,
        books: Books,
        agenda: Agenda,
        depth: int,
    ) -> None:
        self._device = device
        self._policy = policy
        self._now_ns = clock.now_ns
        self._books = books
        self._agenda = agenda
        self._in_flight = books.in_flight
        self._depth = depth
        self._steps = JobSteps(device, books)

    @property
    def is_busy(self) -> bool:
        """Whether something is in flight."""
        return bool(self._in_flight)

    def next_due_ns(self) -> int | None:
        """When there is something to do at the latest, if a turn had nothing."""
        return self._agenda.next_due_ns()

    def prepare(self) -> None:
        """A run may begin at any time."""

    def check_task(self, task: Task) -> None:
        """Any task may run."""

    def turn(self) -> bool:
        """Whether there was something to do: a job to launch a step of, or a step to wait for."""
        now_ns = self._now_ns()
        agenda, books = self._agenda, self._books
        if agenda.timed and agenda.timed[0][0] <= now_ns:
            agenda.release_due(now_ns)
        if not books.ready:
            if not self._in_flight:
                return False
            self._complete_oldest()
            return True
        job = self._policy.pick(books.ready, now_ns)
        queue = books.queue_of_picked(job)
        start_ns = self._now_ns()
        if job.late_ns <= start_ns and queue.gives_up(job):
            books.stop(job, queue, LATE_STATES[queue.task.late], start_ns)
            return True
        step = queue.steps[job.step_idx]
        needs_buffers = step == 0 and job.buffers is None
        if self._in_flight and (isinstance(step, str) or (needs_buffers and not queue.pool.free)):
            self._complete_oldest()
            return True
        if not job.is_started:
            if not job.start(start_ns):  # cancelled since the inbox was drained
                books.stop(job, queue, JobState.CANCELLED, start_ns)
                return True
            books.started(job, queue)
        if job is not books.last:
            books.turned_to(job)
        launch = Launch(job, queue, step, start_ns)
        if step == 0 and not self._has_inputs(launch):
            return True  # who is most urgent may have changed meanwhile
        self._run_step(launch)
        return True

    def complete_all(self) -> None:
        """Wait for everything in flight, and do its books."""
        while self._in_flight:
            self._complete_oldest()

    def cancel_all(self) -> None:
        """End every job and forget all that was to come."""
        self._agenda.clear()
        for queue in list(self._books.queues.values()):
            self._books.cancel_jobs(queue)
        self.complete_all()

    def quiesce(self) -> None:
        """After an error, leave nothing in flight that would still use a job's buffers."""
        self.complete_all()
        with contextlib.suppress(Exception):
            self._device.wait()

    def warm_up(self, queue: TaskQueue, inputs: Mapping[str, Array]) -> None:
        """Run all steps of the task in each of its buffers, on the device but in no books."""
        self.complete_all()
        warm_up(queue, inputs, self._steps, self._run_network, self.quiesce, now_ns=self._now_ns())

    # Steps

    def _run_step(self, launch: Launch) -> None:
        """Launch a segment, and wait if as many as allowed are in flight; or call `pre`, `post`."""
        job, queue, step = launch.job, launch.queue, launch.step
        try:
            if isinstance(step, int):
                self._launch(job, step)
            else:
                self._steps.call(job, queue, step)
        except Exception as err:  # it is the job's: its handle raises it, the others go on
            self.quiesce()
            self._ended(launch, err)
            return
        job.step_idx += 1
        if isinstance(step, str):
            self._ended(launch, None)
            return
        job.num_in_flight += 1
        self._in_flight.append(launch)
        if len(self._in_flight) >= self._depth:
            self._complete_oldest()
        if job.num_in_flight and job.step_idx == len(queue.steps):
            self._books.hold(job, queue)

    def _has_inputs(self, launch: Launch) -> bool:
        """Copy the job's inputs, or a piece of large ones; whether it can be launched."""
        job = launch.job
        try:
            return self._steps.copy_inputs(job, launch.queue)
        except Exception as err:  # as in `_run_step`
            self.quiesce()
            self._ended(launch, err)
            return False

    def _launch(self, job: Job, segment_idx: int) -> None:
        buffers = job.buffers
        assert buffers is not None
        self._device.launch(buffers, segment_idx, is_urgent=job.priority is not None)

    def _run_network(self, job: Job, buffers: JobBuffers) -> None:
        for segment_idx in range(len(job.task.network.segments)):
            self._device.launch(buffers, segment_idx, is_urgent=job.priority is not None)
            self._device.wait()

    def _complete_oldest(self) -> None:
        in_flight = self._in_flight
        launch = in_flight.popleft()
        launch.job.num_in_flight -= 1
        error = None
        try:
            self._device.wait(len(in_flight))
            if launch.step == launch.queue.last_segment and launch.job.fate is None:
                self._steps.read_outputs(launch.job, launch.queue)
        except Exception as err:
            error = err
        self._ended(launch, error)

    def _ended(self, launch: Launch, error: Exception | None) -> None:
        """Do the books of a step that has completed or failed."""
        job, queue, books = launch.job, launch.queue, self._books
        end_ns = self._now_ns()
        start_ns = launch.launch_ns if launch.launch_ns > books.free_ns else books.free_ns
        books.occupied(launch, start_ns, end_ns)
        job.idle_since_ns = end_ns
        if launch.step == queue.steps[0]:
            job.start_ns = start_ns  # it was launched then or before
        if books.instruments.active:
            books.instruments.segment_ended(
                SegmentRecord(
                    job_id=job.id,
                    task=queue.task.name,
                    segment_idx=launch.step,
                    start_ns=start_ns,
                    end_ns=end_ns,
                    is_urgent=job.priority is not None,
                )
            )
        if job.is_settled:  # its launch was refused, and a segment before it has failed
            return
        if error is not None:
            books.stop(job, queue, _FAILED, end_ns, error)
        elif job.fate is None or job.fate[1] is None:  # none before it has failed
            job.num_segments_run += 1
            if self._policy.has_moving_urgency:
                books.rekey(job)
        if job.is_settled or job.num_in_flight:
            return
        if job.fate is not None:
            books.stop(job, queue, job.fate[0], end_ns, job.fate[1])
        elif job.num_segments_run == len(queue.steps):
            books.stop(job, queue, _FINISHED, end_ns)
