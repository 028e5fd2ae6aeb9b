"""Several jobs of one task in flight, and outputs that stay on the device."""

import gc
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from preempt_runtime.buffer_pool import BufferPool, DeviceOutputs
from preempt_runtime.clock import MonotonicClock, VirtualClock
from preempt_runtime.device import Array, JobBuffers
from preempt_runtime.errors import DeviceError, InputError, JobCancelledError
from preempt_runtime.executor import Executor
from preempt_runtime.handle import JobHandle
from preempt_runtime.policies import FixedPriority
from preempt_runtime.records import JobState
from preempt_runtime.task import Task
from preempt_runtime.testing import (
    EXAMPLE_INPUTS,
    FakeBuffers,
    FakeDevice,
    FakeNetwork,
    Recording,
    lines_from_recording,
    run_schedule,
)
from tests.runtime.executor_world import World, task

LONG = task("b", 10, 10, 10)


def x(value: float) -> dict[str, Array]:
    return {"x": np.full(1, value, np.float32)}


# Launched ahead


def launches_at(world: World, *times_ns: int) -> dict[int, list[tuple[str, int]]]:
    """What has been launched at each time, once the world has run."""
    found: dict[int, list[tuple[str, int]]] = {}
    for at_ns in times_ns:
        world.clock.call_at(
            at_ns,
            lambda at_ns=at_ns: found.update({at_ns: list(world.device.launches)}),  # type: ignore[misc]
        )
    world.executor.run()
    return found


@pytest.mark.parametrize(("buffers", "num_at_5"), [(1, 2), (2, 3)])
def test_the_next_job_is_launched_while_the_last_segment_of_the_one_before_runs(
    buffers: int, num_at_5: int
) -> None:
    world = World(task("t", 4, 4, buffers=buffers), depth=2)
    handles = [world.executor.submit("t", x(value)) for value in (10, 20, 30)]
    found = launches_at(world, 1, 5)
    assert len(found[1]) == 2
    assert len(found[5]) == num_at_5, "at 4 the first segment has ended, the second one runs"
    assert [float(handle.result()["y"][0]) for handle in handles] == [12, 22, 32]
    assert world.lines()[:6] == [
        "0-4 t#0[0]",
        "4-8 t#0[1]",
        "8-12 t#1[0]",
        "12-16 t#1[1]",
        "16-20 t#2[0]",
        "20-24 t#2[1]",
    ]


def test_as_many_jobs_as_buffers_are_in_flight_and_no_more() -> None:
    world = World(task("t", 4, buffers=2), depth=3)
    for _ in range(4):
        world.executor.submit("t", EXAMPLE_INPUTS)
    assert {at: len(found) for at, found in launches_at(world, 1, 5, 9).items()} == {
        1: 2,
        5: 3,
        9: 4,
    }


def test_one_segment_in_flight_makes_one_schedule_of_any_number_of_buffers() -> None:
    releases = [(0, "b"), (3, "u"), (4, "u"), (25, "u")]

    def schedule(buffers: int) -> list[str]:
        urgent = task("u", 3, 3, priority=1, buffers=buffers)
        return run_schedule([urgent, LONG], releases, FixedPriority())

    assert schedule(1) == schedule(3)


def test_a_more_urgent_job_goes_before_the_next_job_that_is_not_launched_yet() -> None:
    lines = run_schedule(
        [task("t", 4, 4, buffers=2), task("u", 1, priority=1)],
        [(0, "t"), (0, "t"), (2, "u")],
        FixedPriority(),
        depth=2,
    )
    assert lines[:5] == ["0-4 t#0[0]", "4-8 t#0[1]", "8-9 u#2[0]", "9-13 t#1[0]", "13-17 t#1[1]"]


def test_nothing_less_urgent_goes_first_while_a_job_waits_for_buffers() -> None:
    lines = run_schedule(
        [task("u", 3, priority=1, buffers=2), LONG],
        [(0, "u"), (0, "u"), (0, "u"), (0, "b")],
        FixedPriority(),
        depth=3,
    )
    assert lines[:4] == ["0-3 u#0[0]", "3-6 u#1[0]", "6-9 u#2[0]", "9-19 b#3[0]"]


