"""Put a finished directory in the place of another one, so that a reader finds one of the two."""

import contextlib
import ctypes
import errno
import os
import shutil
from pathlib import Path

_AT_FDCWD = -100  # from Linux's fcntl.h: paths are relative to the working directory
_RENAME_EXCHANGE = 2  # from Linux's fs.h: both names stay, their directories change places
ASIDE_SUFFIX = ".old"


def swap_in(new: Path, place: Path) -> None:
    """Move the directory `new` to `place`; what stood there is removed.

    Where the system can exchange two names, `place` exists all the time. Elsewhere the older
    directory moves aside, to `new` with `ASIDE_SUFFIX`, and back if the second rename fails.
    """
    if not place.exists() and _moved(new, place):
        return
    if _exchange(new, place):
        shutil.rmtree(new, ignore_errors=True)
        return
    aside = new.with_name(f"{new.name}{ASIDE_SUFFIX}")
    os.replace(place, aside)
    try:
        os.replace(new, place)
    except BaseException:
        with contextlib.suppress(OSError):
            os.replace(aside, place)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _moved(new: Path, place: Path) -> bool:
    """Whether it could be renamed: False where another process has put its own there first."""
    try:
        os.replace(new, place)
    except OSError as err:
        if err.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _exchange(left: Path, right: Path) -> bool:
    """Exchange two directories at once; False where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    paths = (_AT_FDCWD, os.fsencode(left), _AT_FDCWD, os.fsencode(right))
    return bool(rename(*paths, _RENAME_EXCHANGE) == 0)
