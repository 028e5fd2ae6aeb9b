"""Policies: total orders over ready jobs, by hand, by their formulas, and decided fast enough."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.policies import decision_ns, ready_jobs
from preempt_runtime.errors import InputError
from preempt_runtime.job import Job, Key, ReadyJob
from preempt_runtime.policies import POLICIES, Policy, check_needs, key_of, policy_from_name
from preempt_runtime.policies.policy import RankedTask
from preempt_runtime.task import Task
from preempt_runtime.testing import FakeNetwork


@dataclass(frozen=True, kw_only=True)
class View:
    """A ready job as a policy sees it; real-time if it has a priority."""

    id: int
    priority: int | None = None
    release_ns: int = 0
    deadline_ns: int | None = None
    within_ns: int = 100
    period_ns: int | None = 100
    cost_ns: int = 10
    remaining_ns: int = 10
    idle_since_ns: int = 0
    turn: int = 0
    is_started: bool = False
    key: Key = field(default=(), compare=False)

    @property
    def is_best_effort(self) -> bool:
        return self.priority is None

    @property
    def relative_deadline_ns(self) -> int | None:
        return self.within_ns

    @property
    def due_ns(self) -> int | None:
        return self.release_ns + self.within_ns


def pick(policy: str, *views: View, now_ns: int = 60) -> int:
    """The id of the job that the policy picks."""
    return _pick(policy_from_name(policy), views, now_ns).id


def _pick(policy: Policy, views: Sequence[View], now_ns: int) -> View:
    return policy.pick([replace(view, key=key_of(policy, view)) for view in views], now_ns)


@st.composite
def views(draw: st.DrawFn) -> list[View]:
    found = []
    for job_id in range(draw(st.integers(1, 7))):
        cost_ns = draw(st.integers(0, 30))
        found.append(
            View(
                id=job_id,
                priority=draw(st.none() | st.integers(-2, 10)),
                release_ns=(release_ns := draw(st.integers(0, 40))),
                within_ns=draw(st.integers(1, 60)),
                period_ns=draw(st.integers(1, 60)),
                cost_ns=cost_ns,
                remaining_ns=draw(st.integers(0, cost_ns)),
                idle_since_ns=draw(st.integers(release_ns, 50)),
                turn=draw(st.integers(0, 3)),
                is_started=draw(st.booleans()),
            )
        )
    return draw(st.permutations(found))


# By hand


def test_fixed_priority_puts_the_larger_priority_first() -> None:
    lowest, effort = View(id=9, priority=-(10**9), release_ns=50), View(id=0, is_started=True)
    assert pick("fixed-priority", effort, lowest) == 9
    assert pick("fixed-priority", lowest, View(id=10, priority=2, release_ns=55), effort) == 10


def test_rate_monotonic_puts_the_shorter_period_first() -> None:
    slow = View(id=0, priority=9, period_ns=50, within_ns=5, is_started=True)
    assert pick("rate-monotonic", slow, View(id=1, priority=1, period_ns=49)) == 1
    assert pick("rate-monotonic", View(id=2, period_ns=1), slow) == 0


def test_deadline_monotonic_puts_the_shorter_relative_deadline_first() -> None:
    long = View(id=0, priority=9, within_ns=50, period_ns=5, release_ns=0, is_started=True)
    assert pick("deadline-monotonic", long, View(id=1, priority=1, within_ns=49)) == 1
    assert pick("deadline-monotonic", View(id=2, within_ns=1), long) == 0


def test_edf_puts_the_earlier_absolute_deadline_first() -> None:
    early = View(id=0, priority=1, release_ns=0, within_ns=50)
    assert pick("edf", early, View(id=1, priority=9, release_ns=40, within_ns=11)) == 0
    assert pick("edf", early, View(id=1, priority=9, release_ns=40, within_ns=9)) == 1
    assert pick("edf", View(id=2, within_ns=1), early) == 0


def test_least_laxity_counts_what_is_still_to_run() -> None:
    soon = View(id=0, priority=1, within_ns=50, remaining_ns=10)  # laxity 40 - now
    assert pick("least-laxity", soon, View(id=1, priority=1, within_ns=80, remaining_ns=41)) == 1
    assert pick("least-laxity", soon, View(id=1, priority=1, within_ns=80, remaining_ns=39)) == 0


def test_fifo_keeps_the_started_job_and_ignores_priority() -> None:
    started = View(id=7, release_ns=9, is_started=True)
    assert pick("fifo", View(id=1, priority=5), started) == 7
    assert pick("fifo", View(id=1, priority=5, release_ns=3), View(id=2, release_ns=1)) == 2
    assert pick("fifo", View(id=2, release_ns=1), View(id=1, release_ns=1)) == 1


def test_prema_makes_a_job_a_candidate_at_the_time_that_its_tokens_say() -> None:
    # Cost 10, priority 3: 3 tokens at its release, 9 after it has waited 20.
    short = View(id=0, priority=3, release_ns=60, cost_ns=2, remaining_ns=2)
    waits = View(id=1, priority=3, release_ns=40)
    assert pick("prema", short, waits, now_ns=60) == 1  # the only one with 9
    waits = View(id=1, priority=3, release_ns=41)
    assert pick("prema", short, waits, now_ns=60) == 0  # both have 3, the shorter one goes
    # One of priority 1 has 3 tokens after 2 * cost.
    low = View(id=2, priority=1, release_ns=39, cost_ns=10, remaining_ns=10)
    assert pick("prema", low, View(id=3, priority=1, release_ns=58, cost_ns=9, remaining_ns=9)) == 2


def test_dysta_prefers_the_short_then_the_pressed_then_what_ran_last() -> None:
    short = View(id=0, priority=1, remaining_ns=10, within_ns=1000)
    assert pick("dysta", short, View(id=1, priority=1, remaining_ns=20, within_ns=1000)) == 0
    # Beta is one hundredth: 949 less slack outweigh 9 more to run, 950 do not outweigh 10.
    pressed = View(id=1, priority=1, remaining_ns=20, within_ns=60)
    assert pick("dysta", short, pressed, now_ns=0) == 0
    assert pick("dysta", short, replace(pressed, remaining_ns=19), now_ns=0) == 1
    alike = View(id=5, priority=1, remaining_ns=10, within_ns=1000, idle_since_ns=7)
    assert pick("dysta", short, alike) == 5


# Of all policies

REALTIME_FIRST = sorted(set(POLICIES) - {"fifo"})


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(ready=views(), now_ns=st.integers(50, 100))
def test_picks_do_not_depend_on_the_order_of_the_ready_jobs(
    name: str, ready: list[View], now_ns: int
) -> None:
    policy = POLICIES[name]
    picked = _pick(policy, ready, now_ns)
    assert _pick(policy, ready[::-1], now_ns) == picked
    assert _pick(policy, sorted(ready, key=lambda view: view.id), now_ns) == picked


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(ready=views(), now_ns=st.integers(50, 100))
def test_a_pick_wins_against_every_other_job(name: str, ready: list[View], now_ns: int) -> None:
    # DySta's score depends on how many are ready: there its formula is the test.
    picked = _pick(POLICIES[name], ready, now_ns)
    for other in ready if name != "dysta" else ():
        assert _pick(POLICIES[name], [other, picked], now_ns) == picked


@pytest.mark.parametrize("name", REALTIME_FIRST)
@given(ready=views(), now_ns=st.integers(50, 100))
def test_real_time_goes_before_best_effort(name: str, ready: list[View], now_ns: int) -> None:
    picked = _pick(POLICIES[name], ready, now_ns)
    assert picked.is_best_effort == all(view.is_best_effort for view in ready)


@pytest.mark.parametrize("name", sorted(POLICIES))
@pytest.mark.parametrize("priority", [None, 1])
def test_equals_take_turns(name: str, priority: int | None) -> None:
    waits = View(id=3, priority=priority, turn=1)
    assert pick(name, waits, View(id=1, priority=priority, turn=2)) == 3
    assert pick(name, waits, View(id=2, priority=priority, turn=1)) == 2
    if name != "fifo" or priority is None:
        assert pick(name, waits, View(id=9, priority=priority, turn=2, is_started=True)) == 9


@given(ready=views())
def test_fixed_priority_picks_a_job_of_the_highest_priority(ready: list[View]) -> None:
    priorities = [view.priority for view in ready if view.priority is not None]
    picked = _pick(policy_from_name("fixed-priority"), ready, 100)
    assert picked.priority == (max(priorities) if priorities else None)


@settings(max_examples=300)
@given(ready=views(), now_ns=st.integers(50, 100))
def test_prema_is_its_definition(ready: list[View], now_ns: int) -> None:
    realtime = [view for view in ready if not view.is_best_effort]
    tokens = {view.id: _tokens(view, now_ns) for view in realtime}
    threshold = max((level for level in (1, 3, 9) if level <= max(tokens.values(), default=0)),
                    default=0)  # fmt: skip
    candidates = [view for view in realtime if tokens[view.id] >= threshold]
    picked = _pick(policy_from_name("prema"), ready, now_ns)
    if candidates:
        assert picked in candidates
        assert picked.remaining_ns == min(view.remaining_ns for view in candidates)


def _tokens(view: View, now_ns: int) -> float | Fraction:
    weight = max(1, view.priority or 0)
    waited_ns = max(0, now_ns - view.release_ns - (view.cost_ns - view.remaining_ns))
    if view.cost_ns == 0:
        return math.inf
    return weight * (1 + Fraction(waited_ns, view.cost_ns))


@given(ready=views(), now_ns=st.integers(50, 200))
def test_dysta_is_its_formula(ready: list[View], now_ns: int) -> None:
    def score(view: View) -> Fraction:
        assert view.due_ns is not None
        slack_ns = max(0, view.due_ns - now_ns - view.remaining_ns)
        idle_ns = Fraction(now_ns - view.idle_since_ns, len(ready))
        return view.remaining_ns + Fraction(1, 100) * (slack_ns + idle_ns)

    realtime = [view for view in ready if not view.is_best_effort]
    if realtime:
        picked = _pick(policy_from_name("dysta"), ready, now_ns)
        assert score(picked) == min(map(score, realtime))


def test_names_are_found_and_unknown_ones_listed() -> None:
    assert {name: policy_from_name(name).name for name in POLICIES} == {
        name: name for name in POLICIES
    }
    with pytest.raises(InputError) as caught:
        policy_from_name("lottery")
    assert str(caught.value) == (
        "no policy is called 'lottery'; there are deadline-monotonic, dysta, edf, fifo,"
        " fixed-priority, least-laxity, prema, rate-monotonic"
    )


# Needs and ranks


@dataclass(frozen=True, kw_only=True)
class Described:
    """A task as a file describes it."""

    name: str = "cam"
    priority: int | None = None
    is_best_effort: bool = False
    period_ns: int | None = None
    implicit_deadline_ns: int | None = None


@pytest.mark.parametrize(
    ("policy", "lacking", "enough", "message"),
    [
        ("fixed-priority", {}, {"priority": 0}, "a priority .*; write priority = N \\(larger"),
        ("prema", {"priority": 0}, {"priority": 1}, "a positive priority .* N, at least 1"),
        ("rate-monotonic", {"implicit_deadline_ns": 5}, {"period_ns": 5}, "a period .*its period"),
        ("deadline-monotonic", {}, {"implicit_deadline_ns": 5}, "a deadline .* or its period"),
        ("edf", {"priority": 3}, {"implicit_deadline_ns": 5}, "a deadline"),
        ("least-laxity", {}, {"implicit_deadline_ns": 5}, "a deadline"),
        ("dysta", {}, {"implicit_deadline_ns": 5}, "a deadline"),
    ],
)
def test_a_task_that_lacks_what_a_policy_needs_is_refused(
    policy: str, lacking: dict[str, Any], enough: dict[str, Any], message: str
) -> None:
    chosen = policy_from_name(policy)
    check_needs(chosen, [Described(**enough), Described(is_best_effort=True)])
    with pytest.raises(InputError, match=f"^set.toml: policy '{policy}' needs {message}"):
        check_needs(chosen, [Described(**enough), Described(**lacking)], where="set.toml: ")


def test_fifo_needs_nothing() -> None:
    check_needs(policy_from_name("fifo"), [Described()])


def test_ranks_say_what_blocking_means() -> None:
    def ranks(policy: str) -> list[Key]:
        tasks = [
            Described(priority=1, period_ns=30, implicit_deadline_ns=10),
            Described(priority=2, period_ns=20, implicit_deadline_ns=20),
            Described(is_best_effort=True),
        ]
        return [policy_from_name(policy).rank(task) for task in tasks]

    assert ranks("fixed-priority") == ranks("fifo") == [(1, 1), (1, 2), (0, 0)]
    assert ranks("rate-monotonic") == [(1, -30), (1, -20), (0, 0)]
    assert ranks("deadline-monotonic") == [(1, -10), (1, -20), (0, 0)]
    for name in ("edf", "least-laxity", "prema", "dysta"):
        assert ranks(name) == [(1, 0), (1, 0), (0, 0)]


# Time


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_64_ready_jobs_are_decided_quickly(name: str) -> None:
    policy = policy_from_name(name)
    median_ns = decision_ns(policy, ready_jobs(policy, 64), num_samples=301)[150]
    print(f"{name}: {median_ns} ns")
    assert median_ns < 100_000  # 10 us is asked of a quiet machine, see docs/policies.md


# docs/policies.md

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"


def test_the_page_lists_every_policy_with_what_it_needs() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|.*?\|\s*([^|]*?)\s*\|", PAGE.read_text(), re.M))
    assert set(rows) == set(POLICIES)
    for name, policy in POLICIES.items():
        assert rows[name] == (" and ".join(policy.needs) or "-"), name


def test_the_example_of_the_page_is_a_policy() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    found: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, str(PAGE), "exec"), found)
    policy: Policy = found["ShortestRemaining"]()
    found["test_the_job_with_the_least_left_to_run_goes_first"]()
    network = FakeNetwork(segment_ns=(5, 5))
    task: RankedTask = Task(name="t", network=network, priority=1)
    assert policy.rank(task) > policy.rank(Task(name="b", network=network))
    job: ReadyJob = Job(id=0, task=Task(name="b", network=network), inputs={}, release_ns=0)
    assert policy.urgency(job) > (0, 10**18)
