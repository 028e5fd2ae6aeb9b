"""Whole schedules of each policy, drawn by hand, and turns among equals."""

import itertools

import pytest

from preempt_runtime.arrivals import ClosedLoop
from preempt_runtime.errors import InputError
from preempt_runtime.policies import (
    POLICIES,
    DeadlineMonotonic,
    Dysta,
    EarliestDeadline,
    FixedPriority,
    LeastLaxity,
    Prema,
    RateMonotonic,
)
from preempt_runtime.testing import EXAMPLE_INPUTS, run_schedule
from tests.runtime.executor_world import World, task

SLOW = task("slow", 4, 4, 4, priority=0, period_ns=40, relative_deadline_ns=22)
QUICK = task("quick", 3, priority=0, period_ns=25, relative_deadline_ns=25)
EFFORT = task("effort", 5)
RELEASES = [(0, "effort"), (1, "slow"), (6, "quick")]


def test_rate_monotonic_prefers_the_shorter_period() -> None:
    assert run_schedule([SLOW, QUICK, EFFORT], RELEASES, RateMonotonic()) == [
        "0-5 effort#0[0]",
        "5-9 slow#1[0]",
        "9-12 quick#2[0]",
        "12-16 slow#1[1]",
        "16-20 slow#1[2]",
        "effort#0 finished release=0 start=0 end=5 response=5",
        "slow#1 finished release=1 start=5 end=20 response=19 blocking=4 preemptions=1",
        "quick#2 finished release=6 start=9 end=12 response=6 blocking=3",
    ]


def test_deadline_monotonic_prefers_the_shorter_deadline() -> None:
    assert run_schedule([SLOW, QUICK, EFFORT], RELEASES, DeadlineMonotonic()) == [
        "0-5 effort#0[0]",
        "5-9 slow#1[0]",
        "9-13 slow#1[1]",
        "13-17 slow#1[2]",
        "17-20 quick#2[0]",
        "effort#0 finished release=0 start=0 end=5 response=5",
        "slow#1 finished release=1 start=5 end=17 response=16 blocking=4",
        "quick#2 finished release=6 start=17 end=20 response=14",
    ]


def test_edf_prefers_what_is_due_first_and_counts_what_was_due_later_as_blocking() -> None:
    # Due: far#0 at 100, slow#1 at 23, quick#2 at 31, near#3 at 20.
    lines = run_schedule(
        [
            SLOW,
            QUICK,
            task("far", 5, priority=9, relative_deadline_ns=100),
            task("near", 2, priority=0, relative_deadline_ns=10),
        ],
        [(0, "far"), (1, "slow"), (6, "quick"), (10, "near")],
        EarliestDeadline(),
    )
    assert lines == [
        "0-5 far#0[0]",
        "5-9 slow#1[0]",
        "9-13 slow#1[1]",
        "13-15 near#3[0]",
        "15-19 slow#1[2]",
        "19-22 quick#2[0]",
        "far#0 finished release=0 start=0 end=5 response=5",
        "slow#1 finished release=1 start=5 end=19 response=18 blocking=4 preemptions=1",
        "quick#2 finished release=6 start=19 end=22 response=16",
        "near#3 finished release=10 start=13 end=15 response=5 blocking=3",
    ]


def test_the_period_is_the_deadline_of_a_task_without_one_but_is_not_missed() -> None:
    lines = run_schedule(
        [
            task("a", 5, 5, priority=0, period_ns=30),
            task("b", 2, priority=0, period_ns=8, relative_deadline_ns=30),
        ],
        [(0, "b"), (0, "a")],
        EarliestDeadline(),
    )
    assert lines[0] == "0-2 b#0[0]"  # equal deadlines: the smaller id
    lines = run_schedule(
        [task("a", 5, 5, priority=0, period_ns=3), task("b", 2, priority=0, period_ns=30)],
        [(0, "b"), (0, "a")],
        EarliestDeadline(),
    )
    assert lines[0] == "0-5 a#1[0]"
    assert lines[-1] == "a#1 finished release=0 start=0 end=10 response=10"


def test_least_laxity_leaves_a_job_that_has_caught_up() -> None:
    # Latest starts: a at 14 (20 - 6), then 17 and 20; b at 16 (20 - 4), then 18 and 20.
    assert run_schedule(
        [
            task("a", 3, 3, priority=0, relative_deadline_ns=20),
            task("b", 2, 2, priority=0, relative_deadline_ns=20),
        ],
        [(0, "a"), (0, "b")],
        LeastLaxity(),
    )[:4] == ["0-3 a#0[0]", "3-5 b#1[0]", "5-8 a#0[1]", "8-10 b#1[1]"]


