"""An urgent network beside a long one on the GPU of this machine: `make bench-gpu-pair`.

All ways of sharing the device (`bench.gpu_modes`) alternate in blocks of one process, with the same
releases. The result is written after every block, so that a run that is cut off keeps its blocks.
Engines are shared with `bench.gpu` through the cache. Inputs lie in device memory.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

from bench.compiling import bound_of
from bench.gated_pair import stretches_of
from bench.gpu import QUICK, QUICK_LEVEL
from bench.gpu_modes import SPIN_NS, WAYS, WayRun, on_device, run_way, ways
from bench.gpu_pair_page import NAME, markdown
from bench.intervals import quantiles_of
from bench.modes import Workload
from bench.report import kept_frac, longest_segment
from bench.result_files import write_result
from models.make import make
from preempt_runtime.backends.tensorrt import TrtDevice, local_fields
from preempt_runtime.bundle import open_bundle
from preempt_runtime.errors import InfeasibleError, PreemptError
from preempt_runtime.loading import open_backend
from preempt_runtime.manifest import SEGMENTS_PLAN_ID, WHOLE_PLAN_ID
from preempt_runtime.units import fmt_ns
from preemptc.backends import BackendOptions
from preemptc.cache import BuildCache
from preemptc.compile_options import CompileOptions
from preemptc.goal import Goal
from preemptc.pipeline import compile_model
from preemptc.prepare import prepare
from preemptc.profiling import profile_model

_OUT = Path("docs/results")
_NUM_WARM_UP = 50
_NUM_BOUNDS = 7
_SETTINGS = ("urgent", "long", "batch", "parts", "opt_level", "period_us", "jobs", "blocks")

Block = Mapping[str, WayRun]


def compile_pair(options: argparse.Namespace) -> dict[str, Path]:
    """Both bundles: the urgent network whole, the long one under a share of its own time."""
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    backend = BackendOptions(precision="fp16", level=options.opt_level)
    cache = BuildCache(options.cache)
    bundles = {}
    for role, name, batch in (
        ("urgent", options.urgent, 1),
        ("long", options.long, options.batch),
    ):
        model = make(name, work / f"{name.replace('/', '-')}-{batch}.onnx", batch=batch)
        bundles[role] = work / f"{role}.bundle"
        compiling = CompileOptions(target="native", goal=Goal(num_segments=1), backend=backend)
        if role == "long":
            profile = profile_model(prepare(model, compiling, cache), compiling, cache)
            bound_ns = bound_of(profile, parts=options.parts)["bound_ns"]
            compiling = replace(compiling, goal=Goal(max_segment_ns=bound_ns))
        report = compile_model(model, bundles[role], compiling, cache)
        print(f"{role}: {report['segments']} segments, {report['wall_s']:.0f} s", flush=True)
        if options.gates:
            stretch_us = options.urgent_stretch_us if role == "urgent" else options.stretch_us
            place = work / f"{role}-gates.bundle"
            compile_gates(model, place, compiling, cache, stretch_us)
            bundles[f"{role}_gates"] = place
    return bundles


def compile_gates(
    model: Path, place: Path, compiling: CompileOptions, cache: BuildCache, stretch_us: int
) -> None:
    """A bundle with gates such that no stretch exceeds the bound, or the next one that can be kept.

    Raises:
        PreemptError: gates cannot be put in, or no bound up to eight times this one can be kept.
    """
    for number in range(_NUM_BOUNDS):
        bound_ns = round(stretch_us * 1000 * 8 ** (number / (_NUM_BOUNDS - 1)))
        asked = replace(compiling, goal=Goal(max_segment_ns=bound_ns), mechanism="gates")
        try:
            report = compile_model(model, place, asked, cache)
        except InfeasibleError as err:
            print(f"{place.name}: {err}", flush=True)
            if number == _NUM_BOUNDS - 1:
                raise
        else:
            stretches = f"{report['segments']} stretches under {fmt_ns(bound_ns)}"
            print(f"{place.name}: {stretches}, {report['wall_s']:.0f} s", flush=True)
            return


def measure(bundles: Mapping[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    """Run every way in every block, and write what there is after each; the result."""
    blocks: list[Block] = []
    with ExitStack() as stack:
        device = TrtDevice()
        stack.callback(device.close)
        urgent, whole, segments = (
            device.load(open_bundle(bundles[role]), plan)
            for role, plan in (
                ("urgent", WHOLE_PLAN_ID),
                ("long", WHOLE_PLAN_ID),
                ("long", SEGMENTS_PLAN_ID),
            )
        )
        for network in (urgent, whole, segments):
            stack.callback(network.close)
        inputs = [stack.enter_context(on_device(network, 0)) for network in (urgent, whole)]
        load = Workload(
            device=device,
            urgent=urgent,
            whole=whole,
            segments=segments,
            urgent_samples=[inputs[0]],  # type: ignore[list-item]
            long_samples=[inputs[1]],  # type: ignore[list-item]
            period_ns=options.period_us * 1000,
            jitter_ns=options.period_us * 500,
            num_jobs=options.jobs,
            num_warm_up=_NUM_WARM_UP,
            spin_ns=SPIN_NS,
        )
        plan = segments.plan
        head = {
            "settings": {name: getattr(options, name) for name in _SETTINGS},
            "segments": len(plan.segments),
            "bound_ns": plan.bound_ns,
            "longest_p50_ns": max(s.latency.p50_ns for s in plan.segments if s.latency),
            "machine": dict(local_fields()),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        gated = {role: bundles[f"{role}_gates"] for role in ("urgent", "long") if options.gates}
        if gated:
            head["gates"] = stretches_of(gated)
        some = ways(has_gates=bool(gated))
        for seed in range(options.blocks):
            first = seed % len(some)
            order = (*some[first:], *some[:first])
            blocks.append({way.name: run_way(way, load, inputs, seed=seed, gated_bundles=gated)
                           for way in order})  # fmt: skip
            result = {**head, "blocks_done": len(blocks), **figures(blocks, load.period_ns)}
            write(result, options.out)
            print(f"block {seed + 1} of {options.blocks} done", flush=True)
    return result


def write(result: Mapping[str, Any], out: Path) -> None:
    """The result as JSON and page."""
    write_result(out, NAME, result, markdown(result))


def figures(blocks: Sequence[Block], period_ns: int) -> dict[str, Any]:
    """Every way's figures: quantiles over the jobs of all blocks, rates as medians of blocks.

    `p99_to_alone` and `p50_to_alone` are ratios to the urgent network alone in the same manner,
    `rate_to_alone` to the whole long network alone; `kept` is that over the share of time which the
    urgent jobs leave.
    """
    found: dict[str, dict[str, Any]] = {}
    some = [way for way in WAYS if way.name in blocks[0]]
    for way in some:
        runs = [block[way.name] for block in blocks]
        responses = [response_ns for run in runs for response_ns in run.response_ns]
        rates = [run.long_per_s for run in runs if run.long_per_s is not None]
        found[way.name] = {
            "text": way.text,
            "urgent": asdict(quantiles_of(responses)) if responses else None,
            "long_per_s": round(median(rates), 2) if rates else None,
        }
    for way in some:
        entry, alone = found[way.name], found[way.alone]["urgent"]
        if entry["urgent"] is not None:
            for name in ("p50", "p99"):
                ratio = entry["urgent"][f"{name}_ns"] / alone[f"{name}_ns"]
                entry[f"{name}_to_alone"] = round(ratio, 3)
        if (rate := entry["long_per_s"]) is not None:
            long_alone = found[way.long_alone]["long_per_s"]
            entry["rate_to_alone"] = round(rate / long_alone, 3)
            if way.has_urgent:
                kept = kept_frac(
                    rate,
                    long_alone,
                    urgent_per_s=1e9 / period_ns,
                    urgent_ns=alone["p50_ns"],
                )
                entry["kept"] = round(kept, 3)
    turns = {
        way.name: round(
            median(longest_segment(block[way.name].segment_ns).p99_ns for block in blocks)
        )
        for way in some
        if way.name.startswith("segments_") and way.has_urgent
    }
    return {"ways": found, "longest_segment_p99_ns": turns}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write JSON and page; 0, or 1 where there is no GPU."""
    options = _options(arguments)
    try:
        print(f"on {dict(open_backend('tensorrt').key_fields())}", flush=True)
    except PreemptError as err:
        print(f"bench-gpu-pair: skipped everything: {err}", file=sys.stderr)
        return 1
    print(markdown(measure(compile_pair(options), options)))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_pair", description=__doc__)
    parser.add_argument("--urgent", default="resnet50")
    parser.add_argument("--long", default="resnet152")
    parser.add_argument("--batch", type=int, default=32, help="of the long network")
    parser.add_argument("--period-us", type=int, default=4000)
    parser.add_argument("--parts", type=int, default=8, help="the long one's bound: 1/N of it")
    parser.add_argument("--gates", action="store_true", help="compile and measure gates, too")
    parser.add_argument("--stretch-us", type=int, default=100, help="between the long one's gates")
    parser.add_argument("--urgent-stretch-us", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=500, help="urgent jobs of a way in each block")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--seconds", type=float, help="of all ways and blocks, instead of --jobs")
    parser.add_argument("--opt-level", type=int, choices=range(6), default=3)
    parser.add_argument("--quick", action="store_true", help="two small networks, one short block")
    parser.add_argument("--out", type=Path, default=_OUT)
    parser.add_argument("--work", type=Path, default=Path("build_cache/bench-gpu-pair"))
    parser.add_argument("--cache", type=Path, default=Path("build_cache/bench-gpu/cache"))
    options = parser.parse_args(arguments)
    if options.seconds is not None:
        num_ways = len(ways(has_gates=options.gates))
        per_run_s = options.seconds / options.blocks / num_ways
        options.jobs = max(1, round(per_run_s * 1e6 / options.period_us) - _NUM_WARM_UP)
    if options.quick:
        options.urgent, options.long, options.batch = "light/squeezenet", "mobilenet_v2", 1
        options.parts, options.jobs, options.blocks = 4, 50, 1
        options.opt_level = QUICK_LEVEL
        options.work, options.out, options.cache = QUICK, QUICK / "results", QUICK / "cache"
    return options


if __name__ == "__main__":
    sys.exit(main())
