"""Writing a file that was asked for: devices and links stay, nothing is half there."""

import os
import resource
import stat
import threading
from pathlib import Path

import pytest

from preempt_runtime.errors import InputError
from preempt_runtime.output_file import check_output, write_output


def test_a_file_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write_output(path, b"first")
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600
    path.chmod(0o640)
    write_output(path, b"second")
    assert path.read_bytes() == b"second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [found.name for found in tmp_path.iterdir()] == ["out"]


def test_a_link_stays_and_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to("folder/out")
    for content in (b"first", b"second"):  # the file is not there yet, then it is
        write_output(link, content)
        assert link.is_symlink()
        assert (tmp_path / "folder" / "out").read_bytes() == content
    assert os.listdir(tmp_path / "folder") == ["out"]


def test_a_fifo_is_written_to(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    content, found = b"x" * 200_000, []  # more than a pipe holds
    reader = threading.Thread(target=lambda: found.append(fifo.read_bytes()))
    reader.start()
    write_output(fifo, content)
    reader.join(timeout=30)
    assert found == [content]
    assert stat.S_ISFIFO(fifo.lstat().st_mode)
    assert os.listdir(tmp_path) == ["fifo"]


def test_a_character_device_is_written_to(tmp_path: Path) -> None:
    leader, follower = os.openpty()
    try:
        device = Path(os.ttyname(follower))
        (tmp_path / "link").symlink_to(device)
        check_output(tmp_path / "link")
        write_output(tmp_path / "link", b"text")
        assert os.read(leader, 100) == b"text"
        assert stat.S_ISCHR(device.stat().st_mode)
    finally:
        os.close(leader)
        os.close(follower)


def test_a_full_disk_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write_output(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_output(path, bytes(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_directory_a_loop_and_an_input_are_refused(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_bytes(b"mine")
    os.link(given, tmp_path / "second name")
    (tmp_path / "loop").symlink_to("loop")
    for path, message in (
        (tmp_path, "is a directory"),
        (tmp_path / "loop", "Too many levels"),
        (given / "below", "Not a directory"),
        (tmp_path / "second name", "is an input of this command"),
        (Path("nul\0"), "null byte"),
    ):
        with pytest.raises(InputError, match=message):
            check_output(path, files=(given, tmp_path / "missing"))
    check_output(tmp_path / "new", files=(given,), folders=(tmp_path / "other",))


def test_what_no_command_writes_is_not_replaced(tmp_path: Path) -> None:
    """Such as `--trace net.onnx`, where the network was meant by another option."""
    for name, what in (("a.onnx", "a network"), ("b.NPZ", "recorded"), ("c.toml", "a task set")):
        check_output(tmp_path / name)
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(InputError, match=f"{name}: is there already, .* {what}.*another file"):
            check_output(tmp_path / name)
