"""Jobs behind gates while something raises: nothing is lost, and nothing is left on the device."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from preempt_runtime import gate_progress
from preempt_runtime.arrivals import ClosedLoop
from preempt_runtime.errors import DeviceError, InputError, PreemptError
from preempt_runtime.gate_keys import deadline_rank
from preempt_runtime.handle import JobHandle
from preempt_runtime.policies import (
    DeadlineMonotonic,
    EarliestDeadline,
    Fifo,
    FixedPriority,
    Policy,
    RateMonotonic,
)
from preempt_runtime.records import JobState
from preempt_runtime.task import Task
from preempt_runtime.testing import EXAMPLE_INPUTS, FakeBuffers
from tests.runtime.executor_world import task
from tests.runtime.gated_world import GatedWorld

POLICIES: tuple[Policy, ...] = (
    FixedPriority(),
    RateMonotonic(),
    DeadlineMonotonic(),
    EarliestDeadline(),
    Fifo(),
)
BE = task("be", 100_000, 100_000, 100_000)
RT = task("rt", 20_000, 20_000, priority=1)
DEVICE_CALLS = ("start", "is_done", "times", "cancel", "announce", "wait", "stream", "give_ups")
PLACES = (
    *(f"{name} {when}" for name in DEVICE_CALLS for when in ("before", "after")),
    *("pre", "post", "write_inputs", "read_outputs", "job_released"),
)


OF_THE_DEVICE = ("start after", "is_done before", "is_done after")  # errors say that nothing runs


class Fault:
    """Raises `error` when `place` is come to for the `number`-th time."""

    def __init__(self, place: str, number: int, error: BaseException) -> None:
        self.place, self.number, self.error = place, number, error
        self.is_armed = False
        self._seen: Counter[str] = Counter()

    def at(self, place: str) -> None:
        if not self.is_armed:
            return
        self._seen[place] += 1
        if place == self.place and self._seen[place] == self.number:
            raise self.error

    def around(self, place: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(*args: Any, **options: Any) -> Any:
            self.at(f"{place} before")
            result = function(*args, **options)
            self.at(f"{place} after")
            return result

        return faulty


class FaultyInstrument:
    def __init__(self, fault: Fault) -> None:
        self._fault = fault

    def job_released(self, job_id: int, task: str, release_ns: int) -> None:
        self._fault.at("job_released")

    def segment_ended(self, record: object) -> None:
        """Not of interest here."""

    def job_ended(self, record: object) -> None:
        """Not of interest here."""


def random_task(name: str, rng: random.Random, fault: Fault) -> Task:
    def pre(inputs: Any, stream: object) -> Any:
        fault.at("pre")
        return inputs

    def post(outputs: Any, stream: object) -> Any:
        fault.at("post")
        return outputs

    return task(
        name,
        *(rng.randint(1_000, 60_000) for _ in range(rng.randint(1, 5))),
        priority=rng.choice([None, 0, 1, 5]),
        buffers=rng.randint(1, 3),
        mailbox=rng.choice(["queue", "latest"]),
        period_ns=rng.choice([100_000, 10**6, 10**17]),
        relative_deadline_ns=rng.choice([50_000, 10**6, 10**18]),
        late=rng.choice(["run", "skip", "drop"]),
        announce_ns=rng.choice([0, 0, 50_000, 2_000_000]),
        pre=rng.choice([None, pre]),
        post=rng.choice([None, post]),
    )


def faulty_world(rng: random.Random, fault: Fault) -> GatedWorld:
    tasks = [random_task(f"t{idx}", rng, fault) for idx in range(rng.randint(1, 4))]
    world = GatedWorld(policy=rng.choice(POLICIES), instruments=(FaultyInstrument(fault),))
    for name in DEVICE_CALLS:
        setattr(world.device, name, fault.around(name, getattr(world.device, name)))
    for each in tasks:
        world.executor.add_task(each)
    return world


def disturb(world: GatedWorld, handles: list[JobHandle], rng: random.Random) -> None:
    """Cancel, change, remove and announce in the middle."""
    executor = world.executor
    for handle in handles:
        if rng.random() < 0.2:
            world.clock.call_at(rng.randint(0, 5_000_000), handle.cancel)
    chosen = rng.choice(executor.tasks())
    changed = replace(chosen, priority=rng.choice([None, 3, 7]))
    actions: list[Callable[[], object]] = [
        lambda: executor.change_task(changed),
        lambda: executor.announce(chosen.name),
        lambda: executor.remove_task(chosen.name, wait=False, drain=rng.random() < 0.5),
    ]
    world.clock.call_at(rng.randint(0, 5_000_000), rng.choice(actions))


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fault], None]:
    """Lets copies of inputs and outputs fail, too."""

    def install(fault: Fault) -> None:
        write, read = FakeBuffers.write_inputs, FakeBuffers.read_outputs

        def faulty_write(self: FakeBuffers, inputs: Any) -> None:
            fault.at("write_inputs")
            write(self, inputs)

        def faulty_read(self: FakeBuffers) -> Any:
            fault.at("read_outputs")
            return read(self)

        monkeypatch.setattr(FakeBuffers, "write_inputs", faulty_write)
        monkeypatch.setattr(FakeBuffers, "read_outputs", faulty_read)

    return install


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt(), DeviceError("no"), ValueError("no")])
@pytest.mark.parametrize("part", range(4))
def test_whatever_raises_anywhere_no_job_is_lost_and_the_executor_serves_again(
    part: int, error: BaseException, faults: Callable[[Fault], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for number in range(40):
        seed = f"{part}/{number}"
        rng = random.Random(seed)
        is_interrupt = isinstance(error, KeyboardInterrupt)
        places = [each for each in PLACES if is_interrupt or each not in OF_THE_DEVICE]
        fault = Fault(rng.choice(places), rng.randint(1, 8), error)
        with monkeypatch.context():
            faults(fault)
            world = faulty_world(rng, fault)
            executor = world.executor
            handles = [
                executor.submit(rng.choice(executor.tasks()).name, EXAMPLE_INPUTS, release_ns=at)
                for at in sorted(rng.choices(range(5_000_000), k=rng.randint(5, 60)))
            ]
            disturb(world, handles, rng)
            fault.is_armed = True
            try:
                executor.run(rng.choice([None, 3_000_000]), drain=rng.random() < 0.7)
            except (KeyboardInterrupt, ValueError) as err:
                assert err is error, seed  # noqa: PT017 - it need not be raised
            fault.is_armed = False
            monkeypatch.undo()
        executor.check_integrity()
        assert [handle for handle in handles if not handle.done()] == [], seed
        assert world.device.num_running == 0, seed
        executor.step()  # takes in what was asked for while the run ended
        more = [executor.submit(each.name, EXAMPLE_INPUTS) for each in executor.tasks()]
        executor.run()
        assert all(handle.done() for handle in more), seed
        executor.check_integrity()
        executor.close()


def test_a_launch_that_is_interrupted_leaves_nothing_on_the_device() -> None:
    world = GatedWorld(BE)
    start = world.device.start

    def interrupted(*args: Any, **options: Any) -> None:
        start(*args, **options)
        raise KeyboardInterrupt

    world.device.start = interrupted  # type: ignore[method-assign]
    handle = world.executor.submit("be", EXAMPLE_INPUTS)
    with pytest.raises(KeyboardInterrupt):
        world.executor.run()
    assert handle.record.state is JobState.CANCELLED
    assert world.device.num_running == 0
    world.executor.check_integrity()


def test_an_interrupted_warm_up_waits_for_what_it_launched() -> None:
    world = GatedWorld(BE)
    is_done, calls = world.device.is_done, iter(range(5))

    def interrupted(buffers: Any) -> bool:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return is_done(buffers)

    world.device.is_done = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        world.executor.warm_up("be", EXAMPLE_INPUTS)
    assert world.device.num_running == 0


def test_a_job_whose_times_cannot_be_read_fails_alone() -> None:
    world = GatedWorld(BE, RT)
    times, calls = world.device.times, iter(range(9))

    def failing(buffers: Any) -> Any:
        if next(calls) == 0:
            raise DeviceError("no times")
        return times(buffers)

    world.device.times = failing  # type: ignore[method-assign]
    first = world.executor.submit("rt", EXAMPLE_INPUTS)
    second = world.executor.submit("be", EXAMPLE_INPUTS)
    world.executor.run()
    with pytest.raises(DeviceError, match="no times"):
        first.result()
    assert second.result()["y"] == 3.0
    world.executor.check_integrity()


def test_an_announcement_that_is_refused_costs_no_run(caplog: pytest.LogCaptureFixture) -> None:
    world = GatedWorld(BE, RT)

    def refuse(*_: object) -> None:
        raise DeviceError("no")

    world.device.announce = refuse  # type: ignore[method-assign,assignment]
    handle = world.executor.submit("rt", EXAMPLE_INPUTS)
    world.executor.announce("rt")
    world.executor.run()
    assert handle.result()["y"] == 2.0


def test_the_announcement_of_a_task_that_is_removed_is_taken_back_from_no_other() -> None:
    world = GatedWorld(BE, RT)
    world.executor.announce("rt")
    world.executor.step()
    world.executor.remove_task("rt")
    world.executor.submit("be", EXAMPLE_INPUTS, release_ns=3_000_000)
    world.executor.run()
    assert "cancel rt" not in world.device.log  # its slot may be another's by now


def test_a_job_that_was_announced_and_fails_holds_its_next_one_back_no_longer() -> None:
    world = GatedWorld(replace(RT, buffers=2), task("other", 1_000, priority=1))
    world.executor.announce("rt")
    world.device.refused.add("rt")
    world.executor.submit("rt", EXAMPLE_INPUTS)
    world.executor.submit("other", EXAMPLE_INPUTS)
    world.executor.step()
    world.device.refused.clear()
    second = world.executor.submit("rt", EXAMPLE_INPUTS)
    world.executor.run()
    assert second.record.response_ns is not None
    assert second.record.response_ns < 100_000


def test_what_a_device_cannot_tell_of_its_gates_voids_bounds_and_loses_no_results() -> None:
    world = GatedWorld(RT)

    def refuse() -> tuple[str, ...]:
        raise DeviceError("the context is gone")

    world.device.give_ups = refuse  # type: ignore[method-assign]
    handle = world.executor.submit("rt", EXAMPLE_INPUTS)
    world.executor.run()
    assert handle.result()["y"] == 2.0
    faults = world.executor.gate_faults()
    assert all("does not tell what gates gave up: the context is gone" in each for each in faults)
    assert faults


@pytest.mark.parametrize("priority", [1 << 23, -(1 << 23), 1 << 62])
def test_a_priority_that_no_key_holds_is_refused_before_anything_runs(priority: int) -> None:
    with pytest.raises(InputError, match=r"task 'rt': priority .*, gates know -8388607 to 8388607"):
        GatedWorld(replace(RT, priority=priority))
    world = GatedWorld(RT)
    with pytest.raises(InputError, match=r"task 'rt': priority .*, gates know"):
        world.executor.change_task(replace(RT, priority=priority))
    world.executor.change_task(replace(RT, priority=(1 << 23) - 1))


def test_deadlines_of_years_order_jobs_at_gates_and_refuse_none() -> None:
    assert deadline_rank(-5) == 0
    years = task("years", 50_000, 50_000, priority=1, relative_deadline_ns=10**18)
    soon = task("soon", 20_000, priority=1, relative_deadline_ns=100_000)
    world = GatedWorld(replace(years, announce_ns=50_000), soon, policy=EarliestDeadline())
    handles = [
        world.executor.submit(name, EXAMPLE_INPUTS, release_ns=at)
        for name, at in (("years", 60_000), ("soon", 70_000))
    ]
    world.executor.run()
    assert [handle.record.state for handle in handles] == [JobState.FINISHED] * 2
    starts = {(s.task, s.segment_idx): s.start_ns for s in world.recording.segments}
    assert starts["soon", 0] < starts["years", 1]


class Odd(FixedPriority):
    """Picks what it was not given."""

    name = "odd"

    def pick(self, ready: Any, now_ns: int) -> Any:
        return "a job"


def test_a_policy_that_picks_what_is_not_ready_is_named() -> None:
    world = GatedWorld(RT, policy=Odd())
    handle = world.executor.submit("rt", EXAMPLE_INPUTS)
    with pytest.raises(PreemptError, match="policy 'odd' picked 'a job', which is not among the 1"):
        world.executor.run()
    assert handle.done()


def test_a_callback_that_is_interrupted_loses_none_of_those_to_come() -> None:
    world = GatedWorld(RT)

    def interrupt() -> None:
        raise KeyboardInterrupt

    handles = [
        world.executor.submit("rt", EXAMPLE_INPUTS, release_ns=10**9 + number)
        for number in range(3)
    ]
    handles[0].add_done_callback(lambda _: interrupt())
    with pytest.raises(KeyboardInterrupt):
        world.executor.run(1_000_000)
    assert [handle.record.state for handle in handles] == [JobState.CANCELLED] * 3


def test_a_task_that_is_being_removed_is_not_among_those_that_there_are() -> None:
    world = GatedWorld(BE, RT)
    world.executor.remove_task("rt", wait=False)
    with pytest.raises(InputError, match=r"no task is called 'rt'; there are \['be'\]"):
        world.executor.submit("rt", EXAMPLE_INPUTS)


@pytest.mark.parametrize("policy", POLICIES[:-1], ids=lambda policy: policy.name)
def test_at_every_gate_the_device_goes_on_with_the_job_that_the_policy_would_pick(
    policy: Policy,
) -> None:
    rng = random.Random(f"order/{policy.name}")
    fault = Fault("", 0, ValueError())
    tasks = [
        replace(random_task(f"t{idx}", rng, fault), announce_ns=0, late="run", pre=None)
        for idx in range(5)
    ]
    world = GatedWorld(*tasks, policy=policy)
    num_choices = 0

    def watch(chosen: FakeBuffers, waiting: list[FakeBuffers]) -> None:
        nonlocal num_choices
        num_choices += len(waiting) > 1
        launches = world.executor._dispatcher._running  # type: ignore[union-attr]
        urgency = {id(each.job.buffers): policy.urgency(each.job) for each in launches}
        assert urgency[id(chosen)] == min(urgency[id(each)] for each in waiting)

    world.device.on_pass = watch
    for _ in range(400):
        name = rng.choice(tasks).name
        world.executor.submit(name, EXAMPLE_INPUTS, release_ns=rng.randint(0, 20_000_000))
    world.executor.run()
    world.executor.check_integrity()
    assert num_choices > 100


def test_a_run_on_a_gpu_that_hangs_ends_and_names_the_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate_progress, "PATIENCE_NS", 40_000)
    world = GatedWorld(BE, RT)
    first = world.executor.submit("rt", EXAMPLE_INPUTS)
    world.executor.run()
    jobs = [world.executor.submit(name, EXAMPLE_INPUTS) for name in ("be", "rt", "rt")]
    world.device.hangs = True
    with pytest.raises(DeviceError, match=r"no job has ended for .* still there: rt 2, be 1"):
        world.executor.run()
    # Forty microseconds, and ten times the 340 of both jobs.
    assert 3_440_000 <= world.clock.now_ns() < 3_600_000
    assert first.state is JobState.FINISHED
    for job in jobs[:2]:
        with pytest.raises(DeviceError, match="still there"):
            job.result(timeout=0)
    assert jobs[2].state is not JobState.FINISHED
    assert jobs[2].done()
    late = world.executor.submit("be", EXAMPLE_INPUTS)
    world.executor.run()
    with pytest.raises(DeviceError, match="still there"):
        late.result(timeout=0)
    world.executor.check_integrity()
    world.executor.close()


def test_an_executor_on_a_gpu_that_hangs_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_progress, "PATIENCE_NS", 40_000)
    monkeypatch.setattr(gate_progress, "LOOK_NS", 10_000)
    world = GatedWorld(BE, RT)
    jobs = [world.executor.submit(name, EXAMPLE_INPUTS) for name in ("be", "rt")]
    for _ in range(2):
        world.executor.step()
    world.device.hangs = True
    world.clock.advance(3_600_000_000_000)  # nobody looked meanwhile: not the GPU's fault
    assert world.executor.step()
    with pytest.raises(DeviceError, match="no job has ended for"):
        world.executor.close(drain=False)
    assert [job.state for job in jobs] == [JobState.CANCELLED] * 2
    world.executor.close()


def test_a_warm_up_on_a_gpu_that_hangs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_progress, "PATIENCE_NS", 40_000)
    world = GatedWorld(RT)
    world.device.hangs = True
    with pytest.raises(DeviceError, match="still there: rt"):
        world.executor.warm_up("rt", EXAMPLE_INPUTS)


def test_long_jobs_are_waited_for_while_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes far longer than the least limit; ten times what they take counts."""
    monkeypatch.setattr(gate_progress, "PATIENCE_NS", 1000)
    world = GatedWorld(BE, RT)
    jobs = [world.executor.submit("be", EXAMPLE_INPUTS) for _ in range(20)]
    world.executor.run()
    assert {job.state for job in jobs} == {JobState.FINISHED}


def test_a_closed_loop_whose_launches_are_refused_pauses_between_them() -> None:
    world = GatedWorld(BE, refused=("be",))
    world.executor.add_source("be", ClosedLoop(), lambda _: EXAMPLE_INPUTS)
    world.executor.run(10_000_000)
    assert world.executor.counts("be")["failed"] == 10
