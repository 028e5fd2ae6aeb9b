"""Splits networks on the GPU of this machine and measures them: `make bench-gpu`.

One row for each network and bound; a row that stands in the result is left alone, so that short
times on a GPU add up: `--only resnet50 --parts 8` measures one. `--again` measures it once more.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.compiling import bound_of
from models.make import make
from preempt_runtime.errors import PreemptError
from preempt_runtime.loading import open_backend
from preempt_runtime.units import fmt_ns
from preemptc.backends import BackendOptions
from preemptc.cache import BuildCache, write_atomically
from preemptc.pipeline import CompileOptions, compile_model, prepare, profile_model
from preemptc.replan import Goal

_OUT = Path("docs/results")
_NAME = "gpu-networks"
_WORK = Path("build_cache/bench-gpu")
_COMMAND = "make bench-gpu"
GOALS = {"resnet50": 1.10, "resnet152": 1.05, "vit_b_16": 1.05, "bert_base": 1.05}
"""Chained over whole at an eighth that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A network, its batch, and into how many parts of its time the bound divides it."""

    network: str
    batch: int
    parts: int

    @property
    def name(self) -> str:
        """How rows are told apart."""
        return f"{self.network} b{self.batch} 1/{self.parts}"


CASES = (
    Case(network="resnet50", batch=1, parts=8),
    Case(network="resnet152", batch=32, parts=8),
    Case(network="vit_b_16", batch=1, parts=8),
    Case(network="distilbert", batch=1, parts=8),
    Case(network="segformer_b0", batch=1, parts=8),
    Case(network="retinanet", batch=1, parts=8),
    Case(network="resnet50", batch=1, parts=4),
    Case(network="resnet152", batch=32, parts=4),
    Case(network="resnet50", batch=1, parts=16),
    Case(network="resnet152", batch=32, parts=16),
)


def measure(case: Case, work: Path, backend: BackendOptions) -> dict[str, Any]:
    """One row: the compile's report, the bound, the times of building."""
    start_ns = time.monotonic_ns()
    cache = BuildCache(work / "cache")
    model = make(case.network, work / f"{case.network}-{case.batch}.onnx", batch=case.batch)
    options = CompileOptions(target="native", goal=Goal(num_segments=1), backend=backend)
    prepared = prepare(model, options, cache)
    whole_built_s = (time.monotonic_ns() - start_ns) / 1e9
    bound = bound_of(profile_model(prepared, options, cache), parts=case.parts)
    goal = Goal(max_segment_ns=bound["bound_ns"])
    options = CompileOptions(target="native", goal=goal, backend=backend)
    bundle = work / f"{case.network}-{case.parts}.bundle"
    report = compile_model(model, bundle, options, cache)
    again_ns = time.monotonic_ns()
    second = compile_model(model, bundle, options, cache)
    again_s = (time.monotonic_ns() - again_ns) / 1e9
    return {
        **_head(case, backend),
        **bound,
        "report": report,
        "whole_built_s": round(whole_built_s, 1),
        "wall_s": round((again_ns - start_ns) / 1e9, 1),
        "second_compile_s": round(again_s, 2),
        "second_built_nothing": second["cache_hits"] > 0,
    }


def _head(case: Case, backend: BackendOptions) -> dict[str, Any]:
    return {
        "case": case.name,
        "network": case.network,
        "batch": case.batch,
        "parts": case.parts,
        "precision": backend.precision,
        "opt_level": backend.level,
        "machine": dict(open_backend("tensorrt").key_fields()),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def merge(row: Mapping[str, Any], out: Path) -> list[Any]:
    """The rows in `out` with this one in place of its older self, written as JSON and table."""
    path = out / f"{_NAME}.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    by_name = {entry["case"]: entry for entry in (*rows, row)}
    order = [case.name for case in CASES]
    known = sorted(by_name.values(), key=lambda entry: order.index(entry["case"]))
    document = {"command": _COMMAND, "rows": known}
    write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())
    write_atomically(out / f"{_NAME}.md", markdown(known).encode())
    return known


