"""Clocks: time that passes by itself, and time that passes only when someone says so."""

import contextlib
import heapq
import select
import threading
import time
from collections.abc import Callable
from typing import Protocol

from preempt_runtime.errors import PreemptError

_IDLE = select.poll()  # of nothing
_MAX_WAIT_S = 3600.0  # a wake-up an hour costs nothing and keeps every timeout representable


class Wake:
    """A signal with memory: `set` before `wait` is not lost, several `set` count as one.

    It is one lock, held while nothing is signalled. Of the standard library's primitives that
    block without polling it is the cheapest on both sides; `threading.Event` allocates a lock and
    takes two more at every wait.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Let the waiting thread, or else the next one that waits, go on."""
        if self._lock.locked():
            # Another thread may have signalled in between: then the signal stands.
            with contextlib.suppress(RuntimeError):
                self._lock.release()

    def take(self) -> bool:
        """Whether it was set; it is not any more."""
        return self._lock.acquire(blocking=False)

    def wait(self, timeout_s: float = -1.0) -> bool:
        """Return when set, or after `timeout_s` seconds unless that is negative; whether set."""
        return self._lock.acquire(timeout=timeout_s)


class Clock(Protocol):
    """Where the executor gets its time from, and how it waits for more of it."""

    def now_ns(self) -> int:
        """Monotonic time; only differences mean anything."""
        ...

    def wait(self, until_ns: int | None, wake: Wake) -> None:
        """Return at `until_ns`, or as soon as `wake` is set; spurious returns are allowed."""
        ...


class MonotonicClock:
    """The system's monotonic clock.

    A thread that sleeps wakes late: by the kernel's timer slack, 50 us unless it was set, and by
    what an idle core takes to come back. `spin_ns` before a known time the wait polls instead, and
    takes a core for that long; other threads run meanwhile.
    """

    now_ns = staticmethod(time.monotonic_ns)

    def __init__(self, *, spin_ns: int = 0) -> None:
        self._spin_ns = spin_ns

    def wait(self, until_ns: int | None, wake: Wake) -> None:
        """Block until the time, or poll for the end of it; what sets `wake` is not foreseen."""
        if until_ns is None:
            wake.wait()
            return
        timeout_ns = until_ns - self._spin_ns - time.monotonic_ns()
        if timeout_ns > 0:
            timeout_s = min(timeout_ns / 1e9, _MAX_WAIT_S)
            if wake.wait(timeout_s) or not self._spin_ns or timeout_s == _MAX_WAIT_S:
                return
        while time.monotonic_ns() < until_ns and not wake.take():
            _IDLE.poll(0)  # lets other threads have the interpreter; sleep(0) takes 70 us


class VirtualClock:
    """Time for tests and simulation: it stands still until advanced; one thread only."""

    __slots__ = ("_callbacks", "_now_ns", "_num_callbacks")

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns
        self._callbacks: list[tuple[int, int, Callable[[], object]]] = []
        self._num_callbacks = 0

    def now_ns(self) -> int:
        """The virtual time."""
        return self._now_ns

    def call_at(self, at_ns: int, callback: Callable[[], object]) -> None:
        """Call it when time passes `at_ns`, as another thread would in the middle of a segment.

        Callbacks of the same time are called in the order in which they were given.
        """
        heapq.heappush(self._callbacks, (at_ns, self._num_callbacks, callback))
        self._num_callbacks += 1

    def advance(self, by_ns: int) -> None:
        """Let time pass, calling what falls due."""
        until_ns = self._now_ns + by_ns
        while self._callbacks and self._callbacks[0][0] <= until_ns:
            self._pop_callback()
        self._now_ns = until_ns

    def wait(self, until_ns: int | None, wake: Wake) -> None:
        """Jump to `until_ns`, or to the next callback if that comes first.

        Raises:
            PreemptError: nothing will ever end the wait.
        """
        if wake.take():
            return
        if self._callbacks and (until_ns is None or self._callbacks[0][0] <= until_ns):
            self._pop_callback()
        elif until_ns is None:
            raise PreemptError(
                f"virtual clock at {self._now_ns} ns: nothing is left that could end this wait;"
                " give the run a duration, a source or a callback"
            )
        else:
            self._now_ns = max(self._now_ns, until_ns)

    def _pop_callback(self) -> None:
        at_ns, _, callback = heapq.heappop(self._callbacks)
        self._now_ns = max(self._now_ns, at_ns)
        callback()
