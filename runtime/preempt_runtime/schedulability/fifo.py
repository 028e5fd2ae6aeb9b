"""The response-time bound in order of release, without preemption: what came before runs before.

R = max over offsets A of (sum over all j of n_j(A + 1) C_j) - A, with any number of segments in
flight: jobs are launched in the order of their releases, so nothing in flight came later.

Source: Bozhko and Brandenburg, ECRTS 2020 (PROSA, fifo); the same for every task;
docs/schedulability.md for depth.
"""

from collections.abc import Sequence

import numpy as np

from preempt_runtime.schedulability.demand import Demand, Releases
from preempt_runtime.schedulability.fixed_priority import Bounded
from preempt_runtime.schedulability.loads import Load, Unbounded


def fifo_bound(loads: Sequence[Load]) -> Bounded | Unbounded:
    """The bound of every task, best effort included: this policy knows no ranks."""
    busy_ns = Demand(loads).busy_period_ns(0)
    if isinstance(busy_ns, Unbounded):
        return busy_ns
    every = Releases(loads, busy_ns)
    # Of jobs released together, the last one has the work of all before it.
    return Bounded(0, int((np.cumsum(every.cost_ns) - every.release_ns).max()))
