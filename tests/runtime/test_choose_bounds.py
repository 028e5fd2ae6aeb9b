"""Bounds on segments: tolerances and choices against brute force, changes that really help."""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from bench.random_sets import SetShape, random_cut, random_tasks
from preempt_runtime.errors import InputError
from preempt_runtime.schedulability import (
    AnalysedTask,
    Assumptions,
    Front,
    Problem,
    analyse,
    choose_bounds,
    even_front,
    fixed_front,
    front_from_cuts,
    segment_limits,
    single_changes,
)
from preempt_runtime.schedulability.analysis import is_schedulable
from preempt_runtime.schedulability.bounds import by_tolerance, under_one_bound
from preempt_runtime.schedulability.changes import scaled_front
from preempt_runtime.schedulability.screen import Screen

URGENT = AnalysedTask(name="urgent", segment_ns=(10,), period_ns=100, deadline_ns=30, priority=2)
LONG = AnalysedTask(name="long", segment_ns=(60,), period_ns=200, priority=1)
IDLE = AnalysedTask(name="idle", segment_ns=(80,), is_best_effort=True)
SET = (URGENT, LONG, IDLE)
FRONTS = {
    "urgent": even_front(10, 1),
    "long": even_front(60, 1),
    "idle": even_front(80, 1),
}


@pytest.mark.parametrize(
    "policy", ["fixed-priority", "edf", "rate-monotonic", "deadline-monotonic"]
)
def test_a_choice_that_can_be_computed_by_hand(policy: str) -> None:
    """urgent bears 30 - 10 + 1 = 21 ns; (60 + 2) / 3 = 21 (rounded up), (80 + 3) / 4 = 21."""
    choice = choose_bounds(SET, FRONTS, policy, Assumptions())
    assert choice.is_schedulable
    assert [len(task.segment_ns) for task in choice.tasks] == [1, 3, 4]
    assert segment_limits(choice, FRONTS) == {"urgent": None, "long": 21, "idle": 21}


def test_limits_leave_room_for_margin_dispatching_resuming_and_depth() -> None:
    assumed = Assumptions(margin_frac=0.1, dispatch_ns=1, resume_cost_ns=2, depth=2)
    fronts = {**FRONTS, "urgent": fixed_front((10,))}
    choice = choose_bounds(SET, fronts, "fixed-priority", assumed)
    # urgent takes 11 + 1; 2 q - 1 + 12 <= 30 for q = 9; of those 2 + 1 are spent, 6 left: 5 * 1.1
    assert choice.is_schedulable
    assert segment_limits(choice, fronts)["idle"] == 5
    assert max(choice.cut_of("idle")) == 5


def test_limits_leave_room_for_launching_a_job_whole() -> None:
    assumed = Assumptions(dispatch_ns=2, is_launched_whole=True)
    fronts = {**FRONTS, "urgent": fixed_front((10,))}
    choice = choose_bounds(SET, fronts, "fixed-priority", assumed)
    # urgent takes 10 + 2; q + 2 * 2 - 1 + 12 <= 30 for q = 15
    assert segment_limits(choice, fronts)["idle"] == 15


def test_one_way_to_cut_is_no_limit_unless_it_blocks() -> None:
    fronts = {name: fixed_front((10,)) for name in FRONTS}
    choice = choose_bounds(SET, fronts, "fixed-priority", Assumptions())
    assert set(segment_limits(choice, fronts).values()) == {None}


def _random_problem(rng: random.Random) -> tuple[tuple[AnalysedTask, ...], dict[str, Front]]:
    tasks = random_tasks(rng, SetShape(most_tasks=3, shortest_period_ns=40))
    return tasks, {task.name: _random_front(rng, sum(task.segment_ns)) for task in tasks}


def _random_front(rng: random.Random, cost_ns: int) -> Front:
    """Some cuts: even ones, or any: then a coarser one may have the shorter last segment."""
    if rng.random() < 0.5:
        return Front(cuts=even_front(cost_ns, rng.choice((0, 1, 3))).cuts[:3])
    cuts = [random_cut(rng, cost_ns + more, more + 2) for more in range(2)]
    return front_from_cuts([(cost_ns,), *cuts])


def _with_cuts(
    tasks: Sequence[AnalysedTask], cuts: Sequence[tuple[int, ...]]
) -> list[AnalysedTask]:
    return [task.with_segments(cut) for task, cut in zip(tasks, cuts, strict=True)]


def _brute_force(
    tasks: Sequence[AnalysedTask],
    fronts: Mapping[str, Front],
    policy: str,
    assumptions: Assumptions,
) -> bool:
    every = itertools.product(*(fronts[task.name].cuts for task in tasks))
    return any(
        analyse(_with_cuts(tasks, cuts), policy, assumptions).is_schedulable for cuts in every
    )


