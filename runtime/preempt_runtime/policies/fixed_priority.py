"""Preemptive fixed priorities, best effort below all of them."""

from collections.abc import Sequence
from operator import attrgetter
from typing import TypeVar

from preempt_runtime.job import ReadyJob

_J = TypeVar("_J", bound=ReadyJob)
_order = attrgetter("order")


class FixedPriority:
    """The larger priority first, then the earlier release, then the smaller id."""

    name = "fixed-priority"

    def pick(self, ready: Sequence[_J], now_ns: int) -> _J:
        """The most urgent job, whether or not another one has started."""
        return min(ready, key=_order)
