"""From the demo's runs to its report: each figure the median over the blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.intervals import quantiles_of
from bench.modes import MODES, ModeRun
from preempt_runtime.units import fmt_ns

MAX_SEGMENT_FACTOR, MIN_FIFO_RATIO, MIN_KEPT = 1.3, 3.0, 0.90


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One turn through all modes; `overhead_ratio` is the median of its pairs chain over whole."""

    runs: Mapping[str, ModeRun]
    overhead_ratio: float
    urgent_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Longest:
    """The segment with the largest median in a block: its median and p99; the worst of all."""

    p50_ns: int
    p99_ns: int
    max_ns: int


def longest_segment(segment_ns: Sequence[Sequence[int]]) -> Longest:
    """The longest segment of a run; `max_ns` is the longest time that any segment took.

    >>> longest_segment([(1, 2, 90), (40, 50, 60)])
    Longest(p50_ns=50, p99_ns=60, max_ns=90)
    """
    quantiles = [quantiles_of(times) for times in segment_ns]
    longest = max(quantiles, key=lambda segment: segment.p50_ns)
    worst_ns = max(segment.max_ns for segment in quantiles)
    return Longest(p50_ns=longest.p50_ns, p99_ns=longest.p99_ns, max_ns=worst_ns)


def best_effort_kept(block: Block) -> float:
    """The long network's rate over what the urgent network leaves of its rate alone."""
    rate, alone = (
        block.runs[mode].best_effort_per_s for mode in ("preemptive", "best_effort_alone")
    )
    assert rate is not None
    assert alone is not None
    urgent_ns = quantiles_of(block.runs["alone"].response_ns).p50_ns
    return kept_frac(rate, alone, urgent_per_s=block.urgent_per_s, urgent_ns=urgent_ns)


def kept_frac(rate: float, alone: float, *, urgent_per_s: float, urgent_ns: int) -> float:
    """Rate over (rate alone times the share of time that urgent jobs leave).

    >>> kept_frac(4.0, 10.0, urgent_per_s=100.0, urgent_ns=5_000_000)
    0.8
    """
    return rate / (alone * (1 - urgent_per_s * urgent_ns / 1e9))


