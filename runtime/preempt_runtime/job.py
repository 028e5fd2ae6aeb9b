"""Job: one run of a task's network, and what a policy may see of it."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from preempt_runtime.device import Array, JobBuffers
from preempt_runtime.records import JobRecord, JobState
from preempt_runtime.task import Task

_log = logging.getLogger(__name__)
# Looking a member up in its class takes 0.25 us on Python 3.10, and a job needs eight.
_PENDING, _RUNNING = JobState.PENDING, JobState.RUNNING
_FINISHED, _CANCELLED = JobState.FINISHED, JobState.CANCELLED
NEVER_NS = 1 << 62
Key = tuple[int, ...]  # compared from left to right


class ReadyJob(Protocol):
    """What a policy may look at: nothing that it could change."""

    @property
    def id(self) -> int:
        """Unique in its executor, in the order of submission."""
        ...

    @property
    def priority(self) -> int | None:
        """Its task's priority; None is best effort."""
        ...

    @property
    def is_best_effort(self) -> bool:
        """Every real-time job goes before it."""
        ...

    @property
    def release_ns(self) -> int:
        """When it became ready."""
        ...

    @property
    def deadline_ns(self) -> int | None:
        """Absolute deadline, if its task has one."""
        ...

    @property
    def relative_deadline_ns(self) -> int | None:
        """Its task's deadline, or else its period."""
        ...

    @property
    def due_ns(self) -> int | None:
        """Absolute deadline, by the period where its task has no deadline."""
        ...

    @property
    def period_ns(self) -> int | None:
        """Its task's period."""
        ...

    @property
    def cost_ns(self) -> int:
        """What all its segments are expected to take: measured medians, or predictions."""
        ...

    @property
    def remaining_ns(self) -> int:
        """What the segments that have not completed are expected to take."""
        ...

    @property
    def idle_since_ns(self) -> int:
        """When its last segment ended; its release if none has."""
        ...

    @property
    def is_started(self) -> bool:
        """At least one of its segments has been launched."""
        ...

    @property
    def turn(self) -> int:
        """Smaller for a task that has waited longer since it last started a job."""
        ...

    @property
    def key(self) -> Key:
        """Its place in the policy's order: ascending is most urgent first."""
        ...


