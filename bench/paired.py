"""A bundle's two plans measured against each other: the chain of segments and the whole network.

Both run through the runtime's own device, in one process, in turn. Every chain is compared with
the whole run beside it, so that a change of the machine's speed meets both.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from preempt_runtime.backends.ort import OrtDevice
from preempt_runtime.bundle import open_bundle
from preempt_runtime.device import Array, Device, JobBuffers, Network
from preempt_runtime.inputs import random_inputs
from preempt_runtime.manifest import SEGMENTS_PLAN_ID, WHOLE_PLAN_ID
from preempt_runtime.process import ProcessOptions, apply_memory

_WARM_UP_PAIRS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTimes:
    """Pairs of a chained and a whole run.

    `segment_ns[i][k]` is segment k of chain i, its launch and wait included; `whole_ns[i]` is the
    whole run beside it.
    """

    segment_ns: tuple[tuple[int, ...], ...]
    whole_ns: tuple[int, ...]
    is_bitwise: bool

    def __post_init__(self) -> None:
        assert len(self.segment_ns) == len(self.whole_ns) > 0

    @property
    def ratios(self) -> tuple[float, ...]:
        """Chained over whole, pair by pair."""
        pairs = zip(self.segment_ns, self.whole_ns, strict=True)
        return tuple(sum(segments) / whole_ns for segments, whole_ns in pairs)

    @property
    def by_segment(self) -> tuple[tuple[int, ...], ...]:
        """Every segment's times."""
        return tuple(zip(*self.segment_ns, strict=True))


class PlanRun:
    """A loaded plan with its buffers and inputs."""

    def __init__(self, device: Device, network: Network, inputs: dict[str, Array]) -> None:
        self._device, self._network = device, network
        self._buffers: JobBuffers = network.new_buffers()
        self._buffers.write_inputs(inputs)

    def run(self) -> tuple[int, ...]:
        """Time of each segment, in ns."""
        times = []
        for idx in range(len(self._network.segments)):
            start_ns = time.perf_counter_ns()
            self._device.launch(self._buffers, idx, is_urgent=False)
            self._device.wait()
            times.append(time.perf_counter_ns() - start_ns)
        return tuple(times)

    def outputs(self) -> dict[str, Array]:
        """Outputs of the last run."""
        return self._buffers.read_outputs()


def measure_bundle(path: Path, *, num_pairs: int, seed: int = 0) -> PairedTimes:
    """Load both plans of the bundle at `path` and measure them.

    Raises:
        BundleError: the bundle was not made for this machine, or is damaged.
    """
    device, bundle = OrtDevice(), open_bundle(path)
    chain = device.load(bundle, SEGMENTS_PLAN_ID)
    whole = device.load(bundle, WHOLE_PLAN_ID)
    try:
        return measure_pairs(device, chain, whole, num_pairs=num_pairs, seed=seed)
    finally:
        chain.close()
        whole.close()
        device.close()


def measure_pairs(
    device: Device, chain: Network, whole: Network, *, num_pairs: int, seed: int = 0
) -> PairedTimes:
    """Run chain and whole in turn on the same inputs, the first of a pair changing every time."""
    inputs = random_inputs(whole.graph, seed=seed, task="paired")
    chained, uncut = PlanRun(device, chain, inputs), PlanRun(device, whole, inputs)
    for _ in range(_WARM_UP_PAIRS):
        chained.run()
        uncut.run()
    segment_ns: list[tuple[int, ...]] = []
    whole_ns: list[int] = []
    with apply_memory(ProcessOptions()):
        for idx in range(num_pairs):
            if idx % 2:
                whole_ns += uncut.run()
                segment_ns.append(chained.run())
            else:
                segment_ns.append(chained.run())
                whole_ns += uncut.run()
    return PairedTimes(
        segment_ns=tuple(segment_ns),
        whole_ns=tuple(whole_ns),
        is_bitwise=is_bitwise_equal(chained.outputs(), uncut.outputs()),
    )


def is_bitwise_equal(left: dict[str, Array], right: dict[str, Array]) -> bool:
    """Whether the same outputs hold the same bytes.

    >>> import numpy as np
    >>> is_bitwise_equal({"y": np.array([0.0])}, {"y": np.array([-0.0])})
    False
    """
    return left.keys() == right.keys() and all(
        array.dtype == right[name].dtype
        and array.shape == right[name].shape
        and array.tobytes() == right[name].tobytes()
        for name, array in left.items()
    )
