"""An executor over a fake device with gates, which schedules by itself on a virtual clock."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from preempt_runtime.clock import VirtualClock
from preempt_runtime.device import JobBuffers
from preempt_runtime.errors import DeviceError, GatesError
from preempt_runtime.executor import Executor
from preempt_runtime.gate_keys import EMPTY, GateRank, key_of
from preempt_runtime.gated_device import StretchTimes
from preempt_runtime.policies import FixedPriority, Policy
from preempt_runtime.records import Instrument
from preempt_runtime.task import Task
from preempt_runtime.testing import FakeBuffers, Recording, lines_from_recording

POLL_NS = 100
ANNOUNCED_NS = 2_000_000
OFFSET_NS = 1_000_000_007  # of the device's clock to the host's


@dataclass(eq=False)
class _Job:
    buffers: FakeBuffers
    key: int
    arrived_ns: list[int]
    passed_ns: list[int] = field(default_factory=list)
    end_ns: int | None = None

    @property
    def stretch_ns(self) -> int:
        return self.buffers.network.segment_ns[len(self.passed_ns) - 1]


class FakeGatedDevice:
    """Gates in `exclusive` mode: at the end of each stretch the smallest key goes on.

    Jobs run fake networks, whose segments are the stretches. `failures` are names of networks
    whose jobs fail, `refused` of those whose launch the driver refuses. While it `hangs` nothing
    goes on. Looking at a job lets `POLL_NS` pass. An announced key expires by itself. `log` has
    what was asked for.
    """

    name = "fake gates"
    max_depth = 1

    def __init__(
        self, clock: VirtualClock, failures: Sequence[str] = (), refused: Sequence[str] = ()
    ) -> None:
        self.failures, self.refused = set(failures), set(refused)
        self.log: list[str] = []
        self.given_up: tuple[str, ...] = ()
        self.is_held_up = False
        self.hangs = False
        self.abandoned: DeviceError | None = None
        self.start_ns = 0  # what a launch takes on the host
        self.on_pass: Callable[[FakeBuffers, list[FakeBuffers]], object] = lambda *_: None
        self._clock = clock
        self._slots: dict[int, int] = {}
        self._jobs: dict[int, _Job] = {}  # by id of buffers, those that ended last, too
        self._held: dict[int, tuple[int, int]] = {}  # announced keys, until when, by id of buffers
        self._running: _Job | None = None
        self._now_ns = 0

    @property
    def num_running(self) -> int:
        """How many jobs were launched and have not ended."""
        return sum(job.end_ns is None for job in self._jobs.values())

    def prepare(self) -> None:
        if self.is_held_up:
            raise GatesError("streams hold each other up")

    def start(self, buffers: JobBuffers, rank: GateRank, *, is_urgent: bool) -> None:
        assert isinstance(buffers, FakeBuffers)
        if self.abandoned is not None:
            raise self.abandoned
        assert not buffers.is_closed
        assert buffers.next_segment_idx == 0, "inputs are there"
        earlier = self._jobs.get(id(buffers))
        assert earlier is None or earlier.end_ns is not None, "one job at a time in its buffers"
        if buffers.network.name in self.refused:
            raise DeviceError(f"{buffers.network.name}: the launch was told to fail")
        self._clock.advance(self.start_ns)
        self._go_on()
        self._held.pop(id(buffers), None)
        key = key_of(*rank, self._slot(buffers))
        self._jobs[id(buffers)] = _Job(buffers, key, [self._clock.now_ns()])
        self.log.append(f"start {buffers.network.name} {'urgent' if is_urgent else 'other'}")

    def is_done(self, buffers: JobBuffers) -> bool:
        self._clock.advance(POLL_NS)
        self._go_on()
        job = self._jobs[id(buffers)]
        if job.end_ns is not None and job.buffers.network.name in self.failures:
            raise DeviceError(f"{job.buffers.network.name}: told to fail")
        return job.end_ns is not None

    def times(self, buffers: JobBuffers) -> StretchTimes:
        job = self._jobs[id(buffers)]
        assert job.end_ns is not None
        return StretchTimes(
            arrived_ns=tuple(job.arrived_ns), passed_ns=tuple(job.passed_ns), end_ns=job.end_ns
        ).shifted(OFFSET_NS)

    def cancel(self, buffers: JobBuffers) -> None:
        assert isinstance(buffers, FakeBuffers)
        self._go_on()
        self._held.pop(id(buffers), None)
        if (job := self._jobs.get(id(buffers))) is not None:
            job.key = EMPTY
        self.log.append(f"cancel {buffers.network.name}")

    def announce(self, buffers: JobBuffers, rank: GateRank) -> None:
        assert isinstance(buffers, FakeBuffers)
        self._go_on()
        until_ns = self._clock.now_ns() + ANNOUNCED_NS
        self._held[id(buffers)] = (key_of(*rank, self._slot(buffers)), until_ns)
        self.log.append(f"announce {buffers.network.name}")

    def give_ups(self) -> tuple[str, ...]:
        found, self.given_up = self.given_up, ()
        return found

    def stream(self, *, is_urgent: bool) -> str:
        return f"a stream, {'urgent' if is_urgent else 'other'}"

    def wait(self) -> None:
        self.log.append("wait")

    def wait_for_all(self) -> None:
        while self.num_running and self.abandoned is None:
            self._clock.advance(POLL_NS)
            self._go_on()

    def abandon(self, stuck: str) -> DeviceError:
        self.abandoned = DeviceError(f"{self.name}: {stuck}")
        return self.abandoned

    def close(self) -> None:
        """Nothing to release."""

    def _slot(self, buffers: FakeBuffers) -> int:
        return self._slots.setdefault(id(buffers), len(self._slots))

    def _go_on(self) -> None:
        """Let stretches run until now, one at a time."""
        if self.hangs:
            return
        until_ns = self._clock.now_ns()
        while self._now_ns <= until_ns:
            if self._running is None and not self._pass():
                break
            assert self._running is not None
            job = self._running
            end_ns = job.passed_ns[-1] + job.stretch_ns
            if end_ns > until_ns:
                break
            self._now_ns, self._running = end_ns, None
            job.buffers.next_segment_idx += 1
            if len(job.passed_ns) == len(job.buffers.network.segment_ns):
                job.end_ns = end_ns
            else:
                job.arrived_ns.append(end_ns)
        self._now_ns = until_ns

    def _pass(self) -> bool:
        """Whether a job went through its gate."""
        waiting = [job for job in self._jobs.values() if job.end_ns is None]
        job = min(waiting, key=lambda each: each.key, default=None)
        if job is None:
            return False
        held = [until_ns for key, until_ns in self._held.values() if key < job.key]
        if max(held, default=0) > self._clock.now_ns():
            return False
        self._now_ns = max(self._now_ns, *held, 0)
        self.on_pass(job.buffers, [each.buffers for each in waiting])
        job.passed_ns.append(max(self._now_ns, job.arrived_ns[-1]))
        self._running = job
        return True


class GatedWorld:
    """An executor with a device that has gates."""

    def __init__(
        self,
        *tasks: Task,
        policy: Policy | None = None,
        failures: Sequence[str] = (),
        refused: Sequence[str] = (),
        instruments: Sequence[Instrument] = (),
        **options: Any,
    ) -> None:
        self.clock = VirtualClock()
        self.recording = Recording()
        self.device = FakeGatedDevice(self.clock, failures, refused)
        self.executor = Executor(
            self.device,
            policy or FixedPriority(),
            self.clock,
            [self.recording, *instruments],
            **options,
        )
        for each in tasks:
            self.executor.add_task(each)

    def lines(self) -> list[str]:
        self.executor.check_integrity()
        return lines_from_recording(self.recording)
