"""A sweep: many simulations in processes of their own, their results in a fixed order."""

import contextlib
import logging
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker

from preempt_runtime.errors import InputError, PreemptError
from preempt_runtime.interruption import caught_signals
from preempt_runtime.metrics import TaskMetrics
from preempt_runtime.simulation.costs import TaskCosts
from preempt_runtime.simulation.load import check_length
from preempt_runtime.simulation.points import SweepAxis, SweepPoint, Value, name_of, with_seed
from preempt_runtime.simulation.simulate import SimulationOptions, simulate
from preempt_runtime.taskset import TaskSetSpec

MAX_RUNS = 10_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRun:
    """One simulation of a sweep, before it is run; `name` is what messages call it."""

    name: str
    values: tuple[Value, ...]
    taskset: TaskSetSpec
    costs: Mapping[str, TaskCosts]
    options: SimulationOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """What became of one simulation; `values` are its axes', in their order."""

    values: tuple[Value, ...]
    seed: int
    duration_ns: int
    device_busy_frac: float
    offered_load: float
    tasks: Mapping[str, TaskMetrics]
    max_backlogs: Mapping[str, int]
    warnings: tuple[str, ...]


class SweepInterrupted(Exception):
    """A signal ended the sweep; nothing of it is left running."""

    def __init__(self, signum: signal.Signals) -> None:
        super().__init__(signum.name)
        self.signum = signum


def check_num_runs(axes: Sequence[SweepAxis], num_seeds: int) -> None:
    """Return if so many simulations are allowed; to be asked before the points are made.

    Raises:
        InputError: there are too many.
    """
    num_points = math.prod(len(axis.values) for axis in axes)
    if num_points * num_seeds > MAX_RUNS:
        raise InputError(
            f"{num_points} points with {num_seeds} seeds are {num_points * num_seeds}"
            f" simulations, allowed {MAX_RUNS}; leave values or seeds out"
        )


def runs_of(
    points: Sequence[SweepPoint],
    options: SimulationOptions,
    axes: Sequence[SweepAxis],
    num_seeds: int,
) -> tuple[SweepRun, ...]:
    """Every point with every seed, the seeds of one point side by side.

    Raises:
        InputError: one of them would not end in time or memory.
    """
    runs = []
    for point in points:
        check_length(
            point.taskset,
            point.costs,
            options.mode,
            duration_ns=options.duration_ns,
            is_traced=False,
        )
        for repetition in range(num_seeds):
            taskset = with_seed(point.taskset, repetition)
            runs.append(
                SweepRun(
                    name=name_of(axes, point.values, taskset.seed),
                    values=point.values,
                    taskset=taskset,
                    costs=point.costs,
                    options=options,
                )
            )
    return tuple(runs)


def run_sweep(runs: Sequence[SweepRun], num_processes: int) -> tuple[SweepRow, ...]:
    """The results in the order of the runs, however many processes there are.

    Raises:
        InputError: a simulation was refused, with its point.
        PreemptError: a process was killed.
        SweepInterrupted: SIGINT or SIGTERM came; every process was ended.
    """
    pool = ProcessPoolExecutor(
        max_workers=max(1, min(num_processes, len(runs))),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_end_with_parent,
    )
    with caught_signals(lambda: _end_processes(pool)) as interruption:
        try:
            rows = _results(pool, runs)
        except BrokenProcessPool as err:
            if interruption.signum is None:
                raise PreemptError(
                    "a process of the sweep was killed, perhaps for its memory; ask for fewer"
                    " --jobs or a shorter --duration"
                ) from err
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    if interruption.signum is not None:
        raise SweepInterrupted(interruption.signum)
    return tuple(rows)


def _results(pool: ProcessPoolExecutor, runs: Sequence[SweepRun]) -> list[SweepRow]:
    with _signals_held():
        futures: list[Future[SweepRow]] = [pool.submit(run_point, run) for run in runs]
    rows = []
    for run, future in zip(runs, futures, strict=True):
        rows.append(future.result())
        _log.info("%d of %d simulated: %s", len(rows), len(runs), run.name)
    return rows


def run_point(run: SweepRun) -> SweepRow:
    """One simulation.

    Raises:
        InputError: it was refused; the message names the point.
    """
    try:
        report = simulate(run.taskset, run.costs, run.options, catches_signals=False)
    except InputError as err:
        raise InputError(f"at {run.name}: {err}") from err
    return SweepRow(
        values=run.values,
        seed=run.taskset.seed,
        duration_ns=report.run.duration_ns,
        device_busy_frac=report.run.device_busy_frac,
        offered_load=sum(report.offered_loads.values()),
        tasks={name: task.metrics for name, task in report.run.tasks.items()},
        max_backlogs=report.max_backlogs,
        warnings=report.warnings,
    )


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Start processes in which SIGINT stays blocked: a terminal sends it to all of them.

    The tracker that Python starts beside them would unblock it, so it is started before.
    """
    resource_tracker.ensure_running()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _end_processes(pool: ProcessPoolExecutor) -> None:
    for process in list((pool._processes or {}).values()):
        process.kill()


def _end_with_parent() -> None:
    """Let no process outlive the command, not even one that is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
