"""Where `preempt-rt` starts: importing takes a while, and Ctrl-C then is no bug either."""

import os
import signal
from types import FrameType

_INTERRUPTED = 130


def quit_on_interrupt(program: str) -> None:
    """Let SIGINT end the process in one line, as long as there is nothing to lose.

    A signal that is ignored, as in a shell's background jobs, stays ignored. A module whose import
    is broken off may raise anything, so this waits for no exception to arrive.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return

    def leave(signum: int, frame: FrameType | None) -> None:
        os.write(2, f"{program}: interrupted\n".encode())
        os._exit(_INTERRUPTED)

    signal.signal(signal.SIGINT, leave)


def raise_on_interrupt() -> None:
    """Put back what `quit_on_interrupt` replaced: from now on there is something to lose."""
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def main() -> int:
    """Exit code of `preempt-rt`."""
    quit_on_interrupt("preempt-rt")
    from preempt_runtime.cli import main as run_command_line

    raise_on_interrupt()
    return run_command_line()
