"""First in, first out, without preemption: the baseline."""

from collections.abc import Sequence
from typing import TypeVar

from preempt_runtime.job import ReadyJob

_J = TypeVar("_J", bound=ReadyJob)


class Fifo:
    """The started job until it ends, then the earliest release, then the smallest id."""

    name = "fifo"

    def pick(self, ready: Sequence[_J], now_ns: int) -> _J:
        """The started job, or else the one that waits longest."""
        return min(ready, key=_started_then_release)


def _started_then_release(job: ReadyJob) -> tuple[bool, int, int]:
    return (not job.is_started, job.release_ns, job.id)
