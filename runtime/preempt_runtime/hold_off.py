"""HoldOff: what the host leaves for later, to be free when an urgent job is about to need it."""

from collections.abc import Sequence, Sized
from typing import Literal

from preempt_runtime.agenda import Agenda
from preempt_runtime.in_flight import Launch
from preempt_runtime.job import Job

_MAX_HOLD_NS = 1_000_000
"""Work is left so long at most, lest dense releases starve best effort."""
_FADE = 8  # a time of which this part is forgotten whenever work took less
_ROOM = 1.5  # times what work took of late has to fit: a host that is cold takes longer
Work = Literal["launch", "completion", "audit"]


class HoldOff:
    """Whether work of best effort would be in the way, by what its like took of late.

    A completion brings a job's outputs and tells its stretches, a launch hands the driver a whole
    graph: each takes the host some 100 us (estimated), in which an urgent job that is released
    waits for its launch, and one that ends for its outputs. Both moments are known beforehand:
    releases by the agenda, ends by launch and cost; a job that is `announced` may come at any
    moment. What took long once is taken to be long for a
    while, since too early costs best effort a moment, and too late costs the urgent job.
    """

    def __init__(self, agenda: Agenda, announced: Sized) -> None:
        self._agenda = agenda
        self._announced = announced
        self._took_ns: dict[tuple[Work, str], int] = {}

    def took(self, work: Work, task: str, elapsed_ns: int) -> None:
        """Note how long it was at work for a job of the task."""
        before_ns = self._took_ns.get((work, task), 0)
        self._took_ns[work, task] = min(
            max(elapsed_ns, before_ns - before_ns // _FADE), _MAX_HOLD_NS
        )

    def is_in_the_way(
        self, work: Work, job: Job | None, running: Sequence[Launch], now_ns: int, since_ns: int
    ) -> bool:
        """Whether to leave it, which could have been done since then.

        A job's is left for a millisecond at most, or for as long as the job itself takes, where the
        device has as much to do meanwhile.
        """
        if now_ns - since_ns > max(_MAX_HOLD_NS, _spare_ns(job, running)):
            return False
        if self._announced:
            return True
        task = "" if job is None else job.task.name
        over_ns = now_ns + round(_ROOM * self._took_ns.get((work, task), 0))
        release_ns = self._agenda.next_due_ns()
        if release_ns is not None and release_ns < over_ns:
            return True
        return any(_is_urgent(each) and _end_ns(each) < over_ns for each in running)


def _spare_ns(job: Job | None, running: Sequence[Launch]) -> int:
    """For how long the device does without it: it has other work, and that is no more urgent."""
    if job is None:
        return 0
    others = (each.job for each in running if each.job is not job and not _is_urgent(each))
    return min(job.cost_ns, sum(each.cost_ns for each in others))


def _is_urgent(launch: Launch) -> bool:
    return launch.job.priority is not None


def _end_ns(launch: Launch) -> int:
    """When it ends at the earliest: if it had to wait for nobody."""
    return launch.launch_ns + launch.job.cost_ns
