"""Pre and post, sources, tasks that come and go, and what the executor refuses."""

import copy
import itertools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from preempt_runtime.arrivals import ClosedLoop
from preempt_runtime.clock import VirtualClock
from preempt_runtime.device import Array, JobBuffers
from preempt_runtime.errors import DeviceError, InputError, JobCancelledError, PreemptError
from preempt_runtime.executor import Executor
from preempt_runtime.policies import Fifo
from preempt_runtime.records import JobState, SegmentRecord
from preempt_runtime.task import MAX_PRIORITY, Task
from preempt_runtime.testing import (
    EXAMPLE_INPUTS,
    FakeBuffers,
    FakeDevice,
    FakeNetwork,
    Recording,
)
from tests.runtime.executor_world import World, task


class KeepingNetwork(FakeNetwork):
    """Keeps the buffers that it has made."""

    made: list[FakeBuffers]

    def __init__(self, *, segment_ns: tuple[int, ...]) -> None:
        super().__init__(segment_ns=segment_ns)
        object.__setattr__(self, "made", [])  # as a frozen dataclass sets its own fields

    def new_buffers(self) -> FakeBuffers:
        self.made.append(super().new_buffers())
        return self.made[-1]


# Pre and post


def test_pre_and_post_are_segments_that_can_be_preempted_between() -> None:
    world = World(task("u", 2, priority=1))
    seen: list[object] = []

    def pre(inputs: Mapping[str, Array], stream: object | None) -> Mapping[str, Array]:
        world.clock.advance(3)
        seen.append((float(inputs["raw"][0]), stream))
        return {"x": inputs["raw"] * 10}

    def post(outputs: dict[str, Array], stream: object | None) -> float:
        world.clock.advance(4)
        return float(outputs["y"][0])

    world.executor.add_task(task("b", 5, 5, pre=pre, post=post))
    handle = world.executor.submit("b", {"raw": np.full(1, 4, np.float32)})
    for at_ns in (1, 14):
        world.executor.submit("u", EXAMPLE_INPUTS, release_ns=at_ns)
    world.executor.run()
    assert handle.result() == 42.0  # 4 * 10 by pre, + 1 for each of two segments
    assert seen == [(4.0, None)]
    assert world.lines() == [
        "0-3 b#0[pre]",
        "3-5 u#1[0]",
        "5-10 b#0[0]",
        "10-15 b#0[1]",
        "15-17 u#2[0]",
        "17-21 b#0[post]",
        "b#0 finished release=0 start=0 end=21 response=21 preemptions=2",
        "u#1 finished release=1 start=3 end=5 response=4 blocking=2",
        "u#2 finished release=14 start=15 end=17 response=3 blocking=1",
    ]
    assert handle.record.num_segments_run == 4


def test_errors_of_pre_and_post_are_raised_by_the_handle() -> None:
    def broken_pre(inputs: Mapping[str, Array], stream: object | None) -> Mapping[str, Array]:
        raise ZeroDivisionError("pre")

    def wrong_pre(inputs: Mapping[str, Array], stream: object | None) -> Mapping[str, Array]:
        return {"x": np.zeros(2, np.float32)}

    def broken_post(outputs: dict[str, Array], stream: object | None) -> object:
        raise KeyError("post")

    world = World(
        task("a", 1, pre=broken_pre), task("b", 1, pre=wrong_pre), task("c", 1, post=broken_post)
    )
    handles = [world.executor.submit(name, EXAMPLE_INPUTS) for name in "abc"]
    world.executor.run()
    for handle, error in zip(handles, (ZeroDivisionError, InputError, KeyError), strict=True):
        with pytest.raises(error):
            handle.result()
    assert world.lines()[-1].endswith("error=\"KeyError: 'post'\"")


# Sources


