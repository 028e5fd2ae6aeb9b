"""Tables as values, as plain text and for a terminal; and what several reports have in common."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from preempt_runtime.manifest import GATES, Latency, PlanSpec, SegmentSpec
from preempt_runtime.units import fmt_bytes, fmt_ns
from preemptc.candidates import CandidateCounts
from preemptc.profile import LatencyProfile

_STEPS = (
    ("positions", "positions of the network"),
    ("after_fusion", "not inside a fused node"),
    ("after_live_bytes", "few enough live bytes"),
    ("after_zero_cost", "time passes between them"),
    ("after_dominance", "not dominated: candidates"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of text; without `columns` they are labels and values.

    `numbers` are the columns that are aligned on the right, `notes` are lines below the table.
    """

    title: str
    rows: tuple[tuple[str, ...], ...]
    columns: tuple[str, ...] = ()
    numbers: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def plain_text(tables: Sequence[Table]) -> str:
    """The tables as aligned lines, an empty line between two.

    >>> print(plain_text([Table(title="net", rows=(("bound", "3 ms"),))]), end="")
    net
      bound  3 ms
    """
    return "\n".join("\n".join(_plain_lines(table)) + "\n" for table in tables)


def _plain_lines(table: Table) -> list[str]:
    rows = [tuple(printable(cell) for cell in row) for row in table.rows]
    lines = [table.columns, *rows] if table.columns else rows
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    aligns = [column in table.numbers for column in table.columns] or [False] * len(widths)
    return [
        printable(table.title),
        *(f"  {_aligned(line, widths, aligns)}" for line in lines),
        *(f"  {printable(note)}" for note in table.notes),
    ]


def _aligned(line: Sequence[str], widths: Sequence[int], aligns: Sequence[bool]) -> str:
    cells = [
        cell.rjust(width) if is_number else cell.ljust(width)
        for cell, width, is_number in zip(line, widths, aligns, strict=True)
    ]
    return "  ".join(cells).rstrip()


def rich_table(table: Table) -> RichTable:
    """The table for a terminal; what looks like markup in a name stays what it is."""
    drawn = RichTable(
        title=Text(printable(table.title), style="bold"),
        title_justify="left",
        caption=Text(printable("\n".join(table.notes))) if table.notes else None,
        caption_justify="left",
        box=box.HORIZONTALS if table.columns else None,
        show_header=bool(table.columns),
    )
    for column in table.columns or ("", ""):
        is_number = column in table.numbers
        drawn.add_column(Text(column), justify="right" if is_number else "left", no_wrap=is_number)
    for row in table.rows:
        drawn.add_row(*(Text(printable(cell)) for cell in row))
    return drawn


def printable(text: str) -> str:
    r"""The text without control characters: names come from files of others.

    >>> printable("a\x1b[31m")
    'a\\x1b[31m'
    """
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in text
    )


def fmt_percent(frac: float) -> str:
    """A share for people.

    >>> fmt_percent(0.0314), fmt_percent(-0.002)
    ('3.14 %', '-0.2 %')
    """
    return f"{100 * frac:.3g} %"


def fmt_latency(latency: Latency | None) -> str:
    """Median, 99th percentile and maximum.

    >>> fmt_latency(Latency(p50_ns=1000, p99_ns=2000, max_ns=3000, num_samples=9))
    '1 us p50, 2 us p99, 3 us max of 9 runs'
    """
    if latency is None:
        return "not measured"
    quantiles = ", ".join(f"{fmt_ns(latency.at(name))} {name}" for name in ("p50", "p99", "max"))
    return f"{quantiles} of {latency.num_samples} runs"


def fmt_costs(profile: LatencyProfile, *, is_cached: bool) -> str:
    """Where costs come from: estimated, or measured when, and whether the cache held them."""
    if profile.source != "measured":
        return profile.source
    return f"measured {fmt_when(profile.measured_at)}{', found in the cache' if is_cached else ''}"


def fmt_when(measured_at: str | None) -> str:
    """A time in ISO 8601 for people.

    >>> fmt_when("2026-11-21T09:30:00+00:00")
    '2026-11-21 09:30:00 UTC'
    """
    return (measured_at or "at an unknown time").replace("T", " ").replace("+00:00", " UTC")


def fmt_bound(bound_ns: int | None, quantile: str) -> str:
    """A bound with the quantile that keeps it."""
    return "none asked" if bound_ns is None else f"{fmt_ns(bound_ns)} at {quantile}"


def longest_segment(plan: PlanSpec) -> str:
    """The largest p50, p99 and maximum over the segments; they need not be of the same one."""
    latencies = [segment.latency for segment in plan.segments if segment.latency is not None]
    if len(latencies) < len(plan.segments) or not latencies:
        return "not measured"
    return ", ".join(
        f"{fmt_ns(max(latency.at(name) for latency in latencies))} {name}"
        for name in ("p50", "p99", "max")
    )


def facts(title: str, values: Mapping[str, str], notes: tuple[str, ...] = ()) -> Table:
    """A table of labels and values."""
    return Table(title=title, rows=tuple(values.items()), notes=notes)


def pruning_table(counts: CandidateCounts) -> Table:
    """How many positions each pruning step leaves."""
    return Table(
        title="pruning",
        columns=("split points", "left"),
        numbers=frozenset({"left"}),
        rows=tuple((text, str(getattr(counts, name))) for name, text in _STEPS),
    )


def segment_table(plan: PlanSpec, node_names: Sequence[str] | None) -> Table:
    """A row per segment: nodes, predicted and measured times, live bytes at its end.

    Of a plan of gates a row per stretch: its nodes are those of the captured graph, and nothing
    is handed over at its end.

    Args:
        node_names: of the executed graph; None where a bundle does not tell them.
    """
    if plan.mechanism == GATES:
        return _stretch_table(plan)
    columns = ("nodes", "from", "to", "predicted", "p50", "p99", "max", "live bytes")
    rows = []
    for idx, segment in enumerate(plan.segments):
        start, end = segment.range
        names = (node_names[start], node_names[end - 1]) if node_names else ("-", "-")
        live = fmt_bytes(segment.live_bytes)
        rows.append((str(idx), f"{start}-{end - 1}", *names, *_segment_times(segment), live))
    return Table(
        title=f"segments of plan {plan.id!r} (p50, p99, max {plan.source})",
        columns=("#", *columns),
        numbers=frozenset(("#", *columns)) - {"from", "to"},
        rows=tuple(rows),
    )


def _stretch_table(plan: PlanSpec) -> Table:
    columns = ("#", "kernel nodes", "predicted", "p50", "p99", "max")
    rows = [
        (str(idx), f"{stretch.range[0]}-{stretch.range[1] - 1}", *_segment_times(stretch))
        for idx, stretch in enumerate(plan.segments)
    ]
    return Table(
        title=f"stretches of plan {plan.id!r}, a gate before each (p50, p99, max {plan.source})",
        columns=columns,
        numbers=frozenset(columns),
        rows=tuple(rows),
    )


def _segment_times(segment: SegmentSpec) -> tuple[str, ...]:
    """Predicted, and measured at three quantiles."""
    latency = segment.latency
    times = [fmt_ns(latency.at(q)) if latency else "-" for q in ("p50", "p99", "max")]
    return fmt_ns(segment.predicted_ns), *times


def build_note(target: str, bundle: str) -> str:
    """What is left to do for a bundle whose target is elsewhere."""
    return (
        f"engines for {target} are built where it is: run `preemptc build"
        f" {shlex.quote(bundle)}` there, which measures and plans again"
    )
