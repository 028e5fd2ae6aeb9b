"""A task set on a virtual clock: the executor and the policies are those of a run.

Only the device is simulated: a segment takes what the bundle's manifest, or the task set, says of
it. The same task set, seed and options give the same records on every machine.
"""

import contextlib
import itertools
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from preempt_runtime.arrivals import ClosedLoop
from preempt_runtime.clock import VirtualClock
from preempt_runtime.errors import InputError
from preempt_runtime.executor import Executor
from preempt_runtime.interruption import Interruption, caught_signals
from preempt_runtime.load_taskset import task_from_spec
from preempt_runtime.metrics import MetricsCollector, no_jobs
from preempt_runtime.policies import Policy, check_needs, policy_from_name
from preempt_runtime.records import Instrument
from preempt_runtime.run_taskset import (
    RunReport,
    RunTally,
    TaskReport,
    arrivals_of,
    cancel_everything,
)
from preempt_runtime.simulation.backlog import MAX_BACKLOG, BacklogWatch
from preempt_runtime.simulation.costs import CostMode, TaskCosts
from preempt_runtime.simulation.device import SimulatedDevice, network_from_costs
from preempt_runtime.simulation.load import check_length, offered_load
from preempt_runtime.simulation.notes import depth_in_force, depth_options, notes_on_run
from preempt_runtime.source import Arrivals
from preempt_runtime.taskset import TaskSetSpec

MAX_SAMPLES = 1_000_000  # of each task, for its quantiles; 80 bytes each


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationOptions:
    """What a simulation may change: `policy` None is the task set's own.

    `max_backlog` ends a simulation in which more jobs of one task wait, if nothing bounds them.
    """

    duration_ns: int
    policy: str | None = None
    mode: CostMode = "fixed"
    max_backlog: int = MAX_BACKLOG


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationReport:
    """What a run's report says, of simulated jobs, and what the simulation was made from.

    `offered_loads` are the shares of the device's time that releases ask for, closed loops aside;
    `max_backlogs` the most jobs of each task that were released and unended.
    """

    run: RunReport
    mode: CostMode
    resume_cost_ns: int
    costs: Mapping[str, TaskCosts]
    offered_loads: Mapping[str, float]
    max_backlogs: Mapping[str, int]
    warnings: tuple[str, ...]


def simulate(
    taskset: TaskSetSpec,
    costs: Mapping[str, TaskCosts],
    options: SimulationOptions,
    *,
    instruments: Iterable[Instrument] = (),
    is_traced: bool = False,
    catches_signals: bool = True,
) -> SimulationReport:
    """Run the task set on a virtual clock, on the caller's thread, and report.

    Args:
        taskset: its bundles are not opened.
        costs: of every task, from `read_costs`.
        options: how long, and how.
        instruments: further observers.
        is_traced: whether one of them keeps every record, so that memory bounds the length.
        catches_signals: SIGINT and SIGTERM end it at the next preemption point, and what was
            simulated until then is reported; else they do what they always do.

    Raises:
        InputError: it would not end in time or memory, the task set asks for what is not
            simulated, or more jobs waited than memory is for.
    """
    policy = policy_from_name(options.policy or taskset.policy)
    check_needs(policy, taskset.tasks, where=f"{taskset.path}: ")
    check_length(taskset, costs, options.mode, duration_ns=options.duration_ns, is_traced=is_traced)
    clock = VirtualClock()
    watch = BacklogWatch(taskset.tasks, options.duration_ns, options.max_backlog)
    collector, tally = MetricsCollector(MAX_SAMPLES), RunTally()
    depth = depth_in_force(taskset, costs)
    device = SimulatedDevice(clock, taskset.resume_cost_ns)
    observers: tuple[Instrument, ...] = (collector, tally, watch, *instruments)
    with Executor(
        device, policy, clock, observers, switch_interval_s=None, depth=depth
    ) as executor:
        _add_tasks(executor, taskset, costs, options.mode, watch)
        ended_by = _run(executor, taskset, options.duration_ns, watch, catches_signals)
    if watch.overfull is not None:
        raise InputError(
            f"{taskset.path}: {watch.overfull} at {clock.now_ns()} ns; set max_pending or a smaller"
            " one, mailbox = 'latest' or late = 'drop', lower the load or shorten the duration"
        )
    run = _run_report(taskset, policy, costs, collector, tally, clock.now_ns(), ended_by)
    return _report(taskset, costs, options.mode, run, watch)


