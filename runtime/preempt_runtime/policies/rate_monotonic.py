"""Rate monotonic: fixed priorities by period."""

from collections.abc import Sequence
from typing import TypeVar

from preempt_runtime.gate_keys import GateRank, period_rank
from preempt_runtime.job import Key, ReadyJob
from preempt_runtime.policies.policy import BEST_EFFORT, Need, RankedTask, by_key

_J = TypeVar("_J", bound=ReadyJob)


class RateMonotonic:
    """The job whose task has the shorter period; `priority` is not looked at.

    Source: Liu and Layland, "Scheduling Algorithms for Multiprogramming in a Hard-Real-Time
    Environment", JACM 1973: the best fixed order where every deadline is the period.
    """

    name = "rate-monotonic"
    needs: tuple[Need, ...] = ("period",)
    has_moving_urgency = False

    def rank(self, task: RankedTask) -> Key:
        """The shorter its period, the higher."""
        if task.is_best_effort:
            return (0, 0)
        assert task.period_ns is not None
        return (1, -task.period_ns)

    def urgency(self, job: ReadyJob) -> Key:
        """Its task's period."""
        if job.is_best_effort:
            return BEST_EFFORT
        assert job.period_ns is not None
        return (0, job.period_ns)

    def gate_rank(self, job: ReadyJob, order: int) -> GateRank:
        """Its period, then the order of starts."""
        if job.is_best_effort:
            return ("best-effort", order)
        assert job.period_ns is not None
        return ("real-time", period_rank(job.period_ns, order))

    def pick(self, ready: Sequence[_J], now_ns: int) -> _J:
        """The smallest key."""
        return min(ready, key=by_key)
