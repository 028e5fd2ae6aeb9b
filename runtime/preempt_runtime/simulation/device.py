"""A device on a virtual clock, whose segments take what their tasks' costs say."""

import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from preempt_runtime.clock import VirtualClock
from preempt_runtime.device import MAX_DEPTH, Array, JobBuffers
from preempt_runtime.manifest import GraphSpec, Latency, SegmentSpec, TensorSpec
from preempt_runtime.simulation.costs import CostMode, SegmentCost, TaskCosts

_JOB = "job"
_SKIPPED_AT_ONCE = 1 << 14


class CostStream:
    """The segments' costs of a task's jobs: job k costs the same whatever else happens.

    In `random`, every job draws as many numbers as it has segments from its task's own stream; a
    job that is asked for no more, as it was skipped, has drawn its own all the same.
    """

    def __init__(self, costs: TaskCosts, mode: CostMode, *, seed: int, task: str) -> None:
        self._segments = costs.segments
        # A string seed is hashed with SHA-512: the same stream on every Python and platform.
        self._random = random.Random(f"{seed}/{task}/costs")
        self._next_job_idx = 0
        self.is_constant = mode != "random" or all(map(_is_certain, costs.segments))
        self._constant_ns = [
            segment.max_ns if mode == "worst" else segment.p50_ns for segment in costs.segments
        ]

    def job_ns(self, job_idx: int) -> list[int]:
        """The costs of the job of that number, which must not be below the last one asked for."""
        if self.is_constant:
            return self._constant_ns
        self._skip((job_idx - self._next_job_idx) * len(self._segments))
        self._next_job_idx = job_idx + 1
        draw = self._random.random
        return [segment.drawn_ns(draw()) for segment in self._segments]

    def _skip(self, num_draws: int) -> None:
        """Draw without looking: 64 bits each, a fifth of the time that a call for each takes."""
        while num_draws:
            num = min(num_draws, _SKIPPED_AT_ONCE)
            self._random.getrandbits(64 * num)
            num_draws -= num


def _is_certain(cost: SegmentCost) -> bool:
    return cost.p50_ns == cost.max_ns


class SimulatedBuffers:
    """What the segments of the job that owns them cost."""

    __slots__ = ("_stream", "segment_ns")

    def __init__(self, stream: CostStream) -> None:
        self._stream = stream
        self.segment_ns: list[int] = []

    def write_inputs(self, inputs: Mapping[str, Array]) -> None:
        """Take the job's number, its only input, if costs depend on it."""
        self.segment_ns = self._stream.job_ns(int(inputs[_JOB][0]) if inputs else 0)

    def read_outputs(self) -> dict[str, Array]:
        """There are none."""
        return {}

    def close(self) -> None:
        """Nothing to release."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedNetwork:
    """A task's network, as far as a schedule depends on it; `segments` name no files.

    Its input is the number of the job, where jobs cost differently; else it has none.
    """

    name: str
    segments: tuple[SegmentSpec, ...]
    stream: CostStream

    @property
    def graph(self) -> GraphSpec:
        """No outputs."""
        return _CONSTANT if self.stream.is_constant else _DRAWN

    def new_buffers(self) -> SimulatedBuffers:
        """Buffers for the one task whose stream this is."""
        return SimulatedBuffers(self.stream)

    def inputs_of(self, job_idx: int) -> Mapping[str, Array]:
        """The job's number, where it is an input."""
        return {} if self.stream.is_constant else {_JOB: np.array((job_idx,), np.int64)}

    def close(self) -> None:
        """Nothing to release."""


def _graph(*inputs: TensorSpec) -> GraphSpec:
    return GraphSpec(id="simulated", variant="full", exit_of=None, inputs=inputs, outputs=())


_CONSTANT = _graph()
_DRAWN = _graph(TensorSpec(name=_JOB, dtype="int64", shape=(1,)))


def network_from_costs(
    costs: TaskCosts, mode: CostMode, *, seed: int, task: str
) -> SimulatedNetwork:
    """The task's network for one run: its stream of costs starts with job 0."""
    return SimulatedNetwork(
        name=task,
        segments=tuple(_spec(idx, cost, costs) for idx, cost in enumerate(costs.segments)),
        stream=CostStream(costs, mode, seed=seed, task=task),
    )


def _spec(idx: int, cost: SegmentCost, costs: TaskCosts) -> SegmentSpec:
    latency = None
    if costs.source == "measured":
        latency = Latency(p50_ns=cost.p50_ns, p99_ns=cost.p99_ns, max_ns=cost.max_ns, num_samples=1)
    return SegmentSpec(
        path="",
        range=(idx, idx + 1),
        source_range=(idx, idx + 1),
        inputs=(),
        outputs=(),
        live_bytes=0,
        predicted_ns=cost.p50_ns,
        latency=latency,
    )


class SimulatedDevice:
    """Launched segments take their costs one after another, in the order of their launches.

    `resume_cost_ns` is added to a segment of a started job that follows another job's.
    """

    name = "simulated"
    max_depth = MAX_DEPTH

    def __init__(self, clock: VirtualClock, resume_cost_ns: int = 0) -> None:
        self._advance = clock.advance
        self._resume_cost_ns = resume_cost_ns
        self._in_flight_ns: deque[int] = deque()
        self._last: JobBuffers | None = None

    def launch(self, buffers: JobBuffers, segment_idx: int, *, is_urgent: bool) -> None:
        """Take a segment of a `SimulatedNetwork`."""
        assert type(buffers) is SimulatedBuffers, "a simulated device runs simulated networks"
        cost_ns = buffers.segment_ns[segment_idx]
        if self._last is not buffers:
            if segment_idx:
                cost_ns += self._resume_cost_ns
            self._last = buffers
        self._in_flight_ns.append(cost_ns)

    def wait(self, num_left: int = 0) -> None:
        """Let time pass until all but the last `num_left` launched segments have ended.

        While one is in flight no time passes but here, so each begins when the one before ends.
        """
        in_flight_ns = self._in_flight_ns
        while len(in_flight_ns) > num_left:
            self._advance(in_flight_ns.popleft())

    def stream(self, *, is_urgent: bool) -> None:
        """There are no streams."""

    def close(self) -> None:
        """Nothing to release."""
