"""What an operating system's refusal to write says to people: its reason, and what helps."""

import errno
import os
from pathlib import Path

_REMEDIES = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space",
    errno.EFBIG: "allow larger files (`ulimit -f`)",
    errno.EACCES: "correct the permissions",
    errno.EPERM: "correct the permissions",
}


def refusal_text(what: str, err: OSError, *, otherwise: str) -> str:
    """One line: what cannot be written, the system's reason, and advice that fits the reason.

    >>> full = OSError(errno.ENOSPC, "No space left on device")
    >>> refusal_text("a.svg: cannot be written", full, otherwise="name another file")
    'a.svg: cannot be written: No space left on device; free space or name another file'
    >>> fixed = OSError(errno.EROFS, "Read-only file system")
    >>> refusal_text("a.svg: cannot be written", fixed, otherwise="name another file")
    'a.svg: cannot be written: Read-only file system; name another file'

    Args:
        what: the place, and that it cannot be written.
        err: what the system raised.
        otherwise: what always helps, such as another place.
    """
    remedy = _REMEDIES.get(err.errno) if err.errno is not None else None
    advice = otherwise if remedy is None else f"{remedy} or {otherwise}"
    return f"{what}: {err.strerror or err}; {advice}"


def access_refusal(path: Path, place: Path | None = None) -> OSError:
    """The reason why `os.access` says that a path is not to be written, which does not tell it.

    Args:
        path: what the error names.
        place: what is there, if the path is a link to it.
    """
    is_read_only = os.statvfs(place or path).f_flag & os.ST_RDONLY
    code = errno.EROFS if is_read_only else errno.EACCES
    return OSError(code, os.strerror(code), str(path))