def test_a_late_periodic_release_keeps_its_schedule() -> None:
    world = World(task("p", 3, priority=1), task("b", 25))
    world.executor.add_source("p", iter([0, 10, 20, 30]), lambda _: EXAMPLE_INPUTS)
    world.executor.submit("b", EXAMPLE_INPUTS)
    world.executor.run(100)
    assert world.clock.now_ns() == 100
    assert world.lines() == [
        "0-3 p#1[0]",
        "3-28 b#0[0]",
        "28-31 p#2[0]",
        "31-34 p#3[0]",
        "34-37 p#4[0]",
        "b#0 finished release=0 start=3 end=28 response=28",
        "p#1 finished release=0 start=0 end=3 response=3",
        "p#2 finished release=10 start=28 end=31 response=21 blocking=18",
        "p#3 finished release=20 start=31 end=34 response=14 blocking=8",
        "p#4 finished release=30 start=34 end=37 response=7",
    ]


def test_the_duration_is_exclusive_and_late_releases_before_it_count() -> None:
    world = World(task("p", 7))
    world.executor.add_source("p", iter(range(0, 1000, 5)), lambda _: EXAMPLE_INPUTS)
    world.executor.run(20)
    assert world.executor.counts("p")["released"] == 4  # at 0, 5, 10 and 15, not at 20
    assert world.executor.counts("p")["finished"] == 4
    world.executor.run()
    assert world.executor.counts("p")["released"] == 4  # a source lasts for one run
    world.executor.check_integrity()


def test_without_drain_what_is_left_is_cancelled() -> None:
    world = World(task("p", 7, 7))
    world.executor.add_source("p", iter(range(0, 1000, 5)), lambda _: EXAMPLE_INPUTS)
    world.executor.run(20, drain=False)
    counts = world.executor.counts("p")
    assert (counts["released"], counts["finished"], counts["cancelled"]) == (4, 1, 3)
    assert world.clock.now_ns() == 21


def test_closed_loop_releases_after_the_previous_job_has_ended() -> None:
    world = World(task("c", 4), failures=(("c", 0),))
    world.device.failures.clear()
    world.executor.add_source("c", ClosedLoop(think_ns=6), lambda idx: EXAMPLE_INPUTS)
    world.executor.run(30)
    assert world.lines() == [
        "0-4 c#0[0]",
        "10-14 c#1[0]",
        "20-24 c#2[0]",
        "c#0 finished release=0 start=0 end=4 response=4",
        "c#1 finished release=10 start=10 end=14 response=4",
        "c#2 finished release=20 start=20 end=24 response=4",
    ]


def test_a_source_gets_the_index_of_its_job_and_can_be_added_in_a_run() -> None:
    indices: list[int] = []

    def make_inputs(job_idx: int) -> Mapping[str, Array]:
        indices.append(job_idx)
        return EXAMPLE_INPUTS

    world = World(task("p", 1))
    world.clock.call_at(5, lambda: world.executor.add_source("p", iter([0, 2, 2]), make_inputs))
    world.executor.run(50)
    assert indices == [0, 1, 2]
    assert world.recording.releases == [(0, "p", 5), (1, "p", 7), (2, "p", 7)]


