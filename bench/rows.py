"""One network's row of the benchmark: figures, what was asked of them, what was not reached."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.intervals import median_interval, quantiles_of
from bench.paired import PairedTimes
from preempt_runtime.units import fmt_ns

MAX_RATIO_LOW, MAX_RATIO_MEDIAN = 1.05, 1.10
RATIO_FROM_NS = 20_000_000  # shorter networks are reported, not judged
MAX_BUILT_PER_KEPT = 1.5
MIN_PAIRS = 50

Row = Mapping[str, Any]


def row_of(
    network: str,
    report: Mapping[str, Any],
    pairs: PairedTimes,
    bound: Mapping[str, Any],
    machine: Mapping[str, Any],
) -> dict[str, Any]:
    """The row as it is written.

    Args:
        network: its name in `models.make`.
        report: what `compile_model` returned.
        pairs: the bundle measured again, through the runtime.
        bound: `bound_ns` and what it was derived from.
        machine: where this ran.
    """
    ratio = median_interval(pairs.ratios, seed=0)
    segments = [quantiles_of(times) for times in pairs.by_segment]
    medians = [segment.p50_ns for segment in segments]
    longest = max(range(len(medians)), key=medians.__getitem__)
    figures = {
        "network": network,
        **bound,
        "compiled_bound_ns": report["bound_ns"],
        "refused": report["refused"],
        "whole_p50_ns": quantiles_of(pairs.whole_ns).p50_ns,
        "segments": len(medians),
        "segment_p50_ns": medians,
        "longest_segment": {
            "idx": longest,
            "p50_ns": medians[longest],
            "p99_ns": segments[longest].p99_ns,
        },
        "speed": round(quantiles_of(pairs.whole_ns).p50_ns / _whole_then_ns(report), 3),
        "is_bitwise": pairs.is_bitwise,
        "check": report["check"],
        "chained_over_whole": {
            "median": round(ratio.median, 4),
            "low": round(ratio.low, 4),
            "high": round(ratio.high, 4),
            "pairs": ratio.num_samples,
        },
        "built": report["built"],
        "kept": report["kept"],
        "rounds": report["rounds"],
        "candidates": report["candidates"],
        "at_compile": report["measured"],
        "compile_wall_s": report["wall_s"],
        "machine": dict(machine),
    }
    return {**figures, "not_reached": not_reached(figures)}


def _whole_then_ns(report: Mapping[str, Any]) -> int:
    return int(report["measured"]["whole_p50_ns"])


def at_compile_speed(row: Row) -> list[float]:
    """The medians measured again, in ns, as the compile's machine would have taken them.

    The whole network ran beside the segments both times, so its two medians tell how much slower
    or faster the machine was the second time: on a shared machine that is up to twofold.
    """
    return [p50_ns / row["speed"] for p50_ns in row["segment_p50_ns"]]


def failed_row(network: str, error: str, machine: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a network that could not be compiled or run, with the error's own text."""
    return {
        "network": network,
        "error": error,
        "machine": dict(machine),
        "not_reached": [f"no bundle: {error}"],
    }


def not_reached(row: Row) -> list[str]:
    """What was asked of a network and not reached, with the figures that show where and why."""
    return [
        *_refused(row),
        *_over_bound(row),
        *_wrong_outputs(row),
        *_slow_chain(row),
        *_built_too_many(row),
    ]


def _refused(row: Row) -> list[str]:
    if not row["refused"]:
        return []
    return [
        f"no plan under {fmt_ns(row['bound_ns'])}, compiled under"
        f" {fmt_ns(row['compiled_bound_ns'])}: {row['refused'][0]}"
    ]


def _over_bound(row: Row) -> list[str]:
    bound_ns, before = row["bound_ns"], row["at_compile"]["segment_p50_ns"]
    return [
        f"segment {idx} takes {fmt_ns(again_ns)} at the median at the compile's speed, bound"
        f" {fmt_ns(bound_ns)} (derived from the {row['bound_from']}); it took"
        f" {fmt_ns(before[idx])} when it was compiled, the machine's speed was"
        f" {row['speed']:.2f} of that{_steal(row)}"
        for idx, again_ns in enumerate(at_compile_speed(row))
        if max(again_ns, before[idx]) > bound_ns
    ]


def _wrong_outputs(row: Row) -> list[str]:
    if row["is_bitwise"]:
        return []
    return [
        "outputs differ from the whole network's; at compile time by at most"
        f" {row['check']['max_abs_diff']:.3g}"
    ]


