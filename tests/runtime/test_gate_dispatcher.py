"""Jobs on a device with gates: launched whole, ordered by the device, told of when they end."""

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from preempt_runtime.clock import VirtualClock
from preempt_runtime.device_clock import DeviceClock
from preempt_runtime.errors import DeviceError, InputError
from preempt_runtime.gated_device import StretchTimes
from preempt_runtime.policies import EarliestDeadline, Fifo, LeastLaxity, RateMonotonic
from preempt_runtime.records import JobState, SegmentRecord
from preempt_runtime.testing import EXAMPLE_INPUTS, FakeBuffers, Recording
from tests.runtime.executor_world import task
from tests.runtime.gated_world import POLL_NS, GatedWorld

BE = task("be", 100_000, 100_000, 100_000)
RT = task("rt", 20_000, 20_000, priority=1)


def submit(world: GatedWorld, *releases: tuple[str, int]) -> list[Any]:
    return [world.executor.submit(name, EXAMPLE_INPUTS, release_ns=at) for name, at in releases]


def test_an_urgent_job_waits_for_one_stretch_and_is_told_so() -> None:
    world = GatedWorld(BE, RT)
    handles = submit(world, ("be", 0), ("rt", 150_000))
    world.executor.run()
    assert world.lines() == [
        "200000-220000 rt#1[0]",
        "220000-240000 rt#1[1]",
        "0-100000 be#0[0]",
        "100000-200000 be#0[1]",
        "240000-340000 be#0[2]",
        "be#0 finished release=0 start=0 end=340300 response=340300 preemptions=1",
        "rt#1 finished release=150000 start=200000 end=240000 response=90000 blocking=50000",
    ]
    assert [handle.result()["y"] for handle in handles] == [3.0, 2.0]


def test_best_effort_is_not_launched_right_before_a_release_that_is_known() -> None:
    world = GatedWorld(replace(BE, buffers=2), RT)
    world.device.start_ns = 30_000
    submit(world, ("be", 0), ("be", 100_000), ("rt", 120_000))
    world.executor.run()
    assert world.device.log == ["start be other", "start rt urgent", "start be other"]
    starts = {(s.task, s.job_id, s.segment_idx): s.start_ns for s in world.recording.segments}
    assert starts["rt", 2, 0] < 250_000  # it was launched from 120 to 150 us


def test_dense_releases_do_not_starve_best_effort_of_its_launch() -> None:
    world = GatedWorld(replace(BE, buffers=2), task("rt", 5_000, priority=1))
    world.device.start_ns = 30_000
    submit(world, ("be", 0), ("be", 100_000), *(("rt", 20_000 * n) for n in range(6, 200)))
    world.executor.run()
    ends = {record.job_id: record.end_ns for record in world.recording.jobs}
    first_of_second = min(
        s.start_ns for s in world.recording.segments if (s.task, s.job_id) == ("be", 1)
    )
    assert first_of_second < max(ends[n] or 0 for n in range(2, 196))


class SlowInstrument(Recording):
    """Takes its time over each stretch of best effort, as the host does over long graphs."""

    def __init__(self, each_ns: int) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self._each_ns = each_ns

    def take(self, each_ns: int) -> None:
        self._each_ns = each_ns

    def segment_ended(self, record: SegmentRecord) -> None:
        if not record.is_urgent:
            self.clock.advance(self._each_ns)


def slow_world(each_ns: int) -> GatedWorld:
    """Two short jobs of best effort may be on the device; to tell of one takes 3 x `each_ns`."""
    slow = SlowInstrument(each_ns)
    be = replace(task("be", 10_000, 10_000, 10_000), buffers=2)
    world = GatedWorld(be, RT, instruments=[slow])
    slow.clock = world.clock
    return world