@pytest.mark.parametrize("policy", ["fixed-priority", "edf"])
def test_what_one_bound_makes_schedulable_is_made_schedulable(policy: str) -> None:
    """And nothing else is lost against trying every combination of cuts, in 98 % of the sets."""
    rng = random.Random(f"{policy}/17")
    counts = {"one": 0, "chosen": 0, "any": 0, "by tolerance": 0}
    for _ in range(150):
        tasks, fronts = _random_problem(rng)
        assumed = Assumptions(depth=rng.choice((1, 1, 2)), resume_cost_ns=rng.choice((0, 2)))
        choice = choose_bounds(tasks, fronts, policy, assumed)
        values = {max(cut) for front in fronts.values() for cut in front.cuts}
        is_one = any(
            analyse(
                [
                    t.with_segments(fronts[t.name].under(q) or fronts[t.name].cuts[-1])
                    for t in tasks
                ],
                policy,
                assumed,
            ).is_schedulable
            for q in values
        )
        assert choice.is_schedulable or not is_one, tasks
        assert choice.bound == analyse(choice.tasks, policy, assumed)
        counts["one"] += is_one
        counts["chosen"] += choice.is_schedulable
        tolerant = by_tolerance(tasks, fronts, policy, assumed)
        counts["by tolerance"] += is_schedulable(_with_cuts(tasks, tolerant), policy, assumed)
        counts["any"] += _brute_force(tasks, fronts, policy, assumed)
    assert counts["one"] <= counts["chosen"] <= counts["any"] <= counts["chosen"] / 0.98
    assert 20 < counts["chosen"] < 130
    assert counts["by tolerance"] > counts["chosen"] * 0.8


def test_limits_are_the_largest_that_are_borne() -> None:
    """A segment of the limit's length keeps every deadline, one nanosecond more does not."""
    rng = random.Random(23)
    num_tight = 0
    for _ in range(150):
        tasks, fronts = _random_problem(rng)
        tasks = (*(task for task in tasks if task.name != "idle"), IDLE)
        fronts["idle"] = even_front(80, 1)
        policy = rng.choice(("fixed-priority", "edf"))
        choice = choose_bounds(tasks, fronts, policy, Assumptions())
        limit_ns = segment_limits(choice, fronts).get("idle")
        if not choice.is_schedulable or limit_ns is None:
            continue
        assert limit_ns >= max(choice.cut_of("idle"))
        assert _with_idle(choice.tasks, limit_ns, policy)
        coarser = fronts["idle"].cuts[fronts["idle"].cuts.index(choice.cut_of("idle")) - 1]
        if limit_ns < max(coarser) - 1:
            num_tight += 1
            assert not _with_idle(choice.tasks, limit_ns + 1, policy)
    assert num_tight > 10


def _with_idle(tasks: Sequence[AnalysedTask], longest_ns: int, policy: str) -> bool:
    changed = [t.with_segments((longest_ns,)) if t.name == "idle" else t for t in tasks]
    return analyse(changed, policy).is_schedulable


def test_relaxing_uncuts_what_need_not_be_cut() -> None:
    """The one bound that keeps the deadlines, 21, cuts urgent's own network, too."""
    fronts = {**FRONTS, "urgent": even_front(40, 1)}
    tasks = (replace(URGENT, deadline_ns=61), LONG, IDLE)
    single = under_one_bound(tasks, fronts, "fixed-priority", Assumptions())
    chosen = choose_bounds(tasks, fronts, "fixed-priority", Assumptions())
    assert single is not None
    assert len(single[0]) == 2
    assert chosen.cut_of("urgent") == (40,)


def test_order_of_release_is_not_helped_by_cutting() -> None:
    choice = choose_bounds(SET[:2], FRONTS, "fifo", Assumptions())
    assert [len(task.segment_ns) for task in choice.tasks] == [1, 1]
    assert not choice.is_schedulable


def test_fronts_descend() -> None:
    assert front_from_cuts([(9,), (5, 5), (4, 7), (3, 3, 4)]).cuts == ((9,), (5, 5), (3, 3, 4))
    assert even_front(10, 9).cuts[0] == (10,)
    with pytest.raises(InputError, match="descending"):
        Front(cuts=((3,), (4,)))


# Changes


def _problem(**others: object) -> Problem:
    given = {
        "tasks": SET,
        "fronts": {**FRONTS, "idle": fixed_front((80,))},
        "free_fronts": {"idle": FRONTS["idle"]},
        "policy": "fixed-priority",
        "assumptions": Assumptions(),
    }
    return Problem(**{**given, **others})  # type: ignore[arg-type]


def test_another_bound_is_proposed_where_one_was_prescribed() -> None:
    problem = _problem()
    choice = problem.choose()
    assert not choice.is_schedulable
    first = single_changes(problem, choice)[0]
    assert (first.kind, first.text) == ("bound", "max_segment = 21ns for 'idle'")


