"""DySta: remaining time, weighed a little against slack and waiting."""

from collections.abc import Sequence
from typing import TypeVar

from preempt_runtime.job import Key, ReadyJob
from preempt_runtime.policies.policy import Need, RankedTask, rank_of_kind

_J = TypeVar("_J", bound=ReadyJob)
_PER_BETA = 100  # 1 / beta, as published
_FAR_NS = 1 << 80  # puts best effort behind every real-time job


class Dysta:
    """The job of the smallest score.

    score = remaining + beta * (max(0, deadline - now - remaining) + idle / num_ready)

    with beta = 0.01 and idle the time since the job last ran, or since its release. It is near to
    the shortest remaining time; the first summand of beta prefers jobs that are pressed, the
    second keeps from switching.

    With S = 100 * num_ready * score and `now` taken from all of them, S is
    num_ready * max(99 * remaining + deadline - now, 100 * remaining) - idle_since: integers, of
    which only `now` and `num_ready` change while a job waits.

    Source: Fan et al., "Sparse-DySta: Sparsity-Aware Dynamic and Static Scheduling for Sparse
    Multi-DNN Workloads", MICRO 2023, and its artifact. Adapted: no sparsity predictor, the costs
    are the plan's own; the artifact divides the idle time by the job's cost and adds it to times,
    here it stays a time.
    """

    name = "dysta"
    needs: tuple[Need, ...] = ("deadline",)
    has_moving_urgency = True

    def rank(self, task: RankedTask) -> Key:
        """Real-time above best effort: two tasks are ordered otherwise at every job."""
        return rank_of_kind(task)

    def urgency(self, job: ReadyJob) -> Key:
        """The parts of the score that do not change while it waits."""
        if job.is_best_effort:
            return (1, _FAR_NS, _FAR_NS, 0)
        assert job.due_ns is not None
        pressed_ns = _PER_BETA * job.remaining_ns
        return (0, pressed_ns - job.remaining_ns + job.due_ns, pressed_ns, job.idle_since_ns)

    def pick(self, ready: Sequence[_J], now_ns: int) -> _J:
        """The smallest score, then the smallest key."""
        num_ready = len(ready)
        best, best_score, best_key = ready[0], _FAR_NS * _FAR_NS, ready[0].key
        for job in ready:
            key = job.key
            relaxed_ns, pressed_ns = key[1] - now_ns, key[2]
            worst_ns = relaxed_ns if relaxed_ns > pressed_ns else pressed_ns  # `max` takes longer
            score = num_ready * worst_ns - key[3]
            if score < best_score or (score == best_score and key < best_key):
                best, best_score, best_key = job, score, key
        return best
