"""Cost watch: whether segments and jobs still take what their bundle says, and who hears if not.

Bounds rest on maxima that were measured once. Clocks change, a board gets hot, a neighbour takes
memory bandwidth: then segments take longer, and a bound that was true is not any more.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from preempt_runtime.manifest import Latency
from preempt_runtime.records import JobRecord, JobState, SegmentRecord
from preempt_runtime.schedulability import Assumptions
from preempt_runtime.schedulability.loads import inflated_ns
from preempt_runtime.units import fmt_ns

_log = logging.getLogger(__name__)
_LEAST_STEP_FRAC = 0.01
_WINDOW = 16
"""Runs over which a segment's time is smoothed: one outlier moves it by a sixteenth; of fewer runs
it is their mean."""
_NEVER_OVER_NS = 1 << 62  # nothing takes 146 years
_FINISHED = JobState.FINISHED  # looked up once, as in job.py


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedCosts:
    """What a task's segments took when they were measured, each None where it was not.

    Bounds hold under `assumptions`. `total_ns` is the longest time of all segments together, None
    where it was not measured.
    """

    latencies: tuple[Latency | None, ...]
    assumptions: Assumptions
    total_ns: int | None = None

    def allowed_ns(self, segment_idx: int) -> int | None:
        """The longest time of a segment with which its task's bound still holds.

        It is what the analysis counts. A segment with which a job goes on after another's may take
        longer by the cost of resuming. The first and the last one may each take all that a job pays
        once, which is seen in either.
        """
        own_ns = self._counted_ns(segment_idx)
        if own_ns is None:
            return None
        is_outer = segment_idx in (0, len(self.latencies) - 1)
        return own_ns + (self.assumptions.seen_once_ns if is_outer else 0)

    def allowed_job_ns(self) -> int | None:
        """The same of all segments of a job together; None where the bound rests on their sum."""
        assumed = self.assumptions
        found = [self._counted_ns(idx) for idx in range(len(self.latencies))]
        counted = [each_ns for each_ns in found if each_ns is not None]
        if self.total_ns is None or len(counted) < len(found):
            return None
        own_ns = inflated_ns(self.total_ns, assumed, assumed.corun_factor)
        own_ns += (len(found) - 1) * assumed.segment_dispatch_ns
        if own_ns >= sum(counted):
            return None
        return max(own_ns, *counted) + assumed.seen_once_ns

    def _counted_ns(self, segment_idx: int) -> int | None:
        latency, assumed = self.latencies[segment_idx], self.assumptions
        return (
            None if latency is None else inflated_ns(latency.max_ns, assumed, assumed.corun_factor)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """What took longer than its task's bound allows; `is_first` of its kind and task.

    `segment_idx` is None where it was not one segment but all of a job together.
    """

    task: str
    segment_idx: int | None
    elapsed_ns: int
    allowed_ns: int
    is_first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CostDrift:
    """One task's segments against its bundle, over one run.

    `num_exceeded` of `num_segments_run` took longer than allowed; the one that exceeded it by the
    largest factor is `worst_segment_idx`. `num_jobs_exceeded` of `num_jobs_run` finished jobs took
    longer in all than allowed, which is None where the bound rests on single segments alone.
    `slowdown_factor` is the smoothed time of its segments now over their measured medians: 1 is as
    measured. `max_observed_ns` is by segment. The longest times are without the cost of resuming
    where a job went on after another's segment.
    """

    num_segments_run: int
    num_exceeded: int
    slowdown_factor: float
    worst_segment_idx: int | None
    worst_elapsed_ns: int | None
    worst_allowed_ns: int | None
    max_observed_ns: tuple[int, ...]
    num_jobs_run: int = 0
    num_jobs_exceeded: int = 0
    max_observed_job_ns: int = 0
    allowed_job_ns: int | None = None


class CostWatch:
    """An instrument that compares every segment and every job with what their bundle says.

    `on_exceeded` is called on the dispatcher when one takes longer than allowed, and again when it
    takes longer than that by more than the margin (or a hundredth): so seldom that it may think
    about it. Without it, the log says so once for each task, of segments and of jobs.
    """

    def __init__(
        self,
        costs: Mapping[str, AllowedCosts],
        on_exceeded: Callable[[Excess], object] | None = None,
    ) -> None:
        self._watches = {task: _TaskWatch(task, found) for task, found in costs.items()}
        self._on_exceeded = on_exceeded or _say
        self._last_job_id: int | None = None

    def job_released(self, job_id: int, task: str, release_ns: int) -> None:
        """Not of interest here."""

    def segment_ended(self, record: SegmentRecord) -> None:
        """Compare it, if it is a network's; `pre` and `post` have no measured cost."""
        last_job_id, self._last_job_id = self._last_job_id, record.job_id
        watch = self._watches.get(record.task)
        if watch is None:
            return
        is_resumed = False
        if watch.job_id != record.job_id:
            watch.begin_job(record.job_id)
        else:
            is_resumed = last_job_id != record.job_id
        if not isinstance(record.segment_idx, str):
            excess = watch.add_segment(record.segment_idx, record.elapsed_ns, is_resumed)
            if excess is not None:
                self._on_exceeded(excess)

    def job_ended(self, record: JobRecord) -> None:
        """Compare what all its segments took, if it has finished."""
        watch = self._watches.get(record.task)
        if watch is None or watch.job_id != record.job_id or record.state is not _FINISHED:
            return
        excess = watch.add_job()
        if excess is not None:
            self._on_exceeded(excess)

    def drifts(self) -> dict[str, CostDrift]:
        """Each watched task, as it stands."""
        return {task: watch.drift() for task, watch in self._watches.items()}