def report_of(
    blocks: Sequence[Block], *, bound_ns: int, settings: Mapping[str, Any],
    machine: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The report as it is written; counts of jobs are over all blocks.

    Times are integer nanoseconds, medians between two of them rounded. What does not run in a
    mode is None.
    """
    longest = [longest_segment(block.runs["preemptive"].segment_ns) for block in blocks]
    report = {
        "bound_ns": bound_ns,
        "segments": len(blocks[0].runs["preemptive"].segment_ns),
        "max_segment_ns": {
            "p50": round(median(entry.p50_ns for entry in longest)),
            "p99": round(median(entry.p99_ns for entry in longest)),
            "max": round(median(entry.max_ns for entry in longest)),
        },
        "overhead_ratio": round(median(block.overhead_ratio for block in blocks), 4),
        "best_effort_kept": round(median(map(best_effort_kept, blocks)), 4),
        "runs": {mode: _run_of([block.runs[mode] for block in blocks]) for mode in MODES},
        "blocks": len(blocks),
        "settings": dict(settings),
        "machine": dict(machine),
    }
    return {**report, "acceptance": acceptance(report)}


def _run_of(runs: Sequence[ModeRun]) -> dict[str, Any]:
    rates = [run.best_effort_per_s for run in runs if run.best_effort_per_s is not None]
    return {
        "urgent": _urgent_of(runs) if runs[0].response_ns else None,
        "best_effort": {"jobs_per_s": round(median(rates), 4)} if rates else None,
    }


def _urgent_of(runs: Sequence[ModeRun]) -> dict[str, int]:
    quantiles = [quantiles_of(run.response_ns) for run in runs]
    return {
        "p50_ns": round(median(entry.p50_ns for entry in quantiles)),
        "p95_ns": round(median(entry.p95_ns for entry in quantiles)),
        "p99_ns": round(median(entry.p99_ns for entry in quantiles)),
        "max_ns": round(median(entry.max_ns for entry in quantiles)),
        "jobs": sum(entry.num_samples for entry in quantiles),
    }


def acceptance(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What was asked of the demo: found, allowed, and whether it was reached."""
    p99_ns = {
        mode: report["runs"][mode]["urgent"]["p99_ns"] for mode in ("alone", "fifo", "preemptive")
    }
    limit_ns = round(p99_ns["alone"] + MAX_SEGMENT_FACTOR * report["max_segment_ns"]["p99"])
    fifo_ratio = round(p99_ns["fifo"] / p99_ns["preemptive"], 3)
    kept = report["best_effort_kept"]
    return {
        "preemptive_p99_ns": {
            "found": p99_ns["preemptive"],
            "at_most": limit_ns,
            "is_reached": p99_ns["preemptive"] <= limit_ns,
        },
        "fifo_over_preemptive_p99": {
            "found": fifo_ratio,
            "at_least": MIN_FIFO_RATIO,
            "is_reached": fifo_ratio >= MIN_FIFO_RATIO,
        },
        "best_effort_kept": {"found": kept, "at_least": MIN_KEPT, "is_reached": kept >= MIN_KEPT},
    }


HEADERS = ("mode", "urgent p50", "p95", "p99", "max", "jobs", "best effort jobs/s")


def table_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The table's cells, one row for each mode."""
    return [_table_row(mode, report["runs"][mode]) for mode in MODES]


def _table_row(mode: str, run: Mapping[str, Any]) -> tuple[str, ...]:
    urgent, best_effort = run["urgent"], run["best_effort"]
    times = ("p50_ns", "p95_ns", "p99_ns", "max_ns")
    cells = [fmt_ns(urgent[name]) if urgent else "-" for name in times]
    jobs = str(urgent["jobs"]) if urgent else "-"
    rate = f"{best_effort['jobs_per_s']:.3g}" if best_effort else "-"
    return (mode.replace("_", " "), *cells, jobs, rate)


def sentence(report: Mapping[str, Any]) -> str:
    """What preemption gained, and what it cost."""
    fifo, ours, alone = (
        report["runs"][mode]["urgent"]["p99_ns"] for mode in ("fifo", "preemptive", "alone")
    )
    rates = {
        mode: report["runs"][mode]["best_effort"]["jobs_per_s"]
        for mode in ("best_effort_alone", "fifo", "preemptive")
    }
    gain = f"{fifo / ours:.1f} times less" if ours <= fifo else f"{ours / fifo:.1f} times more"
    return (
        f"With preemption 99 % of the urgent jobs were done within {fmt_ns(ours)} instead of"
        f" {fmt_ns(fifo)}, {gain} (alone {fmt_ns(alone)}); the price: the long network, cut into"
        f" {report['segments']} segments, takes {report['overhead_ratio']:.3f} of its uncut time"
        f" and did {rates['preemptive']:.2f} jobs/s beside the urgent ones, uncut and without"
        f" preemption {rates['fifo']:.2f}, alone {rates['best_effort_alone']:.2f}."
    )


def acceptance_lines(report: Mapping[str, Any]) -> list[str]:
    """The acceptance figures for people."""
    found = report["acceptance"]
    p99, ratio, kept = (
        found[name]
        for name in ("preemptive_p99_ns", "fifo_over_preemptive_p99", "best_effort_kept")
    )
    texts = (
        (
            f"urgent p99 with preemption {fmt_ns(p99['found'])}, asked at most"
            f" {fmt_ns(p99['at_most'])} (p99 alone + {MAX_SEGMENT_FACTOR:g} x the longest"
            " segment's p99)",
            p99,
        ),
        (
            f"FIFO's p99 over the preemptive one {ratio['found']:.2f}, asked at least"
            f" {MIN_FIFO_RATIO:g}",
            ratio,
        ),
        (
            f"best effort kept {kept['found']:.3f}, asked at least {MIN_KEPT:.2f} (its rate over"
            " its rate alone x the share of time that urgent jobs leave)",
            kept,
        ),
    )
    return [
        f"{'reached' if entry['is_reached'] else 'NOT reached'}: {text}" for text, entry in texts
    ]
