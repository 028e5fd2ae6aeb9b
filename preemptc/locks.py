"""Who works where: locks on files and folders, which the system frees when their process ends.

Also two threads of one process exclude each other: each holds a lock by a descriptor of its own.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from preempt_runtime.errors import BuildError


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file alone, as soon as nobody else does; it is made where it is not there.

    Raises:
        BuildError: something else stands in its place.
    """
    with _opened(_open_lock(path)) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock file alone; False, and at once, where somebody else does.

    Raises:
        BuildError: something else stands in its place.
    """
    with _opened(_open_lock(path)) as descriptor:
        yield _take(descriptor)


@contextlib.contextmanager
def at_work_in(folder: Path) -> Iterator[None]:
    """Keep `alone_in` from others, for as long as something is written there step by step.

    Any number of processes may be at work. In a folder that cannot be opened nobody is alone.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = stack.enter_context(_opened(_open_folder(folder)))
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """Whether nobody is at work in the folder; nobody begins before this ends."""
    with contextlib.ExitStack() as stack:
        is_alone = False
        with contextlib.suppress(OSError):
            is_alone = _take(stack.enter_context(_opened(_open_folder(folder))))
        yield is_alone


def _take(descriptor: int) -> bool:
    """Whether nobody else had the lock; it is held from then on."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _open_folder(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _open_lock(path: Path) -> int:
    """The lock's file, made where it is not there; opening it waits for nobody."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError as err:
        if err.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise _no_lock(path) from err
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _no_lock(path)
    return descriptor


@contextlib.contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _no_lock(path: Path) -> BuildError:
    return BuildError(f"{path}: a lock of the build cache, found no regular file; remove it")
