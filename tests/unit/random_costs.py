"""A random network on a bench: what its segments really take is known, so is the best plan."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from preempt_runtime.manifest import Latency
from preemptc.backends import Measurement
from preemptc.segment_costs import SegmentCosts
from tests.unit.fake_bench import FakeBench

WHOLE_NS = 325_000
NUM_NODES = 57


class RandomNetwork:
    """Nodes and cuts of random cost; the profile errs, and costs do not quite add up.

    Cuts are predicted at a share of what they take, as lost fusions are not in a profile. With
    `span_error` each segment takes a factor of its own, as a library chooses other kernels.
    """

    def __init__(self, seed: int, *, span_error: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        work = np.maximum(rng.gamma(2.0, 1.0, NUM_NODES), 0.05)
        work *= WHOLE_NS / work.sum()
        expected = rng.uniform(0.0035, 0.0065, NUM_NODES) * WHOLE_NS
        lost = rng.uniform(0.008, 0.01, NUM_NODES) * WHOLE_NS
        guess = work * rng.uniform(0.9, 1.1, NUM_NODES)
        self.seed = seed
        self.elapsed: tuple[float, ...] = tuple(accumulate(work.tolist(), initial=0.0))
        self.cut_ns: tuple[float, ...] = (0.0, *(expected + lost)[1:].tolist())
        self.factor = rng.normal(1.0, span_error, (NUM_NODES + 1, NUM_NODES + 1))
        self.bound_ns = round(max(WHOLE_NS / 8, 1.2 * float(work.max())))
        self.predicted = SegmentCosts(
            positions=tuple(range(NUM_NODES + 1)),
            work_ns=tuple(round(ns) for ns in guess * (WHOLE_NS / guess.sum())),
            boundary_ns=(0, *(round(ns) for ns in expected[1:])),
        )

    def cost_ns(self, start: int, end: int) -> int:
        """What a segment really takes; the whole network is one."""
        factor = 1.0 if end - start == NUM_NODES else float(self.factor[start, end])
        work_ns = self.elapsed[end] - self.elapsed[start]
        return round(work_ns * factor + self.cut_ns[start])

    def overhead_frac(self, split_points: Sequence[int]) -> float:
        """What a plan really costs, as a share of the network."""
        spans = pairwise((0, *split_points, NUM_NODES))
        return sum(self.cost_ns(*span) for span in spans) / WHOLE_NS - 1

    def longest_ns(self, split_points: Sequence[int]) -> int:
        """What a plan's longest segment really takes."""
        return max(self.cost_ns(*span) for span in pairwise((0, *split_points, NUM_NODES)))

    def least_overhead_frac(self, bound_ns: int) -> float:
        """The overhead of the best plan under a bound, over all 2 ** 56 of them."""
        best = [0] * (NUM_NODES + 1)
        for start in reversed(range(NUM_NODES)):
            costs = ((self.cost_ns(start, end), end) for end in range(start + 1, NUM_NODES + 1))
            best[start] = min(
                (ns + best[end] for ns, end in costs if ns <= bound_ns), default=10**9
            )
        return best[0] / WHOLE_NS - 1


class NoisyBench(FakeBench):
    """Measures a random network; every median is off by a few thousandths."""

    def __init__(self, network: RandomNetwork, noise: float = 0.002) -> None:
        super().__init__(NUM_NODES, network.cost_ns)
        self.noise, self.rng = noise, np.random.default_rng(network.seed)

    def measure(self, split_points: Sequence[int], **budget: Any) -> Measurement:
        exact = super().measure(split_points, **budget)
        return Measurement(
            segments=tuple(self._disturbed(latency) for latency in exact.segments),
            chained=self._disturbed(exact.chained),
            whole=self._disturbed(exact.whole),
            ratio_p50=exact.ratio_p50 * self.rng.normal(1.0, self.noise / 2),
            ratio_error=self.noise,
        )

    def _disturbed(self, latency: Latency) -> Latency:
        p50_ns = round(latency.p50_ns * self.rng.normal(1.0, self.noise))
        return Latency(p50_ns=p50_ns, p99_ns=p50_ns + 10, max_ns=p50_ns + 20, num_samples=30)
