"""How long a Python thread may keep the interpreter lock while the dispatcher wants it."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Requests:
    """The intervals asked for at the moment, and the one to go back to."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked_s: list[float] = []
        self.original_s = 0.0

    def apply(self) -> None:
        sys.setswitchinterval(min([self.original_s, *self.asked_s]))


_requests = _Requests()  # one per process, as the interval itself is


@contextmanager
def lowered_switch_interval(interval_s: float | None) -> Iterator[None]:
    """Keep the switch interval at `interval_s` or below; None leaves it.

    The interval is the process's. Of several requests the smallest is in force, and when the last
    one ends the interval that was found at first is restored.
    """
    if interval_s is None:
        yield
        return
    with _requests.lock:
        if not _requests.asked_s:
            _requests.original_s = sys.getswitchinterval()
        _requests.asked_s.append(interval_s)
        _requests.apply()
    try:
        yield
    finally:
        with _requests.lock:
            _requests.asked_s.remove(interval_s)
            _requests.apply()
