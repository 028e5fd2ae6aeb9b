"""Reading a file whole: memory for what it holds, and all of it, whatever its size says."""

import os
import tracemalloc
from pathlib import Path

import pytest

from preempt_runtime import input_file
from preempt_runtime.errors import InputError
from preempt_runtime.input_file import read_regular

LARGE_BYTES = 256 << 20


def test_a_small_file_takes_no_memory_for_a_large_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5000)
    tracemalloc.start()
    try:
        assert read_regular(path, "the text", max_bytes=LARGE_BYTES) == b"x" * 5000
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 20


@pytest.mark.parametrize("said_bytes", [0, 10, 99_999, 100_000, 300_000])
def test_what_the_size_says_does_not_bound_what_is_read(
    said_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It grew or shrank since it was looked at, or is one of those that have no size."""
    path, content = tmp_path / "file", os.urandom(100_000) * 2
    path.write_bytes(content)
    monkeypatch.setattr(input_file, "check_regular", lambda path, what: said_bytes)
    assert read_regular(path, "the text", max_bytes=300_000) == content
    assert read_regular(path, "the text", max_bytes=max(said_bytes, 200_000)) == content
    with pytest.raises(InputError, match=r"\d+ bytes, the text has at most 199999; shorten it"):
        read_regular(path, "the text", max_bytes=199_999)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_file_without_a_size_is_read() -> None:
    path = Path("/proc/self/status")
    assert path.stat().st_size == 0
    assert b"VmPeak" in read_regular(path, "the status", max_bytes=LARGE_BYTES)


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="it is a pipe or a device; give a regular file"):
        read_regular(tmp_path / "pipe", "the text", max_bytes=10)
