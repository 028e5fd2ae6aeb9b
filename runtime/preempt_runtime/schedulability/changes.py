"""Single changes that would make a task set schedulable, each verified by the analysis."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from preempt_runtime.schedulability.analysis import ANALYSED_POLICIES
from preempt_runtime.schedulability.bounds import Choice, choose_bounds, schedulable_cuts
from preempt_runtime.schedulability.cuts import Front, front_from_cuts
from preempt_runtime.schedulability.limits import segment_limits
from preempt_runtime.schedulability.model import AnalysedTask, Assumptions, scaled_ns
from preempt_runtime.schedulability.screen import Least, Screen
from preempt_runtime.units import fmt_exact_ns, fmt_ns, rounded_down_ns, rounded_up_ns

Kind = Literal["depth", "bound", "priority", "cost", "deadline", "period"]
_COST_FACTORS = tuple(percent / 100 for percent in range(95, 45, -5))
_FEW_TASKS = 50
_MOST_EFFORT = 1_000_000
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
    """One change that makes every task schedulable; `text` says it to people.

    It is a change of one task; `task` is None where the whole set's depth is changed.
    """

    kind: Kind
    task: str | None
    text: str


def single_changes(problem: Problem, choice: Choice) -> tuple[Change, ...]:
    """At most one change per kind and task, the cheapest kinds first, then the smallest changes.

    In a set of very many tasks not every change is tried.

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
    trials = _Trials(problem, choice)
    return (
        *trials.afresh(_smaller_depth),
        *trials.afresh(_other_bounds),
        *trials.afresh(lambda these: _swaps(these, urgent, late)),
        *trials.afresh(_cheaper),
        *trials.afresh(lambda these: _later_deadlines(these, urgent, choice)),
        *trials.afresh(lambda these: _longer_periods(these, urgent)),
    )


def tries_every_change(tasks: Sequence[object]) -> bool:
    """Whether they are few enough for `single_changes` to try all changes it has."""
    return len(tasks) <= _FEW_TASKS


class _Trials:
    """Analyses a problem with changes, those that pass the screen; of many tasks only so many.

    The time of an analysis grows with the square of their number, that of a look with the number.
    """

    def __init__(self, problem: Problem, choice: Choice) -> None:
        self.problem = problem
        tasks, fronts, policy = problem.tasks, problem.fronts, problem.policy
        self.screen = Screen(tasks, fronts, policy, problem.assumptions, choice.bound)
        self._analyses_left = self._looks_left = 0

    def afresh(self, find: Callable[["_Trials"], Iterator[Change]]) -> Iterator[Change]:
        """What is found with as many trials as one kind of change may have."""
        num_tasks = len(self.problem.tasks)
        self._analyses_left = _MOST_EFFORT // num_tasks**2
        self._looks_left = _MOST_EFFORT // num_tasks
        return find(self)

    @property
    def are_over(self) -> bool:
        """Nothing more is tried."""
        is_spent = min(self._looks_left, self._analyses_left) <= 0
        return is_spent and not tries_every_change(self.problem.tasks)

    def may_go_on(self) -> bool:
        """Whether one more analysis is allowed; it counts."""
        if self.are_over:
            return False
        self._analyses_left -= 1
        return True

    def _may_hold(self, *changed: AnalysedTask, least: Least | None = None) -> bool:
        if self.are_over:
            return False
        self._looks_left -= 1
        return self.screen.may_hold(*changed, least=least) and self.may_go_on()

    def is_solved(self, *changed: AnalysedTask) -> bool:
        """Whether these tasks, in place of those of their names, make the set schedulable."""
        if not self._may_hold(*changed):
            return False
        by_name = {task.name: task for task in changed}
        tasks = tuple(by_name.get(task.name, task) for task in self.problem.tasks)
        return replace(self.problem, tasks=tasks).is_solved()

    def is_solved_by_speed(self, task: AnalysedTask, factor: float) -> bool:
        """Whether a faster network makes the set schedulable."""
        least = self.screen.least[task.name].scaled(factor)
        if not self._may_hold(task, least=least):
            return False
        front = scaled_front(self.problem.fronts[task.name], factor)
        fronts = {**self.problem.fronts, task.name: front}
        return replace(self.problem, fronts=fronts).is_solved()


def _is_unknown(task: AnalysedTask, problem: Problem) -> bool:
    """Nothing bounds its releases, and it counts: no change of another task helps."""
    return task.period_ns is None and (problem.policy == "fifo" or not task.is_best_effort)