def _slow_chain(row: Row) -> list[str]:
    ratio = row["chained_over_whole"]
    if row["whole_p50_ns"] <= RATIO_FROM_NS:
        return []
    reasons = []
    if ratio["pairs"] < MIN_PAIRS:
        reasons.append(f"only {ratio['pairs']} pairs measured, asked {MIN_PAIRS}")
    if ratio["low"] > MAX_RATIO_LOW or ratio["median"] > MAX_RATIO_MEDIAN:
        extra_ns = (ratio["median"] - 1) * row["whole_p50_ns"] / max(1, row["segments"] - 1)
        reasons.append(
            f"the chain takes {ratio['median']:.3f} of the whole network"
            f" [{ratio['low']:.3f}, {ratio['high']:.3f}], asked median {MAX_RATIO_MEDIAN:.2f} and"
            f" lower end {MAX_RATIO_LOW:.2f}: {fmt_ns(extra_ns)} for each of"
            f" {row['segments'] - 1} preemption points; at compile time"
            f" {row['at_compile']['overhead_ratio']:.3f}{_steal(row)}"
        )
    return reasons


def _built_too_many(row: Row) -> list[str]:
    if row["built"] <= MAX_BUILT_PER_KEPT * row["kept"]:
        return []
    return [
        f"{row['built']} segments built for {row['kept']} kept, asked at most"
        f" {MAX_BUILT_PER_KEPT:g} times as many: {row['rounds']} rounds until every measured"
        f" segment kept the bound{_steal(row)}"
    ]


def _steal(row: Row) -> str:
    frac = row["machine"]["steal_frac"]
    return "" if frac is None else f"; steal {100 * frac:.1f} %"


def markdown(rows: Sequence[Row], command: str) -> str:
    """The rows as a document: where and how, one table, and what was not reached."""
    done = [row for row in rows if "error" not in row]
    lines = [
        "# Every network on the CPU, split at a tenth of its time",
        "",
        f"Made by `{command}`. The bound is a tenth of the whole network's median, or 1.2 times its"
        " longest node where that is more (marked `*`). Times are",
        "medians in ms. *Longest* is the longest segment at compile time; *again*, from the bundle,"
        " through the runtime's device, divided by *speed*: how much longer the whole network",
        "took the second time (this is a shared machine). *Chained/whole* is the median of paired"
        " ratios with its 95 % bootstrap interval, chain and whole in turn in one process.",
        "*Candidates*: positions in the source graph, left after fusion, live bytes, zero cost and"
        " dominance. Each row was measured on its own date;",
        "the JSON beside this file has every figure.",
        "",
        *_machines(rows),
        "",
        "| network | whole | bound | segments | longest | again | speed | under bound | bitwise"
        " | chained/whole | pairs | built/kept | candidates | compile s | steal % | date |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|---|---:|---:|---|---:|---:|---|",
        *(_line(row) for row in done),
        "",
        "## Not reached",
        "",
        *(_missing_lines(rows) or ["Nothing: every network reached everything asked."]),
    ]
    return "\n".join(lines) + "\n"


def _machines(rows: Sequence[Row]) -> list[str]:
    found = {
        f"{m['cpu_model']}, {m['cores']} cores, ONNX Runtime {m['onnxruntime']},"
        f" Python {m['python']}, preemptc {m['preemptc']}"
        for m in (row["machine"] for row in rows)
    }
    return [f"* Machine: {text}" for text in sorted(found)]


def _line(row: Row) -> str:
    ratio, counts = row["chained_over_whole"], row["candidates"]
    before_ns = max(row["at_compile"]["segment_p50_ns"])
    again_ns = max(at_compile_speed(row))
    is_kept = max(before_ns, again_ns) <= row["bound_ns"]
    steal = row["machine"]["steal_frac"]
    mark = "" if row["bound_from"] == "whole network" else "*"
    cells = (
        f"`{row['network']}`",
        _ms(row["whole_p50_ns"]),
        _ms(row["bound_ns"]) + mark,
        str(row["segments"]),
        _ms(before_ns),
        _ms(again_ns),
        f"{row['speed']:.2f}",
        "yes" if is_kept else "**no**",
        "yes" if row["is_bitwise"] else "**no**",
        f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]",
        str(ratio["pairs"]),
        f"{row['built']}/{row['kept']}",
        " > ".join(str(counts[step]) for step in CANDIDATE_STEPS),
        f"{row['compile_wall_s']:.0f}",
        "-" if steal is None else f"{100 * steal:.1f}",
        row["machine"]["date"][:10],
    )
    return "| " + " | ".join(cells) + " |"


CANDIDATE_STEPS = (
    "positions",
    "after_fusion",
    "after_live_bytes",
    "after_zero_cost",
    "after_dominance",
)


def _missing_lines(rows: Sequence[Row]) -> list[str]:
    return [f"* `{row['network']}`: {reason}" for row in rows for reason in row["not_reached"]]


def _ms(value_ns: float) -> str:
    return f"{value_ns / 1e6:.2f}"
