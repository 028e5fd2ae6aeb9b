"""The ways in which two networks share a GPU, and one run of each.

`RAW` modes do without the runtime: graphs on streams in a polling loop, two whole jobs of the long
network in flight. The others go through the executor.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.gated_pair import GatedWay, run_gated_way
from bench.modes import SEGMENTS_ALONE, Workload, rate_per_s, run_mode
from bench.report import longest_segment
from preempt_runtime.arrivals import Periodic, release_offsets
from preempt_runtime.backends.cuda import DeviceMemory, Event, Stream, copy_async
from preempt_runtime.backends.device_arrays import DeviceArray
from preempt_runtime.backends.tensorrt import TrtBuffers, TrtNetwork
from preempt_runtime.inputs import random_inputs
from preempt_runtime.manifest import WHOLE_PLAN_ID
from preempt_runtime.process import ProcessOptions, apply_memory

ANNOUNCE_NS = 100_000
SPIN_NS = 1_000_000
"""Polled before a release, by the runtime too: a thread that sleeps wakes late."""
_IN_FLIGHT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to share the device: what of `bench.modes` it is, or which streams there are.

    `gated` ways need plans of gates. `num_long` jobs of the long network may be in flight. `alone`
    is the way with which response times are compared, `long_alone` that with which rates are;
    `text` says what it is.
    """

    name: str
    text: str
    mode: str | None = None
    gated: GatedWay | None = None
    depth: int = 1
    num_long: int = 1
    has_urgent: bool = True
    has_long: bool = True
    num_streams: int = 2
    alone: str = "alone"
    long_alone: str = "long_alone"


def _raw(name: str, text: str, **values: bool | int) -> Way:
    return Way(
        name=name,
        text=text,
        has_urgent=bool(values.get("has_urgent", True)),
        has_long=bool(values.get("has_long", True)),
        num_streams=int(values.get("num_streams", 2)),
        alone="raw_alone",
        long_alone="raw_long_alone",
    )


def _gated(name: str, text: str, gated: GatedWay, mode: str = "preemptive") -> Way:
    """A way whose long network has two jobs in flight, but for the graph in pieces."""
    return Way(
        name=name,
        text=text,
        mode=mode,
        gated=gated,
        has_urgent=mode != "best_effort_alone",
        has_long=mode != "alone",
        long_alone=TWO_IN_FLIGHT,
    )


