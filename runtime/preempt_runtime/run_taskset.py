"""A task set, from its file to what was measured: load, warm up, run."""

import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from preempt_runtime.arrivals import ClosedLoop, release_offsets
from preempt_runtime.clock import Clock
from preempt_runtime.cost_watch import CostDrift
from preempt_runtime.errors import BundleError, GatesError
from preempt_runtime.executor import Executor
from preempt_runtime.interruption import caught_signals
from preempt_runtime.load_taskset import LoadedTaskSet, load_taskset, open_bundles
from preempt_runtime.loading import FindBackend
from preempt_runtime.metrics import MetricsCollector, TaskMetrics, no_jobs
from preempt_runtime.policies import (
    Policy,
    check_needs,
    gate_policy,
    policy_from_name,
)
from preempt_runtime.process import (
    OptionReport,
    OsCalls,
    apply_memory,
    apply_scheduling,
)
from preempt_runtime.records import Instrument, JobRecord, SegmentRecord
from preempt_runtime.run_guard import Guarantee, RunGuard
from preempt_runtime.run_options import (
    RunOptions,
    buffer_options,
    check_gates,
    check_release_rate,
    depth_option,
    gate_mode_option,
    not_by_gates,
)
from preempt_runtime.schedulability import TaskBound
from preempt_runtime.source import Arrivals
from preempt_runtime.task_spec import TaskSpec
from preempt_runtime.taskset import GateMode, Mechanism, TaskSetSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """A task, what of its bundle ran, and how it fared; `first_error` is its first failed job's.

    `bundle` and `plan` are None where a simulation took costs from the task set. `priority` is None
    for best effort, and in real time where the file gives none. `bound` is what
    was promised of it when the run began, `drift` how its segments' times compared with those
    that its bundle holds.
    """

    bundle: str | None
    plan: str | None
    num_segments: int
    priority: int | None
    is_best_effort: bool
    deadline_ns: int | None
    metrics: TaskMetrics
    first_error: str | None
    bound: TaskBound | None = None
    drift: CostDrift | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What was run and what was measured.

    `duration_ns` is the time that the run really took: jobs released in the time asked for run to
    their end. `depth` is how many segments were allowed in flight. `device_busy_frac` is the share
    of the duration in which the device was taken. `ended_by` is the signal that ended the run
    early; unfinished jobs were then cancelled. `guarantee` is None for a simulation. `mechanism` is
    what jobs were preempted by, `gate_mode` how, and `gate_faults` are what gates did that voids
    bounds.
    """

    taskset: str
    policy: str
    seed: int
    duration_ns: int
    device: str
    depth: int
    device_busy_frac: float
    tasks: Mapping[str, TaskReport]
    options: tuple[OptionReport, ...]
    ended_by: signal.Signals | None
    guarantee: Guarantee | None = None
    mechanism: Mechanism = "segments"
    gate_mode: GateMode | None = None
    gate_faults: tuple[str, ...] = ()


class RunTally:
    """An instrument: how long the device was taken, and each task's first error."""

    def __init__(self) -> None:
        self.busy_ns = 0
        self.first_errors: dict[str, str] = {}

    def job_released(self, job_id: int, task: str, release_ns: int) -> None:
        """Not of interest here."""

    def segment_ended(self, record: SegmentRecord) -> None:
        """Add the segment."""
        self.busy_ns += record.elapsed_ns

    def job_ended(self, record: JobRecord) -> None:
        """Keep the first error."""
        if record.error is not None:
            self.first_errors.setdefault(record.task, record.error)


def run_taskset(
    taskset: TaskSetSpec,
    options: RunOptions,
    *,
    find_backend: FindBackend,
    clock: Clock,
    instruments: Iterable[Instrument] = (),
    os_calls: OsCalls | None = None,
) -> RunReport:
    """Load the task set, run it on the caller's thread, and report.

    SIGINT and SIGTERM end the run at the next preemption point; what was measured is reported.

    Raises:
        PreemptError: a subclass that says what could not be read, loaded or opened.
    """
    policy = policy_from_name(options.policy or taskset.policy)
    check_needs(policy, taskset.tasks, where=f"{taskset.path}: ")
    check_release_rate(taskset)
    bundles = open_bundles(taskset, options.pins)
    mechanism = options.mechanism or taskset.mechanism
    mode = options.gate_mode or taskset.gate_mode

    def run(gates: GateMode | None, *before: OptionReport) -> RunReport:
        with (
            apply_scheduling(options.process, os_calls) as scheduling,
            load_taskset(taskset, bundles, find_backend, gates) as loaded,
        ):
            setup = _set_up(taskset, policy, loaded)
            course = _execute(setup, options, clock, instruments, os_calls)
            in_force = (
                *before,
                *gate_mode_option(options.gate_mode, gates),
                *depth_option(taskset.depth, setup.depth, loaded.device),
                *buffer_options(taskset.tasks, setup.depth, loaded),
                *scheduling,
                *course.memory,
            )
            return _report(setup, course, in_force)

    if mechanism == "segments":
        return run(None)
    if mechanism == "gates":
        gate_policy(policy)
        return run(mode)
    try:
        check_gates(policy, bundles.values())
        return run(mode)
    except GatesError as err:  # before a job was released
        try:
            return run(None, not_by_gates(str(err)))
        except BundleError as other:  # it has a plan of gates alone, or the task set asks for it
            raise BundleError(f"{other}; and not by gates: {err}") from other


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setup:
    """What is to run, and what will observe it."""

    taskset: TaskSetSpec
    policy: Policy
    loaded: LoadedTaskSet
    depth: int
    guard: RunGuard
    collector: MetricsCollector
    tally: RunTally


