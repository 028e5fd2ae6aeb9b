"""The system's clock: when a wait ends, polled or slept."""

import threading
import time

import pytest

from preempt_runtime import clock as clock_module
from preempt_runtime.clock import MonotonicClock, Wake


@pytest.mark.parametrize("spin_ns", [0, 1_000_000, 10**12])
def test_a_wait_ends_at_its_time(spin_ns: int) -> None:
    clock = MonotonicClock(spin_ns=spin_ns)
    until_ns = clock.now_ns() + 3_000_000
    while clock.now_ns() < until_ns:  # a sleep may end early
        clock.wait(until_ns, Wake())
    assert clock.now_ns() >= until_ns


@pytest.mark.parametrize("spin_ns", [0, 1_000_000, 10**12])
def test_a_signal_ends_a_wait_and_is_used_up(spin_ns: int) -> None:
    clock, wake = MonotonicClock(spin_ns=spin_ns), Wake()
    start_ns = clock.now_ns()
    timer = threading.Timer(0.01, wake.set)
    timer.start()
    clock.wait(start_ns + 60_000_000_000, wake)
    timer.join()
    assert clock.now_ns() - start_ns < 30_000_000_000
    assert not wake.take()


@pytest.mark.parametrize("spin_ns", [0, 10**12])
def test_a_signal_before_the_wait_is_not_lost(spin_ns: int) -> None:
    clock, wake = MonotonicClock(spin_ns=spin_ns), Wake()
    wake.set()
    start_ns = clock.now_ns()
    clock.wait(start_ns + 60_000_000_000, wake)
    assert clock.now_ns() - start_ns < 30_000_000_000


def test_other_threads_run_while_it_polls() -> None:
    clock, counts = MonotonicClock(spin_ns=10**12), [0]

    def count() -> None:
        until_ns = time.monotonic_ns() + 100_000_000
        while time.monotonic_ns() < until_ns:
            counts[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    clock.wait(clock.now_ns() + 100_000_000, Wake())
    thread.join()
    assert counts[0] > 1000


def test_a_wait_of_hours_is_not_spent_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "_MAX_WAIT_S", 0.001)
    clock = MonotonicClock(spin_ns=1_000_000)
    start_ns = clock.now_ns()
    clock.wait(start_ns + 60_000_000_000, Wake())  # returns early, and is asked again
    assert clock.now_ns() - start_ns < 30_000_000_000