def test_changes_of_priority_deadline_period_and_cost_are_proposed_if_they_help() -> None:
    a = AnalysedTask(name="a", segment_ns=(50,), period_ns=100, deadline_ns=100, priority=2)
    b = AnalysedTask(name="b", segment_ns=(20,), period_ns=150, deadline_ns=40, priority=1)
    fronts = {task.name: fixed_front(task.segment_ns) for task in (a, b)}
    problem = _problem(tasks=(a, b), fronts=fronts, free_fronts={})
    changes = single_changes(problem, problem.choose())
    texts = {change.kind: change.text for change in changes}
    # b has to wait for a's 50; swapped, a segment of a still blocks it for 49 of its 40
    assert texts == {"deadline": "a deadline of 70ns instead of 40 ns for 'b'"}
    cut = replace(problem, fronts={**fronts, "a": even_front(50, 1)})
    texts = {change.kind: change.text for change in single_changes(cut, cut.choose())}
    assert texts["priority"] == "the priorities of 'b' and 'a' swapped"


@pytest.mark.parametrize("policy", ["fixed-priority", "edf", "rate-monotonic", "fifo"])
def test_the_screen_drops_nothing_that_a_cut_makes_schedulable(policy: str) -> None:
    rng = random.Random(f"{policy}/43")
    num_dropped = num_schedulable = 0
    for _ in range(250):
        tasks, fronts = _random_problem(rng)
        if policy == "fifo":
            tasks = tuple(task for task in tasks if not task.is_best_effort)
        assumed = Assumptions(depth=rng.choice((1, 1, 2)), resume_cost_ns=rng.choice((0, 2)))
        bound = analyse(tasks, policy, assumed)
        screen = Screen(tasks, fronts, policy, assumed, bound)
        is_schedulable = _brute_force(tasks, fronts, policy, assumed)
        assert screen.may_hold() or not is_schedulable, tasks
        task, factor = rng.choice(tasks), rng.choice((0.5, 0.8))
        faster = {**fronts, task.name: scaled_front(fronts[task.name], factor)}
        least = screen.least[task.name].scaled(factor)
        may_hold = screen.may_hold(task, least=least)
        assert may_hold or not _brute_force(tasks, faster, policy, assumed), tasks
        num_dropped += not may_hold
        num_schedulable += is_schedulable
    assert num_dropped > 25
    assert num_schedulable > 25


def test_every_proposed_change_is_true() -> None:
    """Done to the set by hand, it makes the set schedulable."""
    rng = random.Random(31)
    kinds: set[str] = set()
    for _ in range(60):
        tasks, fronts = _random_problem(rng)
        tight = {name: fixed_front(front.cuts[0]) for name, front in fronts.items()}
        problem = _problem(tasks=tasks, fronts=tight, free_fronts=fronts)
        choice = problem.choose()
        if choice.is_schedulable:
            continue
        for change in single_changes(problem, choice):
            assert _done(problem, change.text).choose().is_schedulable, (tasks, change)
            kinds.add(change.kind)
    assert kinds == {"bound", "priority", "cost", "deadline", "period"}


def test_fewer_segments_in_flight_are_proposed() -> None:
    lane = AnalysedTask(name="lane", segment_ns=(45,), period_ns=100, priority=2)
    long = AnalysedTask(name="long", segment_ns=(30, 30), period_ns=600, priority=1)
    fronts = {task.name: fixed_front(task.segment_ns) for task in (lane, long)}
    problem = _problem(
        tasks=(lane, long), fronts=fronts, free_fronts={}, assumptions=Assumptions(depth=4)
    )
    first = single_changes(problem, problem.choose())[0]
    # 29 + 45 of the next and its own 45 are too many with two in flight; one leaves 74
    assert (first.kind, first.task) == ("depth", None)
    assert first.text == "depth = 1 instead of 4 for all tasks"
    for depth, is_kept in ((1, True), (2, False)):
        assumed = Assumptions(depth=depth)
        assert replace(problem, assumptions=assumed).choose().is_schedulable is is_kept
    fifo = replace(problem, policy="fifo", tasks=(replace(lane, deadline_ns=50), long))
    assert all(c.kind != "depth" for c in single_changes(fifo, fifo.choose()))


def _done(problem: Problem, text: str) -> Problem:
    """The problem with what the text says, which people would type."""
    name, fronts = text.split("'")[1], dict(problem.fronts)
    tasks = {task.name: task for task in problem.tasks}
    value_ns = next((int(w[:-2]) for w in text.split() if w[:-2].isdecimal() and w[-2:] == "ns"), 0)
    if text.startswith("max_segment"):
        cut = problem.free_fronts[name].under(value_ns)
        assert cut is not None
        fronts[name] = fixed_front(cut)
    elif text.startswith("the priorities"):
        other = text.split("'")[3]
        tasks[name] = replace(
            tasks[name], priority=next(t.priority for t in problem.tasks if t.name == other)
        )
        tasks[other] = replace(
            tasks[other], priority=next(t.priority for t in problem.tasks if t.name == name)
        )
    elif text.startswith("a deadline"):
        tasks[name] = replace(tasks[name], deadline_ns=value_ns)
    elif text.startswith("a period"):
        tasks[name] = replace(tasks[name], period_ns=value_ns)
    else:
        factor = float(text.split(" x")[1].split()[0])
        (cut,) = fronts[name].cuts
        fronts[name] = fixed_front(tuple(-(-cost * round(factor * 100) // 100) for cost in cut))
    return replace(problem, tasks=tuple(tasks.values()), fronts=fronts)
