"""What becomes of late jobs, against hand-drawn schedules on a virtual clock."""

import itertools
from typing import Any

import pytest

from preempt_runtime.arrivals import ClosedLoop
from preempt_runtime.errors import InputError, JobCancelledError
from preempt_runtime.policies import FixedPriority
from preempt_runtime.task import LatePolicy
from preempt_runtime.testing import EXAMPLE_INPUTS, run_schedule
from tests.runtime.executor_world import World, task

HOG = task("hog", 20, priority=9)


def schedule(late: LatePolicy, **options: Any) -> list[str]:
    """Four jobs of two 4 ns segments, 10 ns to their deadlines, of which a hog takes 20 ns."""
    return run_schedule(
        [HOG, task("t", 4, 4, priority=1, relative_deadline_ns=10, late=late, **options)],
        [(0, "hog"), (1, "t"), (2, "t"), (12, "t"), (17, "t")],
        FixedPriority(),
    )


def test_run_runs_every_late_job_to_its_end() -> None:
    assert schedule("run")[1:] == [
        "20-24 t#1[0]",
        "24-28 t#1[1]",
        "28-32 t#2[0]",
        "32-36 t#2[1]",
        "36-40 t#3[0]",
        "40-44 t#3[1]",
        "44-48 t#4[0]",
        "48-52 t#4[1]",
        "hog#0 finished release=0 start=0 end=20 response=20",
        "t#1 finished release=1 start=20 end=28 response=27 missed=1",
        "t#2 finished release=2 start=28 end=36 response=34 missed=1",
        "t#3 finished release=12 start=36 end=44 response=32 missed=1",
        "t#4 finished release=17 start=44 end=52 response=35 missed=1",
    ]


def test_skip_leaves_out_late_jobs_while_a_newer_one_waits() -> None:
    # All arrive at 20. Job 3 is due at 22, started at 20 and runs on. The last one runs, late.
    assert schedule("skip")[1:] == [
        "20-24 t#3[0]",
        "24-28 t#3[1]",
        "28-32 t#4[0]",
        "32-36 t#4[1]",
        "hog#0 finished release=0 start=0 end=20 response=20",
        "t#1 skipped release=1 end=20",
        "t#2 skipped release=2 end=20",
        "t#3 finished release=12 start=20 end=28 response=16 missed=1",
        "t#4 finished release=17 start=28 end=36 response=19 missed=1",
    ]


def test_drop_ends_a_started_job_at_its_next_preemption_point() -> None:
    # Job 3 is due at 22, in the middle of its first segment; job 4 is due at 27.
    assert schedule("drop")[1:] == [
        "20-24 t#3[0]",
        "24-28 t#4[0]",
        "hog#0 finished release=0 start=0 end=20 response=20",
        "t#1 dropped release=1 end=20",
        "t#2 dropped release=2 end=20",
        "t#3 dropped release=12 start=20 end=24",
        "t#4 dropped release=17 start=24 end=28",
    ]


def test_a_job_is_late_at_its_deadline_and_not_before() -> None:
    assert run_schedule(
        [task("t", 5, 5, relative_deadline_ns=10, late="drop")], [(0, "t")], FixedPriority()
    )[-1] == ("t#0 finished release=0 start=0 end=10 response=10")
    assert run_schedule(
        [task("t", 5, 5, 1, relative_deadline_ns=10, late="drop")], [(0, "t")], FixedPriority()
    )[-1] == ("t#0 dropped release=0 start=0 end=10")


def test_the_period_stands_for_a_deadline_but_nothing_is_missed() -> None:
    lines = run_schedule(
        [HOG, task("t", 4, priority=1, period_ns=10, late="drop")],
        [(0, "hog"), (9, "t"), (11, "t")],
        FixedPriority(),
    )
    assert lines[-2:] == [
        "t#1 dropped release=9 end=20",
        "t#2 finished release=11 start=20 end=24 response=13",
    ]


def test_a_preempted_late_job_is_dropped_when_it_would_go_on() -> None:
    assert run_schedule(
        [HOG, task("t", 4, 4, priority=1, relative_deadline_ns=10, late="drop"), task("b", 3)],
        [(0, "t"), (1, "hog"), (2, "b")],
        FixedPriority(),
    ) == [
        "0-4 t#0[0]",
        "4-24 hog#1[0]",
        "24-27 b#2[0]",
        "t#0 dropped release=0 start=0 end=24 preemptions=1",
        "hog#1 finished release=1 start=4 end=24 response=23 blocking=3",
        "b#2 finished release=2 start=24 end=27 response=25",
    ]


