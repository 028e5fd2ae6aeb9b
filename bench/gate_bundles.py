"""Bundles with gates: a network compiled such that no stretch takes longer than was asked."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.make import make
from preempt_runtime.errors import InfeasibleError
from preempt_runtime.units import fmt_ns
from preemptc.backends import BackendOptions
from preemptc.cache import BuildCache
from preemptc.compile_options import CompileOptions
from preemptc.goal import Goal
from preemptc.pipeline import compile_model

WORK = Path("build_cache/bench-gpu-gates")
CACHE = Path("build_cache/bench-gpu/cache")
"""That of `bench.gpu`, so that engines are shared."""
_ROOM = 1.05  # above the longest kernel and its gate: medians move from run to run
_RAISES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedCase:
    """A network and what no stretch of it should exceed."""

    network: str
    batch: int
    stretch_us: int

    @property
    def name(self) -> str:
        """Such as `resnet50-b1-50us`; a file can be called so."""
        return f"{self.network.replace('/', '-')}-b{self.batch}-{self.stretch_us}us"


def compile_gated(
    model: Path, place: Path, compiling: CompileOptions, cache: BuildCache, stretch_us: int
) -> dict[str, Any]:
    """Make a bundle with the plans `whole` and `gates`; the compile's report.

    A stretch is at least a kernel: where that takes longer than was asked, `bound_ns` of the report
    is the longest kernel's time and a little more, else what was asked, `asked_bound_ns`.

    Raises:
        PreemptError: gates cannot be put in, or no such bound can be kept.
    """
    asked_ns = stretch_us * 1000
    once = _compiled(model, place, Goal(num_segments=1), compiling, cache)["gates"]
    bound_ns = max(asked_ns, round(_ROOM * (once["longest_node_ns"] + once["gate_ns"])))
    for attempt in range(_RAISES + 1):
        try:
            report = _compiled(model, place, Goal(max_segment_ns=bound_ns), compiling, cache)
        except InfeasibleError as err:
            print(f"{place.name}: {err}", flush=True)
            if attempt == _RAISES:
                raise
            bound_ns = round(bound_ns * _ROOM)
        else:
            break
    told = f"{report['segments']} stretches under {fmt_ns(bound_ns)}, {report['wall_s']:.0f} s"
    print(f"{place.name}: {told}", flush=True)
    return {**report, "bound_ns": bound_ns, "asked_bound_ns": asked_ns}


def _compiled(
    model: Path, place: Path, goal: Goal, compiling: CompileOptions, cache: BuildCache
) -> dict[str, Any]:
    asked = replace(compiling, goal=goal, mechanism="gates")
    return compile_model(model, place, asked, cache)


def add_build_options(parser: argparse.ArgumentParser) -> None:
    """Where bundles are made, and how."""
    parser.add_argument("--work", type=Path, default=WORK, help="folder of models and bundles")
    parser.add_argument("--cache", type=Path, default=CACHE, help="build cache")
    parser.add_argument("--opt-level", type=int, choices=range(6), default=3)


def gated_bundle(case: GatedCase, options: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """The case's bundle, made or found in the cache, and its report.

    Raises:
        PreemptError: as `compile_gated`.
    """
    model = model_of(case.network, case.batch, options.work)
    backend = BackendOptions(precision="fp16", level=options.opt_level)
    compiling = CompileOptions(target="native", goal=Goal(num_segments=1), backend=backend)
    place = options.work / f"{case.name}.bundle"
    return place, compile_gated(model, place, compiling, BuildCache(options.cache), case.stretch_us)


def model_of(network: str, batch: int, work: Path) -> Path:
    """The network's ONNX file, made where it is not there."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{network.replace('/', '-')}-{batch}.onnx"
    return path if path.is_file() else make(network, path, batch=batch)