def test_a_source_with_bad_inputs_fails_one_job_and_stops(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(task("p", 1), task("q", 1))
    world.executor.add_source("p", iter([0, 2, 4]), lambda _: {"x": np.zeros(3, np.float32)})
    world.executor.add_source("q", ClosedLoop(think_ns=10), lambda idx: {"y": np.zeros(idx)})
    world.executor.run(50)
    assert world.executor.counts("p")["failed"] == world.executor.counts("p")["released"] == 1
    assert world.executor.counts("q")["failed"] == world.executor.counts("q")["released"] == 1
    assert "found float32 [3], expected float32 [1]" in caplog.text


@pytest.mark.parametrize("offsets", [[5, 4], [0, 1.5], [-1]])
def test_offsets_that_decrease_or_are_no_integers_end_the_run(offsets: list[Any]) -> None:
    world = World(task("p", 1))
    world.executor.add_source("p", iter(offsets), lambda _: EXAMPLE_INPUTS)
    with pytest.raises(InputError, match="sort the offsets"):
        world.executor.run(50)
    world.executor.check_integrity()


def test_two_bad_sources_leave_no_job_behind() -> None:
    world = World(task("p", 1), task("q", 1), task("t", 5))
    waiting = world.executor.submit("t", EXAMPLE_INPUTS)
    for name in "pq":
        world.executor.add_source(name, iter([3, 2]), lambda _: EXAMPLE_INPUTS)
    later = world.executor.submit("t", EXAMPLE_INPUTS, release_ns=100)
    with pytest.raises(InputError, match="task 'p': release 1 is at 2 ns"):
        world.executor.run()
    assert (waiting.done(), later.state) == (True, JobState.CANCELLED)
    world.executor.check_integrity()


# Tasks, and what is refused


def test_wrong_submissions_say_what_is_expected() -> None:
    world = World(task("t", 1), task("scan", 1, check_inputs=True))
    cases: list[tuple[str, Any, str]] = [
        ("none", EXAMPLE_INPUTS, r"no task is called 'none'; there are \['scan', 't'\]"),
        ("t", {"z": np.zeros(1, np.float32)}, r"found inputs \['z'\], network expects \['x'\]"),
        ("t", {}, r"found inputs \[\], network expects \['x'\]"),
        ("t", [1], "found inputs list"),
        ("t", {"x": np.zeros(1)}, r"found float64 \[1\], expected float32 \[1\]"),
        ("t", {"x": np.zeros((1, 1), np.float32)}, r"found float32 \[1, 1\]"),
        ("t", {"x": [0.0]}, "found list, expected a numpy array"),
        ("scan", {"x": np.full(1, np.nan, np.float32)}, "input 'x' holds 1 NaN of 1 values"),
    ]
    for name, inputs, message in cases:
        with pytest.raises(InputError, match=message):
            world.executor.submit(name, inputs)
    world.executor.submit("t", {"x": np.full(1, np.nan, np.float32)})  # not scanned
    world.executor.run()
    assert world.executor.counts("t")["released"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "empty name"),
        ({"mailbox": "stack"}, "expected 'queue' or 'latest'"),
        ({"mailbox": "latest", "max_pending": 2}, "leave one of them out"),
        ({"max_pending": 0}, "'t': max_pending 0, expected a whole number, 1 to 1000000"),
        ({"max_pending": 1.5}, "'t': max_pending 1.5, expected a whole number"),
        ({"buffers": 1.5}, "'t': buffers 1.5, expected a whole number, 1 to 64"),
        ({"relative_deadline_ns": 0}, "deadline 0, expected a whole number of ns, 1 to"),
        ({"relative_deadline_ns": float("nan")}, "deadline nan, expected a whole number of ns"),
        ({"period_ns": float("nan")}, "period nan, expected a whole number of ns"),
        ({"jitter_ns": 0.5}, "jitter 0.5, expected a whole number of ns, 0 to"),
        (
            {"priority": float("nan")},
            "priority nan, expected a whole number, -9223372036854775807 to",
        ),
        ({"priority": 1.5}, "priority 1.5, expected a whole number"),
        ({"priority": True}, "priority True, expected a whole number"),
        ({"priority": 10**30}, "priority 10+, expected a whole number"),
        ({"priority": "x"}, "priority 'x', expected a whole number"),
        ({"name": 3}, "a task's name is 3; write a string"),
        ({"network": None}, "'t': network None, expected one that a device has loaded"),
        ({"network": FakeNetwork(segment_ns=())}, "has no segments"),
    ],
)
def test_impossible_tasks_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Task(**{"name": "t", "network": FakeNetwork(), **options})


def test_priorities_may_be_numpys() -> None:
    assert task("t", 1, priority=np.int64(MAX_PRIORITY)).priority == MAX_PRIORITY


def test_a_task_can_be_removed_and_its_name_used_again() -> None:
    world = World(task("t", 5), task("other", 1))
    with pytest.raises(InputError, match="is there already"):
        world.executor.add_task(task("t", 1))
    waiting = world.executor.submit("t", EXAMPLE_INPUTS)
    world.executor.remove_task("t")
    with pytest.raises(JobCancelledError, match="job 0 was cancelled"):
        waiting.result()
    with pytest.raises(InputError, match="no task is called 't'"):
        world.executor.submit("t", EXAMPLE_INPUTS)
    world.executor.add_task(task("t", 2, priority=3))
    drained = world.executor.submit("t", EXAMPLE_INPUTS)
    world.executor.remove_task("t", drain=True)
    assert drained.done()
    assert world.clock.now_ns() == 2
    world.executor.check_integrity()


