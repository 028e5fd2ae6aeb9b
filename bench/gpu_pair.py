"""An urgent network beside a long one on the GPU of this machine: `make bench-gpu-pair`.

Modes alternate in blocks of one process with the same releases. Through the runtime: `alone`,
`best_effort_alone`, `fifo` (whole networks in order of release) and `preemptive` (segments, one in
flight). Without it, graphs on two streams in a polling loop: `raw_alone` and `raw_priorities` (the
urgent network on the stream of high priority, two whole jobs of the long one in flight on the
other), which is what stream priorities alone give. Inputs lie in device memory.
"""

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

from bench.intervals import quantiles_of
from bench.modes import MODES, ModeRun, Workload, run_mode
from bench.report import kept_frac, longest_segment
from models.make import make
from preempt_runtime.arrivals import Periodic, release_offsets
from preempt_runtime.backends.cuda import DeviceMemory, Event, Stream, copy_async, open_cuda
from preempt_runtime.backends.device_arrays import DeviceArray
from preempt_runtime.backends.tensorrt import TrtBuffers, TrtDevice, TrtNetwork, local_fields
from preempt_runtime.bundle import open_bundle
from preempt_runtime.inputs import random_inputs
from preempt_runtime.units import fmt_ns
from preemptc.backends import BackendOptions
from preemptc.cache import BuildCache, write_atomically
from preemptc.pipeline import CompileOptions, compile_model
from preemptc.replan import Goal

_OUT = Path("docs/results")
_NAME = "gpu-pair"
_IN_FLIGHT = 2
RAW_MODES = ("raw_alone", "raw_priorities")


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRun:
    """One run of a polling loop."""

    response_ns: tuple[int, ...]
    best_effort_per_s: float | None


@contextmanager
def on_device(network: TrtNetwork, seed: int) -> Iterator[dict[str, DeviceArray]]:
    """Random inputs of the network in device memory."""
    inputs = random_inputs(network.graph, seed=seed, task="pair")
    with ExitStack() as stack:
        stream = stack.enter_context(Stream(priority="low"))
        arrays = {}
        for name, array in inputs.items():
            memory = stack.enter_context(DeviceMemory(array.nbytes))
            copy_async(memory.pointer, array.ctypes.data, array.nbytes, stream)
            arrays[name] = DeviceArray(
                pointer=memory.pointer, dtype=array.dtype.name, shape=array.shape, owner=memory
            )
        stream.synchronize()
        yield arrays


def run_raw(
    urgent: TrtBuffers,
    long: TrtBuffers | None,
    offsets_ns: Sequence[int],
    streams: Sequence[Stream],
) -> RawRun:
    """Release the urgent network at the offsets while the long one keeps two jobs in flight.

    The long network's jobs are graphs of one set of buffers, so they run one after another.
    """
    high, low = streams
    with ExitStack() as stack:
        done = stack.enter_context(Event(timing=False))
        ends = [stack.enter_context(Event(timing=False)) for _ in range(_IN_FLIGHT)]
        flying: deque[Event] = deque()
        free = list(ends)
        responses: list[int] = []
        finished_ns: list[int] = []
        start_ns = time.perf_counter_ns()
        for offset_ns in offsets_ns:
            release_ns = start_ns + offset_ns
            while (now_ns := time.perf_counter_ns()) < release_ns:
                if long is not None:
                    _keep_flying(long, low, flying, free, finished_ns, now_ns)
            urgent.launch(0, high)
            done.record(high)
            while not done.is_done():
                if long is not None:
                    _keep_flying(long, low, flying, free, finished_ns, time.perf_counter_ns())
            responses.append(time.perf_counter_ns() - release_ns)
        elapsed_ns = time.perf_counter_ns() - start_ns
        low.synchronize()
    rate = len(finished_ns) * 1e9 / elapsed_ns if long is not None else None
    return RawRun(response_ns=tuple(responses), best_effort_per_s=rate)


