"""Cost watch: whether segments still take what their bundle says, and what to do when not.

Bounds rest on maxima that were measured once. Clocks change, a board gets hot, a neighbour takes
memory bandwidth: then segments take longer, and a bound that was true is not any more.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from preempt_runtime.manifest import Latency
from preempt_runtime.records import JobRecord, SegmentRecord
from preempt_runtime.units import fmt_ns

_log = logging.getLogger(__name__)
_LEAST_STEP_FRAC = 0.01
_WINDOW = 16  # runs over which a segment's time is smoothed: one outlier moves it by a sixteenth


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedCosts:
    """What each segment of a task took when it was measured; None where it was not.

    `margin_frac` is the share that bounds add to every maximum.
    """

    latencies: tuple[Latency | None, ...]
    margin_frac: float

    def allowed_ns(self, segment_idx: int) -> int | None:
        """The longest time of a segment with which its task's bound still holds."""
        latency = self.latencies[segment_idx]
        if latency is None:
            return None
        return latency.max_ns + round(latency.max_ns * self.margin_frac)


@dataclass(frozen=True, slots=True, kw_only=True)
class Excess:
    """A segment that took longer than its task's bound allows; `is_first` of its task."""

    task: str
    segment_idx: int
    elapsed_ns: int
    allowed_ns: int
    is_first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CostDrift:
    """One task's segments against its bundle, over one run.

    `num_exceeded` of `num_segments_run` took longer than allowed; the one that exceeded it by the
    largest factor is `worst_segment_idx`. `slowdown_factor` is the smoothed time of its segments
    now over their measured medians: 1 is as measured. `max_observed_ns` is by segment.
    """

    num_segments_run: int
    num_exceeded: int
    slowdown_factor: float
    worst_segment_idx: int | None
    worst_elapsed_ns: int | None
    worst_allowed_ns: int | None
    max_observed_ns: tuple[int, ...]


class CostWatch:
    """An instrument that compares every segment with what its bundle says.

    `on_exceeded` is called on the dispatcher when a segment takes longer than allowed, and again
    when it takes longer than that by more than the margin (or a hundredth): so seldom that it may
    think about it. Without it, the log says so once for each task.
    """

    def __init__(
        self,
        costs: Mapping[str, AllowedCosts],
        on_exceeded: Callable[[Excess], object] | None = None,
    ) -> None:
        self._watches = {task: _TaskWatch(found) for task, found in costs.items()}
        self._on_exceeded = on_exceeded or _say

    def job_released(self, job_id: int, task: str, release_ns: int) -> None:
        """Not of interest here."""

    def segment_ended(self, record: SegmentRecord) -> None:
        """Compare it, if it is a network's; `pre` and `post` have no measured cost."""
        watch = self._watches.get(record.task)
        idx = record.segment_idx
        if watch is None or isinstance(idx, str):
            return
        elapsed_ns = record.end_ns - record.start_ns
        watch.num_run += 1
        if elapsed_ns > watch.max_ns[idx]:
            watch.max_ns[idx] = elapsed_ns
        smooth_ns = watch.smooth_ns[idx]
        watch.smooth_ns[idx] = smooth_ns + (elapsed_ns - smooth_ns) / _WINDOW
        if elapsed_ns > watch.allowed_ns[idx]:
            watch.num_exceeded += 1
            if elapsed_ns > watch.told_ns[idx]:
                watch.told_ns[idx] = elapsed_ns + round(elapsed_ns * watch.step_frac)
                self._on_exceeded(
                    Excess(
                        task=record.task,
                        segment_idx=idx,
                        elapsed_ns=elapsed_ns,
                        allowed_ns=watch.allowed_ns[idx],
                        is_first=watch.num_exceeded == 1,
                    )
                )

    def job_ended(self, record: JobRecord) -> None:
        """Not of interest here."""

    def drifts(self) -> dict[str, CostDrift]:
        """Each watched task, as it stands."""
        return {task: watch.drift() for task, watch in self._watches.items()}


class _TaskWatch:
    __slots__ = (
        *("allowed_ns", "max_ns", "median_ns", "num_exceeded", "num_run"),
        *("smooth_ns", "step_frac", "told_ns"),
    )

    def __init__(self, costs: AllowedCosts) -> None:
        allowed = [costs.allowed_ns(idx) for idx in range(len(costs.latencies))]
        unknown = 1 << 62  # nothing takes 146 years: such a segment is never over it
        self.allowed_ns = [unknown if found is None else found for found in allowed]
        self.told_ns = list(self.allowed_ns)
        self.step_frac = max(costs.margin_frac, _LEAST_STEP_FRAC)
        self.median_ns = [0 if found is None else found.p50_ns for found in costs.latencies]
        self.smooth_ns: list[float] = [float(median_ns) for median_ns in self.median_ns]
        self.max_ns = [0] * len(allowed)
        self.num_run = 0
        self.num_exceeded = 0

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
    return (
        f"task {excess.task}: segment {excess.segment_idx} took {fmt_ns(excess.elapsed_ns)}, its"
        f" bundle and the margin allow {fmt_ns(excess.allowed_ns)}"
    )
