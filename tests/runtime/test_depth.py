"""More than one segment in flight: hand-drawn schedules on a virtual clock."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from preempt_runtime.backends.ort import OrtDevice
from preempt_runtime.clock import VirtualClock
from preempt_runtime.device import Array, JobBuffers
from preempt_runtime.errors import DeviceError, InputError
from preempt_runtime.executor import Executor
from preempt_runtime.policies import EarliestDeadline, FixedPriority
from preempt_runtime.records import JobState
from preempt_runtime.testing import (
    EXAMPLE_INPUTS,
    FakeDevice,
    NoopDevice,
    Recording,
    lines_from_recording,
    run_schedule,
)
from tests.runtime.executor_world import World, task

LONG = task("b", 10, 10, 10, 10)
URGENT = task("u", 3, priority=1)


def test_an_urgent_job_waits_for_what_is_in_flight() -> None:
    assert run_schedule([URGENT, LONG], [(0, "b"), (5, "u")], FixedPriority(), depth=2) == [
        "0-10 b#0[0]",
        "10-20 b#0[1]",
        "20-23 u#1[0]",
        "23-33 b#0[2]",
        "33-43 b#0[3]",
        "b#0 finished release=0 start=0 end=43 response=43 preemptions=1",
        "u#1 finished release=5 start=20 end=23 response=18 blocking=15",
    ]
    assert run_schedule([URGENT, LONG], [(0, "b"), (5, "u")], FixedPriority(), depth=3)[-1] == (
        "u#1 finished release=5 start=30 end=33 response=28 blocking=25"
    )


def test_the_device_gets_the_next_segment_before_the_running_one_ends() -> None:
    world = World(URGENT, LONG, depth=2)
    launched: list[tuple[int, int]] = []
    world.executor.submit("b", EXAMPLE_INPUTS)
    for at_ns in (1, 9, 11, 19, 21):
        world.clock.call_at(
            at_ns,
            lambda at_ns=at_ns: launched.append((at_ns, len(world.device.launches))),  # type: ignore[misc]
        )
    world.executor.run()
    assert launched == [(1, 2), (9, 2), (11, 3), (19, 3), (21, 4)]


def test_jobs_of_one_task_do_not_overlap_and_nothing_slips_between_them() -> None:
    # While u#0 is wholly in flight, u#1 waits for its buffers. b, less urgent, must not go first.
    assert run_schedule(
        [task("u", 3, 3, priority=1), LONG],
        [(0, "u"), (0, "u"), (0, "b")],
        FixedPriority(),
        depth=2,
    )[:5] == [
        "0-3 u#0[0]",
        "3-6 u#0[1]",
        "6-9 u#1[0]",
        "9-12 u#1[1]",
        "12-22 b#2[0]",
    ]


def test_another_task_follows_behind_a_job_that_is_wholly_in_flight() -> None:
    lines = run_schedule([URGENT, LONG], [(0, "u"), (0, "b")], FixedPriority(), depth=2)
    assert lines[0:2] == ["0-3 u#0[0]", "3-13 b#1[0]"]
    assert lines[-2:] == [
        "u#0 finished release=0 start=0 end=3 response=3",
        "b#1 finished release=0 start=3 end=43 response=43",
    ]


def test_what_ran_behind_a_failed_segment_does_not_count() -> None:
    world = World(task("bad", 5, 5, 5, 5), failures=(("bad", 1),), depth=3)
    handle = world.executor.submit("bad", EXAMPLE_INPUTS)
    world.executor.run()
    assert (handle.state, handle.record.num_segments_run) == (JobState.FAILED, 1)
    assert world.lines()[:4] == [
        "0-5 bad#0[0]",
        "5-10 bad#0[1]",
        "10-15 bad#0[2]",
        "15-20 bad#0[3]",
    ]


def test_a_failing_segment_ends_its_job_when_the_next_has_completed() -> None:
    assert run_schedule(
        [task("bad", 5, 5, 5, 5, priority=1), task("good", 4, 4)],
        [(0, "bad"), (0, "good"), (1, "bad")],
        FixedPriority(),
        failures=[("bad", 1)],
        depth=2,
    ) == [
        "0-5 bad#0[0]",
        "5-10 bad#0[1]",
        "10-15 bad#0[2]",
        "15-20 bad#2[0]",
        "20-25 bad#2[1]",
        "25-30 bad#2[2]",
        "30-34 good#1[0]",
        "34-38 good#1[1]",
        "bad#0 failed release=0 start=0 end=15"
        " error='DeviceError: bad: segment 1 was told to fail'",
        "good#1 finished release=0 start=30 end=38 response=38",
        "bad#2 failed release=1 start=15 end=30"
        " error='DeviceError: bad: segment 1 was told to fail'",
    ]


class RefusingDevice(FakeDevice):
    """Refuses the second segment of every network."""

    def launch(self, buffers: JobBuffers, segment_idx: int, *, is_urgent: bool) -> None:
        if segment_idx == 1:
            raise DeviceError("queue full")
        super().launch(buffers, segment_idx, is_urgent=is_urgent)


@pytest.mark.parametrize("fails_before", [False, True])
def test_a_refused_launch_waits_for_what_is_in_flight_and_ends_its_job_once(
    fails_before: bool,
) -> None:
    clock, recording = VirtualClock(), Recording()
    device = RefusingDevice(clock, [("t", 0)] if fails_before else [], max_depth=3)
    executor = Executor(device, FixedPriority(), clock, [recording], depth=3)
    executor.add_task(task("t", 5, 5))
    executor.add_task(task("b", 4))
    handles = [executor.submit(name, EXAMPLE_INPUTS) for name in ("t", "b", "t")]
    executor.run()
    executor.check_integrity()
    error = "t: segment 0 was told to fail" if fails_before else "queue full"
    for handle in (handles[0], handles[2]):
        assert str(handle.record.error) == f"DeviceError: {error}"
    assert handles[1].state is JobState.FINISHED
    assert executor.counts("t")["failed"] == 2
    lines = lines_from_recording(recording)
    assert lines[:5] == ["0-5 t#0[0]", "5-5 t#0[1]", "5-9 b#1[0]", "9-14 t#2[0]", "14-14 t#2[1]"]


def test_a_cancelled_job_ends_when_nothing_of_it_is_in_flight() -> None:
    lines = run_schedule(
        [LONG, task("c", 1)],
        [(0, "b"), (1, "c"), (2, "b")],
        FixedPriority(),
        actions=[(4, lambda handles: handles[0].cancel())],
        depth=2,
    )
    assert lines[:4] == ["0-10 b#0[0]", "10-20 b#0[1]", "20-21 c#1[0]", "21-31 b#2[0]"]
    assert lines[-3] == "b#0 cancelled release=0 start=0 end=20"


def test_a_late_job_is_dropped_when_nothing_of_it_is_in_flight() -> None:
    lines = run_schedule(
        [task("t", 4, 4, 4, relative_deadline_ns=4, late="drop"), task("b", 5)],
        [(0, "t"), (0, "b")],
        FixedPriority(),
        depth=2,
    )
    # At 4, when the first segment has ended, the second one is in flight.
    assert lines == [
        "0-4 t#0[0]",
        "4-8 t#0[1]",
        "8-13 b#1[0]",
        "t#0 dropped release=0 start=0 end=8",
        "b#1 finished release=0 start=8 end=13 response=13",
    ]


def test_a_lone_late_job_is_not_skipped_because_the_one_before_it_is_in_flight() -> None:
    lines = run_schedule(
        [task("t", 3, 3, relative_deadline_ns=1, late="skip")],
        [(0, "t"), (0, "t")],
        FixedPriority(),
        depth=2,
    )
    assert [line.split()[1] for line in lines[-2:]] == ["finished", "finished"]


def test_pre_and_post_run_when_nothing_is_in_flight() -> None:
    world = World(depth=3)
    calls: list[tuple[str, int]] = []

    def note(step: str) -> Any:
        def call(arrays: Mapping[str, Array], stream: object | None) -> Mapping[str, Array]:
            calls.append((step, world.clock.now_ns()))
            assert not world.device._in_flight
            return arrays

        return call

    world.executor.add_task(task("u", 3, 3, priority=1, pre=note("pre"), post=note("post")))
    world.executor.add_task(LONG)
    world.executor.submit("b", EXAMPLE_INPUTS)
    handle = world.executor.submit("u", EXAMPLE_INPUTS, release_ns=5)
    world.executor.run()
    # Three segments were in flight at 5; `post` is not delayed by what is less urgent.
    assert calls == [("pre", 30), ("post", 36)]
    assert world.lines()[:7] == [
        "0-10 b#0[0]",
        "10-20 b#0[1]",
        "20-30 b#0[2]",
        "30-30 u#1[pre]",
        "30-33 u#1[0]",
        "33-36 u#1[1]",
        "36-36 u#1[post]",
    ]
    assert handle.result()["y"][0] == 2.0


def test_outputs_are_those_of_one_segment_in_flight() -> None:
    world = World(task("a", 2, 2, 2), task("c", 3, 3), depth=4)
    handles = [
        world.executor.submit(name, {"x": np.full(1, value, np.float32)})
        for value, name in enumerate(["a", "c", "a", "a", "c"])
    ]
    world.executor.run()
    assert [float(handle.result()["y"][0]) for handle in handles] == [3, 3, 5, 6, 6]


def test_edf_counts_all_that_is_in_flight_and_due_later() -> None:
    lines = run_schedule(
        [
            task("far", 10, 10, 10, priority=0, relative_deadline_ns=100),
            task("near", 1, priority=0, relative_deadline_ns=20),
            task("nearer", 1, priority=0, relative_deadline_ns=9),
        ],
        [(0, "far"), (4, "near"), (6, "nearer")],
        EarliestDeadline(),
        depth=2,
    )
    assert lines[:4] == ["0-10 far#0[0]", "10-20 far#0[1]", "20-21 nearer#2[0]", "21-22 near#1[0]"]
    assert lines[-2:] == [
        "near#1 finished release=4 start=21 end=22 response=18 blocking=16",
        "nearer#2 finished release=6 start=20 end=21 response=15 blocking=14 missed=1",
    ]


@pytest.mark.parametrize("way", ["close", "stop draining", "remove", "interrupt"])
def test_what_is_in_flight_is_waited_for(way: str) -> None:
    world = World(LONG, depth=2)
    handle = world.executor.submit("b", EXAMPLE_INPUTS)
    if way == "interrupt":

        def interrupt() -> None:
            raise KeyboardInterrupt

        world.clock.call_at(5, interrupt)
        with pytest.raises(KeyboardInterrupt):
            world.executor.run()
    elif way == "stop draining":
        world.executor.run(5, drain=False)
    else:
        assert world.executor.step()
        assert world.executor.step()
        assert not world.device._in_flight or world.clock.now_ns() == 10
        if way == "close":
            world.executor.close()
        else:
            world.executor.remove_task("b")
    assert (handle.state, len(world.device._in_flight)) == (JobState.CANCELLED, 0)
    assert world.clock.now_ns() == 20
    world.executor.check_integrity()


def test_a_warm_up_waits_for_other_tasks_and_refuses_a_started_job() -> None:
    world = World(LONG, task("c", 5, 5), depth=2)
    world.executor.submit("b", EXAMPLE_INPUTS)
    world.executor.step()
    world.executor.warm_up("c", EXAMPLE_INPUTS)
    assert world.clock.now_ns() == 20
    assert world.lines() == ["0-10 b#0[0]"]


def test_devices_say_how_many_segments_they_hold() -> None:
    assert (OrtDevice.max_depth, NoopDevice.max_depth) == (1, 16)
    clock = VirtualClock()
    with pytest.raises(InputError) as caught:
        Executor(FakeDevice(clock), FixedPriority(), clock, depth=2)
    assert str(caught.value) == (
        "depth 2, device 'fake' allows 1 to 1; let fewer segments be in flight"
    )
    with pytest.raises(InputError, match="depth 0"):
        Executor(FakeDevice(clock), FixedPriority(), clock, depth=0)
