"""Two networks on one device, with and without preemption: `make demo`.

Makes a short urgent network and a long best-effort one, compiles both, and runs four modes in
turn: urgent alone, best effort alone, both in order of release with the uncut network (`fifo`),
both with preemption. Writes `report.json`, and the last preemptive run as `trace.json` (open it
in https://ui.perfetto.dev).
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bench.compiling import bound_text, compile_at_speed, options_for
from bench.intervals import median_interval, quantiles_of
from bench.machine import MachineWatch
from bench.modes import BEST_EFFORT, MODES, URGENT, ModeRun, Workload, run_mode
from bench.paired import PlanRun, measure_pairs
from bench.report import HEADERS, Block, acceptance_lines, report_of, sentence, table_rows
from models.make import NAMES, make
from preempt_runtime.backends.ort import OrtDevice, default_threads
from preempt_runtime.bundle import open_bundle
from preempt_runtime.device import Device, Network
from preempt_runtime.errors import PreemptError
from preempt_runtime.inputs import random_inputs
from preempt_runtime.manifest import SEGMENTS_PLAN_ID, WHOLE_PLAN_ID
from preempt_runtime.tables import print_table
from preempt_runtime.trace import trace_from_records, write_trace
from preempt_runtime.units import fmt_ns
from preemptc.cache import BuildCache, write_atomically
from preemptc.goal import Goal
from preemptc.interruption import INTERRUPTED
from preemptc.pipeline import compile_model
from preemptc.terminal import watched

_PERIOD_FACTOR, _JITTER_FRAC = 5, 0.5
_MIN_RELEASES_PER_LONG_JOB = 4
_WARM_UP_JOBS = 12
_NUM_SAMPLES = 4
_USUAL_MINUTES = 2
_URGENT_RUNS, _PAIRS_PER_BLOCK = 50, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What the demo runs; `num_jobs` are the urgent jobs of each mode, over all blocks."""

    urgent: str
    best_effort: str
    num_jobs: int
    num_blocks: int
    parts: int
    threads: int
    seed: int
    out: Path
    cache: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """The two bundles, and the bound that the long one was compiled under."""

    urgent: Path
    best_effort: Path
    bound_ns: int