class Job:
    """The mutable state of one job; the dispatcher owns it, `lock` guards its transitions.

    Only `cancel` and `add_done_callback` may be called from other threads.
    """

    __slots__ = (
        "_callbacks",
        "blocked_before_ns",
        "blocking_ns",
        "buffers",
        "deadline_ns",
        "due_ns",
        "end_ns",
        "error",
        "fate",
        "id",
        "idle_since_ns",
        "inputs",
        "is_admitted",
        "is_best_effort",
        "is_cancel_asked",
        "is_done",
        "is_held",
        "is_settled",
        "is_started",
        "key",
        "late_ns",
        "lock",
        "num_in_flight",
        "num_preemptions",
        "num_segments_run",
        "pieces",
        "priority",
        "release_ns",
        "start_ns",
        "state",
        "step_idx",
        "task",
        "turn",
        "value",
    )

    def __init__(
        self, *, id: int, task: Task, inputs: Mapping[str, Array], release_ns: int
    ) -> None:
        self.id = id
        self.task = task
        self.inputs: Mapping[str, Array] | None = inputs
        self.value: Any = None
        self.buffers: JobBuffers | None = None  # from its first segment to its end
        self.pieces: Iterator[None] | None = None  # of its inputs, while they are copied
        self.error: Exception | None = None
        self.priority = task.priority
        self.is_best_effort = task.priority is None
        self.release_ns = release_ns
        self.deadline_ns = (
            None if task.relative_deadline_ns is None else release_ns + task.relative_deadline_ns
        )
        within_ns = task.implicit_deadline_ns
        self.due_ns = None if within_ns is None else release_ns + within_ns
        self.late_ns = self._late_ns()  # from when on its task wants it no more
        # The dispatcher sets both: 64 ready jobs are compared at every preemption point.
        self.turn = 0
        self.key: Key = ()
        self.idle_since_ns = release_ns
        self.state = _PENDING
        self.start_ns: int | None = None
        self.end_ns: int | None = None
        self.blocking_ns = 0
        self.blocked_before_ns = 0
        self.num_preemptions = 0
        self.num_segments_run = 0
        self.step_idx = 0  # of the next to be launched
        self.num_in_flight = 0
        self.fate: tuple[JobState, Exception | None] | None = None  # once nothing is in flight
        self.is_started = False
        self.is_held = False  # nothing of it is left to launch
        self.is_admitted = False
        self.is_settled = False
        self.is_cancel_asked = False
        self.is_done = False  # state.is_final, which takes 0.25 us
        self.lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] | None = None

    def take_over(self, task: Task) -> None:
        """Its task has other values now; it keeps the deadline of its release, if it had one."""
        self.task = task
        self.priority = task.priority
        self.is_best_effort = task.priority is None
        within_ns = task.implicit_deadline_ns
        if self.due_ns is None and within_ns is not None:
            self.due_ns = self.release_ns + within_ns  # policies ask for it in real time
        self.late_ns = self._late_ns()

    def _late_ns(self) -> int:
        return NEVER_NS if self.task.late == "run" or self.due_ns is None else self.due_ns

    @property
    def relative_deadline_ns(self) -> int | None:
        """Its task's deadline, or else its period."""
        return self.task.implicit_deadline_ns

    @property
    def period_ns(self) -> int | None:
        """Its task's period."""
        return self.task.period_ns

    @property
    def cost_ns(self) -> int:
        """What all its segments are expected to take."""
        return self.task.cost_ns

    @property
    def remaining_ns(self) -> int:
        """What the segments that have not completed are expected to take."""
        return self.task.remaining_by_step_ns[self.num_segments_run]

    def start(self, now_ns: int) -> bool:
        """Whether it could be started: it was pending, not cancelled meanwhile."""
        with self.lock:
            if self.state is not _PENDING:
                return False
            self.state = _RUNNING
        self.is_started = True
        self.start_ns = now_ns
        return True

    def end(self, state: JobState, now_ns: int, error: Exception | None = None) -> None:
        """Reach `state`, or `CANCELLED` if that was promised; without effect on an ended job."""
        with self.lock:
            if self.is_done:
                return
            if self.is_cancel_asked:
                state, error = _CANCELLED, None
            self.error = error
            self.end_ns = now_ns
            self.state = state
            self.is_done = True
            self.inputs = self.pieces = None
            if state is not _FINISHED:
                self.value = None

    def cancel(self, now_ns: int) -> bool:
        """Whether the job is or will be cancelled: at once if pending, else when it can stop."""
        with self.lock:
            if self.is_done:
                return self.state is _CANCELLED
            self.is_cancel_asked = True
            if self.state is _RUNNING:
                return True
            self.end_ns = now_ns
            self.state = _CANCELLED
            self.is_done = True
            self.inputs = None
        return True

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call it once the job has ended; at once if it has."""
        with self.lock:
            if not self.is_done:
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(callback)
                return
        callback()

    def notify(self) -> None:
        """Tell everyone who waits; what they raise is theirs and must not stop the dispatcher."""
        if self._callbacks is None:  # it has ended, so none can come any more
            return
        with self.lock:
            callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback()
            except Exception:
                _log.exception("task %s: a done callback of job %d raised", self.task.name, self.id)

    def record(self) -> JobRecord:
        """The job as it stands."""
        return JobRecord(
            job_id=self.id,
            task=self.task.name,
            priority=self.priority,
            release_ns=self.release_ns,
            start_ns=self.start_ns,
            end_ns=self.end_ns,
            deadline_ns=self.deadline_ns,
            state=self.state,
            blocking_ns=self.blocking_ns,
            num_preemptions=self.num_preemptions,
            num_segments_run=self.num_segments_run,
            error=None if self.error is None else f"{type(self.error).__name__}: {self.error}",
        )
