"""Handles: results, timeouts, cancellation and awaiting, from other threads and event loops."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from preempt_runtime.clock import MonotonicClock, VirtualClock, Wake
from preempt_runtime.device import JobBuffers
from preempt_runtime.errors import DeviceError, JobCancelledError, PreemptError
from preempt_runtime.executor import Executor
from preempt_runtime.handle import JobHandle
from preempt_runtime.policies import FixedPriority
from preempt_runtime.records import JobState
from preempt_runtime.task import Task
from preempt_runtime.testing import EXAMPLE_INPUTS, FakeNetwork, NoopDevice


class GatedDevice(NoopDevice):
    """Holds every segment until it is let through; every one fails while `is_broken`."""

    def __init__(self) -> None:
        self.launched = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.is_broken = False

    def launch(self, buffers: JobBuffers, segment_idx: int, *, is_urgent: bool) -> None:
        self.launched.release()

    def wait(self, num_left: int = 0) -> None:
        assert self.gate.acquire(timeout=60)
        if self.is_broken:
            raise DeviceError("sticky error 700")


class World:
    """A running executor on a gated device, with one task `t` of two segments."""

    def __init__(self) -> None:
        self.device = GatedDevice()
        self.executor = Executor(self.device, FixedPriority(), MonotonicClock())
        self.executor.add_task(Task(name="t", network=FakeNetwork(segment_ns=(1, 1))))
        self.executor.start()

    def submit(self) -> JobHandle:
        return self.executor.submit("t", EXAMPLE_INPUTS)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.device.gate.release(1000)
    world.executor.close(drain=True)


def test_result_blocks_until_the_job_has_finished(world: World) -> None:
    handle = world.submit()
    results: list[Any] = []
    waiter = threading.Thread(target=lambda: results.append(handle.result(timeout=60)))
    waiter.start()
    assert world.device.launched.acquire(timeout=60)
    assert (handle.state, handle.done(), results) == (JobState.RUNNING, False, [])
    world.device.gate.release(2)
    waiter.join(timeout=60)
    assert [sorted(result) for result in results] == [["y"]]
    assert handle.result() is results[0]
    assert handle.record.response_ns is not None


def test_a_timeout_leaves_the_job_running(world: World) -> None:
    handle = world.submit()
    assert world.device.launched.acquire(timeout=60)
    with pytest.raises(TimeoutError, match=r"task 't': job 0 is running after 0.001 s"):
        handle.result(timeout=0.001)
    with pytest.raises(TimeoutError, match="after 0 s"):
        handle.result(timeout=0)
    world.device.gate.release(2)
    assert set(handle.result(timeout=60)) == {"y"}


def test_cancel_pending_running_and_ended_jobs(world: World) -> None:
    running, pending = world.submit(), world.submit()
    assert world.device.launched.acquire(timeout=60)
    assert pending.cancel()
    assert pending.done()
    assert pending.cancel()  # it is cancelled: saying so again is no contradiction
    assert running.cancel()
    assert not running.done()
    world.device.gate.release()
    with pytest.raises(JobCancelledError, match="task 't': job 0 was cancelled"):
        running.result(timeout=60)
    with pytest.raises(JobCancelledError, match="task 't': job 1 was cancelled"):
        pending.result(timeout=60)
    world.device.gate.release(2)
    finished = world.submit()
    finished.result(timeout=60)
    assert not finished.cancel()
    assert finished.state is JobState.FINISHED


def test_a_device_error_comes_out_of_every_result(world: World) -> None:
    world.device.is_broken = True
    world.device.gate.release()
    handle = world.submit()
    for _ in range(2):
        with pytest.raises(DeviceError, match="sticky error 700"):
            handle.result(timeout=60)
    assert handle.record.error == "DeviceError: sticky error 700"


def test_done_callbacks_get_the_handle_and_may_raise(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[JobHandle] = []
    has_ended = threading.Event()

    def broken(handle: JobHandle) -> None:
        raise ValueError("listener")

    handle = world.submit()
    assert world.device.launched.acquire(timeout=60)
    handle.add_done_callback(broken)
    handle.add_done_callback(called.append)
    handle.add_done_callback(lambda _: has_ended.set())
    assert called == []
    world.device.gate.release(2)
    assert has_ended.wait(timeout=60)
    handle.add_done_callback(called.append)
    assert called == [handle, handle]
    assert "a done callback of job 0 raised" in caplog.text
    world.device.gate.release(2)
    world.submit().result(timeout=60)  # the dispatcher lives


def test_handles_can_be_awaited_together(world: World) -> None:
    async def main() -> list[Any]:
        handles = [world.submit() for _ in range(3)]
        world.device.gate.release(6)
        return [sorted(await handle) for handle in handles] + [len(await handles[0])]

    assert asyncio.run(main()) == [["y"], ["y"], ["y"], 1]


def test_awaiting_a_cancelled_or_failed_job_raises(world: World) -> None:
    async def main() -> None:
        first, second = world.submit(), world.submit()
        second.cancel()
        with pytest.raises(JobCancelledError):
            await second
        world.device.is_broken = True
        world.device.gate.release()
        with pytest.raises(DeviceError):
            await first

    asyncio.run(main())


def test_giving_up_an_await_leaves_the_job(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def wait_for(handle: JobHandle) -> Any:
        return await handle

    async def main() -> JobHandle:
        handle = world.submit()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(wait_for(handle), timeout=0.001)
        return handle

    handle = asyncio.run(main())
    assert not handle.done()
    world.device.gate.release(4)  # the loop is closed by now: nobody is told, nothing breaks
    assert set(handle.result(timeout=60)) == {"y"}
    world.submit().result(timeout=60)  # so the first job's callbacks have been called
    assert caplog.records == []


def test_inputs_are_borrowed_until_the_first_segment_only(world: World) -> None:
    mine = {"x": np.full(1, 5, np.float32)}
    handle = world.executor.submit("t", mine)
    assert world.device.launched.acquire(timeout=60)
    mine["x"][0] = 99
    world.device.gate.release(2)
    assert float(handle.result(timeout=60)["y"][0]) == 5.0


def test_wake_remembers_one_signal() -> None:
    wake = Wake()
    assert not wake.take()
    wake.set()
    wake.set()
    wake.wait()
    assert not wake.take()
    clock = MonotonicClock()
    until_ns = clock.now_ns() + 2_000_000
    clock.wait(until_ns, wake)
    assert clock.now_ns() >= until_ns
    wake.set()
    clock.wait(None, wake)
    clock.wait(0, wake)  # in the past


def test_virtual_time_passes_only_when_told() -> None:
    clock, wake, called = VirtualClock(start_ns=10), Wake(), list[int]()
    for at_ns in (30, 20, 40):
        clock.call_at(at_ns, lambda: called.append(clock.now_ns()))
    clock.advance(10)
    assert (clock.now_ns(), called) == (20, [20])
    clock.advance(5)
    clock.wait(100, wake)
    assert (clock.now_ns(), called) == (30, [20, 30])
    wake.set()
    clock.wait(100, wake)
    assert clock.now_ns() == 30
    clock.wait(None, wake)
    assert (clock.now_ns(), called) == (40, [20, 30, 40])
    with pytest.raises(PreemptError, match="virtual clock at 40 ns"):
        clock.wait(None, wake)
