"""Stdout, where a command's results go: closed, full or narrow, it is one clear line and exit 1."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from preempt_runtime.errors import PreemptError
from preempt_runtime.write_refusal import refusal_text


def check_stdout() -> None:
    """Return if there is a stdout; a closed stdin or stderr is replaced by the null device.

    Else the next file that is opened would get its number, and whatever a library prints.

    Raises:
        PreemptError: it is closed, so there is no place for results.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    if sys.stdout is None:
        raise PreemptError("stdout is closed; redirect it to a file, or to /dev/null")


@contextlib.contextmanager
def results_out() -> Iterator[TextIO]:
    """Stdout to write results to; what was written has arrived when this ends.

    Raises:
        PreemptError: it is full, or its encoding lacks a character.
        BrokenPipeError: whoever read it has gone.
    """
    try:
        yield sys.stdout
        sys.stdout.flush()
    except UnicodeEncodeError as err:
        missing = err.object[err.start : err.start + 1]
        raise PreemptError(
            f"stdout: its encoding {err.encoding} cannot write {missing!a}; use --json, or"
            " set PYTHONIOENCODING=utf-8"
        ) from err
    except BrokenPipeError:
        discard_stdout()
        raise
    except OSError as err:
        discard_stdout()
        raise PreemptError(_refusal(err)) from err


def _refusal(err: OSError) -> str:
    return refusal_text("stdout: cannot be written", err, otherwise="redirect it elsewhere")


def stdout_refusal(probe: str = "") -> str | None:
    """Why what was printed so far, such as a help text, cannot be written; it is given up then.

    None: it has arrived.

    Args:
        probe: printed, too: where nothing is buffered, only another write can tell.
    """
    try:
        sys.stdout.write(probe)
        sys.stdout.flush()
    except OSError as err:
        discard_stdout()
        return _refusal(err)
    return None


def discard_stdout() -> None:
    """Let what is still buffered go nowhere: the interpreter flushes it once more at its end."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
