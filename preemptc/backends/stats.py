"""From samples to the figures that profiles and manifests hold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preempt_runtime.manifest import Latency


def latency_from_samples(samples_ns: Sequence[int] | NDArray[Any]) -> Latency:
    """Median, 99th percentile (nearest rank) and maximum of measured times.

    >>> latency_from_samples([3, 1, 2]).p50_ns
    2
    """
    ordered = np.sort(np.asarray(samples_ns, dtype=np.int64))
    count = len(ordered)
    return Latency(
        p50_ns=int(ordered[(count - 1) // 2]),
        p99_ns=int(ordered[min(count - 1, -(-99 * count // 100) - 1)]),
        max_ns=int(ordered[-1]),
        num_samples=count,
    )


def interquartile_mean(samples_ns: Sequence[int]) -> float:
    """Mean of the middle half: as robust as a median, and finer than the clock's resolution.

    >>> interquartile_mean([0, 1, 1, 2, 1000, 1, 1, 2])
    1.25
    """
    ordered = np.sort(np.asarray(samples_ns, dtype=np.float64))
    quarter = len(ordered) // 4
    return float(ordered[quarter : len(ordered) - quarter].mean())
