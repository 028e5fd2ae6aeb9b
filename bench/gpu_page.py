"""The page of the GPU benchmark: one table of all rows, and a section for each."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.gpu_layers import layer_lines
from preempt_runtime.units import fmt_bytes, fmt_ns

NAME = "gpu-networks"
HEADERS = (
    "network", "whole", "bound", "segments", "longest p50", "chained/whole", "asked", "reached",
    "candidates", "built/kept", "compile s", "in TensorRT", "again s", "memory whole > segments",
    "date",
)  # fmt: skip

Row = Mapping[str, Any]


def markdown(rows: Sequence[Row], command: str) -> str:
    """The page of the results."""
    machines = sorted({_machine(row) for row in rows})
    errors = [f"* {row['case']}: {row['error']}" for row in rows if "error" in row]
    lines = [
        "# Networks on a GPU, split at a share of their time",
        "",
        f"Made by `{command}`. Times are the device's, by CUDA events, without input and output"
        " copies, on random inputs; *whole* is one engine as one CUDA graph, *chained* the"
        " segments' graphs launched one after the other, in turn with it in one process (median of"
        " paired ratios). The bound is that share of the whole, or 1.2 times the longest layer"
        " (marked `*`).",
        "*Candidates*: positions in the source graph, left after fusion, live bytes, zero cost and"
        " dominance. *Built/kept*: engines of segments, tried boundary formats and rounds of"
        " planning included, and those in the bundle. *Compile s* runs from loading the model to"
        " the finished bundle, *in TensorRT* is the part of it inside TensorRT's builder; *again*"
        " is a second compile, from the cache. *Memory* is what loading the engines and one job's"
        " buffers takes of the device, by the driver.",
        "",
        *(f"* {machine}" for machine in machines),
        "",
        f"| {' | '.join(HEADERS)} |",
        f"|{'---|' * len(HEADERS)}",
        *(f"| {' | '.join(_cells(row))} |" for row in rows),
        "",
        *(["## Not measured", "", *errors, ""] if errors else []),
    ]
    for row in rows:
        if "again" in row:
            lines += _section(row)
    return "\n".join(lines)


def summary(row: Row) -> str:
    """The row in one line, for a terminal."""
    return f"{row['case']}: {row['error']}" if "error" in row else " | ".join(_cells(row))


def _machine(row: Row) -> str:
    machine = row["machine"]
    return (
        f"{machine['gpu']}, compute capability {machine['compute_capability']}, TensorRT"
        f" {machine['tensorrt']}, driver's CUDA {machine['cuda_driver']}, precision"
        f" {row['precision']}, optimisation level {row['opt_level']}"
    )


def _cells(row: Row) -> list[str]:
    if "error" in row:
        return [row["case"], *["-"] * (len(HEADERS) - 2), row["date"][:10]]
    report, asked = row["report"], row.get("asked")
    measured, ratio = report["measured"], report["measured"]["overhead_ratio"]
    reached = "-" if asked is None else "yes" if ratio <= asked else "**no**"
    return [
        row["case"],
        fmt_ns(measured["whole_p50_ns"]),
        fmt_ns(row["bound_ns"]) + ("*" if row["bound_from"] == "longest node" else ""),
        str(report["segments"]),
        fmt_ns(max(measured["segment_p50_ns"])),
        f"{ratio:.3f}",
        f"{asked:.2f}" if asked else "-",
        reached,
        " > ".join(str(count) for count in report["candidates"].values()),
        f"{report['built']}/{report['kept']}",
        f"{row['wall_s']:.0f}",
        _in_tensorrt(row),
        f"{row['second_compile_s']:.2f}" + ("" if row["second_built_nothing"] else ", **built**"),
        _memory(row),
        row["date"][:10],
    ]


def _in_tensorrt(row: Row) -> str:
    if "tensorrt_s" not in row:
        return "-"
    share = row["tensorrt_s"] / max(row["wall_s"], 0.1)
    cached = ", whole from the cache" if row["whole_from_cache"] else ""
    return f"{row['tensorrt_s']:.0f} s, {share:.0%}{cached}"


def _memory(row: Row) -> str:
    if "memory_bytes" not in row:
        return "-"
    taken = row["memory_bytes"]
    return " > ".join(fmt_bytes(taken[plan]["device"]) if plan in taken else "-" for plan in _PLANS)


_PLANS = ("whole", "segments")


def _section(row: Row) -> list[str]:
    return [
        f"## {row['case']}",
        "",
        *_segments(row),
        *_told(row["report"]),
        *_outputs(row),
        *_memory_lines(row),
        *(["Where the time goes:", "", *layer_lines(row["layers"]), ""] if "layers" in row else []),
    ]


def _segments(row: Row) -> list[str]:
    """Every segment's quantiles, at compile time and again from the bundle."""
    measured, again = row["report"]["measured"], row["again"]
    over = [
        idx
        for idx, (first_ns, second) in enumerate(
            zip(measured["segment_p50_ns"], again["segments"], strict=True)
        )
        if max(first_ns, second["p50_ns"]) > row["bound_ns"]
    ]
    verdict = "every segment's median is under it, both times"
    if over:
        verdict = f"**over it: the median of segment {', '.join(map(str, over))}**"
    lines = [
        f"Bound {fmt_ns(row['bound_ns'])}: {verdict}. Again, from the bundle through the runtime:"
        f" {_again_text(again)}",
        "",
        "| segment | p50 | p99 | max | again p50 | p99 | max |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for idx, second in enumerate(again["segments"]):
        first = [measured[f"segment_{name}_ns"][idx] for name in ("p50", "p99", "max")]
        times = [*first, *(second[f"{name}_ns"] for name in ("p50", "p99", "max"))]
        lines.append(f"| {idx} | {' | '.join(map(fmt_ns, times))} |")
    return [*lines, ""]


def _again_text(again: Mapping[str, Any]) -> str:
    chained = f"chained {fmt_ns(again['chained']['p50_ns'])},"
    if (ratio := again["ratio"]) is None:
        return f"whole -, {chained} of {again['pairs']} runs."
    return (
        f"whole {fmt_ns(again['whole']['p50_ns'])}, {chained} chained/whole {ratio['median']:.3f}"
        f" [{ratio['low']:.3f}, {ratio['high']:.3f}] of {again['pairs']} pairs."
    )


def _told(report: Mapping[str, Any]) -> list[str]:
    """The compile's notes, and the plans that were built and measured on the way."""
    notes = [f"* {note}" for note in report.get("notes", ())]
    trials = [
        f"{each['segments']} segments, longest {fmt_ns(each['longest_ns'])},"
        f" {each['overhead_ratio']:.3f}{' (kept)' if each['kept'] else ''}"
        for each in report.get("tried", ())
    ]
    tried = [f"Plans tried, chained over whole: {'; '.join(trials)}.", ""] if trials else []
    return [*tried, *notes, *([""] if notes else [])]


def _outputs(row: Row) -> list[str]:
    tolerance = row["tolerance"]
    reference = row["report"]["check"].get("reference", "the whole network")
    lines = [
        f"Outputs on random inputs; the compile compared the segments with: {reference}. Allowed:"
        f" chained within {tolerance['chained_frac']:.0%} of the largest value of the whole"
        f" engine's, the source's outputs within {tolerance['source_frac']:.0%}, ONNX Runtime in"
        f" fp32 on the CPU, because {tolerance['reason']}.",
        "",
        "| output | largest | chained - whole | whole - ONNX Runtime | chained - ONNX Runtime |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, found in row["outputs"].items():
        shares = [
            f"{found[key]:.2g} ({found[key] / max(found['largest'], 1e-30):.2%})"
            if key in found
            else "-"
            for key in ("chained_to_whole", "whole_to_source", "chained_to_source")
        ]
        lines.append(f"| {name} | {found['largest']:.3g} | {' | '.join(shares)} |")
    return [*lines, ""]


def _memory_lines(row: Row) -> list[str]:
    lines = [
        "| device memory | taken | scratch | tensors of a job | engine files |",
        "|---|---:|---:|---:|---:|",
    ]
    for plan in (plan for plan in _PLANS if plan in row["memory_bytes"]):
        found = row["memory_bytes"][plan]
        sizes = [fmt_bytes(found[key]) for key in ("device", "scratch", "tensors", "engine_files")]
        lines.append(f"| {plan} | {' | '.join(sizes)} |")
    return [*lines, ""]