@pytest.mark.parametrize("released_ns", [405_000, 419_000, 425_000, 439_000, 448_000, 500_000])
def test_a_completion_of_best_effort_is_in_no_urgent_jobs_way(released_ns: int) -> None:
    world = slow_world(each_ns=50_000)
    submit(world, ("be", 0), ("be", 400_000), ("rt", released_ns))
    world.executor.run()
    jobs = {record.job_id: record for record in world.recording.jobs}
    waits_ns = 10_000  # the stretch that runs
    assert (jobs[2].response_ns or 0) <= 40_000 + waits_ns + 20 * POLL_NS
    assert {record.state for record in world.recording.jobs} == {JobState.FINISHED}


@pytest.mark.parametrize("released_ns", range(470_000, 520_000, 10_000))
def test_a_completion_that_takes_long_is_in_no_announced_jobs_way(released_ns: int) -> None:
    slow = SlowInstrument(10_000)
    be = replace(task("be", 10_000, 10_000, 10_000), buffers=2)
    rt = replace(task("rt", 200_000, priority=1), announce_ns=60_000)
    world = GatedWorld(be, rt, instruments=[slow])
    slow.clock = world.clock
    submit(world, ("be", 0), ("be", 400_000), ("rt", released_ns))
    world.clock.call_at(300_000, lambda: slow.take(50_000))  # three times that, 30 us before
    world.executor.run()
    (job,) = (record for record in world.recording.jobs if record.task == "rt")
    assert (job.response_ns or 0) <= 200_000 + 20 * POLL_NS


@pytest.mark.parametrize("released_ns", range(130_000, 600_000, 50_000))
def test_a_job_that_nobody_foresaw_waits_for_a_piece_of_what_is_told(released_ns: int) -> None:
    slow = SlowInstrument(20_000)
    world = GatedWorld(task("be", *[5_000] * 24), RT, instruments=[slow])
    slow.clock = world.clock
    submit(world, ("be", 0))
    world.clock.call_at(released_ns, lambda: submit(world, ("rt", released_ns)))
    world.executor.run()
    jobs = {record.task: record for record in world.recording.jobs}
    assert (jobs["rt"].response_ns or 0) <= 40_000 + 8 * 20_000 + 20 * POLL_NS
    assert [s.segment_idx for s in world.recording.segments if s.task == "be"] == [*range(24)]


def test_a_job_that_is_cancelled_while_it_is_told_of_is_ended_once() -> None:
    slow = SlowInstrument(20_000)
    world = GatedWorld(task("be", *[5_000] * 24), instruments=[slow])
    slow.clock = world.clock
    (handle,) = submit(world, ("be", 0))
    world.clock.call_at(300_000, handle.cancel)
    world.executor.run()
    assert [record.state for record in world.recording.jobs] == [JobState.CANCELLED]
    world.executor.check_integrity()


def test_an_end_of_best_effort_is_left_for_a_millisecond_at_most() -> None:
    world = slow_world(each_ns=50_000)
    submit(world, ("be", 0), ("be", 90_000), *(("rt", 45_000 * n) for n in range(2, 100)))
    world.executor.run()
    jobs = {record.job_id: record for record in world.recording.jobs}
    device_end_ns = max(s.end_ns for s in world.recording.segments if s.job_id == 1)
    assert 0 < (jobs[1].end_ns or 0) - device_end_ns < 1_000_000 + 100_000


def test_outputs_do_not_wait_for_what_is_told_of_a_job() -> None:
    world = slow_world(each_ns=50_000)
    submit(world, ("be", 0))
    world.executor.run()
    assert (world.recording.jobs[0].end_ns or 0) <= 50_000 + 4 * POLL_NS  # it is looked for then


def test_stretches_are_told_of_a_job_whose_outputs_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(buffers: FakeBuffers) -> Any:
        raise DeviceError("no outputs")

    monkeypatch.setattr(FakeBuffers, "read_outputs", refuse)
    world = GatedWorld(RT)
    submit(world, ("rt", 0))
    world.executor.run()
    assert [record.segment_idx for record in world.recording.segments] == [0, 1]
    assert world.recording.jobs[0].state is JobState.FAILED


