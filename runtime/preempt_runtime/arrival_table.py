"""When a task's jobs are released: `[task.arrival]`, `period` and `jitter` of a task set."""

from pathlib import Path

from preempt_runtime.arrivals import (
    Arrival,
    ClosedLoop,
    Periodic,
    Poisson,
    Recorded,
    Sporadic,
    first_too_early,
    read_trace,
)
from preempt_runtime.errors import InputError
from preempt_runtime.toml_table import TomlTable

ARRIVAL_KEYS = {
    "periodic": ("period", "offset", "jitter"),
    "sporadic": ("min_interval", "mean_interval"),
    "poisson": ("rate",),
    "closed_loop": ("think",),
    "trace": ("path",),
}


def read_arrival(table: TomlTable, folder: Path) -> Arrival:
    """When a task's jobs are released; a trace's path is relative to `folder`.

    Raises:
        InputError: a key is wrong, or the trace cannot be read.
    """
    kind = table.text("kind")
    if kind not in ARRIVAL_KEYS:
        raise table.error("kind", f"one of {', '.join(ARRIVAL_KEYS)}")
    table.allow("kind", *ARRIVAL_KEYS[kind])
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


def read_releases(table: TomlTable, folder: Path) -> tuple[Arrival, Path | None]:
    """When a task's jobs are released: as its arrival says, else once a period; the file read.

    Raises:
        InputError: a key is wrong or missing.
    """
    if not table.has("arrival") and not table.has("period"):
        raise InputError(
            f"{table.where}: key 'arrival' is missing, write a table; or period = \"33ms\" alone,"
            " for a job every 33 ms"
        )
    if table.has("arrival"):
        where = table.where.replace("[[task]]", "[task.arrival] of")
        arrival = table.table("arrival", where)
        file = folder / arrival.text("path") if arrival.has("path") else None
        return read_arrival(arrival, folder), file
    period_ns = table.positive_ns("period")
    assert period_ns is not None
    jitter_ns = table.duration_ns("jitter", default="0ns")
    return Periodic(period_ns=period_ns, jitter_ns=jitter_ns), None


def read_period(table: TomlTable, arrival: Arrival) -> tuple[int | None, int]:
    """The least time between nominal releases, and how late a release may come after its own.

    Raises:
        InputError: releases do not keep what the task's period and jitter say.
    """
    period_ns = table.positive_ns("period")
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
