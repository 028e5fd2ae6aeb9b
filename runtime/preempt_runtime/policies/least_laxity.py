"""Least laxity first."""

from collections.abc import Sequence
from typing import TypeVar

from preempt_runtime.job import Key, ReadyJob
from preempt_runtime.policies.policy import BEST_EFFORT, Need, RankedTask, by_key, rank_of_kind

_J = TypeVar("_J", bound=ReadyJob)


class LeastLaxity:
    """The job that can least afford to wait: laxity = deadline - now - what it has still to run.

    `now` is the same for all, so the order is that of `deadline - remaining`: a waiting job's does
    not change, a running one's grows. So two jobs of equal laxity take turns at every preemption
    point, each of which may cost something.

    Source: Mok, "Fundamental Design Problems of Distributed Systems for the Hard-Real-Time
    Environment", MIT 1983. Adapted: the costs are the plan's medians, or its predictions.
    """

    name = "least-laxity"
    needs: tuple[Need, ...] = ("deadline",)
    has_moving_urgency = True

    def rank(self, task: RankedTask) -> Key:
        """Real-time above best effort: two tasks are ordered otherwise at every job."""
        return rank_of_kind(task)

    def urgency(self, job: ReadyJob) -> Key:
        """When at the latest the rest of it must begin."""
        if job.is_best_effort:
            return BEST_EFFORT
        assert job.due_ns is not None
        return (0, job.due_ns - job.remaining_ns)

    def pick(self, ready: Sequence[_J], now_ns: int) -> _J:
        """The smallest key."""
        return min(ready, key=by_key)
