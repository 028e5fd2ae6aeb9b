"""How long commands take as whole processes, and the dispatcher's own time: `make bench-commands`.

Writes docs/results/cpu-commands.json and .md.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.intervals import quantiles_of
from bench.machine import MachineWatch
from bench.publish import where
from bench.result_files import write_result
from models.make import make
from preempt_runtime.units import fmt_ns

_RUNS = 5
_ANALYZED = ("densenet201", "light/densenet121")  # the most nodes, real and after conversion
_COMPILED = "resnet50"
_IMPORT = "import preempt_runtime.executor"


def process_ns(command: Sequence[str], folder: Path, runs: int = _RUNS) -> list[int]:
    """Wall times of a command, each a process of its own, sorted.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    times = []
    for _ in range(runs):
        start_ns = time.perf_counter_ns()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        times.append(time.perf_counter_ns() - start_ns)
    return sorted(times)


def measure(folder: Path) -> dict[str, list[int]]:
    """Times by what was measured."""
    preemptc = [str(Path(sys.executable).with_name("preemptc"))]
    found: dict[str, list[int]] = {}
    for name in _ANALYZED:
        model = make(name, folder / f"{name.replace('/', '-')}.onnx")
        found[f"preemptc analyze {name}, nothing cached"] = sorted(
            process_ns([*preemptc, "analyze", str(model), "--cache", f"c{idx}"], folder, 1)[0]
            for idx in range(_RUNS)
        )
    model = make(_COMPILED, folder / f"{_COMPILED}.onnx")
    compile_ = [*preemptc, "compile", str(model), "--segments", "8"]
    found[f"preemptc compile {_COMPILED}, nothing cached"] = process_ns(compile_, folder, 1)
    found[f"the same again, {_COMPILED}"] = process_ns(compile_, folder)
    found["python -c 'pass'"] = process_ns([sys.executable, "-c", "pass"], folder)
    found[f"python -c '{_IMPORT}'"] = process_ns([sys.executable, "-c", _IMPORT], folder)
    return found


def dispatch_figures() -> dict[str, Any]:
    """What `bench.dispatch` measures, in a process of its own."""
    command = [sys.executable, "-m", "bench.dispatch"]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def page(result: Mapping[str, Any]) -> str:
    """The result as a document."""
    lines = ["| whole process | median | longest | runs |", "|---|---:|---:|---:|"]
    for what, times in result["processes"].items():
        found = quantiles_of(times)
        lines.append(f"| `{what}` | {fmt_ns(found.p50_ns)} | {fmt_ns(times[-1])} | {len(times)} |")
    for title, key in (
        ("the dispatcher's own time per segment, no-op device", "own_time"),
        ("`submit` to launch beside a busy Python thread", "turn_round_beside_busy_thread"),
    ):
        lines += ["", f"| {title} | p50 | p99 | samples |", "|---|---:|---:|---:|"]
        for what, found in result["dispatch"][key].items():
            p50, p99 = fmt_ns(found["p50_ns"]), fmt_ns(found["p99_ns"])
            lines.append(f"| {what} | {p50} | {p99} | {found['num_samples']} |")
    return (
        "# Commands and dispatcher\n\n`make bench-commands`; "
        + where(result["machine"])
        + ".\nThe switch interval that the executor sets while it runs is 20 us.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write both files."""
    parser = argparse.ArgumentParser(prog="python -m bench.commands", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    out = parser.parse_args(arguments).out
    watch = MachineWatch()
    with tempfile.TemporaryDirectory() as folder:
        processes = measure(Path(folder))
    result = {
        "processes": processes,
        "dispatch": dispatch_figures(),
        "machine": watch.describe(),
    }
    write_result(out, "cpu-commands", result, page(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