def _smaller_depth(trials: _Trials) -> Iterator[Change]:
    """The largest smaller depth; in order of release it changes nothing."""
    problem = trials.problem
    depth = problem.assumptions.depth
    for fewer in () if problem.policy == "fifo" else range(depth - 1, 0, -1):
        if not trials.may_go_on():
            return
        assumptions = replace(problem.assumptions, depth=fewer)
        if replace(problem, assumptions=assumptions).is_solved():
            text = f"depth = {fewer} instead of {depth} for all tasks"
            yield Change(kind="depth", task=None, text=text)
            return


def _other_bounds(trials: _Trials) -> Iterator[Change]:
    problem = trials.problem
    for name, free in problem.free_fronts.items():
        if not trials.may_go_on():
            return
        choice = replace(problem, fronts={**problem.fronts, name: free}).choose()
        if not choice.is_schedulable:
            continue
        limit_ns = segment_limits(choice, {**problem.fronts, name: free})[name]
        found_ns = limit_ns if limit_ns is not None else max(free.cuts[0])
        bound_ns = max(rounded_down_ns(found_ns), max(choice.cut_of(name)))
        yield Change(
            kind="bound", task=name, text=f"max_segment = {fmt_exact_ns(bound_ns)} for {name!r}"
        )


def _swaps(trials: _Trials, urgent: Sequence[AnalysedTask], late: list[str]) -> Iterator[Change]:
    if trials.problem.policy != "fixed-priority":
        return
    tried = set()
    for task in (task for task in urgent if task.name in late):
        for other in urgent:
            if trials.are_over:
                return
            pair = frozenset((task.name, other.name))
            if task.priority == other.priority or pair in tried:
                continue
            tried.add(pair)
            swapped = (
                replace(task, priority=other.priority),
                replace(other, priority=task.priority),
            )
            if trials.is_solved(*swapped):
                text = f"the priorities of {task.name!r} and {other.name!r} swapped"
                yield Change(kind="priority", task=task.name, text=text)


def _cheaper(trials: _Trials) -> Iterator[Change]:
    found = _smallest_factors(trials.problem.tasks, _COST_FACTORS, trials.is_solved_by_speed)
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
            smaller = (factor for factor in factors[:-1] if is_enough(task, factor))
            yield next(itertools.chain(smaller, factors[-1:])), task


def scaled_front(front: Front, factor: float) -> Front:
    """The front of a network that is faster by a factor, in every segment.

    >>> scaled_front(Front(cuts=((10,), (6, 6))), 0.5).cuts
    ((5,), (3, 3))
    """
    every = {cost_ns for cut in front.cuts for cost_ns in cut}
    faster_ns = {cost_ns: max(1, scaled_ns(cost_ns, factor)) for cost_ns in every}
    return front_from_cuts(tuple(faster_ns[cost_ns] for cost_ns in cut) for cut in front.cuts)


def _later_deadlines(
    trials: _Trials, urgent: Sequence[AnalysedTask], choice: Choice
) -> Iterator[Change]:
    bounds = {bound.name: bound for bound in choice.bound.tasks}
    for task in urgent:
        bound = bounds[task.name]
        if bound.is_schedulable or bound.response_ns is None:
            continue
        deadline_ns = rounded_up_ns(bound.response_ns)
        if trials.is_solved(replace(task, deadline_ns=deadline_ns)):
            yield _instead("deadline", task.name, deadline_ns, bound.deadline_ns)


def _longer_periods(trials: _Trials, urgent: Sequence[AnalysedTask]) -> Iterator[Change]:
    def period_ns(task: AnalysedTask, factor: float) -> int:
        return rounded_up_ns(scaled_ns(task.period_ns or 0, factor))

    def is_enough(task: AnalysedTask, factor: float) -> bool:
        return trials.is_solved(replace(task, period_ns=period_ns(task, factor)))

    found = _smallest_factors(urgent, _PERIOD_FACTORS, is_enough)
    for factor, task in sorted(found, key=lambda entry: (entry[0], entry[1].name)):
        yield _instead("period", task.name, period_ns(task, factor), task.period_ns)


def _instead(kind: Kind, name: str, value_ns: int, now_ns: int | None) -> Change:
    now = "" if now_ns is None else f" instead of {fmt_ns(now_ns)}"
    return Change(
        kind=kind, task=name, text=f"a {kind} of {fmt_exact_ns(value_ns)}{now} for {name!r}"
    )