def run_demo(options: DemoOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report and the trace.

    Raises:
        PreemptError: a compile or a run failed.
    """
    compiled = _compile(options)
    device = OrtDevice()
    urgent = device.load(open_bundle(compiled.urgent), WHOLE_PLAN_ID)
    whole = device.load(open_bundle(compiled.best_effort), WHOLE_PLAN_ID)
    segments = device.load(open_bundle(compiled.best_effort), SEGMENTS_PLAN_ID)
    try:
        load = _workload(device, urgent, whole, segments, options)
        return _measure(load, compiled.bound_ns, options)
    finally:
        for network in (urgent, whole, segments):
            network.close()
        device.close()


def _compile(options: DemoOptions) -> Compiled:
    cache, threads = BuildCache(options.cache), options.threads
    paths = {
        role: make(name, options.out / f"{role}.onnx", options.seed)
        for role, name in ((URGENT, options.urgent), (BEST_EFFORT, options.best_effort))
    }
    _say(
        f"the demo takes about {_USUAL_MINUTES} minutes on 2 idle cores, longer on a busy machine:"
        " what it measures is measured again when the machine's speed changes"
    )
    _say(f"compiling {options.urgent} (urgent, uncut)")
    urgent, output = options.out / "urgent.bundle", options.out / "best_effort.bundle"
    uncut = options_for(Goal(num_segments=1), threads)
    with watched() as progress:
        compile_model(paths[URGENT], urgent, uncut, cache, progress)
    _say(f"compiling {options.best_effort} (best effort)")
    with watched() as progress:
        bound, report = compile_at_speed(
            paths[BEST_EFFORT],
            output,
            cache,
            threads=threads,
            parts=options.parts,
            progress=progress,
        )
    _say(
        f"{options.best_effort}: {report['segments']} segments under"
        f" {bound_text(bound, report, parts=options.parts)}; bitwise equal:"
        f" {report['check']['bitwise']}, compiled in {report['wall_s']:.0f} s"
    )
    return Compiled(urgent=urgent, best_effort=output, bound_ns=report["bound_ns"])


def _workload(
    device: Device, urgent: Network, whole: Network, segments: Network, options: DemoOptions
) -> Workload:
    """The releases follow the machine: the urgent network takes at most a fifth of its time."""
    urgent_ns, long_ns = (_median_ns(device, network, options.seed) for network in (urgent, whole))
    period_ns = max(_PERIOD_FACTOR * urgent_ns, long_ns // _MIN_RELEASES_PER_LONG_JOB)
    return Workload(
        device=device,
        urgent=urgent,
        whole=whole,
        segments=segments,
        urgent_samples=_samples(urgent, options.seed),
        long_samples=_samples(whole, options.seed),
        period_ns=period_ns,
        jitter_ns=round(_JITTER_FRAC * period_ns),
        num_jobs=-(-options.num_jobs // options.num_blocks),
        num_warm_up=_WARM_UP_JOBS,
    )


def _median_ns(device: Device, network: Network, seed: int) -> int:
    plan = PlanRun(device, network, random_inputs(network.graph, seed=seed, task=network.name))
    return quantiles_of([sum(plan.run()) for _ in range(_URGENT_RUNS)][1:]).p50_ns


def _samples(network: Network, seed: int) -> list[Any]:
    return [
        random_inputs(network.graph, seed=seed + idx, task=network.name)
        for idx in range(_NUM_SAMPLES)
    ]


def _measure(
    load: Workload, bound_ns: int, options: DemoOptions
) -> tuple[dict[str, Any], dict[str, Any]]:
    seconds = options.num_blocks * len(MODES) * load.duration_ns / 1e9
    _say(
        f"{options.num_blocks} blocks of {load.num_jobs} urgent jobs in each mode, one every"
        f" {fmt_ns(load.period_ns)}: about {seconds:.0f} s"
    )
    watch, blocks = MachineWatch(), []
    for idx in range(options.num_blocks):
        blocks.append(_run_block(load, idx, options.seed))
        _say(f"block {idx + 1} of {options.num_blocks} done")
    report = report_of(
        blocks, bound_ns=bound_ns, settings=_settings(load, options), machine=watch.describe()
    )
    return report, _trace_of(blocks[-1].runs["preemptive"])


def _run_block(load: Workload, idx: int, seed: int) -> Block:
    """All modes once, on the same releases; the first mode is another one in every block."""
    first = idx % len(MODES)
    runs = {
        mode: run_mode(mode, load, seed=seed + idx) for mode in (*MODES[first:], *MODES[:first])
    }
    device = cast(Device, load.device)  # the CPU
    pairs = measure_pairs(device, load.segments, load.whole, num_pairs=_PAIRS_PER_BLOCK)
    return Block(
        runs=runs,
        overhead_ratio=median_interval(pairs.ratios, seed=seed).median,
        urgent_per_s=1e9 / load.period_ns,
    )


def _trace_of(run: ModeRun) -> dict[str, Any]:
    recording = run.recording
    return trace_from_records(
        recording.releases, recording.segments, recording.jobs, (URGENT, BEST_EFFORT)
    )


def _settings(load: Workload, options: DemoOptions) -> dict[str, Any]:
    return {
        URGENT: options.urgent,
        BEST_EFFORT: options.best_effort,
        "threads": options.threads,
        "seed": options.seed,
        "period_ns": load.period_ns,
        "jitter_ns": load.jitter_ns,
        "jobs_per_block": load.num_jobs,
        "warm_up_jobs": load.num_warm_up,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 the report is written, 1 it could not be made, 130 after Ctrl-C."""
    logging.basicConfig(level=logging.WARNING)
    options = _options(arguments)
    try:
        report, trace = run_demo(options)
        text = json.dumps(report, indent=1) + "\n"
        write_atomically(options.out / "report.json", text.encode())
        write_trace(options.out / "trace.json", trace)
    except PreemptError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return INTERRUPTED
    _print(report, options)
    return 0


def _print(report: dict[str, Any], options: DemoOptions) -> None:
    machine = report["machine"]
    steal = machine["steal_frac"]
    print()
    print_table(HEADERS, table_rows(report), sys.stdout)
    print(f"\n{sentence(report)}\n")
    print("\n".join(acceptance_lines(report)))
    longest = report["max_segment_ns"]
    print(
        f"longest segment in these runs {fmt_ns(longest['p50'])} p50, {fmt_ns(longest['p99'])} p99,"
        f" bound {fmt_ns(report['bound_ns'])} p50"
    )
    print(
        f"\n{machine['cpu_model']}, {machine['cores']} cores, {options.threads} threads,"
        f" steal {'unknown' if steal is None else f'{100 * steal:.1f} %'}"
    )
    print(f"{options.out / 'report.json'}, {options.out / 'trace.json'} (ui.perfetto.dev)")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> DemoOptions:
    parser = argparse.ArgumentParser(prog="python -m bench.demo", description=__doc__)
    parser.add_argument("--urgent", choices=NAMES, default="mobilenet_v2", metavar="NAME")
    parser.add_argument("--best-effort", choices=NAMES, default="resnet152", metavar="NAME")
    parser.add_argument("--jobs", type=_at_least_one, default=700, help="urgent jobs per mode")
    parser.add_argument("--blocks", type=_at_least_one, default=5, help="turns through all modes")
    parser.add_argument(
        "--parts", type=_at_least_one, default=10, help="bound: this part of the long network"
    )
    threads = min(2, default_threads())
    parser.add_argument("--threads", type=_at_least_one, default=threads)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build_cache/demo"))
    parser.add_argument("--cache", type=Path, default=Path("build_cache"))
    given = parser.parse_args(arguments)
    return DemoOptions(
        urgent=given.urgent,
        best_effort=given.best_effort,
        num_jobs=given.jobs,
        num_blocks=given.blocks,
        parts=given.parts,
        threads=given.threads,
        seed=given.seed,
        out=given.out,
        cache=given.cache,
    )


def _at_least_one(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value}, must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
