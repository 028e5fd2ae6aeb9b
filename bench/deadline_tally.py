"""What became of each task's jobs, and how often the hypervisor took time during a miss."""

from array import array
from bisect import bisect_right
from collections.abc import Sequence

from preempt_runtime.records import JobRecord, JobState, SegmentRecord
from preempt_runtime.system_view import SystemView, view_this_machine


class TaskTally:
    """One task over one block; eight bytes for each finished job."""

    def __init__(self) -> None:
        self.jobs = 0
        self.missed = 0
        self.missed_with_steal = 0
        self.dropped = 0
        self._response_ns = array("q")

    def add(self, record: JobRecord, *, has_steal: bool) -> None:
        """Count a job that has ended."""
        self.jobs += 1
        self.dropped += record.state is JobState.DROPPED
        if record.response_ns is not None:
            self._response_ns.append(record.response_ns)
        if record.is_missed:
            self.missed += 1
            self.missed_with_steal += has_steal

    @property
    def response_ns(self) -> Sequence[int]:
        """Of the finished jobs, in the order in which they ended."""
        return self._response_ns


class DeadlineTally:
    """An instrument that looks at the machine's steal time when a job ends (30 us).

    Where jobs are short it does so at most every `look_every_ns`, and after every miss.
    """

    def __init__(self, view: SystemView | None = None, *, look_every_ns: int = 0) -> None:
        self._look_every_ns = look_every_ns
        self.tasks: dict[str, TaskTally] = {}
        self._view = view or view_this_machine()
        self._looks_ns, self._ticks = array("q"), array("q")

    def job_released(self, job_id: int, task: str, release_ns: int) -> None:
        """Not of interest here."""

    def segment_ended(self, record: SegmentRecord) -> None:
        """Not of interest here."""

    def job_ended(self, record: JobRecord) -> None:
        """Count it, and whether time was stolen since the last look before its release."""
        has_steal = self._sees_steal(record) if self._is_due(record) else False
        self.tasks.setdefault(record.task, TaskTally()).add(record, has_steal=has_steal)

    def _is_due(self, record: JobRecord) -> bool:
        if record.is_missed or not self._looks_ns or record.end_ns is None:
            return True
        return record.end_ns - self._looks_ns[-1] >= self._look_every_ns

    def _sees_steal(self, record: JobRecord) -> bool:
        times = self._view.cpu_times()
        ticks = 0 if times is None else times.steal_ticks
        place = bisect_right(self._looks_ns, record.release_ns) - 1
        before = self._ticks[place] if place >= 0 else ticks
        if record.end_ns is not None:
            self._looks_ns.append(record.end_ns)
            self._ticks.append(ticks)
        return ticks > before
