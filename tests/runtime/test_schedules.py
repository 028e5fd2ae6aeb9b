"""The executor against hand-drawn schedules on a virtual clock."""

from preempt_runtime.policies import Fifo, FixedPriority
from preempt_runtime.testing import (
    run_schedule,
)
from tests.runtime.executor_world import task


def test_urgent_job_waits_for_the_running_segment_only() -> None:
    assert run_schedule(
        [task("u", 3, priority=1, relative_deadline_ns=7), task("b", 10, 10, 10)],
        [(0, "b"), (5, "u"), (12, "u")],
        FixedPriority(),
    ) == [
        "0-10 b#0[0]",
        "10-13 u#1[0]",
        "13-16 u#2[0]",
        "16-26 b#0[1]",
        "26-36 b#0[2]",
        "b#0 finished release=0 start=0 end=36 response=36 preemptions=1",
        "u#1 finished release=5 start=10 end=13 response=8 blocking=5 missed=1",
        "u#2 finished release=12 start=13 end=16 response=4",
    ]


def test_fifo_runs_the_same_jobs_without_preemption() -> None:
    assert run_schedule(
        [task("u", 3, priority=1, relative_deadline_ns=7), task("b", 10, 10, 10)],
        [(0, "b"), (5, "u"), (12, "u")],
        Fifo(),
    ) == [
        "0-10 b#0[0]",
        "10-20 b#0[1]",
        "20-30 b#0[2]",
        "30-33 u#1[0]",
        "33-36 u#2[0]",
        "b#0 finished release=0 start=0 end=30 response=30",
        "u#1 finished release=5 start=30 end=33 response=28 blocking=25 missed=1",
        "u#2 finished release=12 start=33 end=36 response=24 blocking=18 missed=1",
    ]


def test_preemption_nests_over_three_levels() -> None:
    assert run_schedule(
        [task("high", 2, priority=9), task("mid", 4, 4, priority=5), task("low", 6, 6)],
        [(0, "low"), (1, "mid"), (7, "high")],
        FixedPriority(),
    ) == [
        "0-6 low#0[0]",
        "6-10 mid#1[0]",
        "10-12 high#2[0]",
        "12-16 mid#1[1]",
        "16-22 low#0[1]",
        "low#0 finished release=0 start=0 end=22 response=22 preemptions=1",
        "mid#1 finished release=1 start=6 end=16 response=15 blocking=5 preemptions=1",
        "high#2 finished release=7 start=10 end=12 response=5 blocking=3",
    ]


def test_best_effort_starves_and_then_resumes() -> None:
    lines = run_schedule(
        [task("u", 10, priority=0), task("b", 5, 5)],
        [(0, "b"), (1, "u"), (5, "u"), (15, "u"), (25, "u")],
        FixedPriority(),
    )
    assert lines[:6] == [
        "0-5 b#0[0]",
        "5-15 u#1[0]",
        "15-25 u#2[0]",
        "25-35 u#3[0]",
        "35-45 u#4[0]",
        "45-50 b#0[1]",
    ]
    assert lines[6] == "b#0 finished release=0 start=0 end=50 response=50 preemptions=1"


def test_equal_priorities_run_by_release_and_do_not_block() -> None:
    assert run_schedule(
        [task("a", 4, 4, priority=1), task("c", 2, priority=1)],
        [(0, "a"), (1, "c")],
        FixedPriority(),
    ) == [
        "0-4 a#0[0]",
        "4-8 a#0[1]",
        "8-10 c#1[0]",
        "a#0 finished release=0 start=0 end=8 response=8",
        "c#1 finished release=1 start=8 end=10 response=9",
    ]


def test_blocking_counts_every_lower_segment_while_the_job_waits() -> None:
    # FIFO: u waits 5 of low's first segment, all of its second, and none of its peer v.
    lines = run_schedule(
        [task("u", 1, priority=2), task("v", 7, priority=2), task("low", 10, 10, priority=1)],
        [(0, "low"), (3, "v"), (5, "u")],
        Fifo(),
    )
    assert lines[-3:] == [
        "low#0 finished release=0 start=0 end=20 response=20",
        "v#1 finished release=3 start=20 end=27 response=24 blocking=17",
        "u#2 finished release=5 start=27 end=28 response=23 blocking=15",
    ]


