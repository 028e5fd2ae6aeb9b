"""Splits networks on the GPU of this machine and measures them: `make bench-gpu`.

One row for each network and bound; a row that stands in the result is left alone, so that short
times on a GPU add up: `--only resnet50 --parts 8` measures one. `--again` measures it once more.
With `--keep` what was built stays, and the same network at another bound has its whole engine.
`--quick` tries everything on a small network, and writes nothing into docs/results.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.compiling import bound_of
from bench.gpu_build_time import counted_builds
from bench.gpu_bundle import compared_outputs, loaded, memory_of, paired_times
from bench.gpu_layers import layer_report, layer_times
from bench.gpu_page import NAME, markdown, summary
from bench.result_files import write_result
from models.make import make
from preempt_runtime.errors import PreemptError
from preempt_runtime.loading import open_backend
from preemptc.backends import BackendOptions
from preemptc.backends.reference import SourceReference
from preemptc.backends.tensorrt.bench import TrtBench
from preemptc.cache import BuildCache
from preemptc.compile_options import CompileOptions
from preemptc.goal import Goal
from preemptc.pipeline import compile_model
from preemptc.prepare import Prepared, prepare
from preemptc.profiling import profile_model

_OUT = Path("docs/results")
_WORK = Path("build_cache/bench-gpu")
QUICK = Path("build_cache/bench-gpu-quick")
QUICK_LEVEL = 1
_COMMAND = "make bench-gpu"
GOALS = {"resnet50": 1.10, "resnet152": 1.05, "vit_b_16": 1.05, "distilbert": 1.05}
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
QUICK_CASES = (Case(network="light/squeezenet", batch=1, parts=4),)


def measure(
    case: Case, work: Path, backend: BackendOptions, *, has_layers: bool = False
) -> dict[str, Any]:
    """One row: the compile's report, the bound, the times of building, and the bundle measured.

    Args:
        case: what to measure.
        work: folder of models, bundles and the cache.
        backend: precision and level.
        has_layers: list layers even where the goal is reached.
    """
    cache = BuildCache(work / "cache")
    name = case.network.replace("/", "-")
    model = make(case.network, work / f"{name}-{case.batch}.onnx", batch=case.batch)
    bundle = work / f"{name}-{case.batch}-{case.parts}.bundle"
    with counted_builds() as builds:
        start_ns = time.monotonic_ns()
        options = CompileOptions(target="native", goal=Goal(num_segments=1), backend=backend)
        prepared = prepare(model, options, cache)
        whole_built_s, num_whole = _seconds_since(start_ns), builds.num_builds
        bound = bound_of(profile_model(prepared, options, cache), parts=case.parts)
        goal = Goal(max_segment_ns=bound["bound_ns"])
        options = CompileOptions(target="native", goal=goal, backend=backend)
        report = compile_model(model, bundle, options, cache)
        wall_s, tensorrt_s, num_built = _seconds_since(start_ns), builds.seconds, builds.num_builds
        again_ns = time.monotonic_ns()
        compile_model(model, bundle, options, cache)
        again_s = _seconds_since(again_ns)
    return {
        **_head(case, backend),
        **bound,
        "report": {**report, "bundle": bundle.name},  # results name no folder of this machine
        "tolerance": asdict(TrtBench.tolerance),
        "whole_built_s": round(whole_built_s, 1),
        "whole_from_cache": num_whole == 0,
        "wall_s": round(wall_s, 1),
        "tensorrt_s": round(tensorrt_s, 1),
        "second_compile_s": round(again_s, 2),
        "second_built_nothing": builds.num_builds == num_built,
        **_bundle_figures(bundle, prepared, is_missed=_is_missed(case, report) or has_layers),
    }


def _seconds_since(start_ns: int) -> float:
    return (time.monotonic_ns() - start_ns) / 1e9


def _is_missed(case: Case, report: Mapping[str, Any]) -> bool:
    asked = asked_of(case.network, case.parts)
    return asked is not None and report["measured"]["overhead_ratio"] > asked


def asked_of(network: str, parts: int) -> float | None:
    """Chained over whole that was asked of a case; None: nothing."""
    return GOALS.get(network) if parts == 8 else None


def _bundle_figures(path: Path, prepared: Prepared, *, is_missed: bool) -> dict[str, Any]:
    """The bundle through the runtime's device; with layers where the chain is slower than asked."""
    memory = memory_of(path)
    with loaded(path) as it:
        times = paired_times(it)
        figures = {
            "again": times,
            "outputs": compared_outputs(it, SourceReference(prepared.model.path).outputs),
            "memory_bytes": memory,
        }
        if not is_missed or it.whole is None:
            return figures
        layers = layer_times(it, prepared.lowered.path)
        medians = [segment["p50_ns"] for segment in times["segments"]]
        return {**figures, "layers": layer_report(layers, times["whole"]["p50_ns"], medians)}


