"""Bundles with gates: a network compiled such that no stretch takes longer than was asked."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
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


def add_build_options(parser: argparse.ArgumentParser) -> None:
    """Where bundles are made, and how."""
    parser.add_argument("--work", type=Path, default=WORK, help="folder of models and bundles")
    parser.add_argument("--cache", type=Path, default=CACHE, help="build cache")
    parser.add_argument("--opt-level", type=int, choices=range(6), default=3)


def backend_of(options: argparse.Namespace) -> BackendOptions:
    """Half precision, at the level that was asked for."""
    return BackendOptions(precision="fp16", level=options.opt_level)


def model_of(network: str, batch: int, work: Path) -> Path:
    """The network's ONNX file, made where it is not there."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{network.replace('/', '-')}-{batch}.onnx"
    return path if path.is_file() else make(network, path, batch=batch)


def compile_gated(case: GatedCase, options: argparse.Namespace) -> tuple[Path, Mapping[str, Any]]:
    """The bundle with the plans `whole` and `gates`, and the compile's report.

    The report's `asked_bound_ns` is the case's, its `bound_ns` what could be kept: a stretch is at
    least a kernel.

    Raises:
        PreemptError: the compile's own error; no bound that could be kept was found.
    """
    model = model_of(case.network, case.batch, options.work)
    path = options.work / f"{case.name}.bundle"
    asked_ns = case.stretch_us * 1000
    once = _compiled(model, path, Goal(num_segments=1), options)["gates"]
    longest_ns = once["longest_node_ns"] + once["gate_ns"]
    bound_ns = max(asked_ns, round(_ROOM * longest_ns))
    for attempt in range(_RAISES + 1):
        try:
            report = _compiled(model, path, Goal(max_segment_ns=bound_ns), options)
        except InfeasibleError as err:
            if attempt == _RAISES:
                raise
            print(f"{case.name}: {err}", flush=True)
            bound_ns = round(bound_ns * _ROOM)
        else:
            break
    print(f"{case.name}: {report['segments']} stretches under {fmt_ns(bound_ns)}", flush=True)
    return path, {**report, "bound_ns": bound_ns, "asked_bound_ns": asked_ns}


def _compiled(model: Path, path: Path, goal: Goal, options: argparse.Namespace) -> dict[str, Any]:
    how: dict[str, Any] = {"mechanism": "gates"}
    compiling = CompileOptions(target="native", goal=goal, backend=backend_of(options), **how)
    return compile_model(model, path, compiling, BuildCache(options.cache))
