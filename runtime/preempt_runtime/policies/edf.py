"""Earliest deadline first."""

from collections.abc import Sequence
from typing import TypeVar

from preempt_runtime.gate_keys import GateRank, deadline_rank
from preempt_runtime.job import Key, ReadyJob
from preempt_runtime.policies.policy import BEST_EFFORT, Need, RankedTask, by_key, rank_of_kind

_J = TypeVar("_J", bound=ReadyJob)


class EarliestDeadline:
    """The job whose absolute deadline comes first; its period stands for a deadline it lacks.

    Source: Liu and Layland, JACM 1973: keeps every deadline that can be kept, were it not for
    segments. When overloaded it may miss all of them: see the tasks' `late`.
    """

    name = "edf"
    needs: tuple[Need, ...] = ("deadline",)
    has_moving_urgency = False

    def rank(self, task: RankedTask) -> Key:
        """Real-time above best effort: two tasks are ordered otherwise at every job."""
        return rank_of_kind(task)

    def urgency(self, job: ReadyJob) -> Key:
        """Its absolute deadline."""
        if job.is_best_effort:
            return BEST_EFFORT
        assert job.due_ns is not None
        return (0, job.due_ns)

    def gate_rank(self, job: ReadyJob, order: int) -> GateRank:
        """Its absolute deadline."""
        if job.is_best_effort:
            return ("best-effort", order)
        assert job.due_ns is not None
        return ("real-time", deadline_rank(job.due_ns))

    def pick(self, ready: Sequence[_J], now_ns: int) -> _J:
        """The smallest key."""
        return min(ready, key=by_key)
