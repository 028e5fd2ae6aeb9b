"""Single changes that would make a task set schedulable, each verified by the analysis."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from preempt_runtime.schedulability.analysis import ANALYSED_POLICIES
from preempt_runtime.schedulability.bounds import Choice, choose_bounds, schedulable_cuts
from preempt_runtime.schedulability.cuts import Front, front_from_cuts
from preempt_runtime.schedulability.limits import segment_limits
from preempt_runtime.schedulability.model import AnalysedTask, Assumptions, scaled_ns
from preempt_runtime.units import fmt_exact_ns, fmt_ns, rounded_down_ns, rounded_up_ns

Kind = Literal["bound", "priority", "cost", "deadline", "period"]
_COST_FACTORS = tuple(percent / 100 for percent in range(95, 45, -5))
_PERIOD_FACTORS = (1.05, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What bounds are chosen for. `free_fronts` are those of networks whose bound is prescribed."""

    tasks: tuple[AnalysedTask, ...]
    fronts: Mapping[str, Front]
    free_fronts: Mapping[str, Front]
    policy: str
    assumptions: Assumptions

    def choose(self) -> Choice:
        """The best cuts."""
        return choose_bounds(self.tasks, self.fronts, self.policy, self.assumptions)

    def is_solved(self) -> bool:
        """Whether blocking tolerances lead to cuts that keep every deadline."""
        return schedulable_cuts(self.tasks, self.fronts, self.policy, self.assumptions) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of one task that makes every task schedulable; `text` says it to people."""

    kind: Kind
    task: str
    text: str


def single_changes(problem: Problem, choice: Choice) -> tuple[Change, ...]:
    """At most one change per kind and task, the cheapest kinds first, then the smallest changes.

    Args:
        problem: one that is not schedulable.
        choice: its least late cuts.
    """
    if problem.policy not in ANALYSED_POLICIES or any(
        _is_unknown(task, problem) for task in problem.tasks
    ):
        return ()
    late = [bound.name for bound in choice.bound.tasks if not bound.is_schedulable]
    urgent = [task for task in problem.tasks if not task.is_best_effort]
    return (
        *_other_bounds(problem),
        *_swaps(problem, urgent, late),
        *_cheaper(problem),
        *_later_deadlines(problem, urgent, choice),
        *_longer_periods(problem, urgent),
    )


def _is_unknown(task: AnalysedTask, problem: Problem) -> bool:
    """Nothing bounds its releases, and it counts: no change of another task helps."""
    return task.period_ns is None and (problem.policy == "fifo" or not task.is_best_effort)


def _is_solved(problem: Problem, changed: AnalysedTask) -> bool:
    tasks = tuple(changed if task.name == changed.name else task for task in problem.tasks)
    return replace(problem, tasks=tasks).is_solved()


def _other_bounds(problem: Problem) -> Iterator[Change]:
    for name, free in problem.free_fronts.items():
        choice = replace(problem, fronts={**problem.fronts, name: free}).choose()
        if not choice.is_schedulable:
            continue
        limit_ns = segment_limits(choice, {**problem.fronts, name: free})[name]
        found_ns = limit_ns if limit_ns is not None else max(free.cuts[0])
        bound_ns = max(rounded_down_ns(found_ns), max(choice.cut_of(name)))
        yield Change(
            kind="bound", task=name, text=f"max_segment = {fmt_exact_ns(bound_ns)} for {name!r}"
        )


def _swaps(problem: Problem, urgent: Sequence[AnalysedTask], late: list[str]) -> Iterator[Change]:
    if problem.policy != "fixed-priority":
        return
    tried = set()
    for task in (task for task in urgent if task.name in late):
        for other in urgent:
            pair = frozenset((task.name, other.name))
            if task.priority == other.priority or pair in tried:
                continue
            tried.add(pair)
            swapped = {
                task.name: replace(task, priority=other.priority),
                other.name: replace(other, priority=task.priority),
            }
            tasks = tuple(swapped.get(entry.name, entry) for entry in problem.tasks)
            if replace(problem, tasks=tasks).is_solved():
                text = f"the priorities of {task.name!r} and {other.name!r} swapped"
                yield Change(kind="priority", task=task.name, text=text)


def _cheaper(problem: Problem) -> Iterator[Change]:
    def is_enough(task: AnalysedTask, factor: float) -> bool:
        front = scaled_front(problem.fronts[task.name], factor)
        return replace(problem, fronts={**problem.fronts, task.name: front}).is_solved()

    found = _smallest_factors(problem.tasks, _COST_FACTORS, is_enough)
    for factor, task in sorted(found, key=lambda entry: (-entry[0], entry[1].name)):
        text = f"{task.name!r} at x{factor:g} of its cost, as a lower precision might"
        yield Change(kind="cost", task=task.name, text=text)


def _smallest_factors(
    tasks: Sequence[AnalysedTask],
    factors: Sequence[float],
    is_enough: Callable[[AnalysedTask, float], bool],
) -> Iterator[tuple[float, AnalysedTask]]:
    """The first of the ascending changes that is enough, for each task whose last one is."""
    for task in tasks:
        if is_enough(task, factors[-1]):
            yield next(factor for factor in factors if is_enough(task, factor)), task


def scaled_front(front: Front, factor: float) -> Front:
    """The front of a network that is faster by a factor, in every segment.

    >>> scaled_front(Front(cuts=((10,), (6, 6))), 0.5).cuts
    ((5,), (3, 3))
    """
    every = {cost_ns for cut in front.cuts for cost_ns in cut}
    faster_ns = {cost_ns: max(1, scaled_ns(cost_ns, factor)) for cost_ns in every}
    return front_from_cuts(tuple(faster_ns[cost_ns] for cost_ns in cut) for cut in front.cuts)


def _later_deadlines(
    problem: Problem, urgent: Sequence[AnalysedTask], choice: Choice
) -> Iterator[Change]:
    for task in urgent:
        bound = choice.bound.task(task.name)
        if bound.is_schedulable or bound.response_ns is None:
            continue
        deadline_ns = rounded_up_ns(bound.response_ns)
        if _is_solved(problem, replace(task, deadline_ns=deadline_ns)):
            yield _instead("deadline", task.name, deadline_ns, bound.deadline_ns)


def _longer_periods(problem: Problem, urgent: Sequence[AnalysedTask]) -> Iterator[Change]:
    def period_ns(task: AnalysedTask, factor: float) -> int:
        return rounded_up_ns(scaled_ns(task.period_ns or 0, factor))

    def is_enough(task: AnalysedTask, factor: float) -> bool:
        return _is_solved(problem, replace(task, period_ns=period_ns(task, factor)))

    found = _smallest_factors(urgent, _PERIOD_FACTORS, is_enough)
    for factor, task in sorted(found, key=lambda entry: (entry[0], entry[1].name)):
        yield _instead("period", task.name, period_ns(task, factor), task.period_ns)


def _instead(kind: Kind, name: str, value_ns: int, now_ns: int | None) -> Change:
    now = "" if now_ns is None else f" instead of {fmt_ns(now_ns)}"
    return Change(
        kind=kind, task=name, text=f"a {kind} of {fmt_exact_ns(value_ns)}{now} for {name!r}"
    )
