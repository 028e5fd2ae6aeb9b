"""The README's part on GPUs, from the results of the GPU benchmarks."""

from collections.abc import Mapping, Sequence
from typing import Any

from preempt_runtime.units import fmt_ns

_PAIRED = (
    ("raw_alone", "CUDA graphs in a polling loop: alone"),
    ("raw_priorities", "two stream priorities, whole networks"),
    ("alone", "preempt-runtime: alone"),
    ("fifo", "whole networks in order of release"),
    ("segments_1", "segments, one in flight"),
    ("segments_2", "segments, two in flight"),
    ("gates_exclusive", "gates (experimental), `exclusive`"),
    ("gates_overlap", "gates, `overlap`"),
    ("gates_announced", "gates, `exclusive`, announced 100 us ahead"),
)


def gpu_part(
    rows: Sequence[Mapping[str, Any]], pair: Mapping[str, Any] | None, *, source: str
) -> str:
    """A table of the networks, and one of two networks side by side if that was measured.

    Args:
        rows: of networks.
        pair: of two networks, in several ways.
        source: the page with all figures of the pair.
    """
    done = [row for row in rows if "error" not in row]
    days: dict[str, set[str]] = {}
    for row in done:
        days.setdefault(_machine(row), set()).add(row["date"][:10])
    machines = [f"{name}, {' and '.join(sorted(dates))}" for name, dates in days.items()]
    lines = [
        "| network, batch, share of its time | precision | whole, one CUDA graph | bound |"
        " segments | longest p50 | chained / whole |",
        "|---|---|---:|---:|---:|---:|---:|",
        *(_row(row) for row in done),
        "",
        f"`make bench-gpu`; {'; '.join(machines)}; medians by CUDA events, without input and output"
        " copies. [Every figure](docs/results/gpu-networks.md)",
    ]
    return "\n".join([*lines, *(_pair_lines(pair, source) if pair else [])])


def _machine(found: Mapping[str, Any]) -> str:
    machine = found["machine"]
    return f"{machine['gpu']}, TensorRT {machine['tensorrt']}"


def _row(row: Mapping[str, Any]) -> str:
    measured = row["report"]["measured"]
    cells = (
        row["case"],
        row["precision"],
        fmt_ns(measured["whole_p50_ns"]),
        fmt_ns(row["bound_ns"]),
        str(row["report"]["segments"]),
        fmt_ns(max(measured["segment_p50_ns"])),
        f"{measured['overhead_ratio']:.3f}",
    )
    return f"| {' | '.join(cells)} |"


def _pair_lines(pair: Mapping[str, Any], source: str) -> list[str]:
    settings, ways = pair["settings"], pair["ways"]
    lines = [
        "",
        f"An urgent {settings['urgent']}, one every {fmt_ns(settings['period_us'] * 1000)} on"
        f" average, beside a {settings['long']} (batch {settings['batch']}) that runs all the time,"
        f" cut into {pair['segments']} segments:",
        "",
        "| | urgent p50 | p99 | max | p99 to the same alone | long jobs/s | to its rate alone |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, text in _PAIRED:
        if (way := ways.get(name)) is None:
            continue
        times = [fmt_ns(way["urgent"][f"{key}_ns"]) for key in ("p50", "p99", "max")]
        rates = ["-", "-"]
        if way["long_per_s"] is not None:
            rates = [f"{way['long_per_s']:.0f}", f"{way['rate_to_alone']:.2f}"]
        cells = [text, *times, f"{way['p99_to_alone']:.2f}", *rates]
        lines.append(f"| {' | '.join(cells)} |")
    return [
        *lines,
        "",
        f"`{pair.get('command', 'make bench-gpu-pair')}`; {_machine(pair)}, {pair['date'][:10]}."
        f" [More]({source})",
    ]