def test_a_job_that_fails_in_flight_leaves_the_one_behind_it_alone() -> None:
    world = World(task("bad", 5, 5, buffers=2), depth=3)
    world.device.failures = {("bad", 1)}
    handles = [world.executor.submit("bad", x(1)) for _ in range(2)]
    world.clock.call_at(11, world.device.failures.clear)
    world.executor.run()
    assert [handle.state for handle in handles] == [JobState.FAILED, JobState.FINISHED]
    assert world.lines()[:4] == [
        "0-5 bad#0[0]",
        "5-10 bad#0[1]",
        "10-15 bad#1[0]",
        "15-20 bad#1[1]",
    ]
    assert float(handles[1].result()["y"][0]) == 3


def test_a_cancelled_job_keeps_its_buffers_until_nothing_of_it_is_in_flight() -> None:
    world = World(task("t", 4, 4, 4, buffers=2), depth=2)
    handles = [world.executor.submit("t", x(value)) for value in (1, 2, 3)]
    world.clock.call_at(2, lambda: handles[0].cancel())
    world.executor.run()
    assert [handle.state for handle in handles] == [
        JobState.CANCELLED,
        JobState.FINISHED,
        JobState.FINISHED,
    ]
    assert world.lines()[:4] == ["0-4 t#0[0]", "4-8 t#0[1]", "8-12 t#1[0]", "12-16 t#1[1]"]
    assert [float(handle.result()["y"][0]) for handle in handles[1:]] == [5, 6]


@pytest.mark.parametrize("late", ["skip", "drop"])
def test_late_policies_count_from_the_first_job_that_has_not_started(late: Any) -> None:
    lines = run_schedule(
        [task("t", 6, buffers=2, relative_deadline_ns=5, late=late)],
        [(0, "t"), (0, "t"), (0, "t"), (5, "t")],
        FixedPriority(),
        depth=2,
    )
    # Two are launched at 0. At 6, when one has ended, the third is late, the fourth is not.
    state = "skipped" if late == "skip" else "dropped"
    assert [line.split()[1] for line in lines[-4:]] == ["finished", "finished", state, "finished"]


def test_a_latest_mailbox_replaces_no_job_that_has_started() -> None:
    world = World(task("t", 4, 4, buffers=2, mailbox="latest"), depth=4)
    for at_ns in (0, 1, 2, 3):
        world.executor.submit("t", EXAMPLE_INPUTS, release_ns=at_ns)
    world.executor.run()
    assert [line.split()[1] for line in world.lines()[-4:]] == [
        "finished",
        "skipped",
        "skipped",
        "finished",
    ]


def test_pre_and_post_run_alone_all_the_same() -> None:
    def note(arrays: Mapping[str, Array], stream: object | None) -> Mapping[str, Array]:
        assert not world.device._in_flight
        return arrays

    world = World(task("t", 3, 3, buffers=2, pre=note, post=note), depth=3)
    handles = [world.executor.submit("t", x(value)) for value in (1, 2)]
    world.executor.run()
    assert [float(handle.result()["y"][0]) for handle in handles] == [3, 4]


def test_each_of_the_buffers_is_warmed_up() -> None:
    world = World(task("t", 3, 3, buffers=3))
    world.executor.warm_up("t", EXAMPLE_INPUTS, num_runs=2)
    assert len(world.device.launches) == 2 * 3 * 2
    world.executor.check_integrity()


@pytest.mark.parametrize("buffers", [0, -1, 65])
def test_an_impossible_number_of_buffers_is_refused(buffers: int) -> None:
    with pytest.raises(
        InputError, match=rf"^task 't': buffers {buffers}, expected a whole number, 1 to 64$"
    ):
        task("t", 1, buffers=buffers)


def test_buffers_and_outputs_cannot_change() -> None:
    world = World(task("t", 3))
    (own,) = world.executor.tasks()
    for changed in ({"buffers": 2}, {"outputs": "device"}):
        other = Task(name="t", network=own.network, **changed)
        with pytest.raises(InputError, match="buffers and outputs cannot change; remove the task"):
            world.executor.change_task(other)


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallMemory(FakeNetwork):
    """Has memory for two jobs."""

    made: list[FakeBuffers] = field(default_factory=list)

    def new_buffers(self) -> FakeBuffers:
        if len(self.made) == 2:
            raise DeviceError("net: no device memory for 8 B; run fewer or smaller networks")
        self.made.append(FakeBuffers(self))
        return self.made[-1]


def test_without_memory_for_all_buffers_none_is_left_and_the_executor_goes_on() -> None:
    world = World(task("other", 1))
    network = SmallMemory()
    with pytest.raises(DeviceError) as caught:
        world.executor.add_task(Task(name="t", network=network, buffers=3))
    assert str(caught.value) == (
        "task 't': buffers for job 3 of 3 in flight: net: no device memory for 8 B;"
        " run fewer or smaller networks; or lower its buffers"
    )
    assert [buffers.is_closed for buffers in network.made] == [True, True]
    network.made.clear()
    world.executor.add_task(Task(name="t", network=network, buffers=2))
    handles = [world.executor.submit(name, x(1)) for name in ("other", "t")]
    world.executor.run()
    assert [handle.state for handle in handles] == [JobState.FINISHED] * 2


