"""Files that are read whole: regular ones, of bounded size."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from preempt_runtime.errors import InputError

_PIECE_BYTES = 64 << 10


def checked_path(path: str | Path, what: str) -> Path:
    """The path, if it is one: an empty one would be the current folder.

    Raises:
        InputError: it is neither a string nor a `Path`, or empty.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"{what}: found {repr(path)[:40]}, expected a path; give a str or a Path")
    if not os.fspath(path):
        raise InputError(f"{what}: the path is empty; write one")
    return Path(path)


def lost_working_directory() -> str | None:
    """Why no relative path can be resolved; None while the working directory is there."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return "the working directory was deleted; change to one that exists, and run this again"
    return None


def check_regular(path: Path, what: str) -> int:
    """The size in bytes of a regular file: a pipe or a device might never end.

    Args:
        path: the file.
        what: what messages call its content, such as `the trace`.

    Raises:
        InputError: there is no such file, or it is something else.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as err:
        reason = err.strerror if isinstance(err, OSError) else err
        raise InputError(f"{path}: cannot read {what}: {reason}; check the path") from err
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise InputError(f"{path}: cannot read {what}: it is {kind}; give a regular file")
    return status.st_size


def read_regular(path: Path, what: str, *, max_bytes: int) -> bytes:
    """The content of a regular file.

    Raises:
        InputError: as `check_regular`, or it cannot be read, or is larger.
    """
    size = check_regular(path, what)
    if size <= max_bytes:
        try:
            with path.open("rb") as file:
                content = _read_at_most(file, max_bytes + 1, expected_bytes=size)
        except OSError as err:
            raise InputError(
                f"{path}: cannot read {what}: {err.strerror}; check permissions"
            ) from err
        if len(content) <= max_bytes:
            return content
        size = len(content)
    raise InputError(f"{path}: {size} bytes, {what} has at most {max_bytes}; shorten it")


def _read_at_most(file: BinaryIO, max_bytes: int, *, expected_bytes: int) -> bytes:
    """What the file holds, up to `max_bytes`.

    Reading allocates what it asks for. So the first read asks for what the size says, and a byte
    more; others follow where a file has grown, or has no size, as those in /proc.
    """
    pieces: list[bytes] = []
    left, wanted = max_bytes, max(expected_bytes + 1, _PIECE_BYTES)
    while left and (piece := file.read(min(wanted, left))):
        pieces.append(piece)
        left -= len(piece)
        wanted = _PIECE_BYTES
    return b"".join(pieces)
