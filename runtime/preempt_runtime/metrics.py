"""What a run amounted to, per task: counts, and quantiles of response and blocking times."""

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from preempt_runtime.records import JobRecord, JobState, SegmentRecord

_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Nearest-rank quantiles of a sample: each is a value that occurred."""

    p50_ns: int
    p95_ns: int
    p99_ns: int
    max_ns: int
    num_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMetrics:
    """One task over one run.

    `missed` are finished jobs that finished after their deadline; a job that was dropped for being
    late is `dropped` alone. Jobs released and not yet ended
    are in `released` only. `response` is of finished jobs, `blocking` of all that ended after
    they had started; both are None without samples. `rate_per_s` counts finished jobs.
    """

    task: str
    released: int
    finished: int
    missed: int
    skipped: int
    dropped: int
    cancelled: int
    failed: int
    num_preemptions: int
    response: Quantiles | None
    blocking: Quantiles | None
    rate_per_s: float


class MetricsCollector:
    """An instrument that adds up records as they come.

    `max_samples` bounds its memory: quantiles are then of the last that many jobs of each task;
    counts are always of all. By default it keeps every sample.
    """

    def __init__(self, max_samples: int | None = None) -> None:
        self._max_samples = max_samples
        self._tallies: dict[str, _Tally] = {}

    def job_released(self, job_id: int, task: str, release_ns: int) -> None:
        """Count it."""
        self._tally(task).released += 1

    def segment_ended(self, record: SegmentRecord) -> None:
        """Nothing: metrics are of jobs."""

    def job_ended(self, record: JobRecord) -> None:
        """Count it, and take its samples."""
        self._tally(record.task).add(record)

    def metrics(self, duration_ns: int) -> dict[str, TaskMetrics]:
        """Metrics by task name, sorted; rates are over `duration_ns`."""
        return {
            task: _metrics_from_tally(task, self._tallies[task], duration_ns)
            for task in sorted(self._tallies)
        }

    def _tally(self, task: str) -> "_Tally":
        tally = self._tallies.get(task)
        if tally is None:
            tally = self._tallies[task] = _Tally(self._max_samples)
        return tally


class _Tally:
    __slots__ = ("blocking_ns", "ended", "missed", "num_preemptions", "released", "response_ns")

    def __init__(self, max_samples: int | None) -> None:
        self.released = 0
        self.missed = 0
        self.num_preemptions = 0
        self.ended = dict.fromkeys(JobState, 0)
        self.response_ns: deque[int] = deque(maxlen=max_samples)
        self.blocking_ns: deque[int] = deque(maxlen=max_samples)

    def add(self, record: JobRecord) -> None:
        self.ended[record.state] += 1
        self.num_preemptions += record.num_preemptions
        if (response_ns := record.response_ns) is not None:
            self.missed += record.is_missed
            self.response_ns.append(response_ns)
        if record.start_ns is not None and record.end_ns is not None:
            self.blocking_ns.append(record.blocking_ns)


def metrics_from_records(records: Iterable[JobRecord], duration_ns: int) -> dict[str, TaskMetrics]:
    """Metrics by task name, sorted; each record counts as one released job.

    >>> metrics_from_records([], 1)
    {}
    """
    collector = MetricsCollector()
    for record in records:
        collector.job_released(record.job_id, record.task, record.release_ns)
        collector.job_ended(record)
    return collector.metrics(duration_ns)


def no_jobs(task: str) -> TaskMetrics:
    """The metrics of a task that released nothing."""
    return _metrics_from_tally(task, _Tally(None), duration_ns=0)


def quantiles_from_samples(samples_ns: Iterable[int]) -> Quantiles | None:
    """Nearest-rank quantiles; None of an empty sample.

    The q-quantile of n sorted values is number ceil(q * n), counted from one.

    >>> quantiles_from_samples([30, 10, 20])
    Quantiles(p50_ns=20, p95_ns=30, p99_ns=30, max_ns=30, num_samples=3)
    """
    ordered = sorted(samples_ns)
    if not ordered:
        return None

    def at(percent: int) -> int:
        return ordered[-(-percent * len(ordered) // 100) - 1]

    return Quantiles(
        p50_ns=at(50),
        p95_ns=at(95),
        p99_ns=at(99),
        max_ns=ordered[-1],
        num_samples=len(ordered),
    )


def json_from_metrics(metrics: TaskMetrics) -> dict[str, Any]:
    """Plain values for `json.dumps`: nested dictionaries, None where there are no samples."""
    return asdict(metrics)


def _metrics_from_tally(task: str, tally: _Tally, duration_ns: int) -> TaskMetrics:
    finished = tally.ended[JobState.FINISHED]
    return TaskMetrics(
        task=task,
        released=tally.released,
        finished=finished,
        missed=tally.missed,
        skipped=tally.ended[JobState.SKIPPED],
        dropped=tally.ended[JobState.DROPPED],
        cancelled=tally.ended[JobState.CANCELLED],
        failed=tally.ended[JobState.FAILED],
        num_preemptions=tally.num_preemptions,
        response=quantiles_from_samples(tally.response_ns),
        blocking=quantiles_from_samples(tally.blocking_ns),
        rate_per_s=finished * _NS_PER_S / duration_ns if duration_ns > 0 else 0.0,
    )