def test_jobs_wait_on_the_device_not_on_the_host() -> None:
    two = replace(BE, buffers=2)
    world = GatedWorld(two, RT)
    submit(world, ("be", 0), ("be", 0), ("be", 0), ("rt", 10_000))
    world.executor.run(5_000)
    starts = [line for line in world.device.log if line.startswith("start")]
    assert starts[:2] == ["start be other"] * 2
    assert starts[2:] == ["start be other"]  # the third, once buffers were free again
    assert "rt#3 cancelled" in "".join(world.lines())  # its release came after the run


def test_blocking_counts_no_job_of_a_higher_or_the_same_rank() -> None:
    higher = task("higher", 30_000, priority=2)
    same = task("same", 50_000, priority=1)
    world = GatedWorld(BE, RT, higher, same)
    submit(world, ("be", 0), ("rt", 90_000), ("higher", 90_000), ("same", 95_000))
    world.executor.run()
    jobs = {record.task: record for record in world.recording.jobs}
    near = partial(pytest.approx, abs=2 * POLL_NS)  # what the clocks' offset is known to
    assert jobs["higher"].blocking_ns == near(10_000)  # the rest of be's stretch
    assert jobs["rt"].blocking_ns == near(10_000)  # then higher ran
    assert jobs["same"].blocking_ns == near(5_000)
    assert jobs["be"].blocking_ns == 0
    assert jobs["be"].num_preemptions == 1


def test_the_most_urgent_of_those_that_come_together_is_launched_first() -> None:
    higher = task("higher", 30_000, priority=2)
    world = GatedWorld(RT, higher, BE)
    submit(world, ("be", 1_000), ("rt", 1_000), ("higher", 1_000))
    world.executor.run()
    assert world.device.log[:3] == ["start higher urgent", "start rt urgent", "start be other"]


def test_deadlines_order_jobs_at_gates() -> None:
    late = task("late", 50_000, 50_000, priority=9, relative_deadline_ns=10_000_000)
    soon = task("soon", 20_000, priority=1, relative_deadline_ns=100_000)
    world = GatedWorld(late, soon, policy=EarliestDeadline())
    submit(world, ("late", 0), ("soon", 10_000))
    world.executor.run()
    starts = {(s.task, s.segment_idx): s.start_ns for s in world.recording.segments}
    assert starts["late", 0] < starts["soon", 0] < starts["late", 1]


def test_in_order_of_release_nobody_is_overtaken() -> None:
    world = GatedWorld(BE, RT, policy=Fifo())
    submit(world, ("be", 0), ("rt", 10_000))
    world.executor.run()
    starts = {(s.task, s.segment_idx): s.start_ns for s in world.recording.segments}
    assert starts["be", 2] < starts["rt", 0]


def test_shorter_periods_come_first_under_rate_monotonic() -> None:
    slow = task("slow", 50_000, 50_000, priority=9, period_ns=10_000_000)
    fast = task("fast", 20_000, priority=1, period_ns=1_000_000)
    world = GatedWorld(slow, fast, policy=RateMonotonic())
    submit(world, ("slow", 0), ("fast", 10_000))
    world.executor.run()
    starts = {(s.task, s.segment_idx): s.start_ns for s in world.recording.segments}
    assert starts["fast", 0] < starts["slow", 1]


def test_a_policy_whose_order_changes_meanwhile_is_refused() -> None:
    with pytest.raises(InputError, match=r"'least-laxity': .* take one of fixed-priority, .*edf"):
        GatedWorld(RT, policy=LeastLaxity())


