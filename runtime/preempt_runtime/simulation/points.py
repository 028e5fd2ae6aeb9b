"""The points of a sweep: what each of them changes of a task set."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from preempt_runtime.errors import InputError
from preempt_runtime.policies import policy_from_name
from preempt_runtime.simulation.costs import CostMode, TaskCosts, costs_from_numbers
from preempt_runtime.simulation.load import at_load, offered_load
from preempt_runtime.task_spec import TaskSpec
from preempt_runtime.task_table import MAX_SEED
from preempt_runtime.taskset import TaskSetSpec, check_num_segments
from preempt_runtime.units import fmt_ns, parse_duration_ns

Value = float | int | str
_KEYS = "load, policy, max_segment, max_segment:TASK"
_EXAMPLES = {"load": "0.5,0.7", "policy": "fifo,fixed-priority", "max_segment": "1ms,5ms"}
_MIN_LOAD, _MAX_LOAD = 0.001, 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepAxis:
    """One thing that is varied: `load` (shares), `policy` (names) or `max_segment` (ns).

    `task` narrows `max_segment` to one task.
    """

    key: str
    task: str | None
    values: tuple[Value, ...]

    @property
    def label(self) -> str:
        """What the command line calls it."""
        return self.key if self.task is None else f"{self.key}:{self.task}"

    def text_of(self, value: Value) -> str:
        """A value of the axis for people."""
        if self.key == "load":
            return f"{100 * float(value):g}%"
        return fmt_ns(float(value)) if self.key == "max_segment" else str(value)


def name_of(axes: Sequence[SweepAxis], values: Sequence[Value], seed: int) -> str:
    """What messages call one simulation of a sweep.

    >>> name_of([axis_from_text("load=0.5,1.5")], [1.5], 3)
    'load=150%, seed=3'
    """
    chosen = zip(axes, values, strict=True)
    settings = [f"{axis.label}={axis.text_of(value)}" for axis, value in chosen]
    return ", ".join([*settings, f"seed={seed}"])


def axis_from_text(text: str) -> SweepAxis:
    """The axis of `KEY=V1,V2,...`.

    Raises:
        InputError: no such key, no or equal values, or one that is out of range.

    >>> axis_from_text("load=0.5,150%").values
    (0.5, 1.5)
    """
    label, equals, listed = text.rpartition("=")
    key, colon, task = (label if equals else text).partition(":")
    readers: dict[str, Callable[[str], Value]] = {
        "load": _load,
        "policy": _policy,
        "max_segment": _bound,
    }
    read = readers.get(key)
    if read is None or (colon and (key != "max_segment" or not task)):
        raise InputError(f"{text!r}: found key {label or text!r}, allowed {_KEYS}, then =V1,V2,...")
    if not equals:
        raise InputError(f"{text!r}: found no values; write {text}={_EXAMPLES[key]}")
    values = tuple(read(word.strip()) for word in listed.split(","))
    if len(set(values)) < len(values):
        raise InputError(f"{text!r}: a value is there twice; leave one out")
    return SweepAxis(key=key, task=task or None, values=values)


def _load(word: str) -> float:
    try:
        value = float(word.rstrip("%")) / (100 if word.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not _MIN_LOAD <= value <= _MAX_LOAD:
        raise InputError(
            f"load {word!r}, allowed {_MIN_LOAD:g} to {_MAX_LOAD:g}, such as 0.7 or 70%"
        )
    return value


def _policy(word: str) -> str:
    return policy_from_name(word).name


def _bound(word: str) -> int:
    bound_ns = parse_duration_ns(word)
    if bound_ns == 0:
        raise InputError(f"max_segment {word!r}, allowed a duration above 0")
    return bound_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """One combination of values, in the order of the axes, and the task set that it makes."""

    values: tuple[Value, ...]
    taskset: TaskSetSpec
    costs: Mapping[str, TaskCosts]


def points_of(
    taskset: TaskSetSpec,
    costs: Mapping[str, TaskCosts],
    axes: Sequence[SweepAxis],
    mode: CostMode,
) -> Iterator[SweepPoint]:
    """Every combination of the axes' values, the last axis fastest.

    Bounds are applied first: cuts cost, and so change the load.

    Raises:
        InputError: an axis does not fit the task set.
    """
    for values in itertools.product(*(axis.values for axis in axes)):
        varied, varied_costs = taskset, costs
        chosen = list(zip(axes, values, strict=True))
        for axis, value in chosen:
            if axis.key == "max_segment":
                varied_costs = {**varied_costs, **_bounded(taskset, axis, int(value))}
            elif axis.key == "policy":
                varied = replace(varied, policy=str(value))
        for axis, value in chosen:
            if axis.key == "load":
                varied = _loaded(varied, varied_costs, mode, float(value))
        yield SweepPoint(values=values, taskset=varied, costs=varied_costs)


def with_seed(taskset: TaskSetSpec, repetition: int) -> TaskSetSpec:
    """The task set with another seed, a number for each repetition; 0 changes nothing.

    A task with a seed of its own keeps it.
    """
    seed = (taskset.seed + repetition) % (MAX_SEED + 1)
    tasks = tuple(
        replace(task, seed=seed) if task.seed == taskset.seed else task for task in taskset.tasks
    )
    return replace(taskset, seed=seed, tasks=tasks)


def _bounded(taskset: TaskSetSpec, axis: SweepAxis, bound_ns: int) -> dict[str, TaskCosts]:
    tasks = [task for task in taskset.tasks if axis.task in (None, task.name)]
    if not tasks:
        names = ", ".join(task.name for task in taskset.tasks)
        raise InputError(f"--sweep {axis.label}: no task of that name; there are {names}")
    cuttable = [task for task in tasks if task.cost is not None and task.cost.segment_ns is None]
    if not cuttable:
        found = f"task {axis.task!r}" if axis.task is not None else "no task"
        negation = " not" if axis.task is not None else ""
        raise InputError(
            f"--sweep {axis.label}: {found} is{negation} given by cost, so there is nothing to cut;"
            " write cost and point_cost in place of bundle or segments"
        )
    _refuse_unkept(cuttable, axis, bound_ns)
    bounds_ns = dict.fromkeys((task.name for task in cuttable), bound_ns)
    check_num_segments(taskset.path, taskset.tasks, bounds_ns)
    return {
        task.name: costs_from_numbers(task.cost, bound_ns)
        for task in cuttable
        if task.cost is not None
    }


def _refuse_unkept(tasks: Sequence[TaskSpec], axis: SweepAxis, bound_ns: int) -> None:
    for task in tasks:
        if task.cost is not None and not task.cost.can_keep(bound_ns):
            raise InputError(
                f"--sweep {axis.label}: {fmt_ns(bound_ns)} for task {task.name!r}, allowed above"
                f" {fmt_ns(task.cost.floor_ns)} (point_cost, in sensible pieces)"
            )


def _loaded(
    taskset: TaskSetSpec, costs: Mapping[str, TaskCosts], mode: CostMode, load: float
) -> TaskSetSpec:
    found = sum(offered_load(task, costs[task.name], mode) for task in taskset.tasks)
    if found == 0:
        raise InputError(
            f"{taskset.path}: --sweep load: nothing is released but by closed loops, which take"
            " what is left; give a task a period or an arrival"
        )
    try:
        return at_load(taskset, found / load)
    except InputError as err:
        raise InputError(
            f"{taskset.path}: --sweep load={load:g} (releases ask for {100 * found:.3g}% as they"
            f" are): {err}"
        ) from err
