"""What a task's segments cost in a simulation: measured, estimated, or given as numbers.

A segment's cost is known by its median, its 99th percentile and its maximum. Draws are log-normal
from the median to p99, so that a rare outlier stays rare, and a straight line from there to the
maximum. Below the median they are the median: nothing is known of faster runs, and to invent them
would flatter the schedule.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from preempt_runtime.bundle import Bundle, open_bundle
from preempt_runtime.errors import InputError
from preempt_runtime.manifest import SEGMENTS, SegmentSpec
from preempt_runtime.plan_choice import is_for_cpu, is_measured, machine_of, plan_with_costs
from preempt_runtime.schedulability import CostSource
from preempt_runtime.task_spec import CostSpec, TaskSpec
from preempt_runtime.taskset import TaskSetSpec

CostMode = Literal["fixed", "worst", "random"]
COST_MODES: tuple[CostMode, ...] = ("fixed", "worst", "random")
_MEDIAN, _P99 = 0.5, 0.99
_NORMAL = NormalDist()
_Z_P99 = _NORMAL.inv_cdf(_P99)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentCost:
    """One segment's cost; all three are equal where only one number is known."""

    p50_ns: int
    p99_ns: int
    max_ns: int

    def drawn_ns(self, share: float) -> int:
        """The cost at a share in [0, 1) of all runs.

        >>> cost = SegmentCost(p50_ns=100, p99_ns=144, max_ns=244)
        >>> [cost.drawn_ns(share) for share in (0.1, 0.5, 0.8775979, 0.99, 0.995)]
        [100, 100, 120, 144, 194]
        """
        if share < _MEDIAN:
            return self.p50_ns
        if share < _P99:
            return round(self.p50_ns * math.exp(self.sigma * _NORMAL.inv_cdf(share)))
        return self.p99_ns + round((share - _P99) / (1 - _P99) * (self.max_ns - self.p99_ns))

    @property
    def sigma(self) -> float:
        """Standard deviation of the logarithm; 0 where the median is 0, and has none."""
        return math.log(self.p99_ns / self.p50_ns) / _Z_P99 if self.p50_ns else 0.0

    def mean_ns(self, mode: CostMode) -> float:
        """What a run costs on average in a mode; in `random`, the mean of what is drawn.

        >>> SegmentCost(p50_ns=100, p99_ns=100, max_ns=300).mean_ns("random")
        101.0
        """
        if mode == "fixed":
            return self.p50_ns
        if mode == "worst":
            return self.max_ns
        sigma = self.sigma
        upper = math.exp(sigma * sigma / 2) * (_normal_cdf(_Z_P99 - sigma) - _normal_cdf(-sigma))
        last_ns = (1 - _P99) * (self.p99_ns + self.max_ns) / 2
        return round(self.p50_ns * (_MEDIAN + upper) + last_ns, 6)


def _normal_cdf(z: float) -> float:
    return math.erfc(-z / math.sqrt(2)) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCosts:
    """What one task's jobs cost, segment by segment, and where that is known from.

    `bundle` and `plan` are None where the task set gives the numbers. `machine` is what the plan
    was made for, as far as its key says so, `is_for_cpu` if that is a CPU,
    `target` its name there.
    """

    segments: tuple[SegmentCost, ...]
    source: CostSource
    bundle: str | None = None
    plan: str | None = None
    machine: str | None = None
    is_for_cpu: bool = False
    target: str | None = None

    def mean_job_ns(self, mode: CostMode) -> float:
        """What a job costs on average, if nothing preempts it."""
        return sum(segment.mean_ns(mode) for segment in self.segments)


def read_costs(taskset: TaskSetSpec) -> dict[str, TaskCosts]:
    """The costs of every task by its name; of bundles, only manifests are read.

    Raises:
        BundleError: a bundle is damaged, or lacks the plan that is asked for.
        InputError: a task has neither a bundle nor costs.
    """
    return {task.name: _costs_of(task, taskset) for task in taskset.tasks}


def _costs_of(task: TaskSpec, taskset: TaskSetSpec) -> TaskCosts:
    if task.cost is not None:
        return costs_from_numbers(task.cost, task.max_segment_ns)
    if task.bundle is None or not task.bundle.is_dir():
        what = "no bundle" if task.bundle is None else f"bundle {task.bundle} does not exist yet"
        raise InputError(
            f"{taskset.path}: task {task.name!r}: {what}, so its costs are not known; compile its"
            " model with `preemptc plan --compile`, or write cost or segments"
        )
    return costs_from_bundle(
        open_bundle(task.bundle), task.plan, taskset.threads, taskset.plan_mechanisms
    )


def costs_from_numbers(cost: CostSpec, max_segment_ns: int | None) -> TaskCosts:
    """Costs that the task set gives, cut under a bound if they are not segments already."""
    segments_ns = cost.segments_ns(max_segment_ns)
    segments = tuple(SegmentCost(p50_ns=ns, p99_ns=ns, max_ns=ns) for ns in segments_ns)
    return TaskCosts(segments=segments, source="given")


def costs_from_bundle(
    bundle: Bundle,
    plan_id: str | None,
    threads: int | None,
    mechanisms: Sequence[str] = (SEGMENTS,),
) -> TaskCosts:
    """Costs of the plan that `plan_with_costs` finds.

    Raises:
        BundleError: there is none.
    """
    plan = plan_with_costs(bundle, plan_id, threads, mechanisms)
    return TaskCosts(
        segments=tuple(map(_cost_of, plan.segments)),
        source="measured" if is_measured(plan) else "estimated",
        bundle=bundle.root.name,
        plan=plan.id,
        machine=machine_of(bundle.manifest, plan),
        is_for_cpu=is_for_cpu(bundle.manifest, plan),
        target=plan.target,
    )


def _cost_of(segment: SegmentSpec) -> SegmentCost:
    if segment.latency is None:
        predicted_ns = segment.predicted_ns
        return SegmentCost(p50_ns=predicted_ns, p99_ns=predicted_ns, max_ns=predicted_ns)
    found = segment.latency
    return SegmentCost(p50_ns=found.p50_ns, p99_ns=found.p99_ns, max_ns=found.max_ns)
