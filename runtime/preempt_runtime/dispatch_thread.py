"""DispatchThread: an executor's own thread, from `start` to `stop`, and what ended it early."""

import logging
import threading
from collections.abc import Callable

from preempt_runtime.clock import Wake
from preempt_runtime.ownership import Ownership
from preempt_runtime.run_loop import RunLoop

_log = logging.getLogger("preempt_runtime.executor")


class DispatchThread:
    """Started and stopped from any thread, also by a job's own callbacks.

    `crash` is what made it end early, such as a policy that raised; `end_all` is then called on it.
    """

    def __init__(
        self, loop: RunLoop, ownership: Ownership, wake: Wake, end_all: Callable[[], None]
    ) -> None:
        self.crash: BaseException | None = None
        self._loop = loop
        self._ownership = ownership
        self._wake = wake
        self._end_all = end_all
        self._lock = threading.Lock()  # guards `_thread` and whom `is_stopping` means
        self._thread: threading.Thread | None = None

    def start(self, claim: Callable[[], None]) -> None:
        """Dispatch until `stop`; `claim` raises where somebody else drives the executor."""
        with self._lock:
            claim()
            self._loop.drains = True
            self._loop.is_stopping = False
            self._thread = threading.Thread(
                target=self._run, name="preempt-dispatcher", daemon=True
            )
            self._thread.start()

    def stop(self, *, drain: bool) -> None:
        """Return when the thread has ended; at once where that itself calls.

        Raises:
            BaseException: what made the dispatcher end early.
        """
        with self._lock:
            thread = self._thread
            if thread is None:
                return
            self._loop.drains = drain
            self._loop.is_stopping = True
            self._wake.set()
        if thread is threading.current_thread():
            return
        thread.join()
        with self._lock:
            if self._thread is thread:  # else another stop was faster, and perhaps a start, too
                self._loop.is_stopping = False
                self._thread = None
        if self.crash is not None:
            raise self.crash

    def _run(self) -> None:
        with self._ownership.reserved():
            try:
                self._loop.run(None, self._asked_to_stop)
            except BaseException as err:
                self.crash = err
                self._end_all()
                _log.error("the dispatcher ended, all jobs are cancelled: %s", err)

    def _asked_to_stop(self) -> bool:
        return self._loop.is_stopping
