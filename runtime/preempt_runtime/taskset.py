"""Task sets: which networks share a device, how urgent each is, and when its jobs are released.

Every key is described in docs/taskset.md. Reading is strict: a task set with a typing error is
refused, naming the file, the table and the key, rather than run as something else.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from preempt_runtime.device import MAX_DEPTH, MAX_THREADS
from preempt_runtime.errors import InputError
from preempt_runtime.input_file import checked_path
from preempt_runtime.manifest import GATES_FIRST, SEGMENTS
from preempt_runtime.policies import POLICIES
from preempt_runtime.task import ADMIT, Admit
from preempt_runtime.task_spec import TaskSpec
from preempt_runtime.task_table import MAX_SEED, read_task
from preempt_runtime.toml_table import TomlTable, read_toml

MAX_TASKS = 1000
MAX_SET_SEGMENTS = 500_000  # about 250 MB in a simulation
_MAX_FILES = 100
_MAX_MARGIN_FRAC = 10.0
_DEFAULT_MARGIN_FRAC = 0.1
_MAX_CORUN_FACTOR = 1000.0
HEAD_KEYS = (
    *("name", "seed", "threads", "policy", "include"),
    *("margin", "corun", "admit", "drift", "depth"),
    *("resume_cost", "dispatch", "job_dispatch"),
    *("mechanism", "gate_mode"),
)
DEFAULT_POLICY = "fixed-priority"
Drift = Literal["say", "readmit", "shed"]
DRIFT: tuple[Drift, ...] = ("say", "readmit", "shed")
Mechanism = Literal["auto", "segments", "gates"]
MECHANISMS: tuple[Mechanism, ...] = ("auto", "segments", "gates")
DEFAULT_MECHANISM: Mechanism = "segments"
"""Gates are experimental (docs/gates.md): nothing uses them unless it is asked for."""
GateMode = Literal["exclusive", "overlap"]
GATE_MODES: tuple[GateMode, ...] = ("exclusive", "overlap")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSetSpec:
    """The tasks that share one device; `threads` is None where any plan's threads will do.

    `margin_frac` is what bounds add to every observed maximum, `corun_factor` how much longer
    segments were measured to take beside kernels outside this run's order, `resume_cost_ns` what a
    preempted job pays when it goes on, `dispatch_ns` what bounds add to every segment for launching
    it, `job_dispatch_ns` to every job for copies and the dispatcher, `depth` how many segments may
    be in flight. `admit` and `drift` say what becomes of a task that has no bound, or has it no
    more. `mechanism` says by what jobs are preempted, `gate_mode` how gates do it. `includes` are
    the other files that were read.
    """

    name: str
    path: Path
    seed: int
    threads: int | None
    policy: str
    tasks: tuple[TaskSpec, ...]
    margin_frac: float = _DEFAULT_MARGIN_FRAC
    admit: Admit = "off"
    drift: Drift = "say"
    depth: int = 1
    resume_cost_ns: int = 0
    dispatch_ns: int = 0
    job_dispatch_ns: int = 0
    corun_factor: float = 1.0
    mechanism: Mechanism = DEFAULT_MECHANISM
    gate_mode: GateMode = "exclusive"
    includes: tuple[Path, ...] = ()

    @property
    def plan_mechanisms(self) -> tuple[str, ...]:
        """Of what mechanisms a bundle's plan may be, what is preferred first."""
        return (SEGMENTS,) if self.mechanism == SEGMENTS else GATES_FIRST

    @property
    def files(self) -> tuple[Path, ...]:
        """The task set's own files, and those that its tasks read beside their bundles."""
        named = [file for task in self.tasks for file in task.files]
        return (self.path, *self.includes, *named)


