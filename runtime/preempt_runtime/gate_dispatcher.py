"""GateDispatcher: launches jobs whole and looks for their ends; gates decide who goes on."""

import contextlib
import logging
from collections.abc import Mapping, Sequence

from preempt_runtime.agenda import Agenda
from preempt_runtime.books import LATE_STATES, Books
from preempt_runtime.clock import Clock
from preempt_runtime.device import Array, JobBuffers
from preempt_runtime.errors import DeviceError, InputError
from preempt_runtime.gate_completion import Ended, GateCompletion
from preempt_runtime.gate_limits import ANNOUNCED_NS
from preempt_runtime.gate_progress import ProgressWatch
from preempt_runtime.gated_device import GatedDevice
from preempt_runtime.hold_off import HoldOff, Work
from preempt_runtime.in_flight import Launch
from preempt_runtime.job import Job
from preempt_runtime.job_steps import JobSteps
from preempt_runtime.mailbox import TaskQueue
from preempt_runtime.policies import GatePolicy
from preempt_runtime.records import JobState
from preempt_runtime.task import Task
from preempt_runtime.warm_up import warm_up

_log = logging.getLogger(__name__)
_LOOK_NS = 50_000  # between two looks, while nobody urgent is on the device
_AUDIT_NS = 1_000_000_000
_FAILED = JobState.FAILED