def test_jobs_of_a_task_end_in_the_order_of_release_whatever_is_seen_first() -> None:
    world = GatedWorld(replace(BE, buffers=2), RT)
    device, seen = world.device, []
    first, second = submit(world, ("be", 0), ("be", 0))
    is_done = device.is_done

    def late(buffers: Any) -> bool:  # the first job's outputs are still on their way
        return is_done(buffers) and (world.clock.now_ns() > 700_000 or buffers.slow is False)

    monkey = pytest.MonkeyPatch()
    monkey.setattr(device, "is_done", late)
    for idx, buffers in enumerate(world.executor._books.queues["be"].pool.free):
        buffers.slow = idx == 0  # type: ignore[attr-defined]
    for handle, name in ((first, "first"), (second, "second")):
        handle.add_done_callback(lambda _, name=name: seen.append(name))
    world.executor.run()
    monkey.undo()
    assert seen == ["first", "second"]
    assert [handle.result()["y"] for handle in (first, second)] == [3.0, 3.0]


def test_a_cancelled_job_keeps_nobody_waiting() -> None:
    world = GatedWorld(BE, replace(RT, name="rt"))
    be, rt = submit(world, ("be", 0), ("rt", 10_000))
    world.clock.call_at(50_000, rt.cancel)
    world.executor.run()
    assert "cancel rt" in world.device.log
    states = {record.task: record.state for record in world.recording.jobs}
    assert states == {"rt": JobState.CANCELLED, "be": JobState.FINISHED}
    ends = {(s.task, s.segment_idx): s.start_ns for s in world.recording.segments}
    assert ends["rt", 0] > ends["be", 2]  # it went on as the least urgent
    assert be.result()["y"] == 3.0


def test_a_job_whose_deadline_has_come_is_dropped_on_the_device() -> None:
    rt = task("rt", 20_000, 20_000, priority=1, relative_deadline_ns=60_000, late="drop")
    world = GatedWorld(BE, rt)
    submit(world, ("be", 0), ("rt", 10_000))
    world.executor.run()
    record = next(record for record in world.recording.jobs if record.task == "rt")
    assert record.state is JobState.DROPPED
    assert world.device.log.count("cancel rt") == 1


def test_a_job_that_the_driver_refuses_fails_alone() -> None:
    world = GatedWorld(BE, RT, refused=["rt"])
    be, rt = submit(world, ("be", 0), ("rt", 0))
    world.executor.run()
    with pytest.raises(DeviceError, match="rt: the launch was told to fail"):
        rt.result()
    assert be.result()["y"] == 3.0
    world.executor.check_integrity()


def test_a_job_that_fails_on_the_device_fails_alone_and_its_buffers_serve_again() -> None:
    world = GatedWorld(BE, RT, failures=["rt"])
    be, first, second = submit(world, ("be", 0), ("rt", 0), ("rt", 0))
    world.executor.run()
    for handle in (first, second):
        with pytest.raises(DeviceError, match="rt: told to fail"):
            handle.result()
    assert be.result()["y"] == 3.0


def test_pre_and_post_are_called_around_the_job() -> None:
    streams = []

    def pre(inputs: Any, stream: object) -> Any:
        streams.append(stream)
        return {"x": inputs["x"] + 10}

    def post(outputs: Any, stream: object) -> Any:
        streams.append(stream)
        return float(outputs["y"][0])

    world = GatedWorld(replace(RT, pre=pre, post=post))
    (handle,) = submit(world, ("rt", 0))
    world.executor.run()
    assert handle.result() == 12.0
    assert streams == ["a stream, urgent"] * 2
    kinds = [record.segment_idx for record in world.recording.segments]
    assert kinds == ["pre", 0, 1, "post"]
    assert world.recording.jobs[0].num_segments_run == 4


@pytest.mark.parametrize("step", ["pre", "post"])
def test_what_a_callable_raises_is_its_jobs(step: str) -> None:
    def fail(*_: object) -> Any:
        raise ValueError("no")

    failing = replace(RT, pre=fail) if step == "pre" else replace(RT, post=fail)
    world = GatedWorld(failing)
    first, second = submit(world, ("rt", 0), ("rt", 0))
    world.executor.run()
    for handle in (first, second):
        with pytest.raises(ValueError, match="no"):
            handle.result()


