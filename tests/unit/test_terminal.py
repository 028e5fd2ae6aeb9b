"""Stdout that is closed, full or narrow, and Ctrl-C while the commands are imported."""

import errno
import io
import os
import subprocess
import sys

import pytest

from preempt_runtime.errors import PreemptError
from preempt_runtime.stdout import stdout_refusal
from preemptc.report import facts
from preemptc.terminal import show, watched

TABLES = (facts("title", {"name": "\u00e9"}),)


class FullStdout(io.StringIO):
    """A disk without space, noticed when something is written."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("as_json", [False, True])
def test_a_full_stdout_is_one_clear_line(as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", FullStdout())
    with pytest.raises(PreemptError, match="stdout: cannot be written: No space"):
        show({}, TABLES, as_json=as_json)
    assert stdout_refusal(probe="\n") == (
        "stdout: cannot be written: No space left on device; free space or redirect it elsewhere"
    )


def test_a_narrow_stdout_is_one_clear_line_and_json_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    with pytest.raises(PreemptError, match=r"its encoding ascii cannot write .*; use --json"):
        show({}, TABLES, as_json=False)
    show({"name": "\u00e9"}, TABLES, as_json=True)
    assert stdout_refusal() is None


def test_a_closed_stdout_is_one_line() -> None:
    command = f"{sys.executable} -m preemptc targets >&-"
    found = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True)
    assert found.returncode == 1
    assert found.stderr == (
        "preemptc: error: stdout is closed; redirect it to a file, or to /dev/null\n"
    )


def test_ctrl_c_while_it_starts_is_one_line_and_130() -> None:
    code = (
        "import importlib.abc, os, signal, sys\n"
        "class Interrupt(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'click': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from preemptc.start import main\n"
        "main()"
    )
    found = subprocess.run([sys.executable, "-c", code, "targets"], capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "preemptc: interrupted\n")


def test_a_step_that_takes_long_is_told_again_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s = 100.0
    monkeypatch.setattr("preemptc.terminal.time.monotonic", lambda: now_s)
    with watched() as progress:
        for second in range(13):
            now_s = 100.0 + second
            progress("profile", second / 13)
        now_s += 0.1
        progress("check", 0.0)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "preemptc: profile", "preemptc: profile: 5 s", "preemptc: profile: 10 s", "preemptc: check",
    ]  # fmt: skip
