"""Policies: which ready job gets the device next. One file each.

A policy is a pure function of the ready jobs and the time, and a total order, so that a schedule
can be replayed: equal jobs do not exist, `id` decides last.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from preempt_runtime.errors import InputError
from preempt_runtime.job import ReadyJob
from preempt_runtime.policies.fifo import Fifo
from preempt_runtime.policies.fixed_priority import FixedPriority

__all__ = ["POLICIES", "Fifo", "FixedPriority", "Policy", "policy_from_name"]

_J = TypeVar("_J", bound=ReadyJob)


class Policy(Protocol):
    """Decides at every preemption point; touches neither jobs nor device."""

    @property
    def name(self) -> str:
        """What the command line and reports call it."""
        ...

    def pick(self, ready: Sequence[_J], now_ns: int) -> _J:
        """One of `ready`, which holds at least one job; its order means nothing."""
        ...


POLICIES: Mapping[str, Policy] = {policy.name: policy for policy in (FixedPriority(), Fifo())}


def policy_from_name(name: str) -> Policy:
    """The policy of that name.

    Raises:
        InputError: there is none; the message lists those that there are.
    """
    if name not in POLICIES:
        raise InputError(f"no policy is called {name!r}; there are {', '.join(sorted(POLICIES))}")
    return POLICIES[name]