# Outputs that stay on the device


class DeviceBuffers(FakeBuffers):
    """Outputs that are not copied: an array shows what is in the buffers now."""

    is_left = False

    def leave_outputs(self) -> None:
        self.is_left = True

    def read_outputs(self) -> dict[str, Array]:
        assert not self.is_left, "they are to stay"
        return super().read_outputs()

    def outputs_on_device(self, owner: object) -> dict[str, Any]:
        return {"y": DeviceView(self, owner)}


@dataclass
class DeviceView:
    buffers: DeviceBuffers
    owner: object

    @property
    def value(self) -> float:
        assert not self.buffers.is_closed
        return float(self.buffers._value[0] + self.buffers.next_segment_idx)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNetwork(FakeNetwork):
    made: list[DeviceBuffers] = field(default_factory=list)

    def new_buffers(self) -> FakeBuffers:
        self.made.append(DeviceBuffers(self))
        return self.made[-1]


def device_task(**options: Any) -> Task:
    network = DeviceNetwork(name="t", segment_ns=(2, 2))
    return Task(name="t", network=network, outputs="device", **options)


def closed(own: Task) -> list[bool]:
    assert isinstance(own.network, DeviceNetwork)
    return [buffers.is_closed for buffers in own.network.made]


def test_held_outputs_keep_their_buffers_and_the_next_job_waits_for_their_release() -> None:
    world = World(device_task(), task("b", 10))
    handles = [world.executor.submit("t", x(value)) for value in (10, 20)]
    world.executor.submit("b", EXAMPLE_INPUTS)
    assert world.executor.step()
    assert world.executor.step()
    outputs = handles[0].result()
    assert isinstance(outputs, DeviceOutputs)
    assert (list(outputs), len(outputs), outputs["y"].value) == (["y"], 1, 12)
    assert world.executor.num_held_outputs("t") == 1
    assert world.executor.step()
    assert not world.executor.step(), "t#1 is not ready, so b has run, which is less urgent"
    world.executor.check_integrity()
    assert (outputs["y"].value, handles[1].state) == (12, JobState.PENDING)
    outputs.release()
    outputs.release()
    assert world.executor.num_held_outputs("t") == 0
    world.executor.run()
    with handles[1].result() as second:
        assert second["y"].value == 22
    assert world.executor.num_held_outputs("t") == 0
    world.executor.check_integrity()


def test_with_two_buffers_one_may_be_held() -> None:
    world = World(device_task(buffers=2), depth=2)
    handles = [world.executor.submit("t", x(value)) for value in (10, 20)]
    world.executor.run()
    assert world.executor.num_held_outputs("t") == 2
    assert [handle.result()["y"].value for handle in handles] == [12, 22]
    third = world.executor.submit("t", x(30))
    world.executor.run()
    assert third.state is JobState.CANCELLED, "nobody can release anything, so the run is over"
    handles[0].result().release()
    fourth = world.executor.submit("t", x(40))
    world.executor.run()
    assert (handles[1].result()["y"].value, fourth.result()["y"].value) == (22, 42)
    world.executor.check_integrity()


def test_outputs_that_nobody_has_any_more_are_released() -> None:
    world = World(device_task())
    for value in range(3):  # nobody keeps a handle, and each waits for the one before
        world.executor.submit("t", x(value))
    world.executor.run()
    assert world.executor.counts("t")["finished"] == 3
    gc.collect()
    assert world.executor.num_held_outputs("t") == 0
    kept = world.executor.submit("t", x(2))
    world.executor.run()
    view = kept.result()["y"]
    del kept
    gc.collect()
    assert (world.executor.num_held_outputs("t"), view.value) == (1, 4), "an array keeps them"
    del view
    gc.collect()
    assert world.executor.num_held_outputs("t") == 0


def test_post_gets_the_outputs_and_they_are_released_when_it_has_returned() -> None:
    seen: list[Any] = []

    def post(outputs: Mapping[str, Any], stream: object | None) -> float:
        seen.append(outputs)
        assert world.executor.num_held_outputs("t") == 1
        return float(outputs["y"].value)

    world = World(device_task(post=post))
    handles = [world.executor.submit("t", x(value)) for value in (1, 2)]
    world.executor.run()
    assert [handle.result() for handle in handles] == [3, 4]
    assert world.executor.num_held_outputs("t") == 0
    assert len(seen) == 2
    world.executor.warm_up("t", x(5))
    world.executor.check_integrity()