def test_a_task_removed_in_a_run_stops_its_source_and_its_running_job() -> None:
    world = World(task("t", 5, 5), task("other", 1))
    world.executor.add_source("t", iter(range(0, 100, 4)), lambda _: EXAMPLE_INPUTS)
    late = world.executor.submit("t", EXAMPLE_INPUTS, release_ns=50)

    def remove() -> None:
        world.executor.remove_task("t")
        with pytest.raises(InputError, match="no task is called 't'"):
            world.executor.submit("t", EXAMPLE_INPUTS)

    world.clock.call_at(12, remove)
    world.executor.run(60)
    assert world.recording.segments[-1].end_ns == 15
    assert late.state is JobState.CANCELLED
    assert {job.state for job in world.recording.jobs} == {JobState.FINISHED, JobState.CANCELLED}
    world.executor.check_integrity()


def test_a_task_removed_without_waiting_ends_at_the_next_preemption_point() -> None:
    world = World(task("t", 5, 5))
    handle = world.executor.submit("t", EXAMPLE_INPUTS)
    assert world.executor.step()
    world.executor.remove_task("t", wait=False)
    assert (world.device.launches, handle.done()) == ([("t", 0)], False)
    world.executor.run()
    assert (world.device.launches, handle.state) == ([("t", 0)], JobState.CANCELLED)


@pytest.mark.parametrize("ending", ["close", "remove_task", "step", "run"])
def test_a_callback_may_remove_a_task_whoever_drives_the_executor(ending: str) -> None:
    world = World(task("t", 5), task("other", 5))
    handle = world.executor.submit("t", EXAMPLE_INPUTS)
    handle.add_done_callback(lambda _: world.executor.remove_task("other"))
    endings: dict[str, Callable[[], object]] = {
        "close": world.executor.close,
        "remove_task": lambda: world.executor.remove_task("t"),
        "step": world.executor.step,
        "run": world.executor.run,
    }
    thread = threading.Thread(target=endings[ending], daemon=True)
    thread.start()
    thread.join(timeout=20)
    assert not thread.is_alive()
    with pytest.raises(InputError, match="no task is called 'other'"):
        world.executor.submit("other", EXAMPLE_INPUTS)


def test_a_callback_may_not_drive_the_executor_that_calls_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(task("t", 5))
    handle = world.executor.submit("t", EXAMPLE_INPUTS)
    handle.add_done_callback(lambda _: world.executor.step())
    handle.add_done_callback(lambda _: world.executor.close())
    world.executor.run()
    errors = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert errors == [
        "the executor runs already; stop it before you step it",
        "the executor calls this; let it end, then close it",
    ]


# Buffers


def test_buffers_are_closed_when_their_task_goes_and_at_the_end() -> None:
    network = KeepingNetwork(segment_ns=(5, 5))
    world = World(*(Task(name=name, network=network) for name in "ab"))
    for name in "ab":
        world.executor.submit(name, EXAMPLE_INPUTS)
    world.executor.run()
    assert [buffers.is_closed for buffers in network.made] == [False, False]
    world.executor.remove_task("a")
    assert [buffers.is_closed for buffers in network.made] == [True, False]
    world.executor.close()
    assert [buffers.is_closed for buffers in network.made] == [True, True]


