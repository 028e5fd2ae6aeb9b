"""`[task.arrival]` of a task set."""

from pathlib import Path

from preempt_runtime.arrivals import (
    Arrival,
    ClosedLoop,
    Periodic,
    Poisson,
    Sporadic,
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
