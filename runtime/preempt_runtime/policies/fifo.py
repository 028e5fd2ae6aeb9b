"""First in, first out, without preemption: the baseline."""

from collections.abc import Sequence
from typing import TypeVar

from preempt_runtime.gate_keys import GateRank
from preempt_runtime.job import Key, ReadyJob
from preempt_runtime.policies.fixed_priority import FixedPriority
from preempt_runtime.policies.policy import Need, RankedTask, by_key

_J = TypeVar("_J", bound=ReadyJob)


class Fifo:
    """The started job until it ends, then the earliest release, best effort or not.

    Blocking is counted by priority all the same: it is what this order costs the urgent ones.
    """

    name = "fifo"
    needs: tuple[Need, ...] = ()
    has_moving_urgency = False

    def rank(self, task: RankedTask) -> Key:
        """Its priority."""
        return FixedPriority().rank(task)

    def urgency(self, job: ReadyJob) -> Key:
        """Whether it has started, and its release."""
        return (0, 0) if job.is_started else (1, job.release_ns)

    def gate_rank(self, job: ReadyJob, order: int) -> GateRank:
        """The order of starts, whatever its priority."""
        return ("real-time", order)

    def pick(self, ready: Sequence[_J], now_ns: int) -> _J:
        """The started job, or else the one that waits longest."""
        return min(ready, key=by_key)
