"""Fakes for tests and simulation: networks whose segments have given costs, on a virtual clock."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from preempt_runtime.clock import VirtualClock
from preempt_runtime.device import MAX_DEPTH, Array, JobBuffers
from preempt_runtime.errors import DeviceError
from preempt_runtime.executor import Executor
from preempt_runtime.handle import JobHandle
from preempt_runtime.manifest import GraphSpec, SegmentSpec, TensorSpec
from preempt_runtime.policies import Policy
from preempt_runtime.records import JobRecord, SegmentRecord
from preempt_runtime.task import Task

EXAMPLE_INPUTS: Mapping[str, Array] = {"x": np.zeros(1, np.float32)}


def graph_spec(
    name: str = "net", inputs: Sequence[TensorSpec] = (), outputs: Sequence[TensorSpec] = ()
) -> GraphSpec:
    """A network's interface; by default one float32 input `x` and output `y` of one element."""
    return GraphSpec(
        id=name,
        variant="full",
        exit_of=None,
        inputs=tuple(inputs) or (TensorSpec(name="x", dtype="float32", shape=(1,)),),
        outputs=tuple(outputs) or (TensorSpec(name="y", dtype="float32", shape=(1,)),),
    )


def segment_specs(segment_ns: Sequence[int]) -> tuple[SegmentSpec, ...]:
    """One segment of one node for each predicted time."""
    last = len(segment_ns) - 1
    return tuple(
        SegmentSpec(
            path=f"graph/segment-{idx:03d}.onnx",
            range=(idx, idx + 1),
            source_range=(idx, idx + 1),
            inputs=("x" if idx == 0 else f"b{idx}",),
            outputs=("y" if idx == last else f"b{idx + 1}",),
            live_bytes=0 if idx == last else 4,
            predicted_ns=cost_ns,
            latency=None,
        )
        for idx, cost_ns in enumerate(segment_ns)
    )


class FakeBuffers:
    """Inputs as they were copied; outputs are the first input plus the segments that have run.

    So an output shows whether every segment ran once, in order, on this job's own inputs.
    """

    def __init__(self, network: "FakeNetwork") -> None:
        self.network = network
        self.next_segment_idx = 0
        self.is_closed = False
        self._value: Array = np.zeros(1, np.float32)

    def write_inputs(self, inputs: Mapping[str, Array]) -> None:
        """Copy the first input; the next segment is the first."""
        self._value = next(iter(inputs.values())).copy()
        self.next_segment_idx = 0

    def read_outputs(self) -> dict[str, Array]:
        """Fresh arrays."""
        outputs = self.network.graph.outputs
        return {spec.name: self._value + self.next_segment_idx for spec in outputs}

    def close(self) -> None:
        """No segment may run in them any more."""
        self.is_closed = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeNetwork:
    """A network whose segment i takes `segment_ns[i]` on a `FakeDevice`."""

    name: str = "net"
    segment_ns: tuple[int, ...] = (1,)
    graph: GraphSpec = field(default_factory=graph_spec)

    @property
    def segments(self) -> tuple[SegmentSpec, ...]:
        """One per cost."""
        return segment_specs(self.segment_ns)

    def new_buffers(self) -> FakeBuffers:
        """Buffers of their own for every caller."""
        return FakeBuffers(self)

    def close(self) -> None:
        """Nothing to release."""


class FakeDevice:
    """A device on a virtual clock: a launched segment takes its cost when it is waited for.

    Up to `max_depth` of them run one after another, in the order of their launches.
    `failures` are (network name, segment index) pairs whose completion raises `DeviceError`.
    `launches` keeps what was launched.
    """

    name = "fake"

    def __init__(
        self,
        clock: VirtualClock,
        failures: Iterable[tuple[str, int]] = (),
        max_depth: int = 1,
    ) -> None:
        self.launches: list[tuple[str, int]] = []
        self.failures = set(failures)
        self.max_depth = max_depth
        self._clock = clock
        self._free_ns = 0
        self._in_flight: deque[tuple[FakeNetwork, int, int]] = deque()

    def launch(self, buffers: JobBuffers, segment_idx: int, *, is_urgent: bool) -> None:
        """Take a segment of a `FakeNetwork`, in the order of its segments."""
        assert isinstance(buffers, FakeBuffers), "a fake device runs fake networks"
        assert not buffers.is_closed, "buffers that are closed run nothing"
        assert len(self._in_flight) < self.max_depth, f"{self.max_depth} segments in flight"
        assert segment_idx == buffers.next_segment_idx, "segments run in order"
        buffers.next_segment_idx += 1
        self._free_ns = max(self._free_ns, self._clock.now_ns())
        self._free_ns += buffers.network.segment_ns[segment_idx]
        self._in_flight.append((buffers.network, segment_idx, self._free_ns))
        self.launches.append((buffers.network.name, segment_idx))

    def wait(self, num_left: int = 0) -> None:
        """Let time pass until all but the last few have ended, or one has failed."""
        while len(self._in_flight) > num_left:
            network, segment_idx, end_ns = self._in_flight.popleft()
            self._clock.advance(max(0, end_ns - self._clock.now_ns()))
            if (network.name, segment_idx) in self.failures:
                raise DeviceError(f"{network.name}: segment {segment_idx} was told to fail")

    def stream(self, *, is_urgent: bool) -> None:
        """There are no streams."""

    def close(self) -> None:
        """Nothing to release."""


