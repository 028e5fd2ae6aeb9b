"""What is told where the system lets nobody write: its own reason, and advice that fits."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from preempt_runtime.errors import PreemptError
from preempt_runtime.trace import TraceRecorder, write_trace
from preempt_runtime.write_refusal import refusal_text


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free space or name another"),
        (errno.EDQUOT, "free space or name another"),
        (errno.EFBIG, "allow larger files (`ulimit -f`) or name another"),
        (errno.EACCES, "correct the permissions or name another"),
        (errno.EPERM, "correct the permissions or name another"),
        (errno.EROFS, "name another"),
        (errno.ENOTDIR, "name another"),
    ],
)
def test_advice_fits_the_reason(code: int, advice: str) -> None:
    text = refusal_text("x: no", OSError(code, os.strerror(code)), otherwise="name another")
    assert text == f"x: no: {os.strerror(code)}; {advice}"


def test_an_error_without_a_reason_of_the_system_tells_its_text() -> None:
    assert refusal_text("x: no", OSError("odd"), otherwise="name another") == (
        "x: no: odd; name another"
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (os.ST_RDONLY, "Read-only file system; name another file"),
        (0, "Permission denied; correct the permissions or name another file"),
    ],
)
def test_an_older_file_that_may_not_be_replaced_tells_why(
    flags: int, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trace.json"
    path.write_text("older")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=flags))
    with pytest.raises(PreemptError) as caught:
        write_trace(path, TraceRecorder().trace())
    assert str(caught.value) == f"{path}: cannot write the trace: {expected}"
    assert path.read_text() == "older"
