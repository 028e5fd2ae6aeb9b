"""Policies: which ready job gets the device next. One file each.

A policy is a pure function of the ready jobs and the time, and a total order, so that a schedule
can be replayed: equal jobs do not exist, `id` decides last. docs/policies.md compares them and
says how to add one.
"""

from collections.abc import Mapping

from preempt_runtime.errors import InputError
from preempt_runtime.policies.deadline_monotonic import DeadlineMonotonic
from preempt_runtime.policies.dysta import Dysta
from preempt_runtime.policies.edf import EarliestDeadline
from preempt_runtime.policies.fifo import Fifo
from preempt_runtime.policies.fixed_priority import FixedPriority
from preempt_runtime.policies.least_laxity import LeastLaxity
from preempt_runtime.policies.policy import GatePolicy, Policy, check_needs, key_of
from preempt_runtime.policies.prema import Prema
from preempt_runtime.policies.rate_monotonic import RateMonotonic

__all__ = [
    "POLICIES",
    "DeadlineMonotonic",
    "Dysta",
    "EarliestDeadline",
    "Fifo",
    "FixedPriority",
    "GatePolicy",
    "LeastLaxity",
    "Policy",
    "Prema",
    "RateMonotonic",
    "check_needs",
    "gate_policy",
    "key_of",
    "policy_from_name",
]

_ALL: tuple[Policy, ...] = (
    FixedPriority(),
    RateMonotonic(),
    DeadlineMonotonic(),
    EarliestDeadline(),
    LeastLaxity(),
    Fifo(),
    Prema(),
    Dysta(),
)
POLICIES: Mapping[str, Policy] = {policy.name: policy for policy in _ALL}


def gate_policy(policy: Policy) -> GatePolicy:
    """The same policy, if gates can keep its order.

    Raises:
        InputError: a job's urgency changes while it runs; the message lists those that remain.
    """
    if not isinstance(policy, GatePolicy):
        fit = ", ".join(name for name, each in POLICIES.items() if isinstance(each, GatePolicy))
        raise InputError(
            f"policy {policy.name!r}: a job's urgency changes while it runs, gates keep what it"
            f" was at its start; take one of {fit}, or --mechanism segments"
        )
    return policy


def policy_from_name(name: str) -> Policy:
    """The policy of that name.

    Raises:
        InputError: there is none; the message lists those that there are.
    """
    if name not in POLICIES:
        raise InputError(f"no policy is called {name!r}; there are {', '.join(sorted(POLICIES))}")
    return POLICIES[name]
