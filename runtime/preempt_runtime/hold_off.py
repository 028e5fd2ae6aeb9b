"""HoldOff: what the host leaves for later, to be free when an urgent job is about to need it."""

from collections.abc import Sequence, Sized
from typing import Literal

from preempt_runtime.agenda import Agenda
from preempt_runtime.in_flight import Launch

_MAX_HOLD_NS = 1_000_000
"""No work is left for longer, lest dense releases starve best effort."""
_FADE = 4  # by this part an estimate comes nearer to what took less; to what took more at once
_ROOM = 2.5  # times what work took of late has to fit: its p99 is more than twice its p50
Work = Literal["launch", "completion", "telling", "closing", "audit"]


class HoldOff:
    """Whether work of best effort would be in the way, by what its like took of late.

    While the host works for best effort, an urgent job that is released waits for its launch, and
    one that ends for its outputs. Both moments are known beforehand: releases by the agenda, ends
    by launch and cost; a job that is `announced` may come at any moment.
    """

    def __init__(self, agenda: Agenda, announced: Sized) -> None:
        self._agenda = agenda
        self._announced = announced
        self._took_ns: dict[tuple[Work, str], int] = {}
        self._left_since_ns: dict[tuple[Work, str], int] = {}

    def took(self, work: Work, task: str, elapsed_ns: int) -> None:
        """Note how long it was at work for a job of the task."""
        before_ns = self._took_ns.get((work, task), 0)
        faded_ns = before_ns - (before_ns - elapsed_ns) // _FADE
        self._took_ns[work, task] = min(max(elapsed_ns, faded_ns), _MAX_HOLD_NS)

    def leaves(self, work: Work, task: str, running: Sequence[Launch], now_ns: int) -> bool:
        """Whether to leave the work for now; what was left for a millisecond is done."""
        key = work, task
        if self._is_in_the_way(key, running, now_ns):
            since_ns = self._left_since_ns.setdefault(key, now_ns)
            if now_ns - since_ns <= _MAX_HOLD_NS:
                return True
        self._left_since_ns.pop(key, None)
        return False

    def _is_in_the_way(self, key: tuple[Work, str], running: Sequence[Launch], now_ns: int) -> bool:
        if self._announced:
            return True
        over_ns = now_ns + round(_ROOM * self._took_ns.get(key, 0))
        release_ns = self._agenda.next_due_ns()
        if release_ns is not None and release_ns < over_ns:
            return True
        return any(_is_urgent(each) and _end_ns(each) < over_ns for each in running)


def _is_urgent(launch: Launch) -> bool:
    return launch.job.priority is not None


def _end_ns(launch: Launch) -> int:
    """When it ends at the earliest: if it had to wait for nobody."""
    return launch.launch_ns + launch.job.cost_ns
