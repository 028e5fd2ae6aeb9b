"""What observers get: frozen records of jobs and of the segments that they ran."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class JobState(Enum):
    """Where a job is in its life; every job ends in exactly one of the last five states.

    `SKIPPED` means that the runtime left it out unstarted: a newer job took its place in a
    `latest` mailbox, its bounded queue was full, or its deadline had come, a newer one waited and
    its task is `late="skip"`. `DROPPED` means that its deadline came first, and its task is
    `late="drop"`; it may have started. `FAILED` means that a segment, `pre`, `post` or the
    source of its inputs raised.
    """

    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    SKIPPED = "skipped"
    DROPPED = "dropped"
    CANCELLED = "cancelled"
    FAILED = "failed"

    __hash__ = object.__hash__  # members are unique objects; Enum's own is Python code

    @property
    def is_final(self) -> bool:
        """Nothing will happen to the job any more."""
        return self not in (JobState.PENDING, JobState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job, as it stands or as it ended; times are the executor's clock, in ns.

    `blocking_ns` is the time that the job, released and unfinished, waited while a job of lower
    rank occupied the device. The policy says what ranks lower: a smaller priority, also under
    `fifo`; a longer period or deadline under the monotonic policies; under those whose order of
    two tasks changes from job to job, best effort below real time, and among jobs of the same
    kind the one that the policy would have put behind, had this one been there when it was
    launched. `num_preemptions` counts how often the job, started and unfinished,
    saw another job's segment run next. `num_segments_run` counts completed segments, `pre` and
    `post` included.

    With gates `blocking_ns` is what the job waited at its first gate while nothing of its own or a
    higher rank ran, and `num_preemptions` at how many later gates it had to wait.
    """

    job_id: int
    task: str
    priority: int | None
    release_ns: int
    start_ns: int | None
    end_ns: int | None
    deadline_ns: int | None
    state: JobState
    blocking_ns: int
    num_preemptions: int
    num_segments_run: int
    error: str | None

    @property
    def response_ns(self) -> int | None:
        """Time from release to end; only a finished job has responded."""
        if self.state is not JobState.FINISHED or self.end_ns is None:
            return None
        return self.end_ns - self.release_ns

    @property
    def is_missed(self) -> bool:
        """It finished, and after its deadline."""
        if self.response_ns is None or self.end_ns is None or self.deadline_ns is None:
            return False
        return self.end_ns > self.deadline_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRecord:
    """One non-preemptive stretch on the device: a network's segment, or a `pre` or `post` call.

    A job's first network segment includes the copy of its inputs, or of the last piece of large
    ones, its last one the copy of its outputs: nothing else can run meanwhile. With more than one
    segment in flight it starts when the one before it has ended, and the copies may be hidden
    behind that.

    With gates it is a stretch from its gate to the next, without copies, as the device's clock
    wrote it down, and observers hear of all of a job's when that has ended. `DeviceClock` says how
    far off the host's clock they may be.
    """

    job_id: int
    task: str
    segment_idx: int | str
    start_ns: int
    end_ns: int
    is_urgent: bool

    @property
    def elapsed_ns(self) -> int:
        """How long the device was taken."""
        return self.end_ns - self.start_ns


class Instrument(Protocol):
    """An observer; its methods run on the dispatcher and must be short.

    One that raises is disabled, with one line in the log; the executor goes on.
    """

    def job_released(self, job_id: int, task: str, release_ns: int) -> None:
        """A job was released; it may have waited for the running segment to be noticed."""
        ...

    def segment_ended(self, record: SegmentRecord) -> None:
        """A segment has completed or failed."""
        ...

    def job_ended(self, record: JobRecord) -> None:
        """A job has reached its final state."""
        ...
