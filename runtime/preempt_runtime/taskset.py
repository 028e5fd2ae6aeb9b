"""Task sets: which bundles run, how urgent each is, and when its jobs are released.

Every key is described in docs/taskset.md. Reading is strict: a task set with a typing error is
refused, naming the file, the table and the key, rather than run as something else.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from preempt_runtime.arrivals import (
    Arrival,
    ClosedLoop,
    Periodic,
    Poisson,
    Sporadic,
    read_trace,
)
from preempt_runtime.errors import InputError
from preempt_runtime.task import Mailbox
from preempt_runtime.toml_table import TomlTable, read_toml

MAX_TASKS = 1000
MAX_PRIORITY = 1_000_000
MAX_SEED = 2**63 - 1
_MAX_PENDING = 1_000_000
_MAX_THREADS = 1024
_ARRIVAL_KEYS = {
    "periodic": ("period", "offset", "jitter"),
    "sporadic": ("min_interval", "mean_interval"),
    "poisson": ("rate",),
    "closed_loop": ("think",),
    "trace": ("path",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One task as the file describes it, with its defaults filled in.

    `priority` is None for best effort, `plan` where the bundle's own order decides, `inputs`
    where they are random; `max_pending` is None for a queue without a bound. `arrival_file` is
    what recorded releases were read from.
    """

    name: str
    bundle: Path
    plan: str | None
    priority: int | None
    deadline_ns: int | None
    mailbox: Mailbox
    max_pending: int | None
    inputs: Path | None
    seed: int
    check_inputs: bool
    arrival: Arrival
    arrival_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSetSpec:
    """The tasks that share one device; `threads` is None where any plan's threads will do."""

    name: str
    path: Path
    seed: int
    threads: int | None
    policy: str
    tasks: tuple[TaskSpec, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The task set's own file, and those that its tasks read beside their bundles."""
        named = [file for task in self.tasks for file in (task.inputs, task.arrival_file)]
        return (self.path, *(file for file in named if file is not None))


def read_taskset(path: Path, *, seed: int | None = None) -> TaskSetSpec:
    """The task set of a TOML file; `seed` replaces the file's own.

    Raises:
        InputError: the file, a table or a key is wrong, or a file that it names is missing.
    """
    document = read_toml(path)
    document.allow("taskset", "task")
    head = document.table("taskset", f"{path}: [taskset]", default={})
    head.allow("name", "seed", "threads", "policy")
    if seed is None:
        seed = head.integer("seed", 0, MAX_SEED, default=0)
    tables = document.tables("task")
    if not 1 <= len(tables) <= MAX_TASKS:
        raise InputError(f"{path}: {len(tables)} tasks, allowed 1 to {MAX_TASKS}")
    tasks = tuple(_read_task(path, number, table, seed) for number, table in enumerate(tables, 1))
    _refuse_duplicates(path, tasks)
    return TaskSetSpec(
        name=head.text("name", default=path.stem),
        path=path,
        seed=seed,
        threads=head.integer("threads", 1, _MAX_THREADS) if head.has("threads") else None,
        policy=head.text("policy", default="fixed-priority"),
        tasks=tasks,
    )


def _read_task(path: Path, number: int, entries: Mapping[str, Any], seed: int) -> TaskSpec:
    name = TomlTable(where=f"{path}: [[task]] number {number}", entries=entries).text("name")
    table = TomlTable(where=f"{path}: [[task]] {name!r}", entries=entries)
    table.allow(
        *("name", "bundle", "plan", "priority", "best_effort", "deadline", "mailbox"),
        *("max_pending", "inputs", "seed", "check_inputs", "arrival"),
    )
    arrival = table.table("arrival", f"{path}: [task.arrival] of {name!r}")
    return TaskSpec(
        name=name,
        bundle=_read_bundle_path(table, path.parent),
        plan=table.text("plan") if table.has("plan") else None,
        priority=_read_priority(table),
        deadline_ns=_positive_ns(table, "deadline") if table.has("deadline") else None,
        mailbox=cast(Mailbox, table.choice("mailbox", ("queue", "latest"), default="queue")),
        max_pending=_read_max_pending(table),
        inputs=_read_inputs_path(table, path.parent),
        seed=table.integer("seed", 0, MAX_SEED, default=seed),
        check_inputs=table.flag("check_inputs"),
        arrival=_read_arrival(arrival, path.parent),
        arrival_file=path.parent / arrival.text("path") if arrival.has("path") else None,
    )


def _read_bundle_path(table: TomlTable, folder: Path) -> Path:
    bundle = folder / table.text("bundle")
    if not os.path.isdir(bundle):  # unlike Path.is_dir, no error for a name that is too long
        found = "is not a directory" if os.path.exists(bundle) else "does not exist"
        raise InputError(
            f"{table.where}: bundle {bundle} {found};"
            " make it with `preemptc compile`, or correct the path (relative to the task set)"
        )
    return bundle


def _read_priority(table: TomlTable) -> int | None:
    if table.flag("best_effort") == table.has("priority"):
        found = "both" if table.has("priority") else "neither"
        raise InputError(
            f"{table.where}: found {found} of priority and best_effort;"
            " write priority = N (larger runs first) or best_effort = true"
        )
    if table.has("priority"):
        return table.integer("priority", -MAX_PRIORITY, MAX_PRIORITY)
    return None


def _read_max_pending(table: TomlTable) -> int | None:
    if not table.has("max_pending"):
        return None
    if table.choice("mailbox", ("queue", "latest"), default="queue") == "latest":
        raise InputError(
            f"{table.where}: max_pending is for mailbox = 'queue'; 'latest' keeps one job"
        )
    return table.integer("max_pending", 1, _MAX_PENDING)


def _read_inputs_path(table: TomlTable, folder: Path) -> Path | None:
    text = table.text("inputs", default="random")
    if text == "random":
        return None
    if Path(text).suffix != ".npz":
        raise table.error("inputs", "'random' or the path of a .npz file")
    if not os.path.isfile(inputs := folder / text):
        raise InputError(f"{table.where}: inputs {inputs} do not exist; record them, or 'random'")
    return inputs


def _read_arrival(table: TomlTable, folder: Path) -> Arrival:
    kind = table.text("kind")
    if kind not in _ARRIVAL_KEYS:
        raise table.error("kind", f"one of {', '.join(_ARRIVAL_KEYS)}")
    table.allow("kind", *_ARRIVAL_KEYS[kind])
    try:
        return _arrival_of_kind(kind, table, folder)
    except InputError as err:
        if str(err).startswith(table.where):
            raise
        raise InputError(f"{table.where}: {err}") from err


def _arrival_of_kind(kind: str, table: TomlTable, folder: Path) -> Arrival:
    if kind == "periodic":
        return Periodic(
            period_ns=table.duration_ns("period"),
            offset_ns=table.duration_ns("offset", default="0ns"),
            jitter_ns=table.duration_ns("jitter", default="0ns"),
        )
    if kind == "sporadic":
        return Sporadic(
            min_interval_ns=table.duration_ns("min_interval"),
            mean_interval_ns=table.duration_ns("mean_interval"),
        )
    if kind == "poisson":
        return Poisson(rate_per_s=table.number("rate"))
    if kind == "closed_loop":
        return ClosedLoop(think_ns=table.duration_ns("think", default="0ns"))
    return read_trace(folder / table.text("path"))


def _positive_ns(table: TomlTable, key: str) -> int:
    if (value_ns := table.duration_ns(key)) == 0:
        raise table.error(key, "a duration above 0")
    return value_ns


def _refuse_duplicates(path: Path, tasks: tuple[TaskSpec, ...]) -> None:
    seen: dict[str, int] = {}
    for number, task in enumerate(tasks, 1):
        if (first := seen.setdefault(task.name, number)) != number:
            raise InputError(
                f"{path}: [[task]] number {number} is called {task.name!r} like number {first};"
                " give every task its own name"
            )
