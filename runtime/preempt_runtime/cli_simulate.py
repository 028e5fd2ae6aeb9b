"""`preempt-rt simulate`: what a task set would do, on a virtual clock."""

import argparse
import os
import sys
from typing import TextIO

from preempt_runtime.cli_results import put_results, trace_writer
from preempt_runtime.cli_values import axis, duration, integer, path, policy
from preempt_runtime.errors import InputError, PreemptError
from preempt_runtime.load_taskset import check_taskset_output
from preempt_runtime.output_file import write_output
from preempt_runtime.simulation.costs import COST_MODES, read_costs
from preempt_runtime.simulation.plot import sweep_svg
from preempt_runtime.simulation.points import SweepAxis, points_of
from preempt_runtime.simulation.report import MODES, document_from_simulation, print_simulation
from preempt_runtime.simulation.simulate import SimulationOptions, simulate
from preempt_runtime.simulation.sweep import (
    MAX_RUNS,
    SweepInterrupted,
    check_num_runs,
    run_sweep,
    runs_of,
)
from preempt_runtime.simulation.table import (
    PointResult,
    document_from_sweep,
    print_sweep,
    results_of,
)
from preempt_runtime.task_table import MAX_SEED
from preempt_runtime.taskset import TaskSetSpec, read_taskset
from preempt_runtime.trace import TraceRecorder
from preempt_runtime.units import fmt_ns
from preempt_runtime.write_refusal import refusal_text

_MAX_PROCESSES = 256


def add_simulate(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    modes = "; ".join(f"{mode}: {text}" for mode, text in MODES.items())
    add("taskset", type=path("TASKSET.toml"), metavar="TASKSET.toml", help="see docs/taskset.md")
    add("--duration", type=duration, default="10s", metavar="TIME", help="default: 10s")
    add("--policy", type=policy, metavar="NAME", help="instead of the task set's own")
    add("--seed", type=integer(0, MAX_SEED), metavar="N", help="instead of the task set's own")
    add("--costs", choices=COST_MODES, default="fixed", help=f"{modes}; default: fixed")
    add("--trace", type=path("--trace"), metavar="FILE", help="write a trace that Perfetto opens")
    sweep = parser.add_argument_group("many simulations instead of one")
    add = sweep.add_argument
    add(
        "--sweep",
        type=axis,
        action="append",
        default=[],
        metavar="KEY=V1,V2,...",
        help="load, policy, max_segment or max_segment:TASK; repeated: every combination",
    )
    add(
        "--seeds",
        type=integer(1, MAX_RUNS),
        default=1,
        metavar="N",
        help="repeat with N seeds, from the task set's own on; default: 1",
    )
    add("--jobs", type=integer(1, _MAX_PROCESSES), metavar="N", help="processes; default: cores")
    add(
        "--plot",
        type=path("--plot"),
        metavar="FILE.svg",
        help="draw misses and best-effort throughput",
    )


def run_simulate(arguments: argparse.Namespace) -> int:
    """Simulate, print the report, write the files; the exit code."""
    axes: list[SweepAxis] = arguments.sweep
    is_sweep = bool(axes) or arguments.seeds > 1
    _check_combination(arguments, axes, is_sweep)
    taskset = read_taskset(arguments.taskset, seed=arguments.seed)
    for output, what in ((arguments.trace, "the trace"), (arguments.plot, "the plot")):
        if output is not None:
            check_taskset_output(output, taskset, what)
    if arguments.plot is not None and arguments.plot.suffix.lower() not in ("", ".svg"):
        raise InputError(f"--plot {arguments.plot}: plots are SVG; name a file that ends in .svg")
    return _sweep(arguments, taskset, axes) if is_sweep else _simulate_once(arguments, taskset)


def _check_combination(
    arguments: argparse.Namespace, axes: list[SweepAxis], is_sweep: bool
) -> None:
    labels = [axis.label for axis in axes]
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"--sweep {label} is there twice; write all its values in one")
    if is_sweep and arguments.trace is not None:
        raise InputError("--trace is of one simulation; leave out it, or --sweep and --seeds")
    if "policy" in labels and arguments.policy is not None:
        raise InputError("found both --policy and --sweep policy; leave one of them out")
    if not axes and arguments.plot is not None:
        raise InputError("--plot draws a sweep; add --sweep, such as --sweep load=0.5,0.7,0.9")
    if not is_sweep and arguments.jobs is not None:
        raise InputError("--jobs is for many simulations; add --sweep or --seeds, or leave it out")


def _options(arguments: argparse.Namespace, policy: str | None) -> SimulationOptions:
    return SimulationOptions(duration_ns=arguments.duration, policy=policy, mode=arguments.costs)


def _simulate_once(arguments: argparse.Namespace, taskset: TaskSetSpec) -> int:
    recorder = TraceRecorder()
    report = simulate(
        taskset,
        read_costs(taskset),
        _options(arguments, arguments.policy),
        instruments=(recorder,) if arguments.trace is not None else (),
        is_traced=arguments.trace is not None,
    )
    put_results(
        lambda: document_from_simulation(report),
        lambda out: print_simulation(report, out),
        as_json=arguments.json,
        write_file=trace_writer(arguments.trace, recorder, taskset),
    )
    return 0 if report.run.ended_by is None else 128 + report.run.ended_by


def _sweep(arguments: argparse.Namespace, taskset: TaskSetSpec, axes: list[SweepAxis]) -> int:
    check_num_runs(axes, arguments.seeds)
    points = list(points_of(taskset, read_costs(taskset), axes, arguments.costs))
    options = _options(arguments, arguments.policy)
    runs = runs_of(points, options, axes, arguments.seeds)
    try:
        rows = run_sweep(runs, arguments.jobs or len(os.sched_getaffinity(0)))
    except SweepInterrupted as err:
        print(f"preempt-rt: interrupted by {err.signum.name}, no results", file=sys.stderr)
        return 128 + err.signum
    results = results_of(taskset, rows)

    def print_text(out: TextIO) -> None:
        print(f"{_title(arguments, taskset)}\n", file=out)
        print_sweep(axes, results, rows, out)

    put_results(
        lambda: {**_head(arguments, taskset), **document_from_sweep(axes, results, rows)},
        print_text,
        as_json=arguments.json,
        write_file=None
        if arguments.plot is None
        else lambda: _plot(arguments, taskset, axes, results),
    )
    return 0


def _head(arguments: argparse.Namespace, taskset: TaskSetSpec) -> dict[str, object]:
    return {
        "taskset": taskset.name,
        "duration_ns": arguments.duration,
        "costs": arguments.costs,
        "policy": arguments.policy or taskset.policy,
        "seed": taskset.seed,
        "seeds": arguments.seeds,
    }


def _title(arguments: argparse.Namespace, taskset: TaskSetSpec) -> str:
    plural = "" if arguments.seeds == 1 else "s"
    return (
        f"{taskset.name}: {fmt_ns(arguments.duration)} simulated, {arguments.seeds} seed{plural}"
        f" from {taskset.seed}, {MODES[arguments.costs]}"
    )


def _plot(
    arguments: argparse.Namespace,
    taskset: TaskSetSpec,
    axes: list[SweepAxis],
    results: tuple[PointResult, ...],
) -> None:
    _, _, label = _title(arguments, taskset).partition(": ")
    picture = sweep_svg(axes, results, title=taskset.name, label=label)
    try:
        write_output(arguments.plot, picture.encode())
    except OSError as err:
        what = f"{arguments.plot}: cannot write the plot"
        raise PreemptError(refusal_text(what, err, otherwise="name another file")) from err
