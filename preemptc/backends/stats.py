"""From samples to the figures that profiles and manifests hold."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preempt_runtime.manifest import Latency
from preemptc.backends import Measurement


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


def median_with_error(samples: Sequence[float] | NDArray[Any]) -> tuple[float, float]:
    """The median, and half the width of its 95 % interval.

    The interval's ends are order statistics: of n samples about `n / 2 +- 0.98 * sqrt(n)`.

    >>> median_with_error([1.0, 1.0, 1.2]), median_with_error([5.0] * 9)
    ((1.0, 0.1), (5.0, 0.0))
    """
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    last = len(ordered) - 1
    reach = 0.98 * math.sqrt(len(ordered))
    low, high = math.floor(last / 2 - reach), math.ceil(last / 2 + reach)
    error = (ordered[min(high, last)] - ordered[max(low, 0)]) / 2
    return float(np.median(ordered)), round(float(error), 12)


def measurement_from_samples(
    segments_ns: NDArray[Any], chained_ns: NDArray[Any], whole_ns: NDArray[Any]
) -> Measurement:
    """The figures of a chain that ran in turn with the whole network.

    Args:
        segments_ns: times of each segment, `[runs, segments]`.
        chained_ns: times of the chain, `[runs]`.
        whole_ns: of the whole run beside each, `[runs]`.
    """
    num_segments = segments_ns.shape[1]
    is_cut = num_segments > 1  # else it is twice the same network: a difference is noise
    ratio_p50, ratio_error = median_with_error(chained_ns / whole_ns) if is_cut else (1.0, 0.0)
    return Measurement(
        segments=tuple(latency_from_samples(segments_ns[:, i]) for i in range(num_segments)),
        chained=latency_from_samples(chained_ns),
        whole=latency_from_samples(whole_ns),
        ratio_p50=ratio_p50,
        ratio_error=ratio_error,
    )


def interquartile_mean(samples_ns: Sequence[int]) -> float:
    """Mean of the middle half: as robust as a median, and finer than the clock's resolution.

    >>> interquartile_mean([0, 1, 1, 2, 1000, 1, 1, 2])
    1.25
    """
    ordered = np.sort(np.asarray(samples_ns, dtype=np.float64))
    quarter = len(ordered) // 4
    return float(ordered[quarter : len(ordered) - quarter].mean())