class _TaskWatch:
    """One task; `job_ns` is what the segments of its present job took, resuming aside."""

    __slots__ = (
        *("allowed_job_ns", "allowed_ns", "job_id", "job_ns", "max_job_ns", "max_ns", "median_ns"),
        *("num_exceeded", "num_jobs", "num_jobs_exceeded", "num_resumed", "num_run", "num_seen"),
        *("resume_ns", "smooth_ns", "step_frac", "task", "told_job_ns", "told_ns"),
    )

    def __init__(self, task: str, costs: AllowedCosts) -> None:
        self.task = task
        allowed = [costs.allowed_ns(idx) for idx in range(len(costs.latencies))]
        self.allowed_ns = [_NEVER_OVER_NS if found is None else found for found in allowed]
        self.allowed_job_ns = costs.allowed_job_ns()
        self.told_ns = list(self.allowed_ns)
        self.told_job_ns = self.allowed_job_ns or _NEVER_OVER_NS
        self.step_frac = max(costs.assumptions.margin_frac, _LEAST_STEP_FRAC)
        self.resume_ns = costs.assumptions.resume_cost_ns
        self.median_ns = [0 if found is None else found.p50_ns for found in costs.latencies]
        self.smooth_ns: list[float] = [float(median_ns) for median_ns in self.median_ns]
        self.num_seen = [0] * len(allowed)
        self.max_ns = [0] * len(allowed)
        self.num_run = self.num_exceeded = 0
        self.num_jobs = self.num_jobs_exceeded = self.max_job_ns = 0
        self.begin_job(None)

    def begin_job(self, job_id: int | None) -> None:
        """What comes from now on is another job's."""
        self.job_id = job_id
        self.job_ns = self.num_resumed = 0

    def add_segment(self, idx: int, elapsed_ns: int, is_resumed: bool) -> Excess | None:
        """Take it in; the excess that is to be told, if it is one."""
        resume_ns = self.resume_ns if is_resumed else 0
        own_ns = max(0, elapsed_ns - resume_ns)
        self.num_run += 1
        self.num_resumed += is_resumed
        self.job_ns += own_ns
        if own_ns > self.max_ns[idx]:
            self.max_ns[idx] = own_ns
        num_seen = self.num_seen[idx]
        if num_seen < _WINDOW:
            num_seen += 1
            self.num_seen[idx] = num_seen
        smooth_ns = self.smooth_ns[idx]
        self.smooth_ns[idx] = smooth_ns + (elapsed_ns - smooth_ns) / num_seen
        allowed_ns = self.allowed_ns[idx]
        if own_ns <= allowed_ns:
            return None
        self.num_exceeded += 1
        if own_ns <= self.told_ns[idx]:
            return None
        self.told_ns[idx] = own_ns + round(own_ns * self.step_frac)
        return Excess(
            task=self.task,
            segment_idx=idx,
            elapsed_ns=elapsed_ns,
            allowed_ns=allowed_ns + resume_ns,
            is_first=self.num_exceeded == 1,
        )

    def add_job(self) -> Excess | None:
        """The same of the present job, which has finished."""
        self.num_jobs += 1
        self.max_job_ns = max(self.max_job_ns, self.job_ns)
        if self.allowed_job_ns is None or self.job_ns <= self.allowed_job_ns:
            return None
        self.num_jobs_exceeded += 1
        if self.job_ns <= self.told_job_ns:
            return None
        self.told_job_ns = self.job_ns + round(self.job_ns * self.step_frac)
        resume_ns = self.num_resumed * self.resume_ns
        return Excess(
            task=self.task,
            segment_idx=None,
            elapsed_ns=self.job_ns + resume_ns,
            allowed_ns=self.allowed_job_ns + resume_ns,
            is_first=self.num_jobs_exceeded == 1,
        )

    def drift(self) -> CostDrift:
        known = [idx for idx, median_ns in enumerate(self.median_ns) if median_ns]
        whole_ns = sum(self.median_ns[idx] for idx in known)
        over = [idx for idx in known if self.max_ns[idx] > self.allowed_ns[idx]]
        worst = max(over, key=lambda idx: self.max_ns[idx] / self.allowed_ns[idx], default=None)
        return CostDrift(
            num_segments_run=self.num_run,
            num_exceeded=self.num_exceeded,
            slowdown_factor=(
                sum(self.smooth_ns[idx] for idx in known) / whole_ns if whole_ns else 1.0
            ),
            worst_segment_idx=worst,
            worst_elapsed_ns=None if worst is None else self.max_ns[worst],
            worst_allowed_ns=None if worst is None else self.allowed_ns[worst],
            max_observed_ns=tuple(self.max_ns),
            num_jobs_run=self.num_jobs,
            num_jobs_exceeded=self.num_jobs_exceeded,
            max_observed_job_ns=self.max_job_ns,
            allowed_job_ns=self.allowed_job_ns,
        )


def _say(excess: Excess) -> None:
    if excess.is_first:
        _log.warning(
            "%s, so its bound does not hold any more; see `preempt-rt doctor`, or measure again"
            " (said once, counted on)",
            text_from_excess(excess),
        )


def text_from_excess(excess: Excess) -> str:
    """What took how long, against what was allowed."""
    idx = excess.segment_idx
    what = "all segments of a job" if idx is None else f"segment {idx}"
    return (
        f"task {excess.task}: {what} took {fmt_ns(excess.elapsed_ns)}, its bound allows"
        f" {fmt_ns(excess.allowed_ns)}"
    )
