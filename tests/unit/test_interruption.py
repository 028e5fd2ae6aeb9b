"""Work of a library in a thread: its result, its errors, and Ctrl-C in the midst of it."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from preemptc import interruption
from preemptc.interruption import stoppable

ROOT = Path(__file__).parents[2]


def nothing() -> None:
    pass


def test_the_result_comes_back_from_another_thread() -> None:
    assert stoppable(lambda: 6 * 7, tick=nothing, stop=nothing) == 42
    found = stoppable(threading.get_ident, tick=nothing, stop=nothing)
    assert found != threading.get_ident()


def test_its_error_is_raised_here() -> None:
    def work() -> None:
        raise ValueError("no such kernel")

    with pytest.raises(ValueError, match="no such kernel"):
        stoppable(work, tick=nothing, stop=nothing)


def test_ticks_go_on_while_it_works() -> None:
    ticks: list[int] = []
    is_enough = threading.Event()

    def tick() -> None:
        ticks.append(threading.get_ident())
        if len(ticks) == 3:
            is_enough.set()

    assert stoppable(lambda: is_enough.wait(10), tick=tick, stop=nothing)
    assert set(ticks) == {threading.get_ident()}


def test_an_interrupt_asks_it_to_stop_and_waits_for_that() -> None:
    is_stopped = threading.Event()
    ended: list[bool] = []

    def work() -> None:
        ended.append(is_stopped.wait(10))

    def tick() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            stoppable(work, tick=tick, stop=is_stopped.set)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert ended == [True]
    assert not any(thread.is_alive() for thread in interruption._abandoned)


_ENDLESS = """
import sys, threading
from preemptc.interruption import end_on_interrupt, stoppable
end_on_interrupt()
def tick():
    print("working", flush=True)
try:
    stoppable(threading.Event().wait, tick=tick, stop=lambda: print("asked"))
except KeyboardInterrupt:
    print("cleaned up")
    sys.exit(0)
"""


def test_work_that_cannot_be_stopped_ends_with_the_process() -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + _ENDLESS
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}"}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, text=True, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "working\n"
        begin_s = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=30) == 130
        assert time.monotonic() - begin_s < 5
        lines = [line for line in child.stdout.read().splitlines() if line != "working"]
    assert lines == ["asked", "cleaned up"]
