"""Signals that end a run early, but not before its results are safe."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(slots=True)
class Interruption:
    """The signal that came, if one did."""

    signum: signal.Signals | None = None


@contextlib.contextmanager
def caught_signals(on_first: Callable[[], object]) -> Iterator[Interruption]:
    """Note the first SIGINT or SIGTERM and call `on_first`; the next one does what it always did.

    A signal that is ignored, as SIGINT is in a shell's background jobs, stays ignored. Without
    effect outside the main thread, where Python allows no handlers.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    found = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    # None: a handler that Python did not install, and could not put back.
    before = {
        signum: handler
        for signum, handler in found.items()
        if handler not in (None, signal.SIG_IGN)
    }

    def handle(signum: int, frame: FrameType | None) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        interruption.signum = signal.Signals(signum)
        on_first()

    for signum in before:
        signal.signal(signum, handle)
    try:
        yield interruption
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
