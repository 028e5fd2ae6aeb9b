"""Put the newest results where readers look: docs/results and the marked parts of the README.

    make demo && python -m bench.publish

The demo's report and the parts of gates are taken from build_cache, all others from docs/results.

Figures in the README come from here alone, each with its command, machine and date.
"""

import argparse
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import gpu_gates_page
from bench.gate_parts import PARTS, merged, read_parts
from bench.gpu_readme import gpu_part
from bench.report import HEADERS, acceptance_lines, sentence, table_rows
from bench.result_files import write_result
from preempt_runtime.units import fmt_ns

README = Path("README.md")
RESULTS = Path("docs/results")
_PAIR = "pair-resnet152-b32-4000us-50us"
_LONG_NS, _SHORT_NS = 20_000_000, 5_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Copy the demo's report if there is a new one, and write the marked parts of the README."""
    parser = argparse.ArgumentParser(prog="python -m bench.publish", description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("build_cache/demo/report.json"))
    parser.add_argument("--gates", type=Path, default=PARTS, help=f"parts of gates ({PARTS})")
    options = parser.parse_args(arguments)
    demo = options.demo
    if demo.is_file():
        report = json.loads(demo.read_text())
        (RESULTS / "cpu-demo.json").write_text(json.dumps(report, indent=1) + "\n")
        (RESULTS / "cpu-demo.md").write_text(demo_page(report))
    else:
        print(f"{demo}: no new demo, its published result stays; `make demo` makes one")
    publish_gates(options.gates, RESULTS)
    README.write_text(published(README.read_text(), RESULTS))
    return 0


def publish_gates(folder: Path, results: Path) -> bool:
    """Put new parts of the benchmark of gates among those published; whether there are any."""
    path = results / f"{gpu_gates_page.NAME}.json"
    old = json.loads(path.read_text())["parts"] if path.is_file() else {}
    parts = merged(old, read_parts(folder))
    if not parts:
        print(f"{folder}: no parts of gates; `make bench-gpu-gates` measures them")
        return False
    write_result(results, gpu_gates_page.NAME, {"parts": parts}, gpu_gates_page.markdown(parts))
    return True


def published(text: str, results: Path) -> str:
    """The README with its marked parts made anew from the results in a folder."""
    demo = json.loads((results / "cpu-demo.json").read_text())
    networks = json.loads((results / "cpu-networks.json").read_text())["rows"]
    on_gpu = json.loads((results / "gpu-networks.json").read_text())["rows"]
    pair, page = _pair_of(results)
    parts = {
        "demo": demo_part(demo),
        "gpu": gpu_part(on_gpu, pair, source=page),
        "bench": networks_part(networks),
    }
    for name, part in parts.items():
        text = replaced(text, name, part)
    return text


def _pair_of(results: Path) -> tuple[Any, str]:
    """What was measured of two networks side by side, with gates where there is that; its page."""
    gates, pairs = results / "gpu-gates.json", results / "gpu-pair.json"
    parts = json.loads(gates.read_text())["parts"] if gates.is_file() else {}
    if (pair := parts.get(_PAIR)) is not None and pair["is_complete"]:
        return pair, "docs/results/gpu-gates.md"
    return json.loads(pairs.read_text()) if pairs.is_file() else None, "docs/results/gpu-pair.md"


def replaced(text: str, name: str, part: str) -> str:
    r"""The text with what stands between the markers of `name` replaced.

    >>> replaced("<!-- a:begin -->old<!-- a:end -->", "a", "new")
    '<!-- a:begin -->\nnew\n<!-- a:end -->'
    """
    pattern = re.compile(f"(<!-- {name}:begin -->).*?(<!-- {name}:end -->)", re.DOTALL)
    return pattern.sub(lambda found: f"{found[1]}\n{part}\n{found[2]}", text)