def test_an_announcement_holds_others_back_until_the_job_has_come() -> None:
    world = GatedWorld(BE, RT)
    submit(world, ("be", 0), ("rt", 150_000))
    world.clock.call_at(50_000, lambda: world.executor.announce("rt"))
    world.executor.run()
    lines = world.lines()
    assert "150000-170000 rt#1[0]" in lines  # be stopped at 100000 already
    rt = next(record for record in world.recording.jobs if record.task == "rt")
    assert rt.blocking_ns == 0
    assert rt.response_ns == 40_000


def test_an_announced_job_that_does_not_come_keeps_nobody_for_long() -> None:
    world = GatedWorld(BE, RT)
    world.executor.announce("rt")
    submit(world, ("be", 100_000))
    world.executor.run()
    assert world.device.log == ["announce rt", "start be other", "cancel rt"]
    assert 2_000_000 <= world.recording.segments[0].start_ns < 2_060_000


def test_releases_that_are_known_are_announced_by_the_task() -> None:
    rt = replace(RT, announce_ns=60_000)
    world = GatedWorld(BE, rt)
    world.executor.add_source("rt", iter((150_000, 800_000)), lambda _: EXAMPLE_INPUTS)
    submit(world, ("be", 0), ("be", 600_000))
    world.executor.run(2_000_000)
    assert world.device.log.count("announce rt") == 2
    jobs = [record for record in world.recording.jobs if record.task == "rt"]
    assert [record.blocking_ns for record in jobs] == [0, 0]
    assert [record.response_ns for record in jobs] == [40_000, 40_000]


def test_a_job_submitted_for_later_is_announced_too() -> None:
    world = GatedWorld(BE, replace(RT, announce_ns=60_000))
    submit(world, ("be", 0), ("rt", 150_000))
    world.executor.run()
    assert world.device.log == ["start be other", "announce rt", "start rt urgent"]


@pytest.mark.parametrize("announce_ns", [-1, 2_000_001])
def test_an_announcement_too_far_ahead_is_refused(announce_ns: int) -> None:
    with pytest.raises(InputError, match=r"'rt': time of its announcement .* 0 to 2000000"):
        replace(RT, announce_ns=announce_ns)


def test_whoever_has_no_gates_is_told_that_nothing_was_announced() -> None:
    from tests.runtime.executor_world import World

    assert World(RT).executor.announce("rt") is False
    assert GatedWorld(RT).executor.announce("rt") is True


def test_a_closed_loop_and_the_end_of_a_run_wait_for_the_device() -> None:
    from preempt_runtime.arrivals import ClosedLoop

    world = GatedWorld(replace(BE, buffers=2), RT)
    world.executor.add_source("be", ClosedLoop(), lambda _: EXAMPLE_INPUTS)
    world.executor.run(1_000_000)
    states = [record.state for record in world.recording.jobs]
    assert set(states) == {JobState.FINISHED}
    assert len(states) == 4
    world.executor.check_integrity()


def test_only_the_newest_job_waits_in_a_latest_mailbox() -> None:
    camera = task("camera", 100_000, priority=1, mailbox="latest")
    world = GatedWorld(camera)
    submit(world, ("camera", 0), ("camera", 10_000), ("camera", 20_000))
    world.executor.run()
    states = [record.state for record in sorted(world.recording.jobs, key=lambda j: j.job_id)]
    assert states == [JobState.FINISHED, JobState.SKIPPED, JobState.FINISHED]


def test_warming_up_runs_every_buffer_and_tells_nobody() -> None:
    world = GatedWorld(replace(RT, buffers=3))
    world.executor.warm_up("rt", EXAMPLE_INPUTS, num_runs=2)
    assert world.device.log == ["start rt urgent"] * 6
    assert world.recording == Recording()


