"""Inversions: times in which a less urgent stretch began while a more urgent job waited.

What gates wrote down tells them, all of it by the device's clock. A job waits from when it came to
a gate, its key raised long before, until it passed.
"""

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preempt_runtime.gated_device import StretchTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class Inversions:
    """How many stretches began so, and for how long those ran while the urgent job waited."""

    num_stretches: int
    num_waits: int
    number: int
    total_ns: int
    longest_ns: int
    longest_stretch_ns: int


class StretchLog:
    """Stretches of jobs that have ended, as many as fit into memory: 32 bytes each."""

    def __init__(self) -> None:
        self._arrived, self._passed, self._ended = array("q"), array("q"), array("q")
        self._keys = array("Q")

    def add(self, key: int, times: StretchTimes) -> None:
        """One job; the smaller key is the more urgent."""
        self._arrived.extend(times.arrived_ns)
        self._passed.extend(times.passed_ns)
        self._ended.extend((*times.arrived_ns[1:], times.end_ns))
        self._keys.extend([key] * len(times.passed_ns))

    def inversions(self) -> Inversions:
        """All there were.

        >>> log = StretchLog()
        >>> log.add(2, StretchTimes(arrived_ns=(0, 10), passed_ns=(0, 12), end_ns=20))
        >>> log.add(1, StretchTimes(arrived_ns=(8,), passed_ns=(20,), end_ns=25))
        >>> found = log.inversions()
        >>> found.number, found.total_ns, found.num_waits, found.longest_stretch_ns
        (1, 8, 2, 10)
        """
        if not self._keys:
            return Inversions(
                num_stretches=0, num_waits=0, number=0, total_ns=0, longest_ns=0,
                longest_stretch_ns=0,
            )  # fmt: skip
        arrived, passed, ended = (
            np.frombuffer(each, np.int64) for each in (self._arrived, self._passed, self._ended)
        )
        keys = np.frombuffer(self._keys, np.uint64)
        order = np.argsort(passed, kind="stable")
        waits = np.flatnonzero(passed > arrived)
        found = _found(
            (passed[order], ended[order], keys[order]),
            (arrived[waits], passed[waits], keys[waits]),
        )
        return Inversions(
            num_stretches=len(keys),
            num_waits=len(waits),
            number=len(found),
            total_ns=sum(found),
            longest_ns=max(found, default=0),
            longest_stretch_ns=int((ended - passed).max()),
        )


def _found(stretches: tuple[NDArray[Any], ...], waits: tuple[NDArray[Any], ...]) -> list[int]:
    """How long each stretch ran that began in a more urgent job's wait, until that was over."""
    begins, ends, keys = stretches
    firsts = np.searchsorted(begins, waits[0], side="right")
    lasts = np.searchsorted(begins, waits[1], side="left")
    found: list[int] = []
    for first, last, until, key in zip(firsts, lasts, waits[1], waits[2], strict=True):
        if first < last:
            chosen = first + np.flatnonzero(keys[first:last] > key)
            spans = np.minimum(ends[chosen], until) - begins[chosen]
            found += spans.tolist()
    return found
