"""Choosing how far to cut each network, so that every deadline is kept at the least cost.

The most urgent network is not cut at all; every other one as coarsely as the blocking tolerance of
those ahead allows. That is optimal where a coarser cut is never worse for the network itself. It
can be: the last segment cannot be interrupted, and may come out shorter. So what comes out is
judged by the exact analysis, and where it fails, every single bound for all networks is tried,
then each network relaxed as far as the analysis allows.

Source: Bertogna, Buttazzo, Marinoni, Yao, Esposito and Caccamo, ECRTS 2010.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from preempt_runtime.schedulability.analysis import analyse, loads_from_tasks
from preempt_runtime.schedulability.cuts import Front
from preempt_runtime.schedulability.loads import Load
from preempt_runtime.schedulability.model import AnalysedTask, Assumptions, SetBound
from preempt_runtime.schedulability.tolerance import (
    deadline_tolerance_ns,
    priority_tolerance_ns,
)

_MAX_GLOBAL_BOUNDS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The tasks with their segments chosen, and what the analysis says of them."""

    tasks: tuple[AnalysedTask, ...]
    bound: SetBound

    @property
    def is_schedulable(self) -> bool:
        """Every deadline is kept."""
        return self.bound.is_schedulable

    def cut_of(self, name: str) -> tuple[int, ...]:
        """The segments chosen for the task of that name."""
        return next(task.segment_ns for task in self.tasks if task.name == name)

    @property
    def lateness(self) -> tuple[int, int, int]:
        """How bad it is: tasks without a bound, tasks that are late, and by how much together."""
        late = [task for task in self.bound.tasks if not task.is_schedulable]
        num_unbounded = sum(task.response_ns is None for task in late)
        return num_unbounded, len(late), sum(-(task.slack_ns or 0) for task in late)


def choose_bounds(
    tasks: Sequence[AnalysedTask],
    fronts: Mapping[str, Front],
    policy: str,
    assumptions: Assumptions,
) -> Choice:
    """The cuts under which every deadline is kept; the least late ones found if there are none.

    Whatever one bound for all networks makes schedulable, this does.

    Args:
        tasks: their own segments do not count.
        fronts: by task name, how each network may be cut.
        policy: as in `analyse`.
        assumptions: as in `analyse`.
    """
    coarsest = _cut(tasks, [fronts[task.name].cuts[0] for task in tasks], policy, assumptions)
    if coarsest.is_schedulable or policy not in (
        "fixed-priority",
        "rate-monotonic",
        "deadline-monotonic",
        "edf",
    ):
        return coarsest
    tolerant = by_tolerance(tasks, fronts, policy, assumptions)
    if tolerant.is_schedulable:
        return tolerant
    single = under_one_bound(tasks, fronts, policy, assumptions)
    if single.is_schedulable:
        return _relaxed(single, fronts)
    return min(tolerant, single, coarsest, key=lambda choice: choice.lateness)


def by_tolerance(
    tasks: Sequence[AnalysedTask],
    fronts: Mapping[str, Front],
    policy: str,
    assumptions: Assumptions,
) -> Choice:
    """Each network cut as coarsely as those ahead of it can bear."""
    chosen = {task.name: fronts[task.name].cuts[0] for task in tasks}
    coarsest = loads_from_tasks(
        [t.with_segments(chosen[t.name]) for t in tasks], policy, assumptions
    )
    most_ns = max(load.longest_ns for load in coarsest) + assumptions.resume_cost_ns
    ahead: list[Load] = []
    allowed_ns = most_ns
    for level in _levels(tasks, coarsest, policy):
        if policy == "edf":
            deadline_ns = None if level[0].is_best_effort else level[0].effective_deadline_ns
            tolerance_ns = deadline_tolerance_ns(ahead, deadline_ns, allowed_ns, assumptions)
            allowed_ns = tolerance_ns or 0
        for task in level:
            chosen[task.name] = _coarsest_within(task, fronts, policy, assumptions, allowed_ns)
        cut = [task.with_segments(chosen[task.name]) for task in level]
        loads = loads_from_tasks(cut, policy, assumptions)
        ahead += loads
        if policy != "edf" and not level[0].is_best_effort:
            borne_ns = priority_tolerance_ns(loads, ahead, allowed_ns, assumptions)
            allowed_ns = borne_ns or 0
    return _cut(tasks, [chosen[task.name] for task in tasks], policy, assumptions)