class GateDispatcher:
    """Driven by one thread at a time, which `Executor` sees to.

    A job is launched as soon as it is released and has buffers, the most urgent first. From then
    on the device decides at its gates, by the rank that the policy gave it. While an urgent job is
    there its end is polled for; else the thread sleeps between two looks. Right before a release
    that is known or announced, or the end of an urgent job, no best effort is launched and none
    completed as long as jobs are on the device: the urgent job would have to wait for the host.
    """

    def __init__(
        self, device: GatedDevice, policy: GatePolicy, clock: Clock, books: Books, agenda: Agenda
    ) -> None:
        self._device = device
        self._policy = policy
        self._now_ns = clock.now_ns
        self._books = books
        self._agenda = agenda
        agenda.announce = self.announce
        self._steps = JobSteps(device, books)
        self._progress = ProgressWatch(clock.now_ns)
        self._running: list[Launch] = []
        self._withdrawn: set[int] = set()  # ids of running jobs that the device was told to give up
        self._announced: dict[int, tuple[int, TaskQueue, JobBuffers]] = {}  # by id of buffers
        self._num_starts = 0
        self._hold_off = HoldOff(agenda, self._announced)
        self._faults: tuple[str, ...] = ()
        self._next_audit_ns = 0
        self._completion = GateCompletion(device, books, self._steps, clock.now_ns)

    @property
    def is_busy(self) -> bool:
        """Whether jobs are on the device, or were and have not been ended."""
        return bool(self._running or self._completion.left)

    def next_due_ns(self) -> int | None:
        """When there is something to do at the latest, if a turn had nothing."""
        due = [until_ns for until_ns, _, _ in self._announced.values()]
        if (release_ns := self._agenda.next_due_ns()) is not None:
            due.append(release_ns)
        if self.is_busy:
            due.append(self._now_ns() + _LOOK_NS)
        return min(due, default=None)

    def prepare(self) -> None:
        """Have the device look whether a run may begin.

        Raises:
            GatesError: it may not.
        """
        self._device.prepare()

    def check_task(self, task: Task) -> None:
        """Return if gates can tell how urgent the task's jobs are.

        Raises:
            InputError: they cannot.
        """
        job = Job(id=-1, task=task, inputs={}, release_ns=self._now_ns())
        try:
            self._policy.gate_rank(job, 0)
        except InputError as err:
            raise InputError(f"task {task.name!r}: {err}; or run by segments") from err

    def turn(self) -> bool:
        """Whether something was started or has ended, or an urgent job's end is waited for.

        Raises:
            DeviceError: nothing ends any more; what was on the device has failed.
        """
        now_ns = self._now_ns()
        timed = self._agenda.timed
        if timed and timed[0][0] <= now_ns:
            self._agenda.release_due(now_ns)
        is_started = bool(self._books.ready) and self._start_next()
        has_ended = bool(self._running) and self._look()
        has_told = bool(self._completion.left) and self._tell_on()
        if self._announced:
            self._end_announcements(now_ns)
        is_urgent = any(launch.job.priority is not None for launch in self._running)
        if now_ns >= self._next_audit_ns and not is_urgent:
            self._audit(now_ns)
        return is_started or has_ended or has_told or is_urgent

    def complete_all(self) -> None:
        """Wait for everything that was launched, and do its books.

        Raises:
            DeviceError: nothing ends any more; what was on the device has failed.
        """
        self._progress.reset()
        while self._running:
            self._look(leaves=False)
        self._completion.end_all()

    def cancel_all(self) -> None:
        """End every job and forget all that was to come; what has ended on the device finishes."""
        self._completion.end_all()
        self._agenda.clear()
        for queue in list(self._books.queues.values()):
            self._books.cancel_jobs(queue)
        self.complete_all()

    def quiesce(self) -> None:
        """After an error, leave nothing on the device that would still use a job's buffers.

        What was interrupted may have left a job there that no list has.
        """
        with contextlib.suppress(DeviceError):  # given up; the error that was there is told
            self.complete_all()
        with contextlib.suppress(Exception):
            self._device.wait_for_all()

    def warm_up(self, queue: TaskQueue, inputs: Mapping[str, Array]) -> None:
        """Run all steps of the task in each of its buffers, on the device but in no books."""
        self.complete_all()
        warm_up(queue, inputs, self._steps, self._run_network, self.quiesce, now_ns=self._now_ns())

    def announce(self, queue: TaskQueue) -> None:
        """Hold less urgent jobs back for the task's next job, which is about to be released."""
        if queue.is_closed or not queue.pool.free or queue.head() is not None:
            return  # its next job waits for the one before anyway
        now_ns = self._now_ns()
        job = Job(id=-1, task=queue.task, inputs={}, release_ns=now_ns)
        buffers = queue.pool.free[0]
        self._announced[id(buffers)] = (now_ns + ANNOUNCED_NS, queue, buffers)
        try:
            self._device.announce(buffers, self._policy.gate_rank(job, self._num_starts))
        except DeviceError as err:  # the job will wait for the stretch that runs
            _log.warning("task %s: its job is not announced: %s", queue.task.name, err)

    def _audit(self, now_ns: int) -> None:
        """Say what gates gave up, before the board's few records are overwritten."""
        if self._hold_off.leaves("audit", "", self._running, now_ns):
            return
        self._next_audit_ns = now_ns + _AUDIT_NS
        found = self._given_up()  # waits for a copy
        self._hold_off.took("audit", "", self._now_ns() - now_ns)
        for fault in found:
            _log.warning("gates: %s", fault)
        self._faults += found

    def _end_announcements(self, now_ns: int) -> None:
        """Let others go on where the announced job has not come."""
        for until_ns, queue, buffers in list(self._announced.values()):
            if until_ns <= now_ns or queue.pool.is_closed:
                self._end_announcement(queue, buffers)

    def _end_announcement(self, queue: TaskQueue, buffers: JobBuffers) -> None:
        if self._announced.pop(id(buffers), None) is None or queue.pool.is_closed:
            return  # closed buffers have given back what they announced
        try:
            self._device.cancel(buffers)
        except DeviceError as err:  # it expires by itself
            _log.warning("task %s: an announcement: %s", queue.task.name, err)

    def gate_faults(self) -> tuple[str, ...]:
        """What gates did since the last call that voids bounds."""
        found, self._faults = (*self._faults, *self._given_up()), ()
        return found

    def _given_up(self) -> tuple[str, ...]:
        try:
            return self._device.give_ups()
        except DeviceError as err:  # what was measured must not be lost with it
            return (f"the device does not tell what gates gave up: {err}",)

    # Starts

    def _start_next(self) -> bool:
        """Whether the most urgent job that has buffers was started, or a step towards that done."""
        queues = self._books.queues
        ready = [
            job
            for job in self._books.ready
            if job.buffers is not None or queues[job.task.name].pool.free
        ]
        if not ready:
            return False
        job = self._policy.pick(ready, self._now_ns())
        queue = self._books.queue_of_picked(job)
        start_ns = self._now_ns()
        if self._running and self._is_held_off(job, start_ns):
            return False
        if job.late_ns <= start_ns and queue.gives_up(job):
            self._books.stop(job, queue, LATE_STATES[queue.task.late], start_ns)
            return True
        if not job.is_started:
            if not job.start(start_ns):  # cancelled since the inbox was drained
                self._books.stop(job, queue, JobState.CANCELLED, start_ns)
                return True
            self._books.started(job, queue)
        try:
            self._begin(job, queue, start_ns)
        except Exception as err:  # it is the job's: its handle raises it, the others go on
            if job.buffers is not None:
                self._end_announcement(queue, job.buffers)
            self._books.stop(job, queue, _FAILED, self._now_ns(), err)
        else:
            self._hold_off.took("launch", queue.task.name, self._now_ns() - start_ns)
        return True

    def _begin(self, job: Job, queue: TaskQueue, start_ns: int) -> None:
        """`pre`, or a piece of its inputs, or its launch."""
        if queue.steps[job.step_idx] == "pre":
            self._steps.call(job, queue, "pre")
            job.step_idx += 1
            job.num_segments_run += 1
            self._completion.records.called(job, "pre", start_ns, self._now_ns())
            return
        if not self._steps.copy_inputs(job, queue):
            return
        assert job.buffers is not None
        launch = Launch(job, queue, 0, self._now_ns())
        rank = self._policy.gate_rank(job, self._num_starts)
        self._device.start(job.buffers, rank, is_urgent=job.priority is not None)
        self._num_starts += 1
        self._announced.pop(id(job.buffers), None)
        job.num_in_flight = 1
        self._running.append(launch)
        self._progress.reset()
        self._books.hold(job, queue)

    def _is_held_off(self, job: Job, now_ns: int) -> bool:
        """Whether a launch of best effort would be in the way of an urgent job."""
        return job.priority is None and self._hold_off.leaves(
            "launch", job.task.name, self._running, now_ns
        )

    # Ends

    def _look(self, *, leaves: bool = True) -> bool:
        """Whether a job has ended; what is not wanted any more goes on as the least urgent."""
        ended = self._ended(self._looked_at() if leaves else self._running)
        if ended:
            self._complete(ended)
            self._progress.reset()
        elif stuck := self._progress.looked(each.job for each in self._running):
            self._give_up(stuck)
        return bool(ended)

    def _looked_at(self) -> list[Launch]:
        """Jobs on the device, but of best effort only those whose end would be in nobody's way."""
        now_ns, running, leaves = self._now_ns(), self._running, self._hold_off.leaves
        others = {each.job.task.name for each in running if each.job.priority is None}
        left = {name for name in others if leaves("completion", name, running, now_ns)}
        return [
            each
            for each in running
            if each.job.priority is not None or each.job.task.name not in left
        ]

    def _tell_on(self) -> bool:
        """Whether a piece of what is left of jobs that have ended was done."""
        each, start_ns = self._completion.left[0], self._now_ns()
        name = each.launch.queue.task.name
        work: Work = "closing" if each.is_told else "telling"
        if self._hold_off.leaves(work, name, self._running, start_ns):
            return False
        self._completion.go_on()
        self._hold_off.took(work, name, self._now_ns() - start_ns)
        return True

    def _give_up(self, stuck: str) -> None:
        """Fail all that is on the device, which is asked for nothing any more."""
        error = self._device.abandon(stuck)
        now_ns = self._now_ns()
        self._complete([Ended(launch, now_ns, error) for launch in self._running])
        self._completion.end_all()
        raise error

    def _ended(self, launches: Sequence[Launch]) -> list[Ended]:
        """What the device has done or failed, of each task in the order of release."""
        ended: list[Ended] = []
        unfinished: set[int] = set()  # queues whose later jobs end later, whatever copies do
        for launch in launches:
            is_wanted = launch.job.fate is None
            if is_wanted and id(launch.queue) in unfinished:
                continue
            try:
                if self._device.is_done(_buffers_of(launch)):
                    ended.append(Ended(launch, self._now_ns()))
                    continue
            except Exception as err:  # it is the job's, as in `_start_next`
                ended.append(Ended(launch, self._now_ns(), err))
                continue
            self._withdraw(launch)
            if launch.job.fate is None:
                unfinished.add(id(launch.queue))
        return ended

    def _complete(self, ended: Sequence[Ended]) -> None:
        start_ns = self._now_ns()
        for each in ended:
            each.launch.job.num_in_flight = 0  # before it leaves the list: interrupted, it is
            self._running.remove(each.launch)  # cancelled
            self._withdrawn.discard(each.launch.job.id)
        self._completion.complete(ended)
        elapsed_ns = (self._now_ns() - start_ns) // len(ended) if ended else 0
        for each in ended:
            self._hold_off.took("completion", each.launch.queue.task.name, elapsed_ns)

    def _withdraw(self, launch: Launch) -> None:
        """Have a job that is dropped or cancelled keep nobody waiting any more."""
        job, queue = launch.job, launch.queue
        if job.fate is None and queue.task.late == "drop":
            now_ns = self._now_ns()
            if job.late_ns <= now_ns:
                self._books.stop(job, queue, JobState.DROPPED, now_ns)
        if job.fate is not None and job.id not in self._withdrawn:
            self._withdrawn.add(job.id)
            try:
                self._device.cancel(_buffers_of(launch))
            except DeviceError as err:  # it goes on as urgent as it was
                _log.warning("task %s: job %d: %s", queue.task.name, job.id, err)

    def _run_network(self, job: Job, buffers: JobBuffers) -> None:
        rank = self._policy.gate_rank(job, self._num_starts)
        self._device.start(buffers, rank, is_urgent=job.priority is not None)
        self._progress.reset()
        while not self._device.is_done(buffers):
            if stuck := self._progress.looked([job]):
                raise self._device.abandon(stuck)


def _buffers_of(launch: Launch) -> JobBuffers:
    buffers = launch.job.buffers
    assert buffers is not None, "a job keeps its buffers until it has ended"
    return buffers
