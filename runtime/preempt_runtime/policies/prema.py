"""PREMA: tokens for having waited, then the shortest remaining time."""

from collections.abc import Sequence
from typing import TypeVar

from preempt_runtime.job import NEVER_NS, Key, ReadyJob
from preempt_runtime.policies.policy import Need, RankedTask, by_key, rank_of_kind

_J = TypeVar("_J", bound=ReadyJob)
_LEVELS = (9, 3)  # the published priorities are 1, 3 and 9; whoever has tokens for 1 is the rest
_BEST_EFFORT: Key = (1, 0, NEVER_NS, NEVER_NS)


class Prema:
    """Jobs with the most tokens, by level; of these the one with the least left to run.

    tokens = priority * (1 + waited / cost), where waited is the time since the release in which
    the job did not run, at least 0. The threshold is the largest of 9, 3 and 1 that a ready job's
    tokens reach; candidates are the jobs that reach it.

    Tokens grow in a straight line while a job waits, so each level above its priority is reached
    at a time that is known beforehand: release - remaining + ceil(level * cost / priority).

    Source: Choi and Rhu, "PREMA: A Predictive Multi-task Scheduling Algorithm For Preemptible
    Neural Processing Units", HPCA 2020, algorithm 2. Adapted: preemption at the plan's points, for
    nothing, instead of checkpointing or killing; costs are the plan's own, not predicted from the
    shape of the layers; a job that reaches a threshold is a candidate, not only one above it;
    tokens are of a job and start anew with the task's next one. A priority below 1 counts as 1.
    """

    name = "prema"
    needs: tuple[Need, ...] = ("positive priority",)
    has_moving_urgency = True

    def rank(self, task: RankedTask) -> Key:
        """Real-time above best effort: two tasks are ordered otherwise at every job."""
        return rank_of_kind(task)

    def urgency(self, job: ReadyJob) -> Key:
        """What it has still to run, and when it reaches each level."""
        if job.priority is None:
            return _BEST_EFFORT
        weight = max(1, job.priority)
        base_ns = job.release_ns - job.remaining_ns
        high_ns, middle_ns = (
            job.release_ns if weight >= level else base_ns - (-level * job.cost_ns // weight)
            for level in _LEVELS
        )
        return (0, job.remaining_ns, high_ns, middle_ns)

    def pick(self, ready: Sequence[_J], now_ns: int) -> _J:
        """The smallest key of the candidates."""
        candidates = (
            [job for job in ready if job.key[2] <= now_ns]
            or [job for job in ready if job.key[3] <= now_ns]
            or ready
        )
        return min(candidates, key=by_key)
