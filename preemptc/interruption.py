"""Ctrl-C while a library works: Python raises KeyboardInterrupt only when that comes back."""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, TypeVar

INTERRUPTED = 130
LINE = "preemptc: interrupted; nothing half-written"
_GRACE_S = 0.5
_POLL_S = 0.02
_TICK_S = 0.1

_T = TypeVar("_T")
_abandoned: list[threading.Thread] = []
_is_interrupted = threading.Event()


def was_interrupted() -> bool:
    """Whether KeyboardInterrupt was raised, of which a library may have made another error.

    One that was being imported says that it cannot be.
    """
    return _is_interrupted.is_set()


def end_on_interrupt() -> None:
    """Let the first SIGINT raise KeyboardInterrupt, or end a process that is stuck in a library.

    An endless Loop, or an engine that builds for minutes, returns to no Python code that could
    raise. A thread, woken by the C handler, waits half a second for the exception; without it, the
    process ends as `kill` would end it, and what it leaves is swept by the next one. A signal that
    is ignored, as in a shell's background jobs, stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
        _is_interrupted.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt

    def watch() -> None:
        while os.read(reader, 1) != bytes([signal.SIGINT]):
            pass
        end_s = time.monotonic() + _GRACE_S
        while not _is_interrupted.is_set():
            if time.monotonic() > end_s:
                os.write(2, f"{LINE}\n".encode())
                os._exit(INTERRUPTED)
            time.sleep(_POLL_S)

    threading.Thread(target=watch, name="interruption", daemon=True).start()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, interrupt)


def stoppable(work: Callable[[], _T], *, tick: Callable[[], None], stop: Callable[[], None]) -> _T:
    """What `work` returns, which a thread does: this one stays free to hear Ctrl-C.

    For a library that calls back into Python while it works: a KeyboardInterrupt raised in such a
    call would be lost in the library. What interrupts the wait asks the work to stop and gives it
    half a second. Work that goes on nevertheless is abandoned: the process can go on too, but when
    it ends, it ends at once, for the library's thread would crash in an interpreter that closes.

    Args:
        work: must not need the thread that calls.
        tick: called in this thread, about ten times a second.
        stop: asks the work to end early.

    Raises:
        BaseException: whatever `work` or `tick` raised.
    """
    results: list[_T] = []
    errors: list[BaseException] = []
    is_done = threading.Event()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as err:  # raised again below, in the thread that waits
            errors.append(err)
        finally:
            is_done.set()

    thread = threading.Thread(target=run, name="library", daemon=True)
    try:
        thread.start()
        while not is_done.wait(_TICK_S):
            tick()
    except BaseException:
        _abandoned.append(thread)
        stop()
        is_done.wait(_GRACE_S)
        raise
    if errors:
        raise errors[0]
    return results[0]


@atexit.register
def _end_with_the_abandoned() -> None:
    if any(thread.is_alive() for thread in _abandoned):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(INTERRUPTED)
