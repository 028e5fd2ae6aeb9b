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

from preempt_runtime.schedulability.analysis import (
    FIXED_PRIORITY_POLICIES,
    analyse,
    is_schedulable,
    loads_from_tasks,
)
from preempt_runtime.schedulability.cuts import Front
from preempt_runtime.schedulability.loads import Load, inflated_ns
from preempt_runtime.schedulability.model import AnalysedTask, Assumptions, SetBound
from preempt_runtime.schedulability.tolerance import (
    deadline_tolerance_ns,
    priority_tolerance_ns,
)

CUTTING_HELPS = (*FIXED_PRIORITY_POLICIES, "edf")
_MAX_GLOBAL_BOUNDS = 64
Cuts = Sequence[tuple[int, ...]]


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
    """The cuts under which every deadline is kept; less late ones of two if there are none.

    Whatever one bound for all networks makes schedulable, this does.

    Args:
        tasks: their own segments do not count.
        fronts: by task name, how each network may be cut.
        policy: as in `analyse`.
        assumptions: as in `analyse`.
    """
    coarsest = [fronts[task.name].cuts[0] for task in tasks]
    if _holds(tasks, coarsest, policy, assumptions):
        return choice_of_cuts(tasks, coarsest, policy, assumptions)
    if not _has_choice(fronts):
        return choice_of_cuts(tasks, coarsest, policy, assumptions)
    tolerant = by_tolerance(tasks, fronts, policy, assumptions)
    if policy in CUTTING_HELPS:
        if _holds(tasks, tolerant, policy, assumptions):
            return choice_of_cuts(tasks, tolerant, policy, assumptions)
        single = under_one_bound(tasks, fronts, policy, assumptions)
        if single is not None:
            cuts = _relaxed(tasks, single, fronts, policy, assumptions)
            return choice_of_cuts(tasks, cuts, policy, assumptions)
    choices = [choice_of_cuts(tasks, cut, policy, assumptions) for cut in (tolerant, coarsest)]
    return min(choices, key=lambda choice: choice.lateness)


def schedulable_cuts(
    tasks: Sequence[AnalysedTask],
    fronts: Mapping[str, Front],
    policy: str,
    assumptions: Assumptions,
) -> Cuts | None:
    """The cuts to which blocking tolerances lead, if they keep every deadline."""
    coarsest = [fronts[task.name].cuts[0] for task in tasks]
    if _holds(tasks, coarsest, policy, assumptions):
        return coarsest
    if policy not in CUTTING_HELPS or not _has_choice(fronts):
        return None
    tolerant = by_tolerance(tasks, fronts, policy, assumptions)
    return tolerant if _holds(tasks, tolerant, policy, assumptions) else None


def _has_choice(fronts: Mapping[str, Front]) -> bool:
    return any(len(front.cuts) > 1 for front in fronts.values())


def by_tolerance(
    tasks: Sequence[AnalysedTask],
    fronts: Mapping[str, Front],
    policy: str,
    assumptions: Assumptions,
) -> Cuts:
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
            deadline_ns = None if level[0].is_best_effort else level[0].implicit_deadline_ns
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
    return [chosen[task.name] for task in tasks]


def under_one_bound(
    tasks: Sequence[AnalysedTask],
    fronts: Mapping[str, Front],
    policy: str,
    assumptions: Assumptions,
) -> Cuts | None:
    """All networks cut under one bound, the largest that keeps every deadline; None: none does.

    The bounds tried are longest segments of cuts, evenly chosen where there are many. A network
    that cannot keep one is cut as finely as it can be.
    """
    for bound_ns in _global_bounds(fronts):
        cuts = [_under(fronts[task.name], bound_ns) for task in tasks]
        if _holds(tasks, cuts, policy, assumptions):
            return cuts
    return None


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

    def urgency_of(load: Load) -> tuple[bool, int]:
        if load.is_best_effort:  # one level, and the last, whatever periods it has
            return True, 0
        return False, load.deadline_ns if policy == "edf" else -load.rank

    urgency = {load.name: urgency_of(load) for load in loads}
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
    front = fronts[task.name]
    factor = assumptions.corun_factor * task.corun_factor
    for cut, longest_ns in zip(front.cuts, front.longest_ns, strict=True):
        if inflated_ns(longest_ns, assumptions, factor) > allowed_ns:
            continue
        (load,) = loads_from_tasks([task.with_segments(cut)], policy, assumptions)
        if load.longest_ns <= allowed_ns:
            return cut
    return front.cuts[-1]


def _relaxed(
    tasks: Sequence[AnalysedTask],
    cuts: Cuts,
    fronts: Mapping[str, Front],
    policy: str,
    assumptions: Assumptions,
) -> Cuts:
    """Each network cut as coarsely as the others' present cuts allow, the urgent ones first."""
    found = {task.name: cut for task, cut in zip(tasks, cuts, strict=True)}
    loads = loads_from_tasks(tasks, policy, assumptions)
    for level in _levels(tasks, loads, policy):
        for task in level:
            for cut in fronts[task.name].cuts:
                trial = {**found, task.name: cut}
                if cut == found[task.name]:
                    break
                if _holds(tasks, list(trial.values()), policy, assumptions):
                    found = trial
                    break
    return list(found.values())


def _holds(
    tasks: Sequence[AnalysedTask], cuts: Cuts, policy: str, assumptions: Assumptions
) -> bool:
    cut = [task.with_segments(segments) for task, segments in zip(tasks, cuts, strict=True)]
    return is_schedulable(cut, policy, assumptions)


def choice_of_cuts(
    tasks: Sequence[AnalysedTask],
    cuts: Cuts,
    policy: str,
    assumptions: Assumptions,
) -> Choice:
    """The tasks so cut, and what the analysis says of them."""
    cut = tuple(task.with_segments(segments) for task, segments in zip(tasks, cuts, strict=True))
    return Choice(tasks=cut, bound=analyse(cut, policy, assumptions))