def _table(report: Mapping[str, Any]) -> str:
    rows = [HEADERS, ("---", *("---:" for _ in HEADERS[1:])), *table_rows(report)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def where(machine: Mapping[str, Any]) -> str:
    """Machine, versions and date of a result."""
    steal = machine["steal_frac"]
    stolen = "" if steal is None else f", steal {100 * steal:.1f} %"
    return (
        f"{machine['cpu_model']}, {machine['cores']} cores (virtual, shared{stolen}),"
        f" ONNX Runtime {machine['onnxruntime']}, Python {machine['python']},"
        f" {machine['date'][:10]}"
    )


def demo_part(report: Mapping[str, Any]) -> str:
    """The README's table of the demo."""
    settings = report["settings"]
    return (
        f"An urgent {settings['urgent']}, one every {fmt_ns(settings['period_ns'])} on average,"
        f" beside a {settings['best_effort']} that runs all the time:\n\n{_table(report)}\n\n"
        f"{sentence(report)}\n\n"
        f"`make demo`; {where(report['machine'])}; each figure the median of"
        f" {report['blocks']} blocks. [More](docs/results/cpu-demo.md)"
    )


def demo_page(report: Mapping[str, Any]) -> str:
    """The page of the demo's result."""
    asked = "\n".join(f"* {line}" for line in acceptance_lines(report))
    longest = report["max_segment_ns"]
    return (
        "# The demo: an urgent network beside a long one\n\n"
        "`make demo` makes both networks, compiles the long one, and runs four modes in turn, in"
        " blocks of one process with the\nsame releases: the urgent network alone; best effort"
        " alone; both in order of release with the uncut network (`fifo`);\nboth with preemption."
        " Response time runs from release to result. Each figure is the median over the"
        f" {report['blocks']} blocks.\n\n{_table(report)}\n\n{sentence(report)}\n\n"
        f"The longest segment takes {fmt_ns(longest['p50'])} p50, {fmt_ns(longest['p99'])} p99,"
        f" {fmt_ns(longest['max'])} max; the bound was {fmt_ns(report['bound_ns'])}.\n\n{asked}\n\n"
        f"{where(report['machine'])}. Every figure: [cpu-demo.json](cpu-demo.json).\n"
    )


def networks_part(rows: Sequence[Mapping[str, Any]]) -> str:
    """The README's summary of all networks."""
    done = [row for row in rows if "error" not in row]
    long = [row for row in done if row["whole_p50_ns"] > _LONG_NS]
    ratios = sorted(row["chained_over_whole"]["median"] for row in long)
    segments = sorted(row["segments"] for row in long)
    exact = sum(row["is_bitwise"] for row in done)
    reached = sum(not row["not_reached"] for row in rows)
    dates = sorted(row["machine"]["date"][:10] for row in done)
    machine = done[-1]["machine"]
    return (
        f"Split at a tenth of its time (or 1.2 times its longest node), a network over 20 ms takes"
        f" {ratios[0]:.2f} to {ratios[-1]:.2f} times its uncut\ntime, median"
        f" {statistics.median(ratios):.2f}, in {segments[0]} to {segments[-1]} segments"
        f" ({len(long)} networks; medians of paired runs). Outputs were bitwise\nequal for"
        f" {exact} of {len(done)} networks; {reached} of {len(rows)} reached everything we asked of"
        f" them.\n{price_of_points(done)}\n"
        f"[Every network](docs/results/cpu-networks.md), `make bench`;"
        f" {machine['cpu_model']}, {machine['cores']} cores, ONNX Runtime"
        f" {machine['onnxruntime']}, {dates[0]} to {dates[-1]}."
    )


def price_of_points(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a preemption point cost where the chain was the slower one, and whom that hurts.

    A point's price is (ratio - 1) * whole / (segments - 1).
    """
    points = [
        (row["chained_over_whole"]["median"] - 1) * row["whole_p50_ns"] / (row["segments"] - 1)
        for row in rows
        if row["segments"] > 1
    ]
    prices = sorted(price_ns for price_ns in points if price_ns > 0)
    if not prices:
        return "No network was slower for its preemption points."
    text = (
        f"Where the chain was slower ({len(prices)} of {len(points)} networks), a preemption point"
        f" cost {fmt_ns(prices[0])} to {fmt_ns(prices[-1])}, median"
        f" {fmt_ns(statistics.median(prices))}"
    )
    short = sorted(
        row["chained_over_whole"]["median"] for row in rows if row["whole_p50_ns"] < _SHORT_NS
    )
    if not short:
        return f"{text}."
    return (
        f"{text}.\nShort networks pay a larger share: those under {fmt_ns(_SHORT_NS)} took"
        f" {short[0]:.2f} to {short[-1]:.2f} times their uncut time."
    )


if __name__ == "__main__":
    raise SystemExit(main())
