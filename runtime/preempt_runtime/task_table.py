"""One `[[task]]` of a task set: its network or its costs, its urgency, its releases."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from preempt_runtime.arrival_table import read_arrival
from preempt_runtime.arrivals import (
    Arrival,
    ClosedLoop,
    Periodic,
    Poisson,
    Recorded,
    Sporadic,
    first_too_early,
)
from preempt_runtime.device import MAX_BUFFERS
from preempt_runtime.errors import InputError
from preempt_runtime.schedulability.cuts import even_cut
from preempt_runtime.schedulability.model import MAX_PRIORITY
from preempt_runtime.task import LATE, LatePolicy, Mailbox
from preempt_runtime.toml_table import TomlTable

MAX_SEED = 2**63 - 1
MAX_SEGMENTS = 100_000
_MAX_PENDING = 1_000_000
_SHAPE = re.compile(r"[1-9]\d{0,17}(?:x[1-9]\d{0,17})*", re.ASCII)
NamedShape = tuple[str, tuple[int, ...]]
TASK_KEYS = (
    *("name", "bundle", "plan", "model", "profile", "shapes", "cost", "segments", "max_segment"),
    *("point_cost", "priority", "best_effort", "period", "jitter", "deadline", "late", "mailbox"),
    *("max_pending", "buffers", "inputs", "seed", "check_inputs", "arrival"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSpec:
    """What a job costs, as numbers in the file: segments, or a total that may be cut anywhere.

    `point_cost_ns` is what each cut adds; with `segment_ns` given it is contained in them.
    """

    total_ns: int
    segment_ns: tuple[int, ...] | None = None
    point_cost_ns: int = 0

    def segments_ns(self, max_segment_ns: int | None) -> tuple[int, ...]:
        """The segments: as given, or as few equal ones as keep the bound.

        >>> CostSpec(total_ns=10, point_cost_ns=1).segments_ns(4)
        (4, 4, 4)
        """
        if self.segment_ns is not None:
            return self.segment_ns
        num_segments = self.num_segments(max_segment_ns)
        return even_cut(self.total_ns, self.point_cost_ns, num_segments)

    def num_segments(self, max_segment_ns: int | None) -> int:
        """How many segments there are, as given or under a bound."""
        if self.segment_ns is not None:
            return len(self.segment_ns)
        if max_segment_ns is None or max_segment_ns >= self.total_ns:
            return 1
        if max_segment_ns <= self.point_cost_ns:
            return 2
        useful_ns = max_segment_ns - self.point_cost_ns
        return max(2, -(-(self.total_ns - self.point_cost_ns) // useful_ns))

    @property
    def floor_ns(self) -> float:
        """What a bound on segments must exceed: the cost of a point, and sensible pieces."""
        return self.point_cost_ns + self.total_ns / MAX_SEGMENTS

    def can_keep(self, max_segment_ns: int) -> bool:
        """Whether it can be cut under a bound."""
        return max_segment_ns >= self.total_ns or max_segment_ns > self.floor_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One task as the file describes it, with its defaults filled in.

    `bundle` is None where the file gives costs instead; `model` is what the bundle is compiled
    from, with static `shapes` of inputs that have none, `max_segment_ns` the bound that it is to
    keep. `priority` is None for best effort, and where the policy needs none. `period_ns` is the
    least time between releases, None where they know none. `plan` is None where the bundle's own
    order decides, `inputs` where they are random; `max_pending` is None for a queue without a
    bound, `buffers` how many of its jobs may be in flight. `arrival_file` is what recorded releases
    were read from.
    """

    name: str
    bundle: Path | None
    plan: str | None
    priority: int | None
    is_best_effort: bool
    deadline_ns: int | None
    mailbox: Mailbox
    max_pending: int | None
    inputs: Path | None
    seed: int
    check_inputs: bool
    arrival: Arrival
    arrival_file: Path | None = None
    model: Path | None = None
    profile: Path | None = None
    shapes: tuple[NamedShape, ...] = ()
    cost: CostSpec | None = None
    max_segment_ns: int | None = None
    period_ns: int | None = None
    jitter_ns: int = 0
    late: LatePolicy = "run"
    buffers: int = 1

    @property
    def implicit_deadline_ns(self) -> int | None:
        """The relative deadline, or else the period: a job is to end before the next comes."""
        return self.period_ns if self.deadline_ns is None else self.deadline_ns

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read beside the bundle."""
        named = (self.inputs, self.arrival_file, self.model, self.profile)
        return tuple(file for file in named if file is not None)


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
    arrival, arrival_file = _read_releases(table, name, path.parent)
    period_ns, jitter_ns = _read_period(table, arrival)
    return TaskSpec(
        name=name,
        bundle=_read_bundle_path(table, path.parent, model, cost),
        plan=table.text("plan") if table.has("plan") else None,
        priority=_read_priority(table, is_best_effort, needs_priority),
        is_best_effort=is_best_effort,
        deadline_ns=_positive_ns(table, "deadline"),
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
        max_segment_ns=_positive_ns(table, "max_segment"),
        period_ns=period_ns,
        jitter_ns=jitter_ns,
        late=_read_late(table, period_ns),
        buffers=table.integer("buffers", 1, MAX_BUFFERS, default=1),
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
    cost_ns = _positive_ns(table, "cost")
    if cost_ns is None:
        return None
    cost = CostSpec(total_ns=cost_ns, point_cost_ns=point_cost_ns)
    bound_ns = _positive_ns(table, "max_segment")
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


def _read_releases(table: TomlTable, name: str, folder: Path) -> tuple[Arrival, Path | None]:
    """When jobs are released: as the task's arrival says, else once a period."""
    if table.has("arrival") or not table.has("period"):
        where = table.where.replace("[[task]]", "[task.arrival] of")
        arrival = table.table("arrival", where)
        file = folder / arrival.text("path") if arrival.has("path") else None
        return read_arrival(arrival, folder), file
    period_ns = _positive_ns(table, "period")
    assert period_ns is not None
    jitter_ns = table.duration_ns("jitter", default="0ns")
    return Periodic(period_ns=period_ns, jitter_ns=jitter_ns), None


