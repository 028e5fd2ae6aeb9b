"""ProgressWatch: whether jobs on a device with gates still come to their ends."""

from collections.abc import Callable, Iterable

from preempt_runtime.gate_limits import COST_FACTOR, PATIENCE_NS
from preempt_runtime.job import Job

LOOK_NS = 10_000_000  # a process that was stopped has not looked meanwhile


class ProgressWatch:
    """Time in which the host looked at the device and no job had ended.

    The limit is ten times what all jobs that are there take together, by their plans, and ten
    seconds: gates let each other pass long before, and a job may wait for the end of all others.
    """

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._looked_ns = now_ns()
        self._stalled_ns = 0

    def reset(self) -> None:
        """A job was launched, or has ended, or is waited for from now on."""
        self._looked_ns, self._stalled_ns = self._now_ns(), 0

    def looked(self, running: Iterable[Job]) -> str | None:
        """Which jobs do not end and for how long none has; None as long as all may be well."""
        now_ns = self._now_ns()
        self._stalled_ns += min(now_ns - self._looked_ns, LOOK_NS)
        self._looked_ns = now_ns
        if self._stalled_ns <= PATIENCE_NS:
            return None
        jobs = tuple(running)
        limit_ns = PATIENCE_NS + COST_FACTOR * sum(job.task.cost_ns for job in jobs)
        if self._stalled_ns <= limit_ns:
            return None
        names = ", ".join(f"{job.task.name} {job.id}" for job in jobs)
        return f"no job has ended for {limit_ns / 1e9:.3g} s, these are still there: {names}"
