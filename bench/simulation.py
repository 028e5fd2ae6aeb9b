"""How many segments a second one process simulates: `make bench-simulation`.

Each set is simulated again and again, the sets in turn, as `preempt-rt simulate` does it: the real
executor, records and metrics on, no trace. Writes docs/results/simulation.json and .md.
"""

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.intervals import quantiles_of
from bench.machine import MachineWatch
from bench.publish import where
from bench.result_files import write_result
from preempt_runtime.simulation.costs import CostMode, SegmentCost, TaskCosts, read_costs
from preempt_runtime.simulation.simulate import SimulationOptions, simulate
from preempt_runtime.taskset import TaskSetSpec, read_taskset
from preempt_runtime.units import fmt_bytes

_REPETITIONS = 25
_LEAST_PER_S = 60_000
_MS = 1_000_000
_LOOP = """
[[task]]
name = "rest"
cost = "20ms"
max_segment = "1ms"
best_effort = true
arrival = { kind = "closed_loop" }
"""
_ROBOT = """
[[task]]
name = "detector"
segments = ["1ms", "1ms"]
priority = 10
deadline = "10ms"
period = "10ms"
jitter = "1ms"

[[task]]
name = "planner"
segments = ["500us", "500us", "500us", "500us", "500us", "500us", "500us", "500us"]
priority = 9
deadline = "33ms"
arrival = { kind = "sporadic", min_interval = "25ms", mean_interval = "33ms" }

[[task]]
name = "tracker"
cost = "7ms"
max_segment = "700us"
priority = 8
period = "50ms"
deadline = "50ms"
"""
_WHOLE = """
[[task]]
name = "whole"
cost = "600us"
priority = 1
period = "1ms"
deadline = "1ms"
"""


def _many(num_tasks: int) -> str:
    return "".join(
        f'[[task]]\nname = "t{idx}"\ncost = "1ms"\nmax_segment = "200us"\npriority = {idx}\n'
        f'period = "{2 * num_tasks + idx}ms"\ndeadline = "500ms"\n'
        for idx in range(num_tasks)
    )


SETS: Mapping[str, tuple[str, CostMode]] = {
    "3 tasks and a closed loop, fixed costs": (_ROBOT + _LOOP, "fixed"),
    "3 tasks and a closed loop, random costs": (_ROBOT + _LOOP, "random"),
    "one segment a job": (_WHOLE, "fixed"),
    "64 tasks and a closed loop": (_many(64) + _LOOP, "fixed"),
}
_DURATION_NS = 20_000 * _MS


def spread(costs: TaskCosts) -> TaskCosts:
    """The same with a p99 20 % and a maximum 50 % above the median."""
    segments = tuple(
        SegmentCost(
            p50_ns=each.p50_ns, p99_ns=each.p50_ns * 12 // 10, max_ns=each.p50_ns * 15 // 10
        )
        for each in costs.segments
    )
    return TaskCosts(segments=segments, source="measured")


def simulate_once(taskset: TaskSetSpec, mode: CostMode) -> tuple[int, int, int]:
    """Segments run, wall time and processor time in ns of one simulation."""
    costs = {name: spread(each) for name, each in read_costs(taskset).items()}
    options = SimulationOptions(duration_ns=_DURATION_NS, mode=mode)
    start_ns, start_cpu_ns = time.perf_counter_ns(), time.process_time_ns()
    report = simulate(taskset, costs, options)
    elapsed_ns = time.perf_counter_ns() - start_ns
    cpu_ns = time.process_time_ns() - start_cpu_ns
    num_segments = sum(
        task.num_segments * task.metrics.finished for task in report.run.tasks.values()
    )
    return num_segments, elapsed_ns, cpu_ns


def bytes_per_job(taskset: TaskSetSpec) -> float:
    """The most memory that a simulation holds, by each finished job."""
    tracemalloc.start()
    try:
        report = simulate(taskset, read_costs(taskset), SimulationOptions(duration_ns=_DURATION_NS))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return peak_bytes / sum(task.metrics.finished for task in report.run.tasks.values())


def figures_of(num_segments: int, wall_ns: Sequence[int], cpu_ns: Sequence[int]) -> dict[str, Any]:
    """Segments a second: the median repetition, and the one that 99 % were at least as fast as.

    >>> found = figures_of(1000, [10_000_000] * 3, [5_000_000] * 3)
    >>> found["per_s_p50"], found["per_s_p99"], found["per_cpu_s_p50"]
    (100000, 100000, 200000)
    """
    return {
        "segments": num_segments,
        "repetitions": len(wall_ns),
        "per_s_p50": round(num_segments * 1e9 / median(wall_ns)),
        "per_s_p99": round(num_segments * 1e9 / quantiles_of(wall_ns).p99_ns),
        "per_cpu_s_p50": round(num_segments * 1e9 / median(cpu_ns)),
        "wall_ns": list(wall_ns),
        "cpu_ns": list(cpu_ns),
    }


def measure(folder: Path, repetitions: int) -> dict[str, dict[str, Any]]:
    """Figures by set; the sets take turns, so that a slow minute hits all of them."""
    tasksets = {}
    for idx, (name, (text, _)) in enumerate(SETS.items()):
        path = folder / f"set{idx}.toml"
        path.write_text(text)
        tasksets[name] = read_taskset(path)
    found: dict[str, list[tuple[int, int, int]]] = {name: [] for name in SETS}
    for _ in range(repetitions):
        for name, (_, mode) in SETS.items():
            found[name].append(simulate_once(tasksets[name], mode))
    figures = {}
    for name, runs in found.items():
        counts, wall_ns, cpu_ns = zip(*runs, strict=True)
        figures[name] = figures_of(counts[0], wall_ns, cpu_ns)
    figures["one segment a job"]["bytes_per_job"] = round(
        bytes_per_job(tasksets["one segment a job"])
    )
    return figures


def page(result: Mapping[str, Any]) -> str:
    """The result as a document."""
    lines = [
        "| task set | segments/s, median | p99 | of processor time, median | segments |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in result["sets"].items():
        lines.append(
            f"| {name} | {row['per_s_p50']:,} | {row['per_s_p99']:,} | {row['per_cpu_s_p50']:,}"
            f" | {row['segments']:,} |"
        )
    per_job = fmt_bytes(result["sets"]["one segment a job"]["bytes_per_job"])
    slowest = min(row["per_cpu_s_p50"] for row in result["sets"].values())
    verdict = "reached" if slowest >= _LEAST_PER_S else "NOT reached"
    load = result["machine"]["load_average_before"]
    return (
        "# Simulated segments a second\n\n`make bench-simulation`; "
        + where(result["machine"])
        + f".\nOne process, {result['repetitions']} repetitions of each set in turn; p99 is the"
        " rate that 99 % of them had at least.\n\n"
        + "\n".join(lines)
        + f"\n\n* {verdict}: at least {_LEAST_PER_S:,} segments in a second of processor time in"
        + f" every set; others used the machine, too: load average {load} at the start\n"
        + f"* A finished job keeps {per_job} of samples, of at most 1,000,000 jobs a task\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write both files."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulation", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--repetitions", type=int, default=_REPETITIONS)
    options = parser.parse_args(arguments)
    watch = MachineWatch()
    with tempfile.TemporaryDirectory() as folder:
        sets = measure(Path(folder), options.repetitions)
    result = {
        "command": "make bench-simulation",
        "repetitions": options.repetitions,
        "sets": sets,
        "machine": watch.describe(),
    }
    write_result(options.out, "simulation", result, page(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
