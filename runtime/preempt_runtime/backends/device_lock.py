"""One process owns a GPU whose gates decide who runs: a lock file that names the owner."""

import contextlib
import fcntl
import os
import stat
import tempfile
from pathlib import Path

from preempt_runtime.errors import DeviceError, GatesError

_MAX_NAME_BYTES = 200


class DeviceLock:
    """Held from its making to its `close`, or to the end of the process.

    The file stays; it is the lock on it that counts. It stands in the directory for temporary
    files, so that all users of the machine see the same one.

    Args:
        name: of the GPU, for messages.
        address: on the PCI bus, which tells it from others.

    Raises:
        GatesError: another process holds it.
        DeviceError: it cannot be made.
    """

    def __init__(self, name: str, address: str) -> None:
        self.path = Path(tempfile.gettempdir()) / f"preempt-rt-gpu-{address}.lock"
        self._descriptor = _opened(self.path)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            owner = os.read(self._descriptor, _MAX_NAME_BYTES).decode(errors="replace").strip()
            os.close(self._descriptor)
            if not isinstance(err, BlockingIOError):
                raise _refused(self.path, err) from err
            raise GatesError(
                f"{name}: another process runs jobs with gates on it:"
                f" {owner or 'it has not said which'}; end that one, or run with"
                " --mechanism segments"
            ) from err
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"process {os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let another process have the device; without effect the second time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> "DeviceLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opened(path: Path) -> int:
    """The file, made where it is not there; never through a link, never waiting for anybody.

    One that is there is opened without asking to make it: in a directory that everybody may write
    to, Linux refuses that for files of other users (fs.protected_regular).
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            descriptor = os.open(path, flags | os.O_CREAT, 0o666)
    except OSError as err:
        raise _refused(path, err) from err
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DeviceError(f"{path}: the GPU's lock file is no regular file; remove it")
    with contextlib.suppress(OSError):  # made by another user: his to change
        os.fchmod(descriptor, 0o666)
    return descriptor


def _refused(path: Path, err: OSError) -> DeviceError:
    return DeviceError(
        f"{path}: the GPU's lock file cannot be opened: {err.strerror}; remove it, or set"
        " TMPDIR to a directory that can be written"
    )
