"""How many jobs of each task wait, and whether a queue grew as long as jobs were released."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from preempt_runtime.records import JobRecord, SegmentRecord
from preempt_runtime.task_spec import TaskSpec

MAX_BACKLOG = 200_000  # jobs of one task without a bound, or of all; about 160 MB
_NUM_QUARTERS = 4
_GROWS_FROM = 10
_GROWS_BY = 1.5
_GROWS_AT_MOST_BY = 4.0  # more is a burst at the end


@dataclass(slots=True)
class _Backlog:
    now: int = 0
    most: int = 0
    at_quarters: list[int] = field(default_factory=list)
    next_quarter_ns: int = 0
    last: int = 0


class BacklogWatch:
    """An instrument that counts each task's released and unended jobs, the running one included.

    They are counted as the dispatcher sees them, at preemption points.

    `overfull` says which run is to be given up, and why: more than `limit` jobs of a task wait
    whose queue has no bound, or more than `MAX_BACKLOG` of all tasks together.
    """

    def __init__(
        self, tasks: Iterable[TaskSpec], duration_ns: int, limit: int = MAX_BACKLOG
    ) -> None:
        self.overfull: str | None = None
        self._num_waiting = 0
        self._unbounded = {
            task.name for task in tasks if task.mailbox == "queue" and task.max_pending is None
        }
        self._quarter_ns = max(1, duration_ns // _NUM_QUARTERS)
        self._limit = limit
        self._backlogs: dict[str, _Backlog] = {}

    def job_released(self, job_id: int, task: str, release_ns: int) -> None:
        """One more."""
        backlog = self._backlogs.get(task)
        if backlog is None:
            backlog = self._backlogs[task] = _Backlog()
        while backlog.next_quarter_ns <= release_ns:
            backlog.at_quarters.append(backlog.now)
            backlog.next_quarter_ns += self._quarter_ns
        backlog.now += 1
        backlog.last = backlog.now
        if backlog.now > backlog.most:
            backlog.most = backlog.now
            if backlog.most > self._limit and task in self._unbounded and not self.overfull:
                self.overfull = f"task {task!r}: more than {self._limit} of its jobs wait"
        self._num_waiting += 1
        if self._num_waiting > MAX_BACKLOG and not self.overfull:
            most = max(self._backlogs, key=lambda name: self._backlogs[name].now)
            self.overfull = (
                f"more than {MAX_BACKLOG} jobs of all tasks wait, {self._backlogs[most].now} of"
                f" them of task {most!r},"
            )

    def segment_ended(self, record: SegmentRecord) -> None:
        """Nothing: only jobs wait."""

    def job_ended(self, record: JobRecord) -> None:
        """One less."""
        self._backlogs[record.task].now -= 1
        self._num_waiting -= 1

    def most(self, task: str) -> int:
        """The most jobs of the task that were released and unended at any time."""
        return self._backlogs[task].most if task in self._backlogs else 0

    def warnings(self) -> tuple[str, ...]:
        """A line for each task whose queue has no bound and grew from quarter to quarter.

        One that grows from nothing at a steady rate has twice as many jobs at its last release as
        at half time.
        """
        return tuple(
            f"task {task!r}: its queue grows without bound under this load:"
            f" {found.at_quarters[2]} jobs at half time, {found.last} at the last release;"
            " set max_pending, mailbox = 'latest' or late = 'drop', or lower the load"
            for task, found in self._backlogs.items()
            if task in self._unbounded and _grows(found)
        )


def _grows(found: _Backlog) -> bool:
    counts = [*found.at_quarters[:_NUM_QUARTERS], found.last]
    if len(counts) <= _NUM_QUARTERS or found.last < _GROWS_FROM:
        return False
    if any(later <= earlier for earlier, later in pairwise(counts)):
        return False
    return _GROWS_BY <= found.last / counts[2] <= _GROWS_AT_MOST_BY
