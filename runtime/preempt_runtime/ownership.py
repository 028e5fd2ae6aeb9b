"""Which thread drives the dispatcher: at most one, and whoever asks can tell whether it is he."""

import contextlib
import threading
from collections.abc import Iterator


class Ownership:
    """A lock that knows its owner, so that what a job's callback calls does not wait for itself."""

    __slots__ = ("_lock", "_owner")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread is inside `reserved`."""
        return self._owner == threading.get_ident()

    def reserve(self) -> bool:
        """Whether it was free; then `reserved` must follow, on this thread or one it starts."""
        return self._lock.acquire(blocking=False)

    @contextlib.contextmanager
    def reserved(self) -> Iterator[None]:
        """What was reserved is the calling thread's until the block ends, then free."""
        self._owner = threading.get_ident()
        try:
            yield
        finally:
            self._owner = None
            self._lock.release()
