"""A run's guard: what the run promises of its deadlines, and whether that still holds."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from preempt_runtime.admission import Admission
from preempt_runtime.cost_watch import AllowedCosts, CostDrift, CostWatch, Excess
from preempt_runtime.errors import InputError
from preempt_runtime.executor import Executor
from preempt_runtime.load_taskset import LoadedTaskSet
from preempt_runtime.readmission import Readmission, in_background
from preempt_runtime.schedulability import Assumptions, SetBound
from preempt_runtime.taskset import TaskSetSpec

_log = logging.getLogger("preempt_runtime.run_guard")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """What a run promised, and what became of it.

    `promised` is None where the analysis was not told enough, `reason` then says what.
    `readmitted` is the analysis with the longest times that were seen, None if none was asked for
    or needed; `shed` are the tasks that dropped late jobs from then on. `hazards` were there when
    the run began: with any of them segments may take longer than what the promise rests on.
    """

    promised: SetBound | None
    reason: str | None
    readmitted: SetBound | None
    shed: tuple[str, ...]
    drifts: dict[str, CostDrift]
    hazards: tuple[str, ...] = ()


class RunGuard:
    """Admission for an executor, and a watch on what its segments take; one run each."""

    def __init__(
        self, taskset: TaskSetSpec, loaded: LoadedTaskSet, *, policy: str, depth: int
    ) -> None:
        assumptions = Assumptions(
            depth=depth,
            resume_cost_ns=taskset.resume_cost_ns,
            dispatch_ns=taskset.dispatch_ns,
            job_dispatch_ns=taskset.job_dispatch_ns,
            margin_frac=taskset.margin_frac,
            corun_factor=taskset.corun_factor,
            is_launched_whole=loaded.gates is not None,
        )
        self.admission = Admission(policy=policy, mode=taskset.admit, assumptions=assumptions)
        costs = {
            task.spec.name: AllowedCosts(
                latencies=tuple(segment.latency for segment in task.network.segments),
                assumptions=assumptions,
                total_ns=task.task.total_ns,
            )
            for task in loaded.tasks
        }
        self._loaded = loaded
        self._hazards: tuple[str, ...] = ()
        self._drift = taskset.drift
        self._tell: Callable[[Excess], object] | None = None
        self._readmission: Readmission | None = None
        self._promised: SetBound | None = None
        self._reason: str | None = None
        on_exceeded = None if self._drift == "say" else self._exceeded
        self.watch = CostWatch(costs, on_exceeded)

    @contextlib.contextmanager
    def watching(self, executor: Executor) -> Iterator[None]:
        """Note what is promised of the executor's tasks, and answer excesses until this ends.

        Begins when every task has warmed up; hazards are told at once.
        """
        self._hazards = self._loaded.hazards + self._loaded.backend.hazards(is_warm=True)
        for hazard in self._hazards:
            _log.warning("%s; see `preempt-rt doctor`", hazard)
        try:
            self._promised = self.admission.bound(executor.tasks())
        except InputError as err:
            self._reason = str(err)
        if self._drift == "say" or self._promised is None:
            yield
            return
        self._readmission = Readmission(
            executor,
            self.admission,
            self.watch,
            promised=self._promised,
            sheds=self._drift == "shed",
        )
        with in_background(self._readmission.respond) as self._tell:
            yield

    def guarantee(self) -> Guarantee:
        """What was promised, and what became of it, once the run has ended."""
        again = self._readmission
        return Guarantee(
            promised=self._promised,
            reason=self._reason,
            readmitted=again.bound if again is not None else None,
            shed=again.shed if again is not None else (),
            drifts=self.watch.drifts(),
            hazards=self._hazards,
        )

    def _exceeded(self, excess: Excess) -> None:
        if self._tell is not None:
            self._tell(excess)
