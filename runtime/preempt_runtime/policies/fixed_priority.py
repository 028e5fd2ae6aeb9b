"""Preemptive fixed priorities, best effort below all of them."""

from collections.abc import Sequence
from typing import TypeVar

from preempt_runtime.gate_keys import GateRank, priority_rank
from preempt_runtime.job import Key, ReadyJob
from preempt_runtime.policies.policy import BEST_EFFORT, Need, RankedTask, by_key

_J = TypeVar("_J", bound=ReadyJob)


class FixedPriority:
    """The job of the larger priority, whether or not another one has started."""

    name = "fixed-priority"
    needs: tuple[Need, ...] = ("priority",)
    has_moving_urgency = False

    def rank(self, task: RankedTask) -> Key:
        """Its priority."""
        return (0, 0) if task.is_best_effort else (1, task.priority or 0)

    def urgency(self, job: ReadyJob) -> Key:
        """Its task's priority."""
        return BEST_EFFORT if job.priority is None else (0, -job.priority)

    def gate_rank(self, job: ReadyJob, order: int) -> GateRank:
        """Its priority, then the order of starts."""
        if job.priority is None:
            return ("best-effort", order)
        return ("real-time", priority_rank(job.priority, order))

    def pick(self, ready: Sequence[_J], now_ns: int) -> _J:
        """The smallest key."""
        return min(ready, key=by_key)
