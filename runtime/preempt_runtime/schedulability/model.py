"""What a schedulability analysis takes and what it says; docs/schedulability.md has the theory."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from preempt_runtime.errors import InputError
from preempt_runtime.units import MAX_NS, fmt_ns

CostSource = Literal["measured", "given", "predicted", "estimated"]
SOURCES: tuple[CostSource, ...] = ("measured", "given", "predicted", "estimated")
"""Where costs come from, the most trustworthy first: maxima measured on the device, numbers of the
task set, predictions from a measured profile, and the estimate of a device that is elsewhere."""
MAX_PRIORITY = 1_000_000
MAX_DEPTH = 1_000
_MILLIONTHS = 1_000_000
_FLOAT_ERROR = 1e-12  # of a product of two factors: 1.5 * 1.1 is 1.6500000000000001


def _check_int(where: str, what: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:  # not isinstance: a bool is none here
        raise InputError(f"{where}: {what} {value!r}, allowed an integer from {least} to {most}")


def _check_number(where: str, what: str, value: object, least: float, most: float) -> None:
    if type(value) not in (int, float) or not least <= value <= most:  # type: ignore[operator]
        raise InputError(f"{where}: {what} {value!r}, allowed a number from {least} to {most}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What holds for every task: the dispatcher's and the device's price, and the safety margin.

    `depth` segments may be in flight; a job that goes on after another ran pays
    `resume_cost_ns`, every segment `dispatch_ns`, every job `job_dispatch_ns` once; every cost is
    first multiplied by `corun_factor` (measured: how much longer kernels take beside those of
    others), then raised by `margin_frac`. Both count in millionths, rounded up. Jobs that are
    launched whole (`is_launched_whole`, by gates) pay `dispatch_ns` once, too. What jobs pay once
    blocks others together with their longest segment; where they are launched whole twice: the host
    is busy with it when another job comes, and when that ends.
    """

    depth: int = 1
    resume_cost_ns: int = 0
    dispatch_ns: int = 0
    job_dispatch_ns: int = 0
    margin_frac: float = 0.0
    corun_factor: float = 1.0
    is_launched_whole: bool = False

    def __post_init__(self) -> None:
        where = "assumptions"
        _check_int(where, "depth", self.depth, 1, MAX_DEPTH)
        _check_int(where, "resume cost in ns", self.resume_cost_ns, 0, MAX_NS)
        _check_int(where, "dispatch in ns", self.dispatch_ns, 0, MAX_NS)
        _check_int(where, "dispatch of a job in ns", self.job_dispatch_ns, 0, MAX_NS)
        _check_number(where, "margin", self.margin_frac, 0, 100)
        _check_number(where, "co-run factor", self.corun_factor, 1, 1000)

    @property
    def segment_dispatch_ns(self) -> int:
        """What dispatching adds to each segment."""
        return 0 if self.is_launched_whole else self.dispatch_ns

    @property
    def once_ns(self) -> int:
        """What dispatching adds to each job, its segments aside."""
        return self.job_dispatch_ns + (self.dispatch_ns if self.is_launched_whole else 0)

    @property
    def seen_once_ns(self) -> int:
        """What of that shows in the host's times of a job's first or last segment.

        The times of jobs that are launched whole are the device's.
        """
        return 0 if self.is_launched_whole else self.job_dispatch_ns

    @property
    def blocking_dispatch_ns(self) -> int:
        """What dispatching a less urgent job adds to the segment by which it blocks."""
        return (2 if self.is_launched_whole else 1) * self.once_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysedTask:
    """A task as the analysis sees it: the costs of its segments, and when its jobs may come.

    Jobs come `period_ns` apart or more, each up to `jitter_ns` late; `period_ns` is None where
    nothing is known of that. `deadline_ns` counts from the (late) release. A larger priority runs
    first; best effort only blocks. `corun_factor` multiplies that of the set. `total_ns` is the
    most that all segments together take, where that is known: less than the sum of their maxima,
    which seldom come together.
    """

    name: str
    segment_ns: tuple[int, ...]
    period_ns: int | None = None
    jitter_ns: int = 0
    deadline_ns: int | None = None
    priority: int | None = None
    is_best_effort: bool = False
    source: CostSource = "given"
    corun_factor: float = 1.0
    total_ns: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise InputError(f"task {self.name!r}: its name is no string; give it one")
        where = f"task {self.name!r}"
        if not isinstance(self.segment_ns, tuple) or not self.segment_ns:
            raise InputError(
                f"{where}: segments {self.segment_ns!r}, expected a tuple of one cost in ns or more"
            )
        is_int = set(map(type, self.segment_ns)) == {int}
        if not is_int or min(self.segment_ns) < 1 or max(self.segment_ns) > MAX_NS:
            for idx, cost_ns in enumerate(self.segment_ns):
                _check_int(where, f"segment {idx} in ns", cost_ns, 1, MAX_NS)
        for what, time_ns in (
            ("period", self.period_ns),
            ("deadline", self.deadline_ns),
            ("total", self.total_ns),
        ):
            if time_ns is not None:
                _check_int(where, f"{what} in ns", time_ns, 1, MAX_NS)
        _check_int(where, "jitter in ns", self.jitter_ns, 0, MAX_NS)
        if self.priority is not None:
            _check_int(where, "priority", self.priority, -MAX_PRIORITY, MAX_PRIORITY)
        if type(self.is_best_effort) is not bool:
            raise InputError(f"{where}: is_best_effort {self.is_best_effort!r}, allowed a boolean")
        if self.source not in SOURCES:
            raise InputError(f"{where}: source {self.source!r}, allowed {', '.join(SOURCES)}")
        _check_number(where, "co-run factor", self.corun_factor, 1, 1000)

    @property
    def implicit_deadline_ns(self) -> int | None:
        """The deadline, or else the period."""
        return self.period_ns if self.deadline_ns is None else self.deadline_ns

    def with_segments(self, segment_ns: tuple[int, ...]) -> "AnalysedTask":
        """The same task, cut in another way; what it takes in all is then not known."""
        total_ns = self.total_ns if segment_ns == self.segment_ns else None
        return replace(self, segment_ns=segment_ns, total_ns=total_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskBound:
    """What the analysis says of one task; all times with margin and overheads.

    `cost_ns` is what a job takes alone, `blocking_ns` the most that less urgent segments hold it
    up, `response_ns` the most from release to result. Both are None where there is no bound, or
    none is asked (best effort); `reason` says why a task is not schedulable.
    """

    name: str
    cost_ns: int
    longest_ns: int
    blocking_ns: int | None
    response_ns: int | None
    deadline_ns: int | None
    is_best_effort: bool
    source: CostSource
    reason: str | None

    @property
    def slack_ns(self) -> int | None:
        """Deadline less response: negative where a deadline may be missed."""
        if self.response_ns is None or self.deadline_ns is None:
            return None
        return self.deadline_ns - self.response_ns

    @property
    def is_schedulable(self) -> bool:
        """Every deadline is kept; nothing is promised to best effort, so nothing is broken."""
        return self.reason is None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetBound:
    """What the analysis says of a task set, in the order of its tasks."""

    policy: str
    assumptions: Assumptions
    tasks: tuple[TaskBound, ...]

    @property
    def is_schedulable(self) -> bool:
        """Every task is."""
        return all(task.is_schedulable for task in self.tasks)

    @property
    def source(self) -> CostSource:
        """That of the least trustworthy cost: a bound is no better than what it is made of."""
        return max((task.source for task in self.tasks), key=SOURCES.index)

    def task(self, name: str) -> TaskBound:
        """The bound of the task of that name."""
        return next(task for task in self.tasks if task.name == name)


def scaled_ns(cost_ns: int, factor: float) -> int:
    """A cost times a factor that counts in millionths, both rounded up.

    >>> scaled_ns(1000, 1.1), scaled_ns(3, 1.1), scaled_ns(10**6, 1 + 1e-9)
    (1100, 4, 1000001)
    """
    return -(-cost_ns * _in_millionths(factor) // _MILLIONTHS)


def _in_millionths(factor: float) -> int:
    """Rounded up: a margin that was asked for is not less."""
    return math.ceil(factor * _MILLIONTHS * (1 - _FLOAT_ERROR))


def unscaled_ns(scaled: int, factor: float) -> int:
    """A cost that is, times the factor, no less than `scaled`.

    >>> unscaled_ns(1100, 1.1), unscaled_ns(4, 1.1)
    (1000, 4)
    """
    return -(-scaled * _MILLIONTHS // _in_millionths(factor))


def late_reason(response_ns: int, deadline_ns: int) -> str | None:
    """Why a response bound is not enough; None if it is.

    >>> late_reason(12_000_000, 10_000_000)
    'may end 2 ms after its deadline'
    """
    if response_ns <= deadline_ns:
        return None
    return f"may end {fmt_ns(response_ns - deadline_ns)} after its deadline"
