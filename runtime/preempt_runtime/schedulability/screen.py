"""Screen: a quick look that finds most changes hopeless, long before an analysis of the whole set.

It asks for less than any cut could: every network at its least cost, blocking others with its
shortest longest segment, its own last segment as long as may be. What fails it under a policy fails
the analysis under any cut; what passes it has still to be analysed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from preempt_runtime.schedulability.analysis import FIXED_PRIORITY_POLICIES, rank_of
from preempt_runtime.schedulability.cuts import Front
from preempt_runtime.schedulability.demand import Demand
from preempt_runtime.schedulability.edf import edf_busy_period_ns, is_demand_met
from preempt_runtime.schedulability.fifo import fifo_bound
from preempt_runtime.schedulability.loads import (
    Load,
    Unbounded,
    inflated_ns,
    smallest_fixed_point,
)
from preempt_runtime.schedulability.model import AnalysedTask, Assumptions, SetBound, scaled_ns

_MOST_ASKED = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Least:
    """The least that a network takes: its cost, its shortest longest and its longest last segment.

    Without margin and all else that the analysis adds.
    """

    cost_ns: int
    longest_ns: int
    last_ns: int

    def scaled(self, factor: float) -> "Least":
        """The same of a network that is faster by a factor, or less."""
        return Least(
            cost_ns=max(1, scaled_ns(self.cost_ns, factor)),
            longest_ns=max(1, scaled_ns(self.longest_ns, factor)),
            last_ns=max(1, scaled_ns(self.last_ns, factor)),
        )


def least_of_front(front: Front) -> Least:
    """The least of any cut.

    >>> least_of_front(Front(cuts=((10,), (6, 7))))
    Least(cost_ns=10, longest_ns=7, last_ns=10)
    """
    return Least(
        cost_ns=min(map(sum, front.cuts)),
        longest_ns=front.longest_ns[-1],
        last_ns=max(cut[-1] for cut in front.cuts),
    )


class Screen:
    """Asks whether a set, some of its tasks changed, may be schedulable under any of its cuts."""

    def __init__(
        self,
        tasks: Sequence[AnalysedTask],
        fronts: Mapping[str, Front],
        policy: str,
        assumptions: Assumptions,
        bound: SetBound,
    ) -> None:
        """`bound` tells which tasks are late: these are asked first."""
        self.least = {task.name: least_of_front(fronts[task.name]) for task in tasks}
        self._policy = policy
        self._assumptions = assumptions
        self._loads = {task.name: self._load(task, self.least[task.name]) for task in tasks}
        late = [each for each in bound.tasks if not each.is_schedulable]
        late.sort(key=lambda each: (each.slack_ns is not None, each.slack_ns))
        self._late = [each.name for each in late[:_MOST_ASKED]]

    def may_hold(self, *tasks: AnalysedTask, least: Least | None = None) -> bool:
        """Whether the set may be schedulable with these tasks in place of those of their names.

        `least` is that of their networks; None: the same as before.
        """
        changed = {task.name: self._load(task, least or self.least[task.name]) for task in tasks}
        loads = {**self._loads, **changed}
        every = list(loads.values())
        if self._policy == "edf":
            return self._may_meet_demand(every)
        if self._policy == "fifo":
            found = fifo_bound(every)
            return not isinstance(found, Unbounded) and all(
                found.response_ns <= load.deadline_ns or load.is_best_effort for load in every
            )
        if self._policy in FIXED_PRIORITY_POLICIES:
            return all(self._may_be_in_time(loads[name], every) for name in self._late)
        return True

    def _load(self, task: AnalysedTask, least: Least) -> Load:
        assumed = self._assumptions
        factor = assumed.corun_factor * task.corun_factor
        cost_ns = least.cost_ns
        if task.total_ns is not None:
            cost_ns = min(cost_ns, task.total_ns)
        counted_ns = inflated_ns(cost_ns, assumed, factor)
        longest_ns = min(counted_ns, inflated_ns(least.longest_ns, assumed, factor))
        return Load(
            name=task.name,
            cost_ns=counted_ns,
            longest_ns=assumed.depth * longest_ns,  # all that is in flight
            last_ns=min(counted_ns, inflated_ns(least.last_ns, assumed, factor)),
            num_segments=1,
            period_ns=task.period_ns or 0,
            jitter_ns=task.jitter_ns,
            deadline_ns=task.implicit_deadline_ns or 0,
            rank=rank_of(task, self._policy),
        )

    def _may_be_in_time(self, load: Load, loads: Sequence[Load]) -> bool:
        """The first job of a busy period, blocked by what is in flight."""
        if load.deadline_ns == 0:
            return True
        lower_ns = max((x.longest_ns for x in loads if x.rank < load.rank), default=0)
        others_ns = Demand(x for x in loads if x.rank >= load.rank and x.name != load.name)
        fixed_ns = max(0, lower_ns - 1)
        fixed_ns += load.arrivals(1) * load.cost_ns - (load.last_ns - 1)
        most_ns = load.deadline_ns - load.last_ns + 1
        return (
            smallest_fixed_point(lambda window_ns: fixed_ns + others_ns(window_ns), 1, most_ns)
            is not None
        )

    def _may_meet_demand(self, loads: Sequence[Load]) -> bool:
        urgent = [load for load in loads if not load.is_best_effort]
        idle_ns = max((load.longest_ns for load in loads if load.is_best_effort), default=0)
        busy_ns = edf_busy_period_ns(urgent, 0, 1)
        if isinstance(busy_ns, Unbounded):
            return False
        return is_demand_met(urgent, [(None, idle_ns)], 1, busy_ns)
