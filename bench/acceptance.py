"""Shares of random task sets that each way of cutting networks makes schedulable."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from bench.random_sets import uunifast
from preempt_runtime.schedulability import (
    AnalysedTask,
    Assumptions,
    Front,
    choose_bounds,
    even_front,
)
from preempt_runtime.schedulability.analysis import is_schedulable, loads_from_tasks, outcome_of
from preempt_runtime.schedulability.bounds import under_one_bound
from preempt_runtime.schedulability.edf import edf_busy_period_ns, is_demand_met
from preempt_runtime.schedulability.fixed_priority import Bounded
from preempt_runtime.schedulability.loads import Load, Unbounded

NUM_TASKS = 5
POINT_COST_NS = 71_000
"""What a preemption point cost in the median of docs/results/cpu-networks.md."""
IDEAL, PLANNED = "full preemption, for nothing", "bounds of preemptc plan"
_SHORTEST_NS, _LONGEST_NS = 10_000_000, 1_000_000_000
_MAX_SEGMENTS = 64
_PLAIN = Assumptions()

Method = Callable[[Sequence[AnalysedTask], Mapping[str, Front], str], bool]


def random_networks(rng: random.Random, share: float) -> tuple[AnalysedTask, ...]:
    """Five periodic networks with that utilisation before any cut.

    Periods are log-uniform from 10 ms to 1 s, deadlines uniform from the middle between cost and
    period to the period; the shorter deadline has the higher priority.
    """
    tasks = []
    for idx, part in enumerate(uunifast(rng, NUM_TASKS, share)):
        period_ns = round(_SHORTEST_NS * (_LONGEST_NS / _SHORTEST_NS) ** rng.random())
        cost_ns = max(1000, round(part * period_ns))
        deadline_ns = round(rng.uniform((cost_ns + period_ns) / 2, period_ns))
        tasks.append(
            AnalysedTask(
                name=f"t{idx}",
                segment_ns=(cost_ns,),
                period_ns=period_ns,
                deadline_ns=max(cost_ns, deadline_ns),
            )
        )
    by_deadline = sorted(tasks, key=lambda task: task.implicit_deadline_ns or 0, reverse=True)
    ranks = {task.name: rank for rank, task in enumerate(by_deadline)}
    return tuple(replace(task, priority=ranks[task.name]) for task in tasks)


def fronts_of(tasks: Sequence[AnalysedTask]) -> dict[str, Front]:
    """Each network cut evenly, every point at its price."""
    return {
        task.name: Front(cuts=even_front(task.segment_ns[0], POINT_COST_NS).cuts[:_MAX_SEGMENTS])
        for task in tasks
    }


def _whole(tasks: Sequence[AnalysedTask], fronts: Mapping[str, Front], policy: str) -> bool:
    return is_schedulable(tasks, policy, _PLAIN)


def _one_bound(tasks: Sequence[AnalysedTask], fronts: Mapping[str, Front], policy: str) -> bool:
    return under_one_bound(tasks, fronts, policy, _PLAIN) is not None


def _evenly(tasks: Sequence[AnalysedTask], fronts: Mapping[str, Front], policy: str) -> bool:
    """Every network in the same number of segments, any number."""
    return any(
        is_schedulable([_nth_cut(task, fronts[task.name], n) for task in tasks], policy, _PLAIN)
        for n in range(_MAX_SEGMENTS)
    )


def _nth_cut(task: AnalysedTask, front: Front, n: int) -> AnalysedTask:
    return task.with_segments(front.cuts[min(n, len(front.cuts) - 1)])


def _planned(tasks: Sequence[AnalysedTask], fronts: Mapping[str, Front], policy: str) -> bool:
    return choose_bounds(tasks, fronts, policy, _PLAIN).is_schedulable


def _ideal(tasks: Sequence[AnalysedTask], fronts: Mapping[str, Front], policy: str) -> bool:
    """Preemption anywhere, for nothing: no segment is longer than a nanosecond."""
    loads = [
        replace(load, longest_ns=1, last_ns=1) for load in loads_from_tasks(tasks, policy, _PLAIN)
    ]
    if policy == "edf":
        busy_ns = edf_busy_period_ns(loads, 0, 1)
        return not isinstance(busy_ns, Unbounded) and is_demand_met(loads, [], 1, busy_ns)
    return all(_is_in_time(load, loads) for load in loads)


def _is_in_time(load: Load, loads: Sequence[Load]) -> bool:
    outcome = outcome_of(load, loads, _PLAIN)
    return isinstance(outcome, Bounded) and outcome.response_ns <= load.deadline_ns


METHODS: Mapping[str, Method] = {
    IDEAL: _ideal,
    PLANNED: _planned,
    "one bound for all networks": _one_bound,
    "equally many segments": _evenly,
    "no preemption": _whole,
}


def accepted_shares(policy: str, share: float, *, num_sets: int, seed: int) -> dict[str, float]:
    """The share of random sets of one utilisation that each method makes schedulable."""
    rng = random.Random(f"{seed}/{share:.3f}")
    counts = dict.fromkeys(METHODS, 0)
    for _ in range(num_sets):
        tasks = random_networks(rng, share)
        fronts = fronts_of(tasks)
        for name, method in METHODS.items():
            counts[name] += method(tasks, fronts, policy)
    return {name: count / num_sets for name, count in counts.items()}
