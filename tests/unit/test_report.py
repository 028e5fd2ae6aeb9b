"""Tables: aligned plain text, the same on a terminal, and names that cannot do harm."""

import io
from dataclasses import replace

from rich.console import Console

from preempt_runtime.manifest import Latency, PlanSpec, SegmentSpec
from preemptc.candidates import CandidateCounts
from preemptc.commands import compile_tables
from preemptc.report import (
    Table,
    facts,
    fmt_bound,
    fmt_latency,
    longest_segment,
    plain_text,
    printable,
    pruning_table,
    rich_table,
    segment_table,
)

COUNTS = CandidateCounts(
    positions=11, after_fusion=7, after_live_bytes=6, after_zero_cost=5, after_dominance=4
)


def latency(scale: int) -> Latency:
    return Latency(p50_ns=scale, p99_ns=2 * scale, max_ns=3 * scale, num_samples=9)


def segment(start: int, end: int, time: Latency | None) -> SegmentSpec:
    return SegmentSpec(
        path=f"engines/k/segment-{start:03d}.onnx",
        range=(start, end),
        source_range=(start, end),
        inputs=("a",),
        outputs=("b",),
        live_bytes=2048,
        predicted_ns=1500,
        latency=time,
    )


PLAN = PlanSpec(
    id="segments",
    graph="main",
    target="cpu",
    key=None,
    mechanism="segments",
    bound_ns=3_000_000,
    bound_quantile="p99",
    margin_frac=0.05,
    source="measured",
    boundaries=(),
    segments=(segment(0, 2, latency(1000)), segment(2, 3, latency(4000))),
    chained=None,
)


def on_terminal(table: Table) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, no_color=True)
    console.print(rich_table(table))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_plain_columns_are_aligned_and_numbers_on_the_right() -> None:
    table = Table(
        title="nodes",
        columns=("node", "ns"),
        numbers=frozenset({"ns"}),
        rows=(("conv", "7"), ("relu_long", "1234")),
        notes=("and 2 more",),
    )
    assert plain_text([table]) == (
        "nodes\n"
        "  node         ns\n"
        "  conv          7\n"
        "  relu_long  1234\n"
        "  and 2 more\n"
    )  # fmt: skip


def test_an_empty_line_stands_between_tables_and_an_empty_table_keeps_its_head() -> None:
    empty = Table(title="pruned", columns=("position", "reason"), rows=())
    text = plain_text([facts("net", {"bound": "3 ms"}), empty, facts("nothing", {})])
    assert text == "net\n  bound  3 ms\n\npruned\n  position  reason\n\nnothing\n"


def test_a_terminal_gets_the_same_cells() -> None:
    drawn = on_terminal(pruning_table(COUNTS))
    for text in ("pruning", "split points", "left", "not inside a fused node", "11", "4"):
        assert text in drawn
    assert "3 ms" in on_terminal(facts("net", {"bound": "3 ms"}, ("a note",)))


def test_names_of_others_are_neither_markup_nor_terminal_commands() -> None:
    table = facts("net", {"node": "[red]\x1b[2J[/red]"})
    assert "\x1b" not in plain_text([table])
    assert r"[red]\x1b[2J[/red]" in on_terminal(table)
    assert printable("größe\n\x07") == "größe\n\\x07"


def test_pruning_table_tells_every_step() -> None:
    assert [row[1] for row in pruning_table(COUNTS).rows] == ["11", "7", "6", "5", "4"]


def test_segment_table_names_first_and_last_node() -> None:
    table = segment_table(PLAN, ("conv", "relu", "fc"))
    assert table.rows[0] == (
        "0", "0-1", "conv", "relu", "1.5 us", "1 us", "2 us", "3 us", "2 KiB",
    )  # fmt: skip
    assert table.rows[1][1:4] == ("2-2", "fc", "fc")
    assert segment_table(PLAN, None).rows[0][2:4] == ("-", "-")


def test_the_longest_segment_is_measured_or_said_not_to_be() -> None:
    assert longest_segment(PLAN) == "4 us p50, 8 us p99, 12 us max"
    partly = replace(PLAN, segments=(PLAN.segments[0], segment(2, 3, None)))
    assert longest_segment(partly) == "not measured"
    assert segment_table(partly, None).rows[1][5:8] == ("-", "-", "-")
    assert fmt_latency(None) == "not measured"


def test_a_bound_comes_with_its_quantile() -> None:
    assert fmt_bound(3_000_000, "p99") == "3 ms at p99"
    assert fmt_bound(None, "p50") == "none asked"


def test_one_of_something_has_no_plural() -> None:
    report = {"wall_s": 1.0, "cache_hits": 1}
    assert compile_tables._time(report) == "1 s, 1 result from the cache"
    plan = {"segments": 1, "longest_ns": 9000, "overhead_ratio": 1.0, "kept": True}
    assert compile_tables.fmt_tried([plan]) == "1 segment: longest 9 us, overhead 0 % (kept)"