TWO_IN_FLIGHT = "long_alone_2"
WAYS = (
    Way(name="alone", text="the urgent network alone", mode="alone", has_long=False),
    Way(
        name="long_alone",
        text="the long network alone, whole",
        mode="best_effort_alone",
        has_urgent=False,
    ),
    Way(
        name="segments_alone_1",
        text="the long network alone, in segments, D = 1",
        mode=SEGMENTS_ALONE,
        has_urgent=False,
    ),
    Way(
        name="segments_alone_2",
        text="the long network alone, in segments, D = 2",
        mode=SEGMENTS_ALONE,
        depth=2,
        has_urgent=False,
    ),
    Way(
        name=TWO_IN_FLIGHT,
        text="the long network alone, whole, two jobs in flight",
        mode="best_effort_alone",
        depth=2,
        num_long=2,
        has_urgent=False,
    ),
    Way(name="fifo", text="whole networks in order of release, one in flight", mode="fifo"),
    Way(name="segments_1", text="segments, D = 1", mode="preemptive"),
    Way(name="segments_2", text="segments, D = 2", mode="preemptive", depth=2),
    _gated("cut_1", "the captured graph in pieces, D = 1", GatedWay(mode=None)),
    _gated("cut_2", "the captured graph in pieces, D = 2", GatedWay(mode=None, depth=2)),
    _gated("gates_exclusive", "gates, exclusive", GatedWay(mode="exclusive")),
    _gated("gates_overlap", "gates, overlap", GatedWay(mode="overlap")),
    _gated(
        "gates_first",
        "gates, exclusive, of the urgent network the first alone",
        GatedWay(mode="exclusive", urgent_plan=WHOLE_PLAN_ID),
    ),
    _gated(
        "gates_announced",
        "gates, exclusive, announced 100 us ahead",
        GatedWay(mode="exclusive", announce_ns=ANNOUNCE_NS),
    ),
    _gated(
        "gates_first_announced",
        "gates, exclusive, of the urgent network the first alone, announced 100 us ahead",
        GatedWay(mode="exclusive", announce_ns=ANNOUNCE_NS, urgent_plan=WHOLE_PLAN_ID),
    ),
    _gated(
        "gates_long_alone",
        "the long network alone, with gates, two jobs in flight",
        GatedWay(mode="exclusive"),
        "best_effort_alone",
    ),
    _gated(
        "gates_alone", "the urgent network alone, with gates", GatedWay(mode="exclusive"), "alone"
    ),
    _raw("raw_alone", "the urgent network alone", has_long=False),
    _raw("raw_long_alone", "the long network alone", has_urgent=False),
    _raw("raw_one_stream", "one stream for both", num_streams=1),
    _raw("raw_priorities", "two stream priorities, no preemption"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WayRun:
    """One run of one way: response times, the long network's rate, its longest segment's p99.

    `gate_faults` are what voids the bounds of this run; `error` says why there was none.
    """

    response_ns: tuple[int, ...] = ()
    long_per_s: float | None = None
    longest_p99_ns: int | None = None
    gate_faults: tuple[str, ...] = ()
    error: str | None = None


@dataclass(slots=True)
class _Flights:
    """Jobs of the long network in flight on one stream, as many as are allowed.

    They are graphs of one set of buffers, so they run one after another.
    """

    buffers: TrtBuffers
    stream: Stream
    free: list[Event]
    flying: deque[Event] = field(default_factory=deque)
    ends_ns: list[int] = field(default_factory=list)

    def keep_up(self) -> None:
        """Note a job that has ended, launch the next one."""
        if self.flying and self.flying[0].is_done():
            self.free.append(self.flying.popleft())
            self.ends_ns.append(time.perf_counter_ns())
        if self.free:
            event = self.free.pop()
            self.buffers.launch(0, self.stream)
            event.record(self.stream)
            self.flying.append(event)


def ways(*, has_gates: bool) -> tuple[Way, ...]:
    """Those that can be run, with or without plans of gates."""
    return tuple(way for way in WAYS if has_gates or way.gated is None)


def run_way(
    way: Way,
    load: Workload,
    inputs: Sequence[Mapping[str, DeviceArray]],
    *,
    seed: int,
    gated_bundles: Mapping[str, Path] | None = None,
) -> WayRun:
    """Run one way once; a seed gives every way the same releases.

    Args:
        way: one of `WAYS`.
        load: the networks; its samples are `inputs`.
        inputs: of the urgent and of the long network, in device memory.
        seed: of the releases.
        gated_bundles: with plans of gates, of the `urgent` and the `long` network.

    Raises:
        DeviceError: a job failed.
        InputError: the run was too short for the long network.
    """
    if way.mode is not None:
        if way.gated is None:
            run = run_mode(way.mode, load, seed=seed, depth=way.depth, num_best_effort=way.num_long)
        else:
            assert gated_bundles is not None, "such ways are run where there are plans of gates"
            run = run_gated_way(way.gated, way.mode, load, gated_bundles, seed=seed)
        return WayRun(
            response_ns=run.response_ns,
            long_per_s=run.best_effort_per_s,
            longest_p99_ns=longest_segment(run.segment_ns).p99_ns if run.segment_ns else None,
            gate_faults=run.gate_faults,
        )
    assert isinstance(load.urgent, TrtNetwork)
    assert isinstance(load.whole, TrtNetwork)
    with ExitStack() as stack:
        high = stack.enter_context(Stream(priority="high"))
        low = high if way.num_streams == 1 else stack.enter_context(Stream(priority="low"))
        urgent = stack.enter_context(load.urgent.new_buffers())
        urgent.write_inputs(inputs[0])  # type: ignore[arg-type]
        flights = None
        if way.has_long:
            buffers = stack.enter_context(load.whole.new_buffers())
            buffers.write_inputs(inputs[1])  # type: ignore[arg-type]
            ends = [stack.enter_context(Event(timing=False)) for _ in range(_IN_FLIGHT)]
            flights = _Flights(buffers=buffers, stream=low, free=ends)
        stack.enter_context(apply_memory(ProcessOptions()))
        return _polled(way, load, urgent, high, flights, seed)


def _polled(
    way: Way, load: Workload, urgent: TrtBuffers, stream: Stream, flights: _Flights | None,
    seed: int,
) -> WayRun:  # fmt: skip
    arrival = Periodic(period_ns=load.period_ns, jitter_ns=load.jitter_ns)
    offsets = release_offsets(arrival, seed=seed, task="urgent")
    responses: list[int] = []
    with Event(timing=False) as done:
        start_ns = time.perf_counter_ns()
        for _ in range(load.num_warm_up + load.num_jobs):
            release_ns = start_ns + next(offsets)
            while time.perf_counter_ns() < release_ns:
                if flights is not None:
                    flights.keep_up()
            if not way.has_urgent:
                continue
            urgent.launch(0, stream)
            done.record(stream)
            while not done.is_done():
                if flights is not None:
                    flights.keep_up()
            responses.append(time.perf_counter_ns() - release_ns)
        stream.synchronize()
        if flights is not None:
            flights.stream.synchronize()
    rate = None
    if flights is not None:
        counted_from_ns = start_ns + load.warm_up_ns
        rate = rate_per_s([end_ns for end_ns in flights.ends_ns if end_ns >= counted_from_ns])
    return WayRun(response_ns=tuple(responses[load.num_warm_up :]), long_per_s=rate)


@contextmanager
def on_device(network: TrtNetwork, seed: int) -> Iterator[dict[str, DeviceArray]]:
    """Random inputs of the network in device memory."""
    inputs = random_inputs(network.graph, seed=seed, task="pair")
    with ExitStack() as stack:
        stream = stack.enter_context(Stream(priority="low"))
        arrays = {}
        for name, array in inputs.items():
            memory = stack.enter_context(DeviceMemory(array.nbytes))
            copy_async(memory.pointer, array.ctypes.data, array.nbytes, stream)
            arrays[name] = DeviceArray(
                pointer=memory.pointer, dtype=array.dtype.name, shape=array.shape, owner=memory
            )
        stream.synchronize()
        yield arrays