def test_warm_up_runs_all_steps_in_the_tasks_own_buffers_and_counts_nothing() -> None:
    network = KeepingNetwork(segment_ns=(5, 5))
    called: list[str] = []

    def pre(inputs: Mapping[str, Array], stream: object | None) -> Mapping[str, Array]:
        called.append("pre")
        return inputs

    def post(outputs: dict[str, Array], stream: object | None) -> float:
        called.append("post")
        return float(outputs["y"][0])

    world = World(Task(name="t", network=network, pre=pre, post=post))
    world.executor.warm_up("t", {"x": np.full(1, 7, np.float32)}, num_runs=2)
    assert called == ["pre", "post"] * 2
    assert world.device.launches == [("net", 0), ("net", 1)] * 2
    assert [float(buffers.read_outputs()["y"][0]) for buffers in network.made] == [9.0]
    assert (world.lines(), world.executor.counts("t")["released"]) == ([], 0)
    with pytest.raises(InputError, match="found float64"):
        world.executor.warm_up("t", {"x": np.zeros(1)})
    handle = world.executor.submit("t", EXAMPLE_INPUTS)
    assert world.executor.step()
    assert handle.state is JobState.RUNNING
    with pytest.raises(PreemptError, match="task 't': job 0 is in its buffers"):
        world.executor.warm_up("t", EXAMPLE_INPUTS)


class RefusingDevice(FakeDevice):
    """Takes every segment, and then says that it does not while `is_refusing`."""

    is_refusing = False

    def launch(self, buffers: JobBuffers, segment_idx: int, *, is_urgent: bool) -> None:
        super().launch(buffers, segment_idx, is_urgent=is_urgent)
        if self.is_refusing:
            raise DeviceError("queue full")


def test_what_a_refused_launch_left_in_flight_is_waited_for() -> None:
    clock = VirtualClock()
    device = RefusingDevice(clock)
    executor = Executor(device, Fifo(), clock)
    executor.add_task(task("t", 5))
    device.is_refusing = True
    handles = [executor.submit("t", EXAMPLE_INPUTS) for _ in range(2)]
    executor.run()
    assert [str(handle.record.error) for handle in handles] == ["DeviceError: queue full"] * 2
    assert clock.now_ns() == 10  # each was waited for: the device asserts one in flight
    with pytest.raises(DeviceError, match="queue full"):
        executor.warm_up("t", EXAMPLE_INPUTS)
    assert clock.now_ns() == 15


@pytest.mark.parametrize("step", ["pre", "post"])
def test_what_a_broken_callable_left_in_flight_is_waited_for(step: str) -> None:
    world = World(task("t", 5))
    buffers = FakeNetwork(name="helper", segment_ns=(3,)).new_buffers()

    def enqueue_and_break(arrays: Mapping[str, Array], stream: object | None) -> Any:
        world.device.launch(buffers, 0, is_urgent=False)
        raise ZeroDivisionError(step)

    callables: dict[str, Any] = {step: enqueue_and_break}
    world.executor.add_task(task("broken", 5, **callables))
    broken = world.executor.submit("broken", EXAMPLE_INPUTS)
    after = world.executor.submit("t", EXAMPLE_INPUTS)
    world.executor.run()
    assert broken.record.error == f"ZeroDivisionError: {step}"
    assert after.state is JobState.FINISHED


def test_a_task_is_removed_while_it_releases_faster_than_it_can() -> None:
    world = World(task("flood", 5))

    def make_inputs(job_idx: int) -> Mapping[str, Array]:
        if job_idx == 1000:
            world.executor.remove_task("flood", wait=False)  # as the handler of a signal does
        assert job_idx <= 1000
        return EXAMPLE_INPUTS

    world.executor.add_source("flood", itertools.repeat(0), make_inputs)
    world.executor.run(100)
    assert world.executor._books.queues == {}


def test_outputs_are_fresh_and_jobs_do_not_share_them() -> None:
    world = World(task("t", 1, 1, 1))
    handles = [
        world.executor.submit("t", {"x": np.full(1, value, np.float32)}) for value in (10, 20)
    ]
    world.executor.run()
    first, second = (handle.result()["y"] for handle in handles)
    first[0] = 0
    assert (float(first[0]), float(second[0])) == (0.0, 23.0)


def test_preempted_jobs_of_two_tasks_of_one_network_keep_their_own_tensors() -> None:
    network = FakeNetwork(segment_ns=(5, 5))
    world = World(Task(name="u", network=network, priority=1), Task(name="b", network=network))
    below = world.executor.submit("b", {"x": np.full(1, 100, np.float32)})
    above = world.executor.submit("u", {"x": np.full(1, 200, np.float32)}, release_ns=2)
    world.executor.run()
    assert below.record.num_preemptions == 1
    assert (float(below.result()["y"][0]), float(above.result()["y"][0])) == (102.0, 202.0)


