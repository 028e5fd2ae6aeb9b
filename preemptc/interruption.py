"""Ctrl-C while a library works: Python raises KeyboardInterrupt only when that comes back."""

import os
import signal
import threading
import time
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
LINE = "preemptc: interrupted; nothing half-written"
_GRACE_S = 0.5
_POLL_S = 0.02


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
    is_raised = False

    def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
        nonlocal is_raised
        is_raised = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt

    def watch() -> None:
        while os.read(reader, 1) != bytes([signal.SIGINT]):
            pass
        end_s = time.monotonic() + _GRACE_S
        while not is_raised:
            if time.monotonic() > end_s:
                os.write(2, f"{LINE}\n".encode())
                os._exit(INTERRUPTED)
            time.sleep(_POLL_S)

    threading.Thread(target=watch, name="interruption", daemon=True).start()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, interrupt)