def test_latest_mailbox_skips_the_frame_that_was_replaced() -> None:
    assert run_schedule(
        [task("cam", 10, 10, mailbox="latest")],
        [(0, "cam"), (2, "cam"), (4, "cam"), (15, "cam")],
        FixedPriority(),
    ) == [
        "0-10 cam#0[0]",
        "10-20 cam#0[1]",
        "20-30 cam#3[0]",
        "30-40 cam#3[1]",
        "cam#0 finished release=0 start=0 end=20 response=20",
        "cam#1 skipped release=2 end=10",
        "cam#2 skipped release=4 end=20",
        "cam#3 finished release=15 start=20 end=40 response=25",
    ]


def test_bounded_queue_refuses_the_newest() -> None:
    lines = run_schedule(
        [task("q", 10, max_pending=1)], [(0, "q"), (2, "q"), (4, "q")], FixedPriority()
    )
    assert lines == [
        "0-10 q#0[0]",
        "10-20 q#1[0]",
        "q#0 finished release=0 start=0 end=10 response=10",
        "q#1 finished release=2 start=10 end=20 response=18",
        "q#2 skipped release=4 end=10",
    ]


def test_cancel_of_a_pending_job_is_at_once() -> None:
    states = []
    lines = run_schedule(
        [task("b", 10, 10)],
        [(0, "b"), (1, "b")],
        FixedPriority(),
        actions=[(4, lambda handles: states.append((handles[1].cancel(), handles[1].done())))],
    )
    assert states == [(True, True)]
    assert lines == [
        "0-10 b#0[0]",
        "10-20 b#0[1]",
        "b#0 finished release=0 start=0 end=20 response=20",
        "b#1 cancelled release=1 end=4",
    ]


def test_cancel_of_a_running_job_is_at_the_next_preemption_point() -> None:
    states = []
    lines = run_schedule(
        [task("b", 10, 10), task("c", 1)],
        [(0, "b"), (1, "c")],
        FixedPriority(),
        actions=[(4, lambda handles: states.append((handles[0].cancel(), handles[0].done())))],
    )
    assert states == [(True, False)]
    assert lines == [
        "0-10 b#0[0]",
        "10-11 c#1[0]",
        "b#0 cancelled release=0 start=0 end=10",
        "c#1 finished release=1 start=10 end=11 response=10",
    ]


def test_cancel_in_the_last_segment_is_kept_and_preempted_jobs_can_be_cancelled() -> None:
    lines = run_schedule(
        [task("u", 10, priority=1), task("b", 10, 10)],
        [(0, "b"), (1, "u")],
        FixedPriority(),
        actions=[
            (12, lambda handles: handles[0].cancel()),
            (13, lambda handles: handles[1].cancel()),
        ],
    )
    assert lines == [
        "0-10 b#0[0]",
        "10-20 u#1[0]",
        "b#0 cancelled release=0 start=0 end=20 preemptions=1",
        "u#1 cancelled release=1 start=10 end=20 blocking=9",
    ]


def test_a_failing_segment_fails_its_job_only() -> None:
    assert run_schedule(
        [task("bad", 5, 5, 5, priority=1), task("good", 5, 5)],
        [(0, "good"), (2, "bad"), (3, "bad")],
        FixedPriority(),
        failures=[("bad", 1)],
    ) == [
        "0-5 good#0[0]",
        "5-10 bad#1[0]",
        "10-15 bad#1[1]",
        "15-20 bad#2[0]",
        "20-25 bad#2[1]",
        "25-30 good#0[1]",
        "good#0 finished release=0 start=0 end=30 response=30 preemptions=1",
        "bad#1 failed release=2 start=5 end=15 blocking=3"
        " error='DeviceError: bad: segment 1 was told to fail'",
        "bad#2 failed release=3 start=15 end=25 blocking=2"
        " error='DeviceError: bad: segment 1 was told to fail'",
    ]
