"""Whether work of best effort would be in an urgent job's way."""

from types import SimpleNamespace
from typing import Any

from preempt_runtime.agenda import Agenda
from preempt_runtime.books import Books
from preempt_runtime.hold_off import HoldOff
from preempt_runtime.instruments import Instruments
from preempt_runtime.policies import FixedPriority

RELEASE_NS, NOW_NS = 100_000, 50_000


def job(cost_ns: int, priority: int | None = None) -> Any:
    task = SimpleNamespace(name="be" if priority is None else "rt")
    return SimpleNamespace(task=task, cost_ns=cost_ns, priority=priority)


def on_device(job: Any, launch_ns: int = 0) -> Any:
    return SimpleNamespace(job=job, launch_ns=launch_ns)


def hold_off(*announced: object) -> HoldOff:
    books = Books(FixedPriority(), lambda: NOW_NS, Instruments([]))
    agenda = Agenda(books, lambda: NOW_NS, lambda: 0)
    agenda.timed.append((RELEASE_NS, 0, lambda *_: None, None))
    return HoldOff(agenda, announced)


def leaves(found: HoldOff, *running: Any, now_ns: int = NOW_NS) -> bool:
    return found.leaves("completion", "be", running, now_ns)


def test_work_that_fits_before_the_release_with_room_is_done() -> None:
    found = hold_off()
    found.took("completion", "be", 20_000)
    assert not leaves(found, now_ns=49_000)
    assert leaves(found, now_ns=51_000)  # 20 us would fit, two and a half times that does not


def test_work_that_fits_before_an_urgent_jobs_end_is_done() -> None:
    found = hold_off()
    found.took("completion", "be", 10_000)
    urgent = on_device(job(40_000, priority=1), launch_ns=10_000)
    assert not leaves(found, urgent, now_ns=24_000)
    assert leaves(found, urgent, now_ns=26_000)
    assert not leaves(found, on_device(job(40_000), launch_ns=10_000), now_ns=26_000)


def test_what_took_long_once_is_taken_to_be_long_for_a_while() -> None:
    found = hold_off()
    found.took("completion", "be", 80_000)
    found.took("completion", "be", 1_000)
    assert leaves(found)
    for _ in range(10):
        found.took("completion", "be", 1_000)
    assert not leaves(found)


def test_an_announced_job_may_come_at_any_moment_of_a_millisecond() -> None:
    found = hold_off("a job")
    assert leaves(found, now_ns=0)
    assert leaves(found, now_ns=1_000_000)
    assert not leaves(found, now_ns=1_000_001)
    assert leaves(found, now_ns=1_000_002)  # it was done, and waits anew


def test_work_that_was_in_nobodys_way_meanwhile_waits_anew() -> None:
    found = hold_off()
    found.took("completion", "be", 20_000)
    urgent = on_device(job(10_000, priority=1))
    assert leaves(found, urgent, now_ns=0)
    assert not leaves(found, now_ns=10_000)
    assert leaves(found, urgent, now_ns=1_005_000)