def _head(case: Case, backend: BackendOptions) -> dict[str, Any]:
    return {
        "case": case.name,
        "network": case.network,
        "batch": case.batch,
        "parts": case.parts,
        "asked": asked_of(case.network, case.parts),
        "precision": backend.precision,
        "opt_level": backend.level,
        "machine": dict(open_backend("tensorrt").key_fields()),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def merge(row: Mapping[str, Any], out: Path) -> list[Any]:
    """The rows in `out` with this one in place of its older self, written as JSON and table."""
    path = out / f"{NAME}.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    by_name = {entry["case"]: entry for entry in (*rows, row)}
    order = [case.name for case in (*CASES, *QUICK_CASES)]
    known = sorted(by_name.values(), key=lambda entry: order.index(entry["case"]))
    document = {"command": _COMMAND, "rows": known}
    write_result(out, NAME, document, markdown(known, _COMMAND))
    return known


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 every row has its figures, 1 there is no GPU or a network failed."""
    options = _options(arguments)
    backend = BackendOptions(precision=options.precision, level=options.opt_level)
    try:
        print(f"on {dict(open_backend('tensorrt').key_fields())}", flush=True)
    except PreemptError as err:
        print(f"bench-gpu: skipped everything: {err}", file=sys.stderr)
        return 1
    path = options.out / f"{NAME}.json"
    done = {row["case"] for row in json.loads(path.read_text())["rows"]} if path.is_file() else ()
    failed = 0
    for case in QUICK_CASES if options.quick else CASES:
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
        row = measure(case, options.work, backend, has_layers=options.layers)
    except PreemptError as err:
        row = {**_head(case, backend), "error": str(err)}
    merge(row, options.out)
    if not options.keep:
        shutil.rmtree(options.work, ignore_errors=True)  # a network's engines take gigabytes
    print(summary(row), flush=True)
    return "error" in row


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    networks = sorted({case.network for case in CASES})
    only = parser.add_argument("--only", "--networks", nargs="+", choices=networks, metavar="NAME")
    only.help = f"of {', '.join(networks)}"
    parser.add_argument("--parts", nargs="+", type=int, metavar="N", help="bounds of 1/N")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp16")
    parser.add_argument("--opt-level", type=int, choices=range(6), default=3)
    parser.add_argument("--again", action="store_true", help="measure what has a row already")
    parser.add_argument("--layers", action="store_true", help="list layers also of reached goals")
    parser.add_argument("--keep", action="store_true", help="keep models and engines")
    parser.add_argument("--quick", action="store_true", help="one small network, layers and all")
    parser.add_argument("--out", type=Path, default=_OUT)
    parser.add_argument("--work", type=Path, default=_WORK)
    options = parser.parse_args(arguments)
    if options.quick:
        options.opt_level = QUICK_LEVEL
        options.again = options.layers = options.keep = True
        options.work, options.out = QUICK, QUICK / "results"
    return options


if __name__ == "__main__":
    sys.exit(main())