def _add_tasks(
    executor: Executor,
    taskset: TaskSetSpec,
    costs: Mapping[str, TaskCosts],
    mode: CostMode,
    watch: BacklogWatch,
) -> None:
    for task in taskset.tasks:
        network = network_from_costs(costs[task.name], mode, seed=task.seed, task=task.name)
        executor.add_task(task_from_spec(task, network))
        arrivals = _until_overfull(arrivals_of(task), watch)
        executor.add_source(task.name, arrivals, network.inputs_of)


def _until_overfull(arrivals: Arrivals, watch: BacklogWatch) -> Arrivals:
    """The same, but no more of them once a queue is overfull: many may fall due in one segment."""
    if isinstance(arrivals, ClosedLoop):
        return arrivals
    return itertools.takewhile(lambda _: watch.overfull is None, arrivals)


def _run(
    executor: Executor,
    taskset: TaskSetSpec,
    duration_ns: int,
    watch: BacklogWatch,
    catches_signals: bool,
) -> signal.Signals | None:
    interruption = Interruption()

    def is_over() -> bool:
        if watch.overfull is not None and interruption.signum is None:
            cancel_everything(executor, taskset)
            return True
        return interruption.signum is not None

    with contextlib.ExitStack() as stack:
        if catches_signals:
            caught = caught_signals(lambda: cancel_everything(executor, taskset))
            interruption = stack.enter_context(caught)
        executor.run(duration_ns, until=is_over)
    return interruption.signum


def _report(
    taskset: TaskSetSpec,
    costs: Mapping[str, TaskCosts],
    mode: CostMode,
    run: RunReport,
    watch: BacklogWatch,
) -> SimulationReport:
    return SimulationReport(
        run=run,
        mode=mode,
        resume_cost_ns=taskset.resume_cost_ns,
        costs=costs,
        offered_loads={
            task.name: offered_load(task, costs[task.name], mode) for task in taskset.tasks
        },
        max_backlogs={task.name: watch.most(task.name) for task in taskset.tasks},
        warnings=(
            *notes_on_run(taskset, costs),
            *(() if run.ended_by is not None else watch.warnings()),
        ),
    )


def _run_report(
    taskset: TaskSetSpec,
    policy: Policy,
    costs: Mapping[str, TaskCosts],
    collector: MetricsCollector,
    tally: RunTally,
    elapsed_ns: int,
    ended_by: signal.Signals | None,
) -> RunReport:
    metrics = collector.metrics(elapsed_ns)
    return RunReport(
        taskset=taskset.name,
        policy=policy.name,
        seed=taskset.seed,
        duration_ns=elapsed_ns,
        device=SimulatedDevice.name,
        depth=depth_in_force(taskset, costs),
        device_busy_frac=tally.busy_ns / elapsed_ns if elapsed_ns else 0.0,
        tasks={
            task.name: TaskReport(
                bundle=costs[task.name].bundle,
                plan=costs[task.name].plan,
                num_segments=len(costs[task.name].segments),
                priority=task.priority,
                is_best_effort=task.is_best_effort,
                deadline_ns=task.deadline_ns,
                metrics=metrics.get(task.name) or no_jobs(task.name),
                first_error=tally.first_errors.get(task.name),
            )
            for task in taskset.tasks
        },
        options=depth_options(taskset, costs),
        ended_by=ended_by,
    )
