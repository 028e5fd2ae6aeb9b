"""An urgent network beside a long one on the GPU of this machine: `make bench-gpu-pair`.

All ways of sharing the device (`bench.gpu_modes`) alternate in blocks of one process, with the same
releases. The result is written after every block, and the blocks are kept: a run that is cut off
goes on where it stopped. Engines are shared with `bench.gpu` through the cache. Inputs lie in
device memory. `python -m bench.gpu_gates pair` runs the same with gates among the ways.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.compiling import bound_of
from bench.cut_graph import gates_plan
from bench.gate_bundles import CACHE, GatedCase, backend_of, compile_gated, model_of
from bench.gate_parts import Budget
from bench.gpu import QUICK, QUICK_LEVEL
from bench.gpu_modes import GATE_WAYS, SPIN_NS, TWO_IN_FLIGHT, WAYS, Way, WayRun, run_way
from bench.gpu_pair_page import NAME, markdown
from bench.pair_figures import Block, BlockFile, figures
from bench.pair_networks import PairNetworks
from bench.result_files import write_result
from preempt_runtime.backends.tensorrt import local_fields
from preempt_runtime.bundle import open_bundle
from preempt_runtime.errors import PreemptError
from preempt_runtime.loading import open_backend
from preempt_runtime.manifest import PlanSpec
from preemptc.cache import BuildCache
from preemptc.compile_options import CompileOptions
from preemptc.goal import Goal
from preemptc.pipeline import compile_model
from preemptc.prepare import prepare
from preemptc.profiling import profile_model

_OUT = Path("docs/results")
_NUM_WARM_UP = 50
_SETTINGS = ("urgent", "long", "batch", "parts", "opt_level", "period_us", "jobs", "blocks")


def compile_pair(options: argparse.Namespace) -> dict[str, Path]:
    """Both bundles: the urgent network whole, the long one under a share of its own time.

    With gates the urgent one has a plan of gates, too, and `gates` is the long one with gates.
    """
    cache = BuildCache(options.cache)
    urgent = model_of(options.urgent, 1, options.work)
    long = model_of(options.long, options.batch, options.work)
    compiling = CompileOptions(
        target="native", goal=Goal(num_segments=1), backend=backend_of(options)
    )
    profile = profile_model(prepare(long, compiling, cache), compiling, cache)
    bound_ns = bound_of(profile, parts=options.parts)["bound_ns"]
    bundles = {"long": options.work / "long.bundle"}
    goal = Goal(max_segment_ns=bound_ns)
    report = compile_model(long, bundles["long"], replace(compiling, goal=goal), cache)
    print(f"long: {report['segments']} segments, {report['wall_s']:.0f} s", flush=True)
    if options.gates:
        for role, name, batch, stretch_us in (
            ("urgent", options.urgent, 1, options.urgent_stretch_us),
            ("gates", options.long, options.batch, options.stretch_us),
        ):
            case = GatedCase(network=name, batch=batch, stretch_us=stretch_us)
            bundles[role], _ = compile_gated(case, options)
    else:
        bundles["urgent"] = options.work / "urgent.bundle"
        compile_model(urgent, bundles["urgent"], compiling, cache)
    return bundles


def chosen_ways(options: argparse.Namespace) -> tuple[Way, ...]:
    """The ways that are run: with gates all of them, unless some are named."""
    ways = (*WAYS, *GATE_WAYS) if options.gates else WAYS
    if not options.ways:
        return ways
    named = [way for way in ways if way.name in options.ways]
    needed = {TWO_IN_FLIGHT, *(n for way in named for n in (way.name, way.alone, way.long_alone))}
    return tuple(way for way in ways if way.name in needed)


def measure(
    bundles: Mapping[str, Path],
    options: argparse.Namespace,
    keep: Callable[[dict[str, Any], bool], None],
) -> dict[str, Any]:
    """Run every way in every block, and hand what there is to `keep` after each; the result.

    Args:
        bundles: as of `PairNetworks`.
        options: as parsed.
        keep: gets the result so far, and whether it is complete.

    Raises:
        PreemptError: there is no GPU, or a bundle is not of this machine.
    """
    ways = chosen_ways(options)
    budget = Budget(options.limit_s)
    result: dict[str, Any] = {}
    with PairNetworks(
        bundles,
        period_ns=options.period_us * 1000,
        jitter_ns=options.period_us * 500,
        num_jobs=options.jobs,
        num_warm_up=_NUM_WARM_UP,
        spin_ns=SPIN_NS,
    ) as networks:
        head = _head(networks.segments_plan, bundles, options)
        keys = {role: open_bundle(path).manifest_sha256 for role, path in bundles.items()}
        names = [way.name for way in ways]
        settings = {**head["settings"], "bundles": keys, "ways": names}
        kept = BlockFile(options.work / "blocks" / f"{_title(options)}.json", settings)
        longest_s = 0.0
        while len(kept.blocks) < options.blocks and budget.allows(longest_s):
            begin = time.monotonic()
            kept.add(_block(networks, ways, len(kept.blocks)))
            longest_s = max(longest_s, time.monotonic() - begin)
            result = _result(head, kept.blocks, networks.period_ns, ways)
            keep(result, len(kept.blocks) >= options.blocks)
            print(f"block {len(kept.blocks)} of {options.blocks} done", flush=True)
        return result or _result(head, kept.blocks, networks.period_ns, ways)


def _block(networks: PairNetworks, ways: Sequence[Way], seed: int) -> Block:
    """Each way once, another one first in every block; what cannot be run says why."""
    first = seed % len(ways)
    found = {}
    for way in (*ways[first:], *ways[:first]):
        try:
            found[way.name] = run_way(way, networks.workload(way), networks.inputs, seed=seed)
        except PreemptError as err:
            found[way.name] = WayRun(error=str(err))
            print(f"{way.name}: {err}", flush=True)
    return found


def _result(
    head: Mapping[str, Any], blocks: Sequence[Block], period_ns: int, ways: Sequence[Way]
) -> dict[str, Any]:
    return {**head, "blocks_done": len(blocks), **figures(blocks, period_ns, ways)}


def _head(
    segments: PlanSpec, bundles: Mapping[str, Path], options: argparse.Namespace
) -> dict[str, Any]:
    head = {
        "settings": {name: getattr(options, name) for name in _SETTINGS},
        "segments": len(segments.segments),
        "bound_ns": segments.bound_ns,
        "longest_p50_ns": max(s.latency.p50_ns for s in segments.segments if s.latency),
        "machine": dict(local_fields()),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if options.gates:
        plan = gates_plan(open_bundle(bundles["gates"]))
        times = [segment.latency for segment in plan.segments if segment.latency]
        assert plan.gates is not None
        head["gates"] = {
            "gates": len(plan.segments),
            "bound_ns": plan.bound_ns,
            "gate_ns": plan.gates.gate_ns,
            "fingerprint": plan.gates.fingerprint,
            "longest_ns": {
                name: max(time.at(name) for time in times) for name in ("p50", "p99", "max")
            },
        }
        head["settings"]["stretch_us"] = options.stretch_us
    return head


def _title(options: argparse.Namespace) -> str:
    """How the blocks of these settings are called."""
    long = options.long.replace("/", "-")
    stretch = f"-{options.stretch_us}us" if options.gates else ""
    return f"{long}-b{options.batch}-every-{options.period_us}us{stretch}"


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
    result = measure(compile_pair(options), options, lambda found, _: write(found, options.out))
    print(markdown(result))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_pair", description=__doc__)
    add_pair_options(parser)
    parser.add_argument("--quick", action="store_true", help="two small networks, one short block")
    parser.add_argument("--out", type=Path, default=_OUT)
    parser.add_argument("--work", type=Path, default=Path("build_cache/bench-gpu-pair"))
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--opt-level", type=int, choices=range(6), default=3)
    parser.add_argument("--limit-s", type=float, default=3600, help="begin no block after that")
    options = parser.parse_args(arguments)
    options.gates = False
    settle(options)
    if options.quick:
        options.urgent, options.long, options.batch = "light/squeezenet", "mobilenet_v2", 1
        options.parts, options.jobs, options.blocks = 4, 50, 1
        options.opt_level = QUICK_LEVEL
        options.work, options.out, options.cache = QUICK, QUICK / "results", QUICK / "cache"
    return options


def add_pair_options(parser: argparse.ArgumentParser) -> None:
    """What the pair is and how long it runs."""
    parser.add_argument("--urgent", default="resnet50")
    parser.add_argument("--long", default="resnet152")
    parser.add_argument("--batch", type=int, default=32, help="of the long network")
    parser.add_argument("--period-us", type=int, default=4000)
    parser.add_argument("--parts", type=int, default=8, help="the long one's bound: 1/N of it")
    parser.add_argument("--jobs", type=int, default=500, help="urgent jobs of a way in each block")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--seconds", type=float, help="of all ways and blocks, instead of --jobs")
    parser.add_argument("--ways", nargs="+", metavar="WAY", help="these and what they need alone")


def settle(options: argparse.Namespace) -> None:
    """How many jobs a run has, where its length was given."""
    if options.seconds is not None:
        per_run_s = options.seconds / options.blocks / len(chosen_ways(options))
        options.jobs = max(1, round(per_run_s * 1e6 / options.period_us) - _NUM_WARM_UP)


if __name__ == "__main__":
    sys.exit(main())