HEADERS = (
    "network", "whole", "bound", "segments", "longest p50", "p99", "chained/whole", "asked",
    "max diff", "candidates", "built/kept", "compile s", "of it whole", "segments", "again s",
    "date",
)  # fmt: skip


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The page of the results."""
    machines = sorted({_machine(row) for row in rows})
    lines = [
        "# Networks on a GPU, split at a share of their time",
        "",
        f"Made by `{_COMMAND}`. Times are the device's, by CUDA events, without input and output"
        " copies; *whole* is one engine as one CUDA graph, *chained* the segments' graphs launched"
        " one after the other, in turn with it in one process (median of paired ratios). The bound"
        " is that share of the whole, or 1.2 times the longest layer. *max diff* compares chained"
        " with whole outputs. *compile s* is all of it, from making the network on; *of it"
        " whole* until the whole engine was built, *segments* inside TensorRT for the segments'"
        " engines; *again* is a second compile, from the cache.",
        "",
        *(f"* {machine}" for machine in machines),
        "",
        f"| {' | '.join(HEADERS)} |",
        f"|{'---|' * len(HEADERS)}",
        *(f"| {' | '.join(_cells(row))} |" for row in rows),
        "",
    ]
    errors = [f"* {row['case']}: {row['error']}" for row in rows if "error" in row]
    return "\n".join([*lines, *(["## Not reached", "", *errors, ""] if errors else [])])


def _machine(row: Mapping[str, Any]) -> str:
    machine = row["machine"]
    return (
        f"{machine['gpu']}, compute capability {machine['compute_capability']}, TensorRT"
        f" {machine['tensorrt']}, driver's CUDA {machine['cuda_driver']}, precision"
        f" {row['precision']}, optimisation level {row['opt_level']}"
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    if "error" in row:
        return [row["case"], *["-"] * (len(HEADERS) - 2), row["date"][:10]]
    report, asked = row["report"], GOALS.get(row["network"]) if row["parts"] == 8 else None
    measured, candidates = report["measured"], report["candidates"]
    return [
        row["case"],
        fmt_ns(measured["whole_p50_ns"]),
        fmt_ns(row["bound_ns"]) + ("*" if row["bound_from"] == "longest node" else ""),
        str(report["segments"]),
        fmt_ns(max(measured["segment_p50_ns"])),
        fmt_ns(max(measured["segment_p99_ns"])),
        f"{measured['overhead_ratio']:.3f}",
        f"{asked:.2f}" if asked else "-",
        f"{report['check']['max_abs_diff']:.3g}",
        " > ".join(str(count) for count in candidates.values()),
        f"{report['built']}/{report['kept']}",
        f"{row['wall_s']:.0f}",
        f"{row['whole_built_s']:.0f}",
        f"{report['library_s']:.0f}",
        f"{row['second_compile_s']:.2f}",
        row["date"][:10],
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 every row has its figures, 1 there is no GPU or a network failed."""
    options = _parser().parse_args(arguments)
    backend = BackendOptions(precision=options.precision, level=options.opt_level)
    try:
        print(f"on {dict(open_backend('tensorrt').key_fields())}", flush=True)
    except PreemptError as err:
        print(f"bench-gpu: skipped everything: {err}", file=sys.stderr)
        return 1
    path = options.out / f"{_NAME}.json"
    done = {row["case"] for row in json.loads(path.read_text())["rows"]} if path.is_file() else ()
    failed = 0
    for case in CASES:
        if options.only and case.network not in options.only:
            continue
        if options.parts and case.parts not in options.parts:
            continue
        if case.name in done and not options.again:
            print(f"{case.name}: skipped, it stands in {path}; --again measures it once more")
            continue
        failed += _run(case, options, backend)
    return 1 if failed else 0


def _run(case: Case, options: argparse.Namespace, backend: BackendOptions) -> bool:
    options.work.mkdir(parents=True, exist_ok=True)
    row: dict[str, Any]
    try:
        row = measure(case, options.work, backend)
    except PreemptError as err:
        row = {**_head(case, backend), "error": str(err)}
    merge(row, options.out)
    if not options.keep:
        shutil.rmtree(options.work, ignore_errors=True)  # a network's engines take gigabytes
    print(row.get("error") or " | ".join(_cells(row)), flush=True)
    return "error" in row


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    networks = sorted({case.network for case in CASES})
    parser.add_argument("--only", nargs="+", choices=networks, metavar="NAME")
    parser.add_argument("--parts", nargs="+", type=int, metavar="N", help="bounds of 1/N")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp16")
    parser.add_argument("--opt-level", type=int, choices=range(6), default=3)
    parser.add_argument("--again", action="store_true", help="measure what has a row already")
    parser.add_argument("--keep", action="store_true", help="keep models and engines")
    parser.add_argument("--out", type=Path, default=_OUT)
    parser.add_argument("--work", type=Path, default=_WORK)
    return parser


if __name__ == "__main__":
    sys.exit(main())
