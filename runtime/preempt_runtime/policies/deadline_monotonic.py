"""Deadline monotonic: fixed priorities by relative deadline."""

from collections.abc import Sequence
from typing import TypeVar

from preempt_runtime.gate_keys import GateRank, period_rank
from preempt_runtime.job import Key, ReadyJob
from preempt_runtime.policies.policy import BEST_EFFORT, Need, RankedTask, by_key

_J = TypeVar("_J", bound=ReadyJob)


class DeadlineMonotonic:
    """The job whose task has the shorter relative deadline, or period where it has none.

    Source: Leung and Whitehead, "On the Complexity of Fixed-Priority Scheduling of Periodic,
    Real-Time Tasks", Performance Evaluation 1982: the best fixed order where deadlines are at
    most the periods. `priority` is not looked at.
    """

    name = "deadline-monotonic"
    needs: tuple[Need, ...] = ("deadline",)
    has_moving_urgency = False

    def rank(self, task: RankedTask) -> Key:
        """The shorter its deadline, the higher."""
        if task.is_best_effort:
            return (0, 0)
        assert task.implicit_deadline_ns is not None
        return (1, -task.implicit_deadline_ns)

    def urgency(self, job: ReadyJob) -> Key:
        """Its task's relative deadline."""
        if job.is_best_effort:
            return BEST_EFFORT
        assert job.relative_deadline_ns is not None
        return (0, job.relative_deadline_ns)

    def gate_rank(self, job: ReadyJob, order: int) -> GateRank:
        """Its relative deadline, then the order of starts."""
        if job.is_best_effort:
            return ("best-effort", order)
        assert job.relative_deadline_ns is not None
        return ("real-time", period_rank(job.relative_deadline_ns, order))

    def pick(self, ready: Sequence[_J], now_ns: int) -> _J:
        """The smallest key."""
        return min(ready, key=by_key)