def _keep_flying(
    long: TrtBuffers, stream: Stream, flying: deque[Event], free: list[Event],
    finished_ns: list[int], now_ns: int,
) -> None:  # fmt: skip
    if flying and flying[0].is_done():
        free.append(flying.popleft())
        finished_ns.append(now_ns)
    if free:
        event = free.pop()
        long.launch(0, stream)
        event.record(stream)
        flying.append(event)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Compile both networks, run every mode in every block."""
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    backend = BackendOptions(precision="fp16", level=options.opt_level)
    cache = BuildCache(options.cache)
    bundles = {}
    for role, name, batch, goal in (
        ("urgent", options.urgent, 1, Goal(num_segments=1)),
        ("long", options.long, options.batch, Goal(max_segment_ns=options.max_segment_us * 1000)),
    ):
        model = make(name, work / f"{name}-{batch}.onnx", batch=batch)
        bundles[role] = work / f"{role}.bundle"
        compile_options = CompileOptions(target="native", goal=goal, backend=backend)
        report = compile_model(model, bundles[role], compile_options, cache)
        print(f"{role}: {report['segments']} segments, {report['wall_s']:.0f} s", flush=True)
    with ExitStack() as stack:
        cuda = stack.enter_context(open_cuda())
        device = TrtDevice()
        stack.callback(device.close)
        urgent = device.load(open_bundle(bundles["urgent"]))
        memory = {"before": cuda.free_bytes()}
        whole = device.load(open_bundle(bundles["long"]), "whole")
        stack.callback(whole.new_buffers().close)
        memory["whole"] = memory["before"] - cuda.free_bytes()
        free = cuda.free_bytes()
        segments = device.load(open_bundle(bundles["long"]), "segments")
        stack.callback(segments.new_buffers().close)
        memory["segments"] = free - cuda.free_bytes()
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
            num_warm_up=50,
        )
        blocks = [_block(load, inputs, seed) for seed in range(options.blocks)]
        plan = open_bundle(bundles["long"]).manifest.plans[0]
    return {
        "command": "make bench-gpu-pair",
        "settings": {
            name: getattr(options, name)
            for name in ("urgent", "long", "batch", "period_us", "max_segment_us", "jobs", "blocks")
        },
        "segments": len(plan.segments),
        "longest_p50_ns": max(s.latency.p50_ns for s in plan.segments if s.latency is not None),
        "memory_bytes": memory,
        **_figures(blocks, options.period_us * 1000),
        "machine": dict(local_fields()),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _block(
    load: Workload, inputs: Sequence[Mapping[str, DeviceArray]], seed: int
) -> dict[str, ModeRun | RawRun]:
    runs: dict[str, ModeRun | RawRun] = {}
    for mode in MODES:
        runs[mode] = replace(run_mode(mode, load, seed=seed))
    offsets = release_offsets(
        Periodic(period_ns=load.period_ns, jitter_ns=load.jitter_ns), seed=seed, task="urgent"
    )
    due = [next(offsets) for _ in range(load.num_jobs)]
    assert isinstance(load.urgent, TrtNetwork)
    assert isinstance(load.whole, TrtNetwork)
    with ExitStack() as stack:
        high = stack.enter_context(Stream(priority="high"))
        low = stack.enter_context(Stream(priority="low"))
        urgent = stack.enter_context(load.urgent.new_buffers())
        long = stack.enter_context(load.whole.new_buffers())
        urgent.write_inputs(inputs[0])  # type: ignore[arg-type]
        long.write_inputs(inputs[1])  # type: ignore[arg-type]
        runs["raw_alone"] = run_raw(urgent, None, due, (high, low))
        runs["raw_priorities"] = run_raw(urgent, long, due, (high, low))
    return runs


def _figures(blocks: Sequence[Mapping[str, Any]], period_ns: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for mode in (*MODES, *RAW_MODES):
        runs = [block[mode] for block in blocks]
        entry: dict[str, Any] = {}
        if runs[0].response_ns:
            quantiles = [quantiles_of(run.response_ns) for run in runs]
            for name in ("p50_ns", "p95_ns", "p99_ns", "max_ns"):
                entry[name] = round(median(getattr(each, name) for each in quantiles))
            entry["jobs"] = sum(len(run.response_ns) for run in runs)
        rates = [run.best_effort_per_s for run in runs if run.best_effort_per_s is not None]
        entry["best_effort_per_s"] = round(median(rates), 2) if rates else None
        found[mode] = entry
    alone = found["best_effort_alone"]["best_effort_per_s"]
    kept = {}
    for mode in ("fifo", "preemptive", "raw_priorities"):
        base = found["raw_alone" if mode.startswith("raw") else "alone"]
        kept[mode] = round(
            kept_frac(
                found[mode]["best_effort_per_s"],
                alone,
                urgent_per_s=1e9 / period_ns,
                urgent_ns=base["p50_ns"],
            ),
            3,
        )
    segments = [longest_segment(block["preemptive"].segment_ns).p99_ns for block in blocks]
    return {"runs": found, "best_effort_kept": kept, "longest_turn_p99_ns": round(median(segments))}


def markdown(result: Mapping[str, Any]) -> str:
    """The page of the result."""
    settings, runs, machine = result["settings"], result["runs"], result["machine"]
    mib = {name: f"{size / 2**20:.0f} MiB" for name, size in result["memory_bytes"].items()}
    date = result["date"][:10]
    lines = [
        "# An urgent network beside a long one on a GPU",
        "",
        f"An urgent {settings['urgent']} (batch 1), one every {settings['period_us']} us on"
        f" average, jittered, beside a {settings['long']} (batch {settings['batch']}) in a closed"
        f" loop, both fp16. The long one has {result['segments']} segments, the longest"
        f" {fmt_ns(result['longest_p50_ns'])} p50. Response time runs from release to the output on"
        f" the host. Each figure is the median over {settings['blocks']} blocks in one process.",
        "",
        "| mode | urgent p50 | p95 | p99 | max | p99 / alone | jobs | best effort jobs/s | kept |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(_row(mode, runs, result["best_effort_kept"]) for mode in runs),
        "",
        "`raw_*`: without the runtime, graphs on two streams in a polling loop, compared with"
        " `raw_alone`; the other modes through the runtime. *kept* = rate / (rate alone x (1 -"
        " urgent jobs per s x urgent p50 alone)).",
        "",
        f"Device memory of the long network: {mib['whole']} as one engine, {mib['segments']} as"
        " segments (weights, one scratch block, one set of tensors).",
        "",
        f"`{result['command']}`; {machine['gpu']}, TensorRT {machine['tensorrt']}, driver's CUDA"
        f" {machine['cuda_driver']}, {date}. Every figure: [{_NAME}.json]"
        f"({_NAME}.json).",
        "",
    ]
    return "\n".join(lines)


def _row(mode: str, runs: Mapping[str, Any], kept: Mapping[str, float]) -> str:
    entry = runs[mode]
    base = runs["raw_alone" if mode.startswith("raw") else "alone"]
    names = ("p50_ns", "p95_ns", "p99_ns", "max_ns")
    times = [fmt_ns(entry[name]) if name in entry else "-" for name in names]
    ratio = f"{entry['p99_ns'] / base['p99_ns']:.2f}" if "p99_ns" in entry else "-"
    rate = entry["best_effort_per_s"]
    cells = [
        mode, *times, ratio, str(entry.get("jobs", "-")),
        "-" if rate is None else f"{rate:.1f}", f"{kept[mode]:.3f}" if mode in kept else "-",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write JSON and page; 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_pair", description=__doc__)
    parser.add_argument("--urgent", default="resnet50")
    parser.add_argument("--long", default="resnet152")
    parser.add_argument("--batch", type=int, default=32, help="of the long network")
    parser.add_argument("--period-us", type=int, default=4000)
    parser.add_argument("--max-segment-us", type=int, default=330)
    parser.add_argument("--jobs", type=int, default=1000, help="urgent jobs in each block")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--opt-level", type=int, choices=range(6), default=3)
    parser.add_argument("--out", type=Path, default=_OUT)
    parser.add_argument("--work", type=Path, default=Path("build_cache/bench-gpu-pair"))
    parser.add_argument("--cache", type=Path, default=Path("build_cache/bench-gpu/cache"))
    options = parser.parse_args(arguments)
    result = measure(options)
    write_atomically(options.out / f"{_NAME}.json", (json.dumps(result, indent=1) + "\n").encode())
    page = markdown(result)
    write_atomically(options.out / f"{_NAME}.md", page.encode())
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
