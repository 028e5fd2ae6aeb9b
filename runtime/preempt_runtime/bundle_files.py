"""Files of a bundle: regular ones, reached through directories of the bundle alone, then hashed."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preempt_runtime.errors import BundleError
from preempt_runtime.manifest import Artefact

COMPILE_AGAIN = "compile the bundle again"
_CHUNK_BYTES = 1 << 20
_OPEN_FLAGS = os.O_RDONLY
for _flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):  # not every system has each
    _OPEN_FLAGS |= getattr(os, _flag, 0)


def lstat_inside(root: Path, relative: str) -> os.stat_result:
    """State of a regular file below `root` that is reached through directories only."""
    path = root
    *folders, _ = components = relative.split("/")
    try:
        for idx, component in enumerate(components):
            path = path / component
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode):
                raise BundleError(f"{path}: a link, a bundle holds none; {COMPILE_AGAIN}")
            is_right = stat.S_ISDIR if idx < len(folders) else stat.S_ISREG
            if not is_right(found.st_mode):
                expected = "a directory" if idx < len(folders) else "a regular file"
                raise BundleError(f"{path}: not {expected}; {COMPILE_AGAIN}")
        if not path.resolve(strict=True).is_relative_to(root):  # mounts and junctions are no links
            raise BundleError(f"{path}: outside the bundle {root}; {COMPILE_AGAIN}")
    except (FileNotFoundError, NotADirectoryError) as err:
        raise BundleError(f"{path}: missing, the manifest lists it; {COMPILE_AGAIN}") from err
    except (OSError, ValueError) as err:
        raise BundleError(f"{path}: cannot be read ({err}); check permissions and path") from err
    return found


@contextmanager
def open_inside(root: Path, relative: str) -> Iterator[int]:
    """A descriptor of the very file that `lstat_inside` found."""
    before = lstat_inside(root, relative)
    path = root / relative
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
    except OSError as err:
        raise BundleError(f"{path}: cannot be read ({err}); check permissions") from err
    try:
        if not os.path.samestat(before, os.fstat(descriptor)):
            raise BundleError(f"{path}: replaced while it was opened; try again")
        yield descriptor
    except OSError as err:
        raise BundleError(f"{path}: cannot be read ({err}); check the disk") from err
    finally:
        os.close(descriptor)


def chunks(descriptor: int, num_bytes: int) -> Iterator[bytes]:
    """The file's content, at most one byte more than `num_bytes`."""
    left = num_bytes + 1
    while left > 0 and (chunk := os.read(descriptor, min(left, _CHUNK_BYTES))):
        left -= len(chunk)
        yield chunk


def check_file(root: Path, artefact: Artefact) -> None:
    """Return when the file's content is what the manifest says.

    Raises:
        BundleError: missing, no regular file, another size or hash.
    """
    digest, num_bytes = hashlib.sha256(), 0
    with open_inside(root, artefact.path) as descriptor:
        check_size(root, artefact, os.fstat(descriptor).st_size)
        for chunk in chunks(descriptor, artefact.num_bytes):
            digest.update(chunk)
            num_bytes += len(chunk)
    check_size(root, artefact, num_bytes)
    check_hash(root, artefact, digest.hexdigest())


def check_size(root: Path, artefact: Artefact, num_bytes: int) -> None:
    """Return when the file has as many bytes as the manifest says."""
    if num_bytes != artefact.num_bytes:
        raise BundleError(
            f"{root / artefact.path}: {num_bytes} bytes, the manifest says"
            f" {artefact.num_bytes}; {COMPILE_AGAIN}"
        )


def check_hash(root: Path, artefact: Artefact, sha256: str) -> None:
    """Return when the file has the hash that the manifest says."""
    if sha256 != artefact.sha256:
        raise BundleError(
            f"{root / artefact.path}: sha256 {sha256}, the manifest says {artefact.sha256};"
            f" damaged, {COMPILE_AGAIN}"
        )


def files_below(root: Path) -> Iterator[str]:
    """Everything below `root` that is no directory, links to directories included."""

    def refuse(err: OSError) -> None:
        raise BundleError(f"{err.filename}: cannot be read ({err.strerror}); check permissions")

    for folder, folders, files in os.walk(root, onerror=refuse):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in files + links:
            yield Path(folder, name).relative_to(root).as_posix()