def test_removing_a_task_withdraws_what_is_on_the_device() -> None:
    world = GatedWorld(BE, RT)
    be, _ = submit(world, ("be", 0), ("rt", 250_000))
    world.clock.call_at(50_000, lambda: world.executor.remove_task("be", wait=False))
    world.executor.run()
    assert be.record.state is JobState.CANCELLED
    assert "cancel be" in world.device.log
    assert list(world.executor._books.queues) == ["rt"]


def test_a_depth_of_more_than_one_is_refused() -> None:
    with pytest.raises(InputError, match="depth 2, device 'fake gates' allows 1 to 1"):
        GatedWorld(RT, depth=2)


def test_random_jobs_all_end_and_urgent_ones_wait_for_one_stretch() -> None:
    rng = np.random.default_rng(7)

    def costs(most_ns: int, number: int) -> list[int]:
        return [int(each) for each in rng.integers(2_000, most_ns, number)]

    tasks = [task(f"be{idx}", *costs(60_000, 6), buffers=2) for idx in (0, 1)]
    tasks += [task(f"rt{idx}", *costs(20_000, 3), priority=idx) for idx in (1, 2, 3)]
    world = GatedWorld(*tasks)
    releases = [
        (tasks[number].name, int(at_ns))
        for number, at_ns in zip(
            rng.integers(0, len(tasks), 300), rng.integers(0, 30_000_000, 300), strict=True
        )
    ]
    submit(world, *sorted(releases, key=lambda each: each[1]))
    world.executor.run()
    world.executor.check_integrity()
    assert {record.state for record in world.recording.jobs} == {JobState.FINISHED}
    assert len(world.recording.jobs) == 300
    stretches = sorted((s.start_ns, s.end_ns) for s in world.recording.segments)
    assert all(first[1] <= second[0] + 2 * POLL_NS for first, second in pairwise(stretches))
    top = [record for record in world.recording.jobs if record.task == "rt3"]
    assert max(record.blocking_ns for record in top) <= 60_000 + 2 * POLL_NS


def test_times_of_the_device_are_told_by_the_hosts_clock() -> None:
    clock = DeviceClock()
    clock.observe(launch_ns=1_000, begin_ns=501_020, end_ns=501_500, seen_ns=1_600)
    assert (clock.offset_ns, clock.uncertainty_ns) == (-499_960, 60)
    clock.observe(launch_ns=2_000, begin_ns=501_970, end_ns=502_500, seen_ns=2_570)
    assert (clock.offset_ns, clock.uncertainty_ns) == (-499_960, 20)  # what fits is kept
    clock.observe(launch_ns=3_000, begin_ns=502_950, end_ns=503_500, seen_ns=3_560)
    assert (clock.offset_ns, clock.uncertainty_ns) == (-499_950, 5)  # it had to move


def test_clocks_that_drift_are_followed() -> None:
    clock = DeviceClock()
    for number in range(5):
        at = number * 600_000_000
        begin_ns = at + number * 60_000 + 1_000  # the device's clock is 100 ppm fast
        clock.observe(launch_ns=at, begin_ns=begin_ns + 10, end_ns=begin_ns + 20, seen_ns=at + 30)
        assert -number * 60_000 - 1_010 <= clock.offset_ns <= -1_000 - max(number - 3, 0) * 60_000


def test_stretches_begin_where_a_job_passed_and_end_where_it_came_to_the_next_gate() -> None:
    times = StretchTimes(arrived_ns=(10, 50, 90), passed_ns=(20, 50, 95), end_ns=120)
    assert times.stretches == ((20, 50), (50, 90), (95, 120))
    assert times.stretch_ns == (30, 40, 25)
    assert times.waited_ns == (10, 0, 5)
    assert times.num_preemptions == 1
    assert times.shifted(5).end_ns == 125
