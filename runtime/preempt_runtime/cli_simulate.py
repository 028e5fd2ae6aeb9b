"""`preempt-rt simulate`: what a task set would do, on a virtual clock."""

import argparse
import json
from pathlib import Path

from preempt_runtime.cli_values import duration, integer, policy
from preempt_runtime.load_taskset import check_taskset_output
from preempt_runtime.simulate import SimulationOptions, simulate
from preempt_runtime.simulated_costs import COST_MODES, read_costs
from preempt_runtime.simulation_report import MODES, document_from_simulation, print_simulation
from preempt_runtime.stdout import results_out
from preempt_runtime.task_table import MAX_SEED
from preempt_runtime.taskset import read_taskset
from preempt_runtime.trace import TraceRecorder, write_trace


def add_simulate(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    modes = "; ".join(f"{mode}: {text}" for mode, text in MODES.items())
    add("taskset", type=Path, metavar="TASKSET.toml", help="see docs/taskset.md")
    add("--duration", type=duration, default="10s", metavar="TIME", help="default: 10s")
    add("--policy", type=policy, metavar="NAME", help="instead of the task set's own")
    add("--seed", type=integer(0, MAX_SEED), metavar="N", help="instead of the task set's own")
    add("--costs", choices=COST_MODES, default="fixed", help=f"{modes}; default: fixed")
    add("--trace", type=Path, metavar="FILE", help="write a trace that Perfetto opens")


def run_simulate(arguments: argparse.Namespace) -> int:
    """Simulate, print the report, write the trace; the exit code."""
    taskset = read_taskset(arguments.taskset, seed=arguments.seed)
    if arguments.trace is not None:
        check_taskset_output(arguments.trace, taskset, "the trace")
    options = SimulationOptions(
        duration_ns=arguments.duration, policy=arguments.policy, mode=arguments.costs
    )
    recorder = TraceRecorder()
    report = simulate(
        taskset,
        read_costs(taskset),
        options,
        instruments=(recorder,) if arguments.trace is not None else (),
        is_traced=arguments.trace is not None,
    )
    try:
        with results_out() as out:
            if arguments.json:
                print(json.dumps(document_from_simulation(report), indent=1), file=out)
            else:
                print_simulation(report, out)
    finally:  # neither a full disk nor a full stdout must take the other's results along
        if arguments.trace is not None:
            write_trace(arguments.trace, recorder.trace([task.name for task in taskset.tasks]))
    return 0 if report.run.ended_by is None else 128 + report.run.ended_by
