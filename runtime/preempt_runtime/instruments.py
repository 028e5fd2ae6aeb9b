"""Calls observers, and disables one that raises."""

import logging
from collections.abc import Callable, Iterable

from preempt_runtime.records import Instrument, JobRecord, SegmentRecord

_log = logging.getLogger(__name__)


class Instruments:
    """The observers of one executor, in the order in which they were given.

    Their methods are looked up once: a turn must not pay for it.
    """

    __slots__ = ("_ended", "_released", "_segment_ended", "active")

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self._install(tuple(instruments))

    def job_released(self, job_id: int, task: str, release_ns: int) -> None:
        """Tell all of them."""
        for hook in self._released:
            try:
                hook(job_id, task, release_ns)
            except Exception as err:
                self._disable(hook, err)

    def segment_ended(self, record: SegmentRecord) -> None:
        """Tell all of them."""
        for hook in self._segment_ended:
            try:
                hook(record)
            except Exception as err:
                self._disable(hook, err)

    def job_ended(self, record: JobRecord) -> None:
        """Tell all of them."""
        for hook in self._ended:
            try:
                hook(record)
            except Exception as err:
                self._disable(hook, err)

    def _install(self, instruments: tuple[Instrument, ...]) -> None:
        self.active = instruments
        self._released = tuple(instrument.job_released for instrument in instruments)
        self._segment_ended = tuple(instrument.segment_ended for instrument in instruments)
        self._ended = tuple(instrument.job_ended for instrument in instruments)

    def _disable(self, hook: Callable[..., None], err: Exception) -> None:
        broken = next(instrument for instrument in self.active if _has_hook(instrument, hook))
        self._install(tuple(other for other in self.active if other is not broken))
        _log.error(
            "instrument %s raised %s: %s; it is disabled, the run goes on",
            type(broken).__name__,
            type(err).__name__,
            err,
        )


def _has_hook(instrument: Instrument, hook: Callable[..., None]) -> bool:
    return hook in (instrument.job_released, instrument.segment_ended, instrument.job_ended)
