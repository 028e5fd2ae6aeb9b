"""An urgent network beside a long one on the GPU of this machine: `make bench-gpu-pair`.

All ways of sharing the device (`bench.gpu_modes`) alternate in blocks of one process, with the same
releases. The result is written after every block, and blocks are kept: a run that is cut off goes
on where it was. Engines are shared with `bench.gpu` through the cache. Inputs lie in device memory.
`python -m bench.gpu_gates pair` is the same with gates, for the page of gates.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from bench.compiling import bound_of
from bench.gate_bundles import CACHE, compile_gated, model_of
from bench.gate_parts import Budget
from bench.gated_pair import stretches_of
from bench.gpu import QUICK, QUICK_LEVEL
from bench.gpu_modes import SPIN_NS, TWO_IN_FLIGHT, Way, WayRun, on_device, run_way, ways
from bench.gpu_pair_page import NAME, markdown
from bench.modes import Workload
from bench.pair_figures import Block, BlockFile, figures
from bench.result_files import write_result
from preempt_runtime.backends.tensorrt import TrtDevice, TrtNetwork, local_fields
from preempt_runtime.bundle import open_bundle
from preempt_runtime.errors import PreemptError
from preempt_runtime.loading import open_backend
from preempt_runtime.manifest import SEGMENTS_PLAN_ID, WHOLE_PLAN_ID
from preemptc.backends import BackendOptions
from preemptc.cache import BuildCache
from preemptc.compile_options import CompileOptions
from preemptc.goal import Goal
from preemptc.pipeline import compile_model
from preemptc.prepare import prepare
from preemptc.profiling import profile_model

_OUT = Path("docs/results")
_NUM_WARM_UP = 50
_SETTINGS = ("urgent", "long", "batch", "parts", "opt_level", "period_us", "jobs", "blocks")

Keep = Callable[[dict[str, Any], bool], None]
"""Gets the result so far, and whether it is complete."""


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
        model = model_of(name, batch, work)
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
            compile_gated(model, place, compiling, cache, stretch_us)
            bundles[f"{role}_gates"] = place
    return bundles


def measure(bundles: Mapping[str, Path], options: argparse.Namespace, keep: Keep) -> dict[str, Any]:
    """Run every way in every block, and hand what there is to `keep` after each; the result.

    Blocks of the same settings that an earlier run has left count.

    Raises:
        PreemptError: there is no GPU, or a bundle is not of this machine.
    """
    budget, longest_s = Budget(options.limit_s), 0.0
    with ExitStack() as stack:
        device = TrtDevice()
        stack.callback(device.close)
        load = _workload(device, bundles, options, stack)
        inputs = load.urgent_samples[0], load.long_samples[0]
        gated = {role: bundles[f"{role}_gates"] for role in ("urgent", "long") if options.gates}
        head, some = _head(load, gated, options), chosen_ways(options)
        kept = BlockFile(_blocks_path(options), _identity(head, bundles, some))
        while True:
            is_complete = len(kept.blocks) >= options.blocks
            result: dict[str, Any] = {**head, "blocks_done": len(kept.blocks)}
            if kept.blocks:
                result |= figures(kept.blocks, load.period_ns, some)
                keep(result, is_complete)
                print(f"block {len(kept.blocks)} of {options.blocks} done", flush=True)
            if is_complete or not budget.allows(longest_s):
                return result
            begin = time.monotonic()
            seed = len(kept.blocks)
            kept.add(_block(some, partial(_run, load, inputs, gated, seed), seed))
            longest_s = max(longest_s, time.monotonic() - begin)


def _run(load: Workload, inputs: Any, gated: Mapping[str, Path], seed: int, way: Way) -> WayRun:
    return run_way(way, load, inputs, seed=seed, gated_bundles=gated)


def _block(some: Sequence[Way], run: Callable[[Way], WayRun], seed: int) -> Block:
    """Each way once, another one first in every block; what cannot be run says why."""
    first = seed % len(some)
    found = {}
    for way in (*some[first:], *some[:first]):
        try:
            found[way.name] = run(way)
        except PreemptError as err:
            found[way.name] = WayRun(error=str(err))
            print(f"{way.name}: {err}", flush=True)
    return found


def _workload(
    device: TrtDevice, bundles: Mapping[str, Path], options: argparse.Namespace, stack: ExitStack
) -> Workload:
    """The networks without gates, loaded; `stack` releases them."""
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
    inputs: list[Any] = [stack.enter_context(on_device(each, 0)) for each in (urgent, whole)]
    return Workload(
        device=device,
        urgent=urgent,
        whole=whole,
        segments=segments,
        urgent_samples=inputs[:1],
        long_samples=inputs[1:],
        period_ns=options.period_us * 1000,
        jitter_ns=options.period_us * 500,
        num_jobs=options.jobs,
        num_warm_up=_NUM_WARM_UP,
        spin_ns=SPIN_NS,
    )


def _head(load: Workload, gated: Mapping[str, Path], options: argparse.Namespace) -> dict[str, Any]:
    assert isinstance(load.segments, TrtNetwork)
    plan = load.segments.plan
    head = {
        "settings": {name: getattr(options, name) for name in _SETTINGS},
        "segments": len(plan.segments),
        "bound_ns": plan.bound_ns,
        "longest_p50_ns": max(s.latency.p50_ns for s in plan.segments if s.latency),
        "machine": dict(local_fields()),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    return {**head, "gates": stretches_of(gated)} if gated else head


def chosen_ways(options: argparse.Namespace) -> tuple[Way, ...]:
    """The ways that are run: all that can be, or those named and what they are compared with."""
    some = ways(has_gates=options.gates)
    if not options.ways:
        return some
    named = [way for way in some if way.name in options.ways]
    needed = {TWO_IN_FLIGHT, *(n for way in named for n in (way.name, way.alone, way.long_alone))}
    return tuple(way for way in some if way.name in needed)


def _blocks_path(options: argparse.Namespace) -> Path:
    long, stretch = options.long.replace("/", "-"), f"-{options.stretch_us}us"
    name = f"{long}-b{options.batch}-every-{options.period_us}us{stretch if options.gates else ''}"
    folder: Path = options.work / "blocks"
    return folder / f"{name}.json"


def _identity(
    head: Mapping[str, Any], bundles: Mapping[str, Path], some: Sequence[Way]
) -> dict[str, Any]:
    """What blocks must have in common to be counted together."""
    keys = {role: open_bundle(path).manifest_sha256 for role, path in bundles.items()}
    settings = {name: value for name, value in head["settings"].items() if name != "blocks"}
    names = [way.name for way in some]
    return {"settings": settings, "machine": head["machine"], "bundles": keys, "ways": names}


def write(result: Mapping[str, Any], out: Path) -> None:
    """The result as JSON and page."""
    write_result(out, NAME, result, markdown(result))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write JSON and page; 0, or 1 where there is no GPU."""
    options = _options(arguments)
    try:
        print(f"on {dict(open_backend('tensorrt').key_fields())}", flush=True)
    except PreemptError as err:
        print(f"bench-gpu-pair: skipped everything: {err}", file=sys.stderr)
        return 1
    try:
        result = measure(compile_pair(options), options, lambda found, _: write(found, options.out))
    except PreemptError as err:  # what earlier blocks have measured is written
        print(f"bench-gpu-pair: {err}", file=sys.stderr)
        return 1
    print(markdown(result))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_pair", description=__doc__)
    add_pair_options(parser)
    parser.add_argument("--gates", action="store_true", help="compile and measure gates, too")
    parser.add_argument("--opt-level", type=int, choices=range(6), default=3)
    parser.add_argument("--quick", action="store_true", help="two small networks, one short block")
    parser.add_argument("--out", type=Path, default=_OUT)
    parser.add_argument("--work", type=Path, default=Path("build_cache/bench-gpu-pair"))
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--limit-s", type=float, default=3600, help="begin no block after that")
    options = parser.parse_args(arguments)
    settle(options)
    if options.quick:
        make_quick(options)
        options.work, options.out, options.cache = QUICK, QUICK / "results", QUICK / "cache"
    return options