def test_what_post_raises_releases_the_outputs_too() -> None:
    def post(outputs: Mapping[str, Any], stream: object | None) -> None:
        kept.append(outputs)
        raise ValueError("no")

    kept: list[Any] = []
    world = World(device_task(post=post))
    handle = world.executor.submit("t", x(1))
    world.executor.run()
    assert (handle.state, world.executor.num_held_outputs("t")) == (JobState.FAILED, 0)
    world.executor.check_integrity()


def test_a_cancel_that_comes_with_the_end_releases_them() -> None:
    world = World(device_task(), depth=2)
    handle = world.executor.submit("t", x(1))
    world.clock.call_at(3, handle.cancel)
    world.executor.run()
    assert (handle.state, world.executor.num_held_outputs("t")) == (JobState.CANCELLED, 0)
    with pytest.raises(JobCancelledError):
        handle.result()
    world.executor.check_integrity()


def test_a_warm_up_leaves_held_outputs_alone() -> None:
    world = World(device_task(buffers=2))
    handle = world.executor.submit("t", x(10))
    world.executor.run()
    world.executor.warm_up("t", x(1))
    assert handle.result()["y"].value == 12
    assert world.executor.num_held_outputs("t") == 1
    world.executor.check_integrity()


@pytest.mark.parametrize("way", ["remove", "close"])
def test_buffers_that_are_held_outlive_their_task(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    own = device_task(buffers=2)
    world = World(own)
    handle = world.executor.submit("t", x(10))
    world.executor.run()
    outputs = handle.result()
    with caplog.at_level(logging.WARNING):
        if way == "remove":
            world.executor.remove_task("t")
        else:
            world.executor.close()
    assert sorted(closed(own)) == [False, True]
    assert outputs["y"].value == 12
    said = [record.message for record in caplog.records]
    assert said == [] if way == "remove" else "release them before their network" in said[0]
    outputs.release()
    assert closed(own) == [True, True]


def test_a_network_whose_outputs_are_in_host_memory_refuses() -> None:
    world = World()
    with pytest.raises(InputError) as caught:
        world.executor.add_task(Task(name="t", network=FakeNetwork(), outputs="device"))
    assert str(caught.value) == (
        "task 't': outputs 'device', but 'net' has them in host memory; leave it out"
    )
    with pytest.raises(InputError, match="outputs 'there', expected 'host' or 'device'"):
        Task(name="t", network=FakeNetwork(), outputs="there")  # type: ignore[arg-type]


def test_another_thread_may_release_while_the_dispatcher_waits() -> None:
    clock, recording = MonotonicClock(), Recording()
    device = FakeDevice(VirtualClock())
    with Executor(device, FixedPriority(), clock, [recording]) as executor:
        executor.add_task(device_task())
        executor.start()
        handles = [executor.submit("t", x(value)) for value in range(50)]
        for value, handle in enumerate(handles):
            with handle.result(timeout=10) as outputs:
                assert outputs["y"].value == value + 2
        executor.stop()
        executor.check_integrity()
    assert len(lines_from_recording(recording)) == 150


def test_a_done_callback_may_release_them() -> None:
    world = World(device_task())
    found: list[float] = []

    def take(handle: JobHandle) -> None:
        with handle.result() as outputs:
            found.append(outputs["y"].value)

    for value in range(3):
        world.executor.submit("t", x(value)).add_done_callback(take)
    world.executor.run()
    assert found == [2, 3, 4]
    assert world.executor.num_held_outputs("t") == 0


def test_buffers_that_are_lent_again_while_they_come_back_are_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = BufferPool(device_task(buffers=2))
    first = pool.lend(pool.take(), lambda: None)
    pool.take()
    again: list[DeviceOutputs] = []
    put = BufferPool.put

    def put_slowly(own: BufferPool, buffers: JobBuffers) -> None:
        put(own, buffers)
        monkeypatch.undo()  # the dispatcher is faster than the thread that releases
        again.append(own.lend(own.take(), lambda: None))

    monkeypatch.setattr(BufferPool, "put", put_slowly)
    first.release()
    assert (pool.num_lent, len(pool.free)) == (1, 0)
    again[0].release()
    assert (pool.num_lent, len(pool.free)) == (0, 1)
