"""Whether work of best effort would be in an urgent job's way."""

from preempt_runtime.agenda import Agenda
from preempt_runtime.books import Books
from preempt_runtime.hold_off import HoldOff
from preempt_runtime.instruments import Instruments
from preempt_runtime.policies import FixedPriority

RELEASE_NS, NOW_NS = 100_000, 50_000


def hold_off(*announced: object) -> HoldOff:
    books = Books(FixedPriority(), lambda: NOW_NS, Instruments([]))
    agenda = Agenda(books, lambda: NOW_NS, lambda: 0)
    agenda.timed.append((RELEASE_NS, 0, lambda *_: None, None))
    return HoldOff(agenda, announced)


def is_left(work: HoldOff, now_ns: int = NOW_NS, since_ns: int = NOW_NS) -> bool:
    return work.is_in_the_way("completion", "be", (), now_ns, since_ns)


def test_work_that_fits_before_the_release_is_done() -> None:
    found = hold_off()
    found.took("completion", "be", 40_000)
    assert not is_left(found)
    assert is_left(found, now_ns=61_000)


def test_what_took_long_once_is_taken_to_be_long_for_a_while() -> None:
    found = hold_off()
    found.took("completion", "be", 80_000)
    found.took("completion", "be", 1_000)
    assert is_left(found)
    for _ in range(10):
        found.took("completion", "be", 1_000)
    assert not is_left(found)


def test_an_announced_job_may_come_at_any_moment() -> None:
    found = hold_off("a job")
    assert is_left(found)
    assert not is_left(found, now_ns=1_000_001, since_ns=0)  # for a millisecond at most
