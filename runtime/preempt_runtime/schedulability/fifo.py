"""The response-time bound in order of release, without preemption: what came before runs before.

R = max over offsets A of (sum over all j of n_j(A + 1) C_j) - A.

Source: Bozhko and Brandenburg, ECRTS 2020 (PROSA, fifo); the same for every task.
"""

from collections.abc import Sequence

from preempt_runtime.schedulability.fixed_priority import Bounded
from preempt_runtime.schedulability.loads import Load, Unbounded, busy_period_ns, offsets_before


def fifo_bound(loads: Sequence[Load]) -> Bounded | Unbounded:
    """The bound of every task, best effort included: this policy knows no ranks."""
    busy_ns = busy_period_ns(loads, 0, 0)
    if isinstance(busy_ns, Unbounded):
        return busy_ns
    steps = [load.steps(busy_ns) for load in loads]
    response_ns = max(
        sum(load.arrivals(offset_ns + 1) * load.cost_ns for load in loads) - offset_ns
        for offset_ns in offsets_before(busy_ns, *steps)
    )
    return Bounded(0, response_ns)
