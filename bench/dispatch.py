"""What the dispatcher itself costs; `python -m bench.dispatch` prints it as JSON."""

import itertools
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from preempt_runtime.arrivals import ClosedLoop
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.device import Array, JobBuffers
from preempt_runtime.executor import DEFAULT_SWITCH_INTERVAL_S, Executor
from preempt_runtime.metrics import MetricsCollector, quantiles_from_samples
from preempt_runtime.policies import policy_from_name
from preempt_runtime.records import Instrument
from preempt_runtime.task import Task
from preempt_runtime.testing import EXAMPLE_INPUTS, FakeNetwork, NoopDevice
from preempt_runtime.trace import TraceRecorder


class StampingDevice(NoopDevice):
    """Keeps the time of every launch."""

    def __init__(self) -> None:
        self.launched_ns: list[int] = []

    def launch(self, buffers: JobBuffers, segment_idx: int, *, is_urgent: bool) -> None:
        """Nothing runs; only when is kept."""
        self.launched_ns.append(time.monotonic_ns())


class NoopBuffers:
    """Buffers without memory."""

    def write_inputs(self, inputs: Mapping[str, Array]) -> None:
        """Nothing is copied."""

    def read_outputs(self) -> dict[str, Array]:
        """None."""
        return {}

    def close(self) -> None:
        """Nothing is held."""


class NoopNetwork(FakeNetwork):
    """A network that costs nothing but its dispatching."""

    def new_buffers(self) -> NoopBuffers:  # type: ignore[override]
        """Buffers without memory."""
        return NoopBuffers()


def own_time_ns(
    num_turns: int, num_segments: int, instruments: Sequence[Instrument] = ()
) -> dict[str, int]:
    """Quantiles of the time from one launch to the next, an urgent and a best-effort task."""
    device = StampingDevice()
    executor = Executor(device, policy_from_name("fixed-priority"), MonotonicClock(), instruments)
    network = NoopNetwork(segment_ns=(1,) * num_segments)
    executor.add_task(Task(name="urgent", network=network, priority=1))
    executor.add_task(Task(name="background", network=network))
    for name in ("urgent", "background"):
        executor.add_source(name, ClosedLoop(), lambda _: EXAMPLE_INPUTS)
    executor.run(until=lambda: len(device.launched_ns) > num_turns, drain=False)
    stamps = device.launched_ns
    return _figures([after - before for before, after in itertools.pairwise(stamps)])


def turn_round_ns(
    num_jobs: int, switch_interval_s: float | None, *, submitter_computes: bool
) -> dict[str, int]:
    """Quantiles from `submit` to the launch, beside a busy Python thread.

    The submitting thread waits for the result, or itself goes on computing after `submit`, which
    is the worst case: nobody gives the interpreter up before the switch interval is over.
    """
    device = StampingDevice()
    samples = []
    with (
        busy_python_thread(),
        Executor(
            device,
            policy_from_name("fixed-priority"),
            MonotonicClock(),
            switch_interval_s=switch_interval_s,
        ) as executor,
    ):
        executor.add_task(Task(name="urgent", network=NoopNetwork(), priority=1))
        executor.start()
        for _ in range(num_jobs):
            before_ns = time.monotonic_ns()
            handle = executor.submit("urgent", EXAMPLE_INPUTS)
            while submitter_computes and not handle.done():
                sum(number * number for number in range(100))
            handle.result(timeout=60)
            samples.append(device.launched_ns[-1] - before_ns)
    return _figures(samples)


@contextmanager
def busy_python_thread() -> Iterator[None]:
    """A thread that computes in pure Python and never lets go of the interpreter by itself."""
    is_over = False
    is_running = threading.Event()

    def compute() -> None:
        total = 0
        while not is_over:
            is_running.set()
            for number in range(1000):
                total += number * number

    thread = threading.Thread(target=compute, daemon=True)
    thread.start()
    is_running.wait()
    try:
        yield
    finally:
        is_over = True
        thread.join()


def _figures(samples_ns: Sequence[int]) -> dict[str, int]:
    found = quantiles_from_samples(samples_ns)
    assert found is not None
    return {
        "p50_ns": found.p50_ns,
        "p99_ns": found.p99_ns,
        "max_ns": found.max_ns,
        "num_samples": found.num_samples,
    }


def _interval_text(interval_s: float | None) -> str:
    return "interpreter's interval" if interval_s is None else f"{interval_s * 1e6:.0f} us"


def main() -> None:
    """Print all figures as JSON."""
    intervals_s = [None, 1e-3, 200e-6, 50e-6, DEFAULT_SWITCH_INTERVAL_S, 5e-6]
    report = {
        "load_average": os.getloadavg()[0],
        "own_time": {
            f"{num_segments} segments, {len(instruments)} instruments": own_time_ns(
                20_000, num_segments, instruments
            )
            for num_segments in (1, 10)
            for instruments in ((), (MetricsCollector(), TraceRecorder()))
        },
        "turn_round_beside_busy_thread": {
            f"{_interval_text(interval_s)}, submitter {what}": turn_round_ns(
                300 if interval_s is None else 3000, interval_s, submitter_computes=computes
            )
            for interval_s in intervals_s
            for what, computes in (("waits", False), ("computes", True))
        },
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
