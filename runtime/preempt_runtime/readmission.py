"""Readmission: what still holds when segments take longer than their bundles say."""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from preempt_runtime.admission import Admission, Observed, complaint
from preempt_runtime.cost_watch import CostWatch, Excess, text_from_excess
from preempt_runtime.errors import PreemptError
from preempt_runtime.executor import Executor
from preempt_runtime.schedulability import SetBound

_log = logging.getLogger(__name__)


class Readmission:
    """Analyses all tasks again with what their segments were seen to take.

    `bound` is the last answer, None before the first. With `sheds`, tasks that may miss their
    deadlines from then on drop jobs that are late, so that these do not delay others, too; each
    task is changed once, and stays so.
    """

    def __init__(
        self, executor: Executor, admission: Admission, watch: CostWatch, *, sheds: bool
    ) -> None:
        self.bound: SetBound | None = None
        self.shed: tuple[str, ...] = ()
        self._executor = executor
        self._admission = admission
        self._watch = watch
        self._sheds = sheds

    def respond(self, excess: Excess) -> None:
        """Analyse once more, and say what has changed."""
        tasks = self._executor.tasks()
        observed = {
            name: Observed(segment_ns=drift.max_observed_ns, job_ns=drift.max_observed_job_ns)
            for name, drift in self._watch.drifts().items()
        }
        before, self.bound = self.bound, self._admission.bound(tasks, observed)
        if excess.is_first or before is None or self.bound.is_schedulable != before.is_schedulable:
            verdict = (
                "all deadlines are still kept"
                if self.bound.is_schedulable
                else complaint(self.bound)
            )
            _log.warning("%s; with that, %s", text_from_excess(excess), verdict)
        if self._sheds and not self.bound.is_schedulable:
            self._shed(self.bound)

    def _shed(self, bound: SetBound) -> None:
        failing = {task.name for task in bound.tasks if not task.is_schedulable}
        for task in self._executor.tasks():
            is_late_known = task.implicit_deadline_ns is not None
            if task.name in failing and task.late != "drop" and is_late_known:
                self._executor.change_task(replace(task, late="drop"))
                self.shed = (*self.shed, task.name)
                _log.warning("task %s drops late jobs from now on", task.name)


@contextlib.contextmanager
def in_background(respond: Callable[[Excess], object]) -> Iterator[Callable[[Excess], object]]:
    """A callable that returns at once; `respond` runs on a thread of its own until this ends.

    An analysis takes milliseconds, for which the dispatcher must not hold up an urgent job.
    """
    excesses: queue.SimpleQueue[Excess | None] = queue.SimpleQueue()

    def work() -> None:
        while (excess := excesses.get()) is not None:
            try:
                respond(excess)
            except PreemptError as err:  # such as a task that was removed meanwhile
                _log.warning("%s; what that means is not known: %s", text_from_excess(excess), err)

    thread = threading.Thread(target=work, name="preempt-readmission", daemon=True)
    thread.start()
    try:
        yield excesses.put
    finally:
        excesses.put(None)
        thread.join()
