"""Waiting for the GPU with a limit: one that hangs must not take the process with it."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from preempt_runtime.backends.cuda import Event, Stream
from preempt_runtime.errors import DeviceError

_RESTART = (
    "the GPU hangs, or what it runs waits for ever: end this process, which may have to be killed,"
    " and start it again"
)
_KEPT: list[object] = []  # what a GPU that hangs still uses, until the process ends
_SPIN_NS = 200_000
_PAUSE_S = 100e-6

_log = logging.getLogger("preempt_runtime.backends.cuda")


class HangError(DeviceError):
    """Work that should have ended long ago: nothing that waits for the GPU may be called now."""


def await_streams(streams: Sequence[Stream], *, limit_ns: int, what: str) -> None:
    """Return when all that the streams hold now has completed; never wait in the driver.

    What is enqueued meanwhile is not waited for.

    Args:
        streams: of the current context.
        limit_ns: after which this gives up.
        what: that is waited for, for the message.

    Raises:
        HangError: it had not by then.
        DeviceError: some of it failed.
    """
    begin_ns = time.monotonic_ns()
    with ExitStack() as stack:
        events = [stack.enter_context(Event(timing=False)) for _ in streams]
        for event, stream in zip(events, streams, strict=True):
            event.record(stream)
        for event in events:
            while not event.is_done():
                waited_ns = time.monotonic_ns() - begin_ns
                if waited_ns > limit_ns:
                    raise HangError(f"{what}: not done after {limit_ns / 1e9:.3g} s")
                if waited_ns > _SPIN_NS:
                    time.sleep(_PAUSE_S)


class HangGuard:
    """Whether the GPU hangs: then no driver call that waits for it returns, so none is made.

    Args:
        name: of the GPU.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._reason: str | None = None

    @property
    def is_hanging(self) -> bool:
        """It was found to hang."""
        return self._reason is not None

    def check(self) -> None:
        """Return as long as it is not known to hang.

        Raises:
            DeviceError: it does, and what to do.
        """
        if self._reason is not None:
            raise DeviceError(self._reason)

    def found(self, stuck: str) -> DeviceError:
        """Note that it hangs, by what does not end; the error to raise."""
        if self._reason is None:
            self._reason = f"{self._name}: {stuck}; {_RESTART}"
            _log.error("%s", self._reason)
        return DeviceError(self._reason)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note it where something in the block waits in vain.

        Raises:
            DeviceError: instead of `HangError`.
        """
        try:
            yield
        except HangError as err:
            raise self.found(str(err)) from err

    def keep(self, used: object) -> None:
        """Hold what the GPU uses to the end of the process: to release it would wait for ever."""
        _KEPT.append(used)