def add_pair_options(parser: argparse.ArgumentParser) -> None:
    """What the pair is and how long it runs."""
    parser.add_argument("--urgent", default="resnet50")
    parser.add_argument("--long", default="resnet152")
    parser.add_argument("--batch", type=int, default=32, help="of the long network")
    parser.add_argument("--period-us", type=int, default=4000)
    add_run_options(parser)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """How a pair is split and run, whatever it is."""
    parser.add_argument("--parts", type=int, default=8, help="the long one's bound: 1/N of it")
    parser.add_argument("--stretch-us", type=int, default=50, help="between the long one's gates")
    parser.add_argument("--urgent-stretch-us", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=500, help="urgent jobs of a way in each block")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--seconds", type=float, help="of all ways and blocks, instead of --jobs")
    parser.add_argument("--ways", nargs="+", metavar="WAY", help="these, and what they need alone")


def settle(options: argparse.Namespace) -> None:
    """How many jobs a run has, where its length was given."""
    if options.seconds is not None:
        per_run_s = options.seconds / options.blocks / len(chosen_ways(options))
        options.jobs = max(1, round(per_run_s * 1e6 / options.period_us) - _NUM_WARM_UP)


def make_quick(options: argparse.Namespace) -> None:
    """Two small networks and one short block."""
    options.urgent, options.long, options.batch = "light/squeezenet", "mobilenet_v2", 1
    options.parts, options.jobs, options.blocks = 4, 50, 1
    options.opt_level = QUICK_LEVEL


if __name__ == "__main__":
    sys.exit(main())
