"""Plan a task set: choose every network's bound so that all deadlines are kept, or say what would.

Nothing here decides by itself: bounds, responses and proposals come from
`preempt_runtime.schedulability`, costs from `plan_costs`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from preempt_runtime.errors import BuildError, InfeasibleError, InputError
from preempt_runtime.schedulability import (
    Change,
    Choice,
    fixed_front,
    segment_limits,
    single_changes,
    tries_every_change,
)
from preempt_runtime.task_spec import TaskSpec
from preempt_runtime.taskset import TaskSetSpec
from preempt_runtime.units import fmt_ns, rounded_down_ns
from preemptc.backends import BackendOptions, Progress
from preemptc.cache import BuildCache
from preemptc.compilation import Compilation, shape_text, told_of
from preemptc.deliver import check_place
from preemptc.pipeline import compile_model
from preemptc.plan_costs import CostOptions, NetworkCuts, bundle_costs, costs_of_tasks
from preemptc.plan_notes import precision_notes
from preemptc.plan_problem import PlanOptions, problem_of
from preemptc.plan_targets import check_gates, device_notes, targets_of
from preemptc.targets import CPU

# In docs/results/cpu-networks.json most networks' segments have maxima that sum up to 1.13 to 1.31
# times their medians, with an outlier among them up to 2.9 times.
_HEADROOMS = (0.0, 0.25, 0.6)

_NOTHING_COMPILED = "nothing was compiled: no bounds were found under which every deadline is kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSetPlan:
    """What was chosen, what the analysis says of it, and what to compile.

    `limits_ns` are bounds on segments by task, the file's own where it gives one, None where a
    network may stay whole or is as it is; `changes` are proposals for a set that is not
    schedulable; `notes` tell of bundles that were there before. `is_compiled` tells whether the
    costs are those of the bundles just compiled, `failure` why one could not be: those of the
    others are measured then.
    """

    taskset: TaskSetSpec
    costs: Mapping[str, NetworkCuts]
    choice: Choice
    limits_ns: Mapping[str, int | None]
    compilations: tuple[Compilation, ...]
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()
    is_compiled: bool = False
    failure: str | None = None

    @property
    def is_schedulable(self) -> bool:
        """Every deadline is kept, and every network that was to be compiled is."""
        return self.choice.is_schedulable and self.failure is None

    @property
    def tries_every_change(self) -> bool:
        """Whether all single changes were tried that there are."""
        return tries_every_change(self.taskset.tasks)


def plan_taskset(
    taskset: TaskSetSpec, options: PlanOptions, cache: BuildCache, progress: Progress
) -> TaskSetPlan:
    """The least costly cuts under which the analysis finds every deadline kept, if there are any.

    Raises:
        InputError: tasks that name one bundle name different models or profiles for it, or a
            device has no gates where the set is to run by them.
        PreemptError: costs cannot be found, or a task lacks what the policy needs.
    """
    _refuse_two_into_one(taskset.tasks)
    where = CostOptions(
        target=options.target,
        backend=_backend(taskset, options),
        bundle_threads=taskset.threads,
        mechanisms=taskset.plan_mechanisms,
    )
    uncut = {task.name: options.target for task in taskset.tasks if task.model is not None}
    check_gates(taskset, uncut)  # before anything is measured
    costs = costs_of_tasks(taskset.tasks, where, cache, progress)
    check_gates(taskset, targets_of(costs))
    progress("analysis", 0.0)
    problem = problem_of(taskset, costs, options)
    choice = problem.choose()
    prescribed_ns = {task.name: task.max_segment_ns for task in taskset.tasks}
    limits_ns = {
        name: prescribed_ns[name] or _readable_ns(limit_ns, choice.cut_of(name))
        for name, limit_ns in segment_limits(choice, problem.fronts).items()
    }
    if not choice.is_schedulable:
        progress("what would help", 0.0)
    compilations = _compilations(taskset, limits_ns, options)
    return TaskSetPlan(
        taskset=taskset,
        costs=costs,
        choice=choice,
        limits_ns=limits_ns,
        compilations=compilations,
        notes=(*device_notes(costs), *precision_notes(compilations)),
        changes=() if choice.is_schedulable else single_changes(problem, choice),
    )


def _readable_ns(limit_ns: int | None, cut: tuple[int, ...]) -> int | None:
    """A bound of three digits where one is as good: it still allows the chosen cut."""
    if limit_ns is None:
        return None
    rounded_ns = rounded_down_ns(limit_ns)
    return rounded_ns if rounded_ns >= max(cut) else limit_ns


def plan_and_compile(
    taskset: TaskSetSpec, options: PlanOptions, cache: BuildCache, progress: Progress
) -> TaskSetPlan:
    """The plan with its networks compiled, chosen again where what they took refutes it.

    Bounds are chosen from predictions, which are medians, and judged by measured maxima: where
    these leave no room, bounds are chosen once more with more of it.

    Raises:
        InputError: a task names no bundle to write.
        BuildError: a bundle cannot be written; none has been.
        PreemptError: costs cannot be found, or a network cannot be compiled.
    """
    _refuse_without_bundle(taskset.tasks)
    _check_places(taskset.tasks, cache)
    compiled, notes = None, None
    for number, headroom_frac in enumerate(_HEADROOMS):
        if compiled is not None:
            progress(_pass_text(number, compiled, headroom_frac), 0.0)
        roomy = replace(options, headroom_frac=headroom_frac)
        plan = plan_taskset(taskset, roomy, cache, progress)
        notes = plan.notes if notes is None else notes  # later the bundles are this plan's own
        plan = replace(plan, notes=notes)
        if not plan.choice.is_schedulable:
            return compiled or replace(plan, notes=(*plan.notes, _NOTHING_COMPILED))
        compiled = compile_plan(plan, options, cache, progress)
        if compiled.choice.is_schedulable or compiled.failure is not None:
            break
    assert compiled is not None
    return compiled


def _pass_text(number: int, refuted: TaskSetPlan, headroom_frac: float) -> str:
    """Which pass begins, and why."""
    late = next(task for task in refuted.choice.bound.tasks if not task.is_schedulable)
    return (
        f"pass {number + 1} of at most {len(_HEADROOMS)}: by what was measured task {late.name!r}"
        f" {late.reason}, so bounds are chosen again with {headroom_frac:.0%} more room for what is"
        " predicted"
    )


def compile_plan(
    plan: TaskSetPlan, options: PlanOptions, cache: BuildCache, progress: Progress
) -> TaskSetPlan:
    """The same set with its networks compiled, judged again by what their segments then took.

    A network that cannot keep its bound ends it: `failure` says so.

    Raises:
        InputError: a task names no bundle to write.
        BuildError: a bundle cannot be written; none has been.
        PreemptError: a network cannot be compiled at all.
    """
    _refuse_without_bundle(plan.taskset.tasks)
    _check_places(plan.taskset.tasks, cache)
    compiled: set[Path] = set()
    failure = None
    names = [_first_task(plan.taskset.tasks, each) for each in plan.compilations]
    for number, each in enumerate(plan.compilations):
        assert each.bundle is not None
        told = told_of(progress, names, number)
        try:
            compile_model(each.model, each.bundle, each.options, cache, told)
        except InfeasibleError as err:
            failure = (
                f"{plan.taskset.path}: task {names[number]!r}, cut under {_limit_text(each)}: {err}"
                " (in a task set that is max_segment; then others need a later deadline)"
            )
            break
        compiled.add(_place(each.bundle))
    costs = {
        task.name: bundle_costs(
            task.bundle, task.plan, plan.taskset.threads, plan.taskset.plan_mechanisms
        )
        if task.bundle is not None and _place(task.bundle) in compiled
        else plan.costs[task.name]
        for task in plan.taskset.tasks
    }
    chosen = {
        name: replace(found, front=fixed_front(plan.choice.cut_of(name)))
        if found.source == "given"
        else found
        for name, found in costs.items()
    }
    problem = problem_of(plan.taskset, chosen, options)
    choice = problem.choose()
    return replace(
        plan,
        costs=chosen,
        choice=choice,
        changes=() if choice.is_schedulable or failure else single_changes(problem, choice),
        is_compiled=failure is None,
        failure=failure,
    )


def _first_task(tasks: tuple[TaskSpec, ...], compilation: Compilation) -> str:
    """The name of the first task whose bundle it writes."""
    return next(task.name for task in tasks if task.bundle == compilation.bundle)


def _limit_text(each: Compilation) -> str:
    return "no bound" if each.max_segment_ns is None else fmt_ns(each.max_segment_ns)


def _refuse_without_bundle(tasks: tuple[TaskSpec, ...]) -> None:
    for task in tasks:
        if task.model is not None and task.bundle is None:
            raise InputError(
                f"task {task.name!r}: no bundle to compile {task.model} into; write bundle ="
                f" {task.model.stem + '.bundle'!r}, or leave --compile out"
            )


def _check_places(tasks: tuple[TaskSpec, ...], cache: BuildCache) -> None:
    """Return if every bundle can be put where its task says, before any is replaced."""
    places: dict[Path, str] = {}
    for task in tasks:
        if task.model is None or task.bundle is None:
            continue
        try:
            check_place(task.bundle, cache, option="the key 'bundle'")
        except BuildError as err:
            raise BuildError(f"task {task.name!r}: {err}") from err
        places.setdefault(_place(task.bundle), task.name)
    for place, name in places.items():
        if (outer := next((each for each in place.parents if each in places), None)) is not None:
            raise BuildError(
                f"task {name!r}: bundle {place} lies in that of task {places[outer]!r}, {outer};"
                " give each a folder of its own with the key 'bundle'"
            )


def _place(bundle: Path) -> Path:
    """Where it lies, however its path is spelt."""
    return Path(os.path.realpath(bundle))


def _refuse_two_into_one(tasks: tuple[TaskSpec, ...]) -> None:
    """A bundle holds one network, cut by one profile."""
    first: dict[Path, TaskSpec] = {}
    for task in tasks:
        if task.model is None or task.bundle is None:
            continue
        other = first.setdefault(_place(task.bundle), task)
        for key, mine, its in (
            ("model", task.model, other.model),
            ("profile", task.profile, other.profile),
            ("shapes", _shapes_text(task), _shapes_text(other)),
        ):
            if mine != its:
                raise InputError(
                    f"task {task.name!r}: {key} {mine} for bundle {task.bundle}, task"
                    f" {other.name!r} has {its}; give each its own bundle, or both the same {key}"
                )


def _shapes_text(task: TaskSpec) -> str:
    return ", ".join(map(shape_text, task.shapes)) or "none"


def _compilations(
    taskset: TaskSetSpec, limits_ns: Mapping[str, int | None], options: PlanOptions
) -> tuple[Compilation, ...]:
    """One per bundle; of tasks that share it, the smallest bound counts."""
    found: dict[tuple[object, ...], Compilation] = {}
    for task in taskset.tasks:
        if task.model is None:
            continue
        limit_ns = limits_ns[task.name]
        bundle = None if task.bundle is None else _place(task.bundle)
        place = (task.model, bundle, task.profile, task.shapes)
        if place in found and found[place].max_segment_ns is not None:
            others_ns = found[place].max_segment_ns or 0
            limit_ns = others_ns if limit_ns is None else min(limit_ns, others_ns)
        found[place] = Compilation(
            model=task.model,
            bundle=task.bundle,
            profile=task.profile,
            target=options.target,
            backend=_backend(taskset, options),
            max_segment_ns=limit_ns,
            shapes=task.shapes,
            mechanism=taskset.mechanism,
        )
    return tuple(found.values())


def _backend(taskset: TaskSetSpec, options: PlanOptions) -> BackendOptions:
    """What every network is compiled with; the set's threads count on a CPU only."""
    return BackendOptions(
        threads=taskset.threads if options.target == CPU.name else None,
        precision=options.precision,
        level=options.level,
    )