def test_a_late_job_makes_room_in_a_bounded_queue() -> None:
    lines = run_schedule(
        [task("hog", 8, 8, 8, priority=9), task("t", 4, relative_deadline_ns=9, late="drop",
                                                max_pending=1)],
        [(0, "hog"), (1, "t"), (3, "t"), (17, "t")],
        FixedPriority(),
    )  # fmt: skip
    assert lines[-3:] == [
        "t#1 dropped release=1 end=24",
        "t#2 skipped release=3 end=8",
        "t#3 finished release=17 start=24 end=28 response=11 missed=1",
    ]


def test_the_newest_by_release_is_kept_in_whatever_order_jobs_are_submitted() -> None:
    world = World(HOG, task("t", 4, priority=1, relative_deadline_ns=5, late="skip"))
    world.executor.submit("hog", EXAMPLE_INPUTS)
    for at_ns, release_ns in ((10, 8), (12, 6)):
        world.clock.call_at(
            at_ns,
            lambda release_ns=release_ns: world.executor.submit(  # type: ignore[misc]
                "t", EXAMPLE_INPUTS, release_ns=release_ns
            ),
        )
    world.executor.run()
    assert world.lines()[-2:] == [
        "t#1 finished release=8 start=20 end=24 response=16 missed=1",
        "t#2 skipped release=6 end=20",
    ]


@pytest.mark.parametrize("late", ["skip", "drop"])
def test_a_task_that_never_runs_does_not_hoard_jobs(late: LatePolicy) -> None:
    world = World(
        task("hog", 10, priority=1),
        task("starved", 1, priority=0, relative_deadline_ns=50, late=late),
    )
    world.executor.add_source("hog", ClosedLoop(), lambda _: EXAMPLE_INPUTS)
    world.executor.add_source("starved", itertools.count(0, 10), lambda _: EXAMPLE_INPUTS)
    waiting = []

    def watch() -> bool:
        counts = world.executor.counts("starved")
        waiting.append(counts["pending"])
        return counts["released"] >= 200

    world.executor.run(until=watch, drain=False)
    assert max(waiting) <= 6  # those of the last 50 ns, and the one that has just come
    word = {"skip": "skipped", "drop": "dropped"}[late]
    assert world.executor.counts("starved")[word] >= 194


def test_a_dropped_job_tells_who_waits_and_the_loop_goes_on() -> None:
    world = World(task("hog", 20, priority=9), task("t", 4, relative_deadline_ns=10, late="drop"))
    hog = world.executor.submit("hog", EXAMPLE_INPUTS)
    world.executor.add_source("t", ClosedLoop(), lambda _: EXAMPLE_INPUTS)
    late = world.executor.submit("t", EXAMPLE_INPUTS)
    world.executor.run(40)
    assert hog.done()
    with pytest.raises(JobCancelledError, match="task 't': job 1 was dropped"):
        late.result()
    # The loop's own first job, released at 0, is dropped at 20; from then on one every 4 ns.
    counts = world.executor.counts("t")
    assert (counts["dropped"], counts["finished"]) == (2, 5)
    world.executor.check_integrity()


def test_a_promised_cancellation_is_kept_by_a_job_that_is_dropped() -> None:
    lines = run_schedule(
        [task("t", 8, 8, relative_deadline_ns=5, late="drop")],
        [(0, "t")],
        FixedPriority(),
        actions=[(6, lambda handles: handles[0].cancel())],
    )
    assert lines[-1] == "t#0 cancelled release=0 start=0 end=8"


def test_a_warm_up_is_never_late() -> None:
    world = World(task("t", 8, 8, relative_deadline_ns=5, late="drop"))
    world.executor.warm_up("t", EXAMPLE_INPUTS)
    assert world.device.launches == [("t", 0), ("t", 1)]


def test_impossible_late_policies_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        task("t", 1, late="drop")
    assert str(caught.value) == (
        "task 't': late 'drop', but a job without deadline or period is never late;"
        " give it a relative_deadline_ns"
    )
    with pytest.raises(InputError, match=r"late 'never', expected one of \('run', 'skip', 'drop'"):
        task("t", 1, late="never", period_ns=5)
    with pytest.raises(InputError, match="task 't': period 0, expected a whole number of ns, 1 to"):
        task("t", 1, period_ns=0)


def test_costs_are_those_of_the_segments_and_pre_and_post_are_not_known() -> None:
    costly = task("t", 3, 5, 7, pre=lambda arrays, _: arrays, post=lambda arrays, _: arrays)
    assert costly.remaining_by_step_ns == (15, 15, 12, 7, 0, 0)
    assert (costly.cost_ns, costly.steps) == (15, ("pre", 0, 1, 2, "post"))