def _read_period(table: TomlTable, arrival: Arrival) -> tuple[int | None, int]:
    """The least time between nominal releases, and how late a release may come after its own."""
    period_ns = _positive_ns(table, "period")
    if period_ns is None:
        if table.has("jitter"):
            raise table.error("jitter", "only beside period")
        return _own_period(arrival)
    jitter_ns = table.duration_ns("jitter", default="0ns")
    if (found := _too_fast(arrival, period_ns, jitter_ns)) is not None:
        raise InputError(
            f"{table.where}: its arrival {found}; allowed by period and jitter: every {period_ns}"
            f" ns, late by {jitter_ns} ns; leave period out, or let releases keep it"
        )
    return period_ns, jitter_ns


def _own_period(arrival: Arrival) -> tuple[int | None, int]:
    if isinstance(arrival, Periodic):
        return arrival.period_ns, arrival.jitter_ns
    if isinstance(arrival, Sporadic):
        return arrival.min_interval_ns, 0
    return None, 0


def _too_fast(arrival: Arrival, period_ns: int, jitter_ns: int) -> str | None:
    """How releases may come faster than a period says, on which bounds would rest; else None."""
    if isinstance(arrival, Poisson):
        return "is poisson, which keeps no least time between releases"
    if isinstance(arrival, ClosedLoop):
        found = f"releases {arrival.think_ns} ns after a job has ended"
        return found if arrival.think_ns < period_ns else None
    if isinstance(arrival, Recorded):
        idx = first_too_early(arrival.offsets_ns, period_ns=period_ns, jitter_ns=jitter_ns)
        if idx is None:
            return None
        return f"has release {idx} of its trace at {arrival.offsets_ns[idx]} ns, too early"
    found_ns, late_ns = _own_period(arrival)
    assert found_ns is not None
    if found_ns >= period_ns and late_ns <= jitter_ns:
        return None
    return f"releases every {found_ns} ns, late by {late_ns} ns"


def _positive_ns(table: TomlTable, key: str) -> int | None:
    if not table.has(key):
        return None
    if (value_ns := table.duration_ns(key)) == 0:
        raise table.error(key, "a duration above 0")
    return value_ns