def test_an_instrument_that_raises_is_disabled_with_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Recording):
        def segment_ended(self, record: SegmentRecord) -> None:
            raise RuntimeError("no more ink")

    clock, kept, broken = VirtualClock(), Recording(), Broken()
    executor = Executor(FakeDevice(clock), Fifo(), clock, [broken, kept])
    executor.add_task(task("t", 1, 1))
    executor.submit("t", EXAMPLE_INPUTS)
    executor.run()
    assert [len(found) for found in (kept.releases, kept.segments, kept.jobs)] == [1, 2, 1]
    assert (len(broken.releases), broken.jobs) == (1, [])
    assert [record.message for record in caplog.records] == [
        "instrument Broken raised RuntimeError: no more ink; it is disabled, the run goes on"
    ]


def test_step_is_one_turn() -> None:
    world = World(task("t", 1, 1))
    assert not world.executor.step()
    handle = world.executor.submit("t", EXAMPLE_INPUTS)
    assert world.executor.step()
    assert handle.state is JobState.RUNNING
    assert world.executor.step()
    assert handle.done()
    assert not world.executor.step()


def test_a_run_that_could_never_end_says_so() -> None:
    world = World(task("t", 1))
    with pytest.raises(PreemptError, match="nothing is left that could end this wait"):
        world.executor.run(until=lambda: False)


def test_an_interrupted_run_cancels_its_jobs_and_the_executor_can_run_again() -> None:
    world = World(task("t", 5, 5))
    handles = [world.executor.submit("t", EXAMPLE_INPUTS) for _ in range(2)]

    def interrupt() -> None:
        raise KeyboardInterrupt

    world.clock.call_at(3, interrupt)
    with pytest.raises(KeyboardInterrupt):
        world.executor.run()
    assert [handle.state for handle in handles] == [JobState.CANCELLED] * 2
    world.executor.check_integrity()
    again = world.executor.submit("t", EXAMPLE_INPUTS)
    world.executor.run()
    assert again.state is JobState.FINISHED


@pytest.mark.parametrize(
    ("stranger", "says"),
    [
        (lambda ready: None, "picked None, which"),
        (lambda ready: ready[0].id, "picked 0, which"),
        (lambda ready: copy.copy(ready[0]), "picked a job of task 'a', which"),
    ],
)
def test_a_policy_that_picks_a_stranger_is_named(
    stranger: Callable[[Any], object], says: str
) -> None:
    class Stray(Fifo):
        name = "stray"

        def pick(self, ready: Any, now_ns: int) -> Any:
            return stranger(ready)

    world = World(task("a", 2, priority=1), policy=Stray())
    world.executor.submit("a", EXAMPLE_INPUTS)
    with pytest.raises(PreemptError, match=f"policy 'stray' {says} is not among the 1 ready jobs;"):
        world.executor.run()
    assert world.executor.counts("a")["cancelled"] == 1


def test_a_policy_may_be_given_by_name() -> None:
    clock = VirtualClock()
    recording = Recording()
    with Executor(FakeDevice(clock), "edf", clock, [recording]) as executor:
        for name, deadline_ns in (("later", 90), ("sooner", 50)):
            executor.add_task(task(name, 2, priority=1, relative_deadline_ns=deadline_ns))
            executor.submit(name, EXAMPLE_INPUTS)
        executor.run()
    assert [record.task for record in recording.segments] == ["sooner", "later"]
    with pytest.raises(InputError, match="no policy is called 'lottery'; there are"):
        Executor(FakeDevice(clock), "lottery", clock)


def test_the_device_gets_work_however_slowly_many_releases_are_admitted() -> None:
    world = World(task("t", 1))

    def slow_inputs(_: int) -> dict[str, Any]:
        world.clock.advance(1_000_000)
        return dict(EXAMPLE_INPUTS)

    world.executor.add_source("t", iter([0] * 200), slow_inputs)
    world.executor.run()
    assert world.recording.segments[0].start_ns < 100_000_000
    assert world.executor.counts("t")["finished"] == 200