def read_taskset(path: str | Path, *, seed: int | None = None) -> TaskSetSpec:
    """The task set of a TOML file; `seed` replaces the file's own.

    Raises:
        InputError: the path, the file, a table or a key is wrong, a file that it names is missing,
            or one is included twice.
    """
    path = checked_path(path, "a task set")
    document = read_toml(path)
    document.allow("taskset", "task")
    head = document.table("taskset", f"{path}: [taskset]", default={})
    head.allow(*HEAD_KEYS)
    if seed is None:
        seed = head.integer("seed", 0, MAX_SEED, default=0)
    policy = head.choice("policy", tuple(sorted(POLICIES)), default=DEFAULT_POLICY)
    files = {os.path.realpath(path): path}
    found = list(_tables(path, document, head, chain=(), files=files))
    if not 1 <= len(found) <= MAX_TASKS:
        raise InputError(f"{path}: {len(found)} tasks, allowed 1 to {MAX_TASKS}")
    tasks = tuple(
        read_task(file, number, table, seed=seed, needs_priority=policy == DEFAULT_POLICY)
        for file, number, table in found
    )
    check_num_segments(path, tasks)
    _refuse_duplicates([(*where, task.name) for where, task in zip(found, tasks, strict=True)])
    return TaskSetSpec(
        name=head.text("name") if head.has("name") else _name_of(path),
        path=path,
        seed=seed,
        threads=head.integer("threads", 1, MAX_THREADS) if head.has("threads") else None,
        policy=policy,
        tasks=tasks,
        margin_frac=_read_number(head, "margin", 0, _MAX_MARGIN_FRAC, _DEFAULT_MARGIN_FRAC),
        corun_factor=_read_number(head, "corun", 1, _MAX_CORUN_FACTOR, 1.0),
        admit=cast(Admit, head.choice("admit", ADMIT, default="off")),
        drift=cast(Drift, head.choice("drift", DRIFT, default="say")),
        depth=head.integer("depth", 1, MAX_DEPTH, default=1),
        resume_cost_ns=head.duration_ns("resume_cost", default="0ns"),
        dispatch_ns=head.duration_ns("dispatch", default="0ns"),
        job_dispatch_ns=head.duration_ns("job_dispatch", default="0ns"),
        mechanism=cast(Mechanism, head.choice("mechanism", MECHANISMS, default=DEFAULT_MECHANISM)),
        gate_mode=cast(GateMode, head.choice("gate_mode", GATE_MODES, default="exclusive")),
        includes=tuple(files.values())[1:],
    )


def check_num_segments(
    path: Path, tasks: Sequence[TaskSpec], bound_ns: Mapping[str, int] | None = None
) -> None:
    """Return if all segments that costs in the file make have room in memory.

    Args:
        path: of the task set, for the message.
        tasks: of which those that name a bundle or a model do not count.
        bound_ns: by task, bounds on segments in place of the tasks' own.

    Raises:
        InputError: there are too many; the message names the task that has most.
    """
    found = {
        task.name: task.cost.num_segments((bound_ns or {}).get(task.name, task.max_segment_ns))
        for task in tasks
        if task.cost is not None
    }
    if (num := sum(found.values())) > MAX_SET_SEGMENTS:
        most = max(found, key=found.__getitem__)
        raise InputError(
            f"{path}: {num} segments, {found[most]} of them of task {most!r}, allowed"
            f" {MAX_SET_SEGMENTS} in all; give longer max_segment or fewer segments"
        )


_Found = tuple[Path, int, Mapping[str, Any]]


def _tables(
    path: Path,
    document: TomlTable,
    head: TomlTable,
    *,
    chain: tuple[Path, ...],
    files: dict[str, Path],
) -> list[_Found]:
    """Every [[task]] of a file and of those that it includes, its own first.

    `files` are those that were read so far, by where they really are; what is read is added.
    """
    chain = (*chain, path)
    found: list[_Found] = []
    if document.has("task") or not head.has("include"):
        found += [(path, number, table) for number, table in enumerate(document.tables("task"), 1)]
    for name in head.texts("include") if head.has("include") else ():
        file = path.parent / name
        _check_include(file, head.where, chain, files)
        included = read_toml(file)
        files[os.path.realpath(file)] = file
        included.allow("taskset", "task")
        inner = included.table("taskset", f"{file}: [taskset]", default={})
        inner.allow("include")  # what holds for all tasks stands in one place
        found += _tables(file, included, inner, chain=chain, files=files)
        if len(found) > MAX_TASKS:
            raise InputError(f"{chain[0]}: more than {MAX_TASKS} tasks, the most allowed")
    return found


def _check_include(
    file: Path, where: str, chain: tuple[Path, ...], files: Mapping[str, Path]
) -> None:
    real = os.path.realpath(file)
    place = f"{where}: key 'include'"
    if any(real == os.path.realpath(other) for other in chain):
        circle = " includes ".join(map(str, (*chain, file)))
        raise InputError(f"{place}: a circle: {circle}; leave one out")
    if real in files:
        raise InputError(f"{place}: {file} is included already; leave one out")
    if len(chain) == _MAX_FILES:
        raise InputError(f"{place}: more than {_MAX_FILES} files deep")


def _name_of(path: Path) -> str:
    """The file's name, as far as it can be printed."""
    return "".join(char if char.isprintable() else "?" for char in path.stem)


def _read_number(head: TomlTable, key: str, least: float, most: float, default: float) -> float:
    if not head.has(key):
        return default
    value = head.number(key)
    if not least <= value <= most:
        raise head.error(key, f"a number from {least:g} to {most:g}")
    return value


def _refuse_duplicates(tasks: list[tuple[Path, int, Any, str]]) -> None:
    seen: dict[str, tuple[Path, int]] = {}
    for path, number, _, name in tasks:
        first_path, first = seen.setdefault(name, (path, number))
        if (first_path, first) != (path, number):
            other = f"number {first}" + ("" if first_path == path else f" of {first_path}")
            raise InputError(
                f"{path}: [[task]] number {number} is called {name!r} like {other};"
                " give every task its own name"
            )
