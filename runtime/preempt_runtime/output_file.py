"""Files that a command was asked to write: whole or not at all, and never over its own inputs.

Links are followed. A regular file is replaced by one rename; a character device or a FIFO, such
as `/dev/null`, a terminal or a pipe, is written to, for a rename would remove it.
"""

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from preempt_runtime.errors import InputError
from preempt_runtime.input_file import read_regular
from preempt_runtime.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, SCHEMA
from preempt_runtime.write_refusal import access_refusal

_ONLY_READ = {".onnx": "a network", ".npz": "recorded inputs", ".toml": "a task set"}


def check_output(path: Path, *, files: Iterable[Path] = (), folders: Iterable[Path] = ()) -> None:
    """Return if `path` may be written, as far as can be told before there is something to write.

    Args:
        path: where the output will go.
        files: what the command reads; those that do not exist count for nothing.
        folders: bundles that it reads; nothing is written into them, nor into any other.

    Raises:
        InputError: it is a directory or no place for a file, an input of the command, in a bundle,
            or there already as what no command writes: a network, recorded inputs, a task set.
    """
    status = _status(path)
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path}: is a directory; name a file to write")
    if status is not None and not _is_writable_kind(status):
        raise InputError(f"{path}: is a block device or a socket; name a file to write")
    for file in files:
        if status is not None and (read := _status(file)) and os.path.samestat(status, read):
            raise InputError(f"{path}: is an input of this command; write to another file")
    if status is not None and path.suffix.lower() in _ONLY_READ:
        raise InputError(
            f"{path}: is there already, and by its name {_ONLY_READ[path.suffix.lower()]}, which no"
            " command writes; name another file"
        )
    given = (each for each in folders if lies_in(path, each))
    if (folder := next(given, None) or bundle_around(path)) is not None:
        raise InputError(
            f"{path}: lies in the bundle {folder}, which holds nothing else; write to another place"
        )


def lies_in(path: Path, folder: Path) -> bool:
    """Whether what the path leads to is the folder or below it."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def bundle_around(path: Path) -> Path | None:
    """The finished bundle that the path leads into; None if there is none."""
    return next(filter(_is_bundle, Path(os.path.realpath(path)).parents), None)


def _is_bundle(folder: Path) -> bool:
    try:
        content = read_regular(folder / MANIFEST_NAME, "the manifest", max_bytes=MAX_MANIFEST_BYTES)
        document = json.loads(content)
    except (InputError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("schema") == SCHEMA


def write_output(path: Path, content: bytes) -> None:
    """Write `content` to `path`: a reader of a regular file sees all of it or the older one.

    Raises:
        OSError: it cannot be written there; nothing stays half-written.
    """
    status = _status(path)
    if status is not None and stat.S_ISBLK(status.st_mode):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
    if status is not None and not _is_replaceable(status):
        with _opened(path, os.O_WRONLY | os.O_APPEND) as descriptor:
            _write(descriptor, content)
        return
    place = Path(os.path.realpath(path))
    if status is not None and not os.access(place, os.W_OK):
        raise access_refusal(path, place)
    part = place.with_name(f".tmp-{secrets.token_hex(8)}")
    try:
        with _opened(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
            _write(descriptor, content)
            if status is not None:
                os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
        os.replace(part, place)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def _status(path: Path) -> os.stat_result | None:
    """State of what the path leads to; None if there is nothing yet.

    Raises:
        InputError: no path: too long, a loop of links, or below a file.
    """
    try:
        return path.stat()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as err:
        reason = err.strerror if isinstance(err, OSError) else str(err)
        raise InputError(f"{path}: cannot be a file ({reason}); name another") from err


def _is_writable_kind(status: os.stat_result) -> bool:
    return any(test(status.st_mode) for test in (stat.S_ISREG, stat.S_ISCHR, stat.S_ISFIFO))


def _is_replaceable(status: os.stat_result) -> bool:
    """Regular, and not what this process itself prints to, as with `> log` and `/dev/stdout`."""
    if not stat.S_ISREG(status.st_mode):
        return False
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(status, os.fstat(descriptor)):
                return False
    return True


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