@dataclass(frozen=True, slots=True, kw_only=True)
class _Course:
    """How long it ran, what ended it early, and what the system said of locking memory."""

    elapsed_ns: int
    ended_by: signal.Signals | None
    memory: tuple[OptionReport, ...]
    gate_faults: tuple[str, ...]


def _set_up(taskset: TaskSetSpec, policy: Policy, loaded: LoadedTaskSet) -> _Setup:
    depth = min(taskset.depth, loaded.device.max_depth)
    return _Setup(
        taskset=taskset,
        policy=policy,
        loaded=loaded,
        depth=depth,
        guard=RunGuard(taskset, loaded, policy=policy.name, depth=depth),
        collector=MetricsCollector(),
        tally=RunTally(),
    )


def _execute(
    setup: _Setup,
    options: RunOptions,
    clock: Clock,
    instruments: Iterable[Instrument],
    os_calls: OsCalls | None,
) -> _Course:
    loaded, guard = setup.loaded, setup.guard
    observers: tuple[Instrument, ...] = (setup.collector, setup.tally, guard.watch, *instruments)
    with Executor(
        loaded.device,
        setup.policy,
        clock,
        observers,
        depth=setup.depth,
        admission=guard.admission,
    ) as executor:
        executor.add_tasks([task.task for task in loaded.tasks])
        for task in loaded.tasks:
            name = task.spec.name
            executor.warm_up(name, task.samples[0], num_runs=options.num_warmup_runs)
            executor.add_source(name, arrivals_of(task.spec), task.inputs_of)
        with apply_memory(options.process, os_calls) as memory, guard.watching(executor):
            start_ns = clock.now_ns()
            with caught_signals(lambda: cancel_everything(executor, setup.taskset)) as interruption:
                executor.run(options.duration_ns, until=lambda: interruption.signum is not None)
            elapsed_ns = clock.now_ns() - start_ns
        faults = executor.gate_faults()
    return _Course(
        elapsed_ns=elapsed_ns, ended_by=interruption.signum, memory=memory, gate_faults=faults
    )


def _report(setup: _Setup, course: _Course, options: tuple[OptionReport, ...]) -> RunReport:
    elapsed_ns, guarantee = course.elapsed_ns, setup.guard.guarantee()
    return RunReport(
        taskset=setup.taskset.name,
        policy=setup.policy.name,
        seed=setup.taskset.seed,
        duration_ns=elapsed_ns,
        device=setup.loaded.device.name,
        depth=setup.depth,
        device_busy_frac=setup.tally.busy_ns / elapsed_ns if elapsed_ns else 0.0,
        tasks=_task_reports(setup, guarantee, elapsed_ns),
        options=options,
        ended_by=course.ended_by,
        guarantee=guarantee,
        mechanism="segments" if setup.loaded.gates is None else "gates",
        gate_mode=setup.loaded.gates,
        gate_faults=course.gate_faults,
    )


def _task_reports(setup: _Setup, guarantee: Guarantee, elapsed_ns: int) -> dict[str, TaskReport]:
    metrics = setup.collector.metrics(elapsed_ns)
    promised = guarantee.promised.tasks if guarantee.promised is not None else ()
    bounds = {bound.name: bound for bound in promised}
    return {
        task.spec.name: TaskReport(
            bundle=task.bundle.root.name,
            plan=task.plan.id,
            num_segments=len(task.plan.segments),
            priority=task.spec.priority,
            is_best_effort=task.spec.is_best_effort,
            deadline_ns=task.spec.deadline_ns,
            metrics=metrics.get(task.spec.name) or no_jobs(task.spec.name),
            first_error=setup.tally.first_errors.get(task.spec.name),
            bound=bounds.get(task.spec.name),
            drift=guarantee.drifts[task.spec.name],
        )
        for task in setup.loaded.tasks
    }


def cancel_everything(executor: Executor, taskset: TaskSetSpec) -> None:
    """Have all jobs of a run end at the next preemption point; also from a signal's handler."""
    for task in taskset.tasks:
        executor.remove_task(task.name, wait=False)  # a handler must not wait for the run


def arrivals_of(task: TaskSpec) -> Arrivals:
    """When a task's jobs are released, from the beginning."""
    if isinstance(task.arrival, ClosedLoop):
        return task.arrival
    return release_offsets(task.arrival, seed=task.seed, task=task.name)