def test_prema_lets_the_short_job_first_until_the_long_one_has_waited() -> None:
    # `long` has priority 3: 9 tokens when it has waited twice its cost of 10, at 20. The short
    # ones have 3 from the start and 9 only 4 after their release.
    lines = run_schedule(
        [task("long", 10, priority=3), task("short", 2, priority=3)],
        [(0, "short"), (0, "long"), *((at_ns, "short") for at_ns in range(2, 30, 2))],
        Prema(),
    )
    starts = [line.split()[0] + " " + line.split()[1].split("#")[0] for line in lines[:12]]
    assert starts[:11] == [f"{at_ns}-{at_ns + 2} short" for at_ns in range(0, 20, 2)] + [
        "20-30 long"
    ]


def test_dysta_runs_the_shortest_and_hurries_the_pressed() -> None:
    # Scores at 0: a 8 + (200 - 8) / 100, b 9 + (10 - 9) / 100, c 9 + (200 - 9) / 100.
    assert run_schedule(
        [
            task("a", 8, priority=0, relative_deadline_ns=200),
            task("b", 9, priority=0, relative_deadline_ns=10),
            task("c", 9, priority=0, relative_deadline_ns=200),
        ],
        [(0, "c"), (0, "a"), (0, "b")],
        Dysta(),
    )[:3] == ["0-9 b#2[0]", "9-17 a#1[0]", "17-26 c#0[0]"]


def test_dysta_keeps_from_switching_for_little() -> None:
    # At 4 both have 4 left. S of a: 2 * (99 * 4 + 100 - 4) - 4 = 980, of b: 2 * 491 - 1 = 981.
    assert run_schedule(
        [
            task("a", 4, 4, priority=0, relative_deadline_ns=100),
            task("b", 4, priority=0, relative_deadline_ns=98),
        ],
        [(0, "a"), (1, "b")],
        Dysta(),
    )[:3] == ["0-4 a#0[0]", "4-8 a#0[1]", "8-12 b#1[0]"]


def test_the_started_one_of_two_equals_goes_on_and_then_they_take_turns() -> None:
    assert [
        line.split()[1]
        for line in run_schedule(
            [task("a", 2, 2), task("b", 1), task("hog", 3, priority=1)],
            [(0, "a"), (0, "a"), (0, "a"), (1, "b"), (1, "b"), (1, "hog")],
            FixedPriority(),
        )[:9]
    ] == [
        "a#0[0]",
        "hog#5[0]",
        "a#0[1]",
        "b#3[0]",
        "a#1[0]",
        "a#1[1]",
        "b#4[0]",
        "a#2[0]",
        "a#2[1]",
    ]


FIXED = ("fixed-priority", "rate-monotonic", "deadline-monotonic")


@pytest.mark.parametrize(
    ("name", "priority"),
    [(name, None) for name in sorted(set(POLICIES) - {"fifo"})] + [(name, 1) for name in FIXED],
)
def test_a_backlog_of_one_task_does_not_starve_its_equals(name: str, priority: int | None) -> None:
    options = {"priority": priority, "period_ns": 1000}
    world = World(task("greedy", 10, **options), task("late", 10, **options), policy=POLICIES[name])
    for _ in range(100):
        world.executor.submit("greedy", EXAMPLE_INPUTS)
    world.executor.add_source("late", itertools.count(5, 100), lambda _: EXAMPLE_INPUTS)
    world.executor.run(600, drain=False)
    # Each is released in the middle of a job of the other task, and is the next to run.
    assert [job.response_ns for job in world.recording.jobs if job.task == "late"] == [15] * 6
    assert world.executor.counts("greedy")["finished"] == 54


def test_three_best_effort_loops_get_the_device_in_turn() -> None:
    world = World(task("a", 7), task("b", 1), task("c", 3))
    for name in "abc":
        world.executor.add_source(name, ClosedLoop(), lambda _: EXAMPLE_INPUTS)
    world.executor.run(110)
    ran = "".join(segment.task for segment in world.recording.segments)
    assert ran == ("abc" * 11)[: len(ran)]
    assert len(ran) >= 30


def test_the_executor_refuses_a_task_that_lacks_what_its_policy_needs() -> None:
    with pytest.raises(InputError) as caught:
        World(task("cam", 1, priority=3), policy=EarliestDeadline())
    assert str(caught.value) == (
        "policy 'edf' needs a deadline of every real-time task, and task 'cam' has none; write its"
        " deadline or its period, make it best effort, or take another policy"
    )
    World(task("cam", 1), policy=EarliestDeadline())
