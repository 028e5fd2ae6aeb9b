"""Medians with their uncertainty, and quantiles that are observed values."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preempt_runtime.metrics import Quantiles, quantiles_from_samples

_LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class MedianInterval:
    """A sample's median, and the ends of its 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    num_samples: int


def median_interval(
    values: Sequence[float], *, seed: int, num_resamples: int = 10_000
) -> MedianInterval:
    """The median with its percentile-bootstrap interval; the same seed gives the same interval.

    The ends are medians of resamples (no interpolation between two of them), so for an odd
    number of values they are values.

    >>> median_interval([3.0, 3.0, 3.0], seed=0)
    MedianInterval(median=3.0, low=3.0, high=3.0, num_samples=3)
    """
    assert len(values) > 0
    samples = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(samples), size=(num_resamples, len(samples)))
    medians = np.sort(np.median(samples[chosen], axis=1))
    tail = int(num_resamples * (1 - _LEVEL) / 2)
    return MedianInterval(
        median=float(np.median(samples)),
        low=float(medians[tail]),
        high=float(medians[-1 - tail]),
        num_samples=len(samples),
    )


def quantiles_of(samples_ns: Sequence[int]) -> Quantiles:
    """Nearest-rank quantiles of a sample that is not empty.

    >>> quantiles_of([30, 10, 20]).p99_ns
    30
    """
    quantiles = quantiles_from_samples(samples_ns)
    assert quantiles is not None
    return quantiles
