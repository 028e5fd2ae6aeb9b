"""Readmission: what still holds when segments take longer than their bundles say."""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from preempt_runtime.admission import Admission, Observed, complaint
from preempt_runtime.cost_watch import CostWatch, Excess, text_from_excess
from preempt_runtime.errors import PreemptError
from preempt_runtime.executor import Executor
from preempt_runtime.schedulability import SetBound

_log = logging.getLogger(__name__)


class Readmission:
    """Analyses all tasks again with what their segments were seen to take.

    `promised` is what was said of them before, `bound` the last answer, None before the first. With
    `sheds`, tasks that were promised their deadlines and may miss them now drop jobs that are late
    from then on, so that these do not delay others, too; each task is changed once, and stays so.
    """

    def __init__(
        self,
        executor: Executor,
        admission: Admission,
        watch: CostWatch,
        *,
        promised: SetBound,
        sheds: bool,
    ) -> None:
        self.bound: SetBound | None = None
        self.shed: tuple[str, ...] = ()
        self._executor = executor
        self._admission = admission
        self._watch = watch
        self._promised = promised
        self._sheds = sheds

    def respond(self, excesses: Sequence[Excess]) -> None:
        """Analyse once more, and say of each first excess, and of a new verdict, what it means."""
        tasks = self._executor.tasks()
        observed = {
            name: Observed(segment_ns=drift.max_observed_ns, job_ns=drift.max_observed_job_ns)
            for name, drift in self._watch.drifts().items()
        }
        before, self.bound = self.bound, self._admission.bound(tasks, observed)
        is_new = before is None or self.bound.is_schedulable != before.is_schedulable
        verdict = (
            "all deadlines are still kept" if self.bound.is_schedulable else complaint(self.bound)
        )
        for excess in excesses:
            if excess.is_first or (is_new and excess is excesses[-1]):
                _log.warning("%s; with that, %s", text_from_excess(excess), verdict)
        if self._sheds and not self.bound.is_schedulable:
            self._shed(self.bound)

    def _shed(self, bound: SetBound) -> None:
        promised = {task.name for task in self._promised.tasks if task.is_schedulable}
        broken = {task.name for task in bound.tasks if not task.is_schedulable} & promised
        for task in self._executor.tasks():
            is_late_known = task.implicit_deadline_ns is not None
            if task.name in broken and task.late != "drop" and is_late_known:
                self._executor.change_task(replace(task, late="drop"))
                self.shed = (*self.shed, task.name)
                _log.warning("task %s drops late jobs from now on", task.name)


@contextlib.contextmanager
def in_background(
    respond: Callable[[Sequence[Excess]], object],
) -> Iterator[Callable[[Excess], object]]:
    """A callable that returns at once; `respond` runs on a thread of its own until this ends.

    An analysis takes milliseconds, for which the dispatcher must not hold up an urgent job. What
    comes meanwhile is answered together: the first of each kind and the newest, the rest is
    dropped. So at most one answer is waited for in the end.
    """
    excesses: queue.SimpleQueue[Excess | None] = queue.SimpleQueue()

    def work() -> None:
        is_over = False
        while not is_over:
            found = _all_of(excesses)
            is_over = None in found
            told = [excess for excess in found if excess is not None]
            answered = [excess for excess in told if excess.is_first or excess is told[-1]]
            if not answered:
                continue
            try:
                respond(answered)
            except PreemptError as err:  # such as a task that was removed meanwhile
                what = text_from_excess(answered[-1])
                _log.warning("%s; what that means is not known: %s", what, err)

    thread = threading.Thread(target=work, name="preempt-readmission", daemon=True)
    thread.start()
    try:
        yield excesses.put
    finally:
        excesses.put(None)
        thread.join()


def _all_of(excesses: queue.SimpleQueue[Excess | None]) -> list[Excess | None]:
    """What the queue holds, once it holds something."""
    found = [excesses.get()]
    with contextlib.suppress(queue.Empty):
        while True:
            found.append(excesses.get_nowait())
    return found