def under_one_bound(
    tasks: Sequence[AnalysedTask],
    fronts: Mapping[str, Front],
    policy: str,
    assumptions: Assumptions,
) -> Choice:
    """All networks cut under one bound, the largest that keeps every deadline, if any does.

    The bounds tried are longest segments of cuts, evenly chosen where there are many. A network
    that cannot keep one is cut as finely as it can be.
    """
    choices = (
        _cut(tasks, [_under(fronts[task.name], bound_ns) for task in tasks], policy, assumptions)
        for bound_ns in _global_bounds(fronts)
    )
    best: Choice | None = None
    for choice in choices:
        if choice.is_schedulable:
            return choice
        if best is None or choice.lateness < best.lateness:
            best = choice
    assert best is not None, "every front has a cut"
    return best


def _global_bounds(fronts: Mapping[str, Front]) -> Iterator[int]:
    values = sorted({x for front in fronts.values() for x in front.longest_ns}, reverse=True)
    step = max(1.0, (len(values) - 1) / (_MAX_GLOBAL_BOUNDS - 1))
    last = len(values) - 1
    indices = {min(last, round(idx * step)) for idx in range(_MAX_GLOBAL_BOUNDS)}
    return (values[idx] for idx in sorted(indices))


def _under(front: Front, bound_ns: int) -> tuple[int, ...]:
    return front.under(bound_ns) or front.cuts[-1]


def _levels(
    tasks: Sequence[AnalysedTask], loads: Sequence[Load], policy: str
) -> list[list[AnalysedTask]]:
    """The tasks by urgency; those of one level do not block each other, best effort comes last."""
    urgency = {
        load.name: (load.is_best_effort, load.deadline_ns if policy == "edf" else -load.rank)
        for load in loads
    }
    ordered = sorted(tasks, key=lambda task: urgency[task.name])
    return [list(level) for _, level in groupby(ordered, key=lambda task: urgency[task.name])]


def _coarsest_within(
    task: AnalysedTask,
    fronts: Mapping[str, Front],
    policy: str,
    assumptions: Assumptions,
    allowed_ns: int,
) -> tuple[int, ...]:
    """The coarsest cut whose longest segment, as it blocks, is within what is allowed."""
    for cut in fronts[task.name].cuts:
        (load,) = loads_from_tasks([task.with_segments(cut)], policy, assumptions)
        if load.longest_ns <= allowed_ns:
            return cut
    return fronts[task.name].cuts[-1]


def _relaxed(choice: Choice, fronts: Mapping[str, Front]) -> Choice:
    """Each network cut as coarsely as the others' present cuts allow, the urgent ones first."""
    policy, assumptions = choice.bound.policy, choice.bound.assumptions
    loads = loads_from_tasks(choice.tasks, policy, assumptions)
    for level in _levels(choice.tasks, loads, policy):
        for task in level:
            cuts = {other.name: other.segment_ns for other in choice.tasks}
            for cut in fronts[task.name].cuts:
                if cut == cuts[task.name]:
                    break
                trial = [cut if x.name == task.name else cuts[x.name] for x in choice.tasks]
                found = _cut(choice.tasks, trial, policy, assumptions)
                if found.is_schedulable:
                    choice = found
                    break
    return choice


def _cut(
    tasks: Sequence[AnalysedTask],
    cuts: Sequence[tuple[int, ...]],
    policy: str,
    assumptions: Assumptions,
) -> Choice:
    cut = tuple(task.with_segments(segments) for task, segments in zip(tasks, cuts, strict=True))
    return Choice(tasks=cut, bound=analyse(cut, policy, assumptions))
