"""One `[[task]]` of a task set: its network or its costs, its urgency, its releases."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from preempt_runtime.arrival_table import read_period, read_releases
from preempt_runtime.device import MAX_BUFFERS
from preempt_runtime.errors import InputError
from preempt_runtime.gate_limits import ANNOUNCED_NS
from preempt_runtime.schedulability.model import MAX_PRIORITY
from preempt_runtime.task import LATE, MAX_PENDING, LatePolicy, Mailbox
from preempt_runtime.task_spec import MAX_SEGMENTS, CostSpec, NamedShape, TaskSpec
from preempt_runtime.toml_table import TomlTable
from preempt_runtime.units import fmt_ns

MAX_SEED = 2**63 - 1
_SHAPE = re.compile(r"[1-9]\d{0,17}(?:x[1-9]\d{0,17})*", re.ASCII)
TASK_KEYS = (
    *("name", "bundle", "plan", "model", "profile", "shapes", "cost", "segments", "max_segment"),
    *("point_cost", "priority", "best_effort", "period", "jitter", "deadline", "late", "mailbox"),
    *("max_pending", "buffers", "announce", "inputs", "seed", "check_inputs", "arrival"),
)


def read_task(
    path: Path, number: int, entries: Mapping[str, Any], *, seed: int, needs_priority: bool
) -> TaskSpec:
    """The task of a table of `path`; `seed` is the task set's own.

    Raises:
        InputError: a key is wrong or missing, or names a file that is not there.
    """
    name = TomlTable(where=f"{path}: [[task]] number {number}", entries=entries).text("name")
    table = TomlTable(where=f"{path}: [[task]] {name!r}", entries=entries)
    table.allow(*TASK_KEYS)
    _refuse_idle_keys(table)
    model, cost = _read_file(table, "model", path.parent), _read_cost(table)
    is_best_effort = table.flag("best_effort")
    arrival, arrival_file = read_releases(table, path.parent)
    period_ns, jitter_ns = read_period(table, arrival)
    return TaskSpec(
        name=name,
        bundle=_read_bundle_path(table, path.parent, model, cost),
        plan=table.text("plan") if table.has("plan") else None,
        priority=_read_priority(table, is_best_effort, needs_priority),
        is_best_effort=is_best_effort,
        deadline_ns=table.positive_ns("deadline"),
        mailbox=cast(Mailbox, table.choice("mailbox", ("queue", "latest"), default="queue")),
        max_pending=_read_max_pending(table),
        inputs=_read_inputs_path(table, path.parent),
        seed=table.integer("seed", 0, MAX_SEED, default=seed),
        check_inputs=table.flag("check_inputs"),
        arrival=arrival,
        arrival_file=arrival_file,
        model=model,
        profile=_read_file(table, "profile", path.parent),
        shapes=_read_shapes(table),
        cost=cost,
        max_segment_ns=table.positive_ns("max_segment"),
        period_ns=period_ns,
        jitter_ns=jitter_ns,
        late=_read_late(table, period_ns),
        buffers=table.integer("buffers", 1, MAX_BUFFERS, default=1),
        announce_ns=_read_announce(table),
    )


def _refuse_idle_keys(table: TomlTable) -> None:
    """Refuse what would be read and then change nothing."""
    costs = next((key for key in ("cost", "segments") if table.has(key)), None)
    if table.has("model") and costs is not None:
        raise InputError(f"{table.where}: found both model and {costs}; leave one of them out")
    for key, needed in (
        ("profile", ("model",)),
        ("shapes", ("model",)),
        ("point_cost", ("cost",)),
        ("max_segment", ("model", "cost")),
        ("plan", ("bundle",)),
    ):
        if table.has(key) and not any(map(table.has, needed)):
            raise table.error(key, f"only beside {' or '.join(needed)}; leave it out")


def _read_bundle_path(
    table: TomlTable, folder: Path, model: Path | None, cost: CostSpec | None
) -> Path | None:
    if not table.has("bundle"):
        if model is None and cost is None:
            raise InputError(
                f"{table.where}: key 'bundle' is missing, write the bundle's directory; or what"
                " its jobs cost: model, segments or cost"
            )
        return None
    if cost is not None:
        raise InputError(
            f"{table.where}: found both bundle and costs; a bundle brings its own, leave one out"
        )
    bundle = folder / table.text("bundle")
    # Unlike Path.is_dir, os.path makes no error of a name that is too long.
    if not os.path.isdir(bundle) and (model is None or os.path.lexists(bundle)):
        found = "is not a directory" if os.path.exists(bundle) else "does not exist"
        raise InputError(
            f"{table.where}: bundle {bundle} {found};"
            " make it with `preemptc compile`, or correct the path (relative to the task set)"
        )
    try:
        bundle.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # `preemptc plan` may compile it there
    except OSError as err:
        raise InputError(
            f"{table.where}: bundle {bundle} cannot be looked up ({err.strerror}); correct the"
            " path (relative to the task set)"
        ) from err
    return bundle


def _read_file(table: TomlTable, key: str, folder: Path) -> Path | None:
    if not table.has(key):
        return None
    if not os.path.isfile(file := folder / table.text(key)):
        raise InputError(
            f"{table.where}: {key} {file} is no file; correct the path (relative to the task set)"
        )
    return file


def _read_shapes(table: TomlTable) -> tuple[NamedShape, ...]:
    """Inputs with their static shapes, by name."""
    if not table.has("shapes"):
        return ()
    shapes = table.table("shapes", f"{table.where}: shapes")
    found = []
    for name in sorted(shapes.entries):
        text = shapes.text(name)
        if not _SHAPE.fullmatch(text):
            raise shapes.error(name, "dimensions from 1 on, such as 1x3x224x224")
        found.append((name, tuple(int(dim) for dim in text.split("x"))))
    return tuple(found)


def _read_cost(table: TomlTable) -> CostSpec | None:
    if table.has("cost") and table.has("segments"):
        raise InputError(f"{table.where}: found both cost and segments; leave one of them out")
    point_cost_ns = table.duration_ns("point_cost", default="0ns")
    if table.has("segments"):
        segments_ns = table.durations_ns("segments", most=MAX_SEGMENTS)
        if not segments_ns or 0 in segments_ns:
            raise InputError(
                f"{table.where}: key 'segments': write at least one duration, each above 0"
            )
        return CostSpec(total_ns=sum(segments_ns), segment_ns=segments_ns)
    cost_ns = table.positive_ns("cost")
    if cost_ns is None:
        return None
    cost = CostSpec(total_ns=cost_ns, point_cost_ns=point_cost_ns)
    bound_ns = table.positive_ns("max_segment")
    if bound_ns is not None and not cost.can_keep(bound_ns):
        what = f"a duration above {cost.floor_ns:.0f} ns (point_cost, in sensible pieces)"
        raise table.error("max_segment", what)
    return cost


def _read_priority(table: TomlTable, is_best_effort: bool, needs_priority: bool) -> int | None:
    is_given = table.has("priority")
    if (is_best_effort and is_given) or (needs_priority and not (is_best_effort or is_given)):
        found = "both" if is_given else "neither"
        raise InputError(
            f"{table.where}: found {found} of priority and best_effort;"
            " write priority = N (larger runs first) or best_effort = true"
        )
    return table.integer("priority", -MAX_PRIORITY, MAX_PRIORITY) if is_given else None


def _read_late(table: TomlTable, period_ns: int | None) -> LatePolicy:
    late = table.choice("late", LATE, default="run")
    if late != "run" and period_ns is None and not table.has("deadline"):
        raise table.error("late", "'run': a job without deadline or period is never late")
    return cast(LatePolicy, late)


def _read_max_pending(table: TomlTable) -> int | None:
    if not table.has("max_pending"):
        return None
    if table.choice("mailbox", ("queue", "latest"), default="queue") == "latest":
        raise InputError(
            f"{table.where}: max_pending is for mailbox = 'queue'; 'latest' keeps one job"
        )
    return table.integer("max_pending", 1, MAX_PENDING)


def _read_announce(table: TomlTable) -> int:
    announce_ns = table.duration_ns("announce", default="0ns")
    if announce_ns > ANNOUNCED_NS:
        what = f"at most {fmt_ns(ANNOUNCED_NS)}: then an announcement expires"
        raise table.error("announce", what)
    return announce_ns


def _read_inputs_path(table: TomlTable, folder: Path) -> Path | None:
    text = table.text("inputs", default="random")
    if text == "random":
        return None
    if Path(text).suffix != ".npz":
        raise table.error("inputs", "'random' or the path of a .npz file")
    if not os.path.isfile(inputs := folder / text):
        raise InputError(f"{table.where}: inputs {inputs} do not exist; record them, or 'random'")
    return inputs