class NoopDevice:
    """A device on which every segment takes no time, to measure what surrounds it."""

    name = "noop"
    max_depth = MAX_DEPTH

    def launch(self, buffers: JobBuffers, segment_idx: int, *, is_urgent: bool) -> None:
        """Nothing."""

    def wait(self, num_left: int = 0) -> None:
        """Nothing."""

    def stream(self, *, is_urgent: bool) -> None:
        """There are no streams."""

    def close(self) -> None:
        """Nothing to release."""


@dataclass(slots=True)
class Recording:
    """An instrument that keeps every record, in the order in which it came."""

    releases: list[tuple[int, str, int]] = field(default_factory=list)
    segments: list[SegmentRecord] = field(default_factory=list)
    jobs: list[JobRecord] = field(default_factory=list)

    def job_released(self, job_id: int, task: str, release_ns: int) -> None:
        """Keep it."""
        self.releases.append((job_id, task, release_ns))

    def segment_ended(self, record: SegmentRecord) -> None:
        """Keep it."""
        self.segments.append(record)

    def job_ended(self, record: JobRecord) -> None:
        """Keep it."""
        self.jobs.append(record)


def run_schedule(
    tasks: Iterable[Task],
    releases: Sequence[tuple[int, str]],
    policy: Policy,
    *,
    failures: Iterable[tuple[str, int]] = (),
    actions: Sequence[tuple[int, Callable[[Sequence[JobHandle]], object]]] = (),
    depth: int = 1,
) -> list[str]:
    """The schedule of the released jobs on a virtual clock, one line for each record.

    Args:
        tasks: on `FakeNetwork`s with one input `x`.
        releases: (time in ns, task name); the k-th becomes job k. Times must not decrease.
        policy: what picks.
        failures: as in `FakeDevice`.
        actions: (time in ns, action); an action gets the handles of all jobs, in order.
        depth: how many segments may be in flight.
    """
    clock, recording = VirtualClock(), Recording()
    device = FakeDevice(clock, failures, max_depth=depth)
    with Executor(
        device, policy, clock, [recording], switch_interval_s=None, depth=depth
    ) as executor:
        for task in tasks:
            executor.add_task(task)
        handles = [
            executor.submit(name, EXAMPLE_INPUTS, release_ns=at_ns) for at_ns, name in releases
        ]
        for at_ns, action in actions:
            clock.call_at(at_ns, lambda action=action: action(handles))  # type: ignore[misc]
        executor.run()
        executor.check_integrity()
    return lines_from_recording(recording)


def lines_from_recording(recording: Recording) -> list[str]:
    """Segments in the order in which they ran, then jobs in the order of their ids.

    A segment is `start-end task#job[segment]`; a job is `task#job state key=value...` with its
    release, start, end, response and blocking times in ns.
    """
    segments = [
        f"{seg.start_ns}-{seg.end_ns} {seg.task}#{seg.job_id}[{seg.segment_idx}]"
        for seg in recording.segments
    ]
    return segments + [_job_line(job) for job in sorted(recording.jobs, key=lambda j: j.job_id)]


def _job_line(job: JobRecord) -> str:
    values = {
        "release": job.release_ns,
        "start": job.start_ns,
        "end": job.end_ns,
        "response": job.response_ns,
        "blocking": job.blocking_ns or None,
        "preemptions": job.num_preemptions or None,
        "missed": 1 if job.is_missed else None,
    }
    fields = [f"{key}={value}" for key, value in values.items() if value is not None]
    error = [] if job.error is None else [f"error={job.error!r}"]
    return " ".join([f"{job.task}#{job.job_id}", job.state.value, *fields, *error])
