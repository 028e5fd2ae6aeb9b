"""Run loop: turn after turn on the dispatching thread, from the beginning of a run to its end."""

from collections.abc import Callable

from preempt_runtime.agenda import Agenda
from preempt_runtime.clock import Clock
from preempt_runtime.dispatcher import Dispatcher
from preempt_runtime.gate_dispatcher import GateDispatcher
from preempt_runtime.inbox import Inbox
from preempt_runtime.job import NEVER_NS
from preempt_runtime.source import Source
from preempt_runtime.switch_interval import lowered_switch_interval


class RunLoop:
    """Driven by one thread at a time, which `Executor` sees to.

    `is_stopping`: the run is to end, or is ending, and takes in no more; with `drains` what was
    released before then runs to its end.
    """

    def __init__(
        self,
        dispatcher: Dispatcher | GateDispatcher,
        agenda: Agenda,
        inbox: Inbox,
        clock: Clock,
        switch_interval_s: float | None,
    ) -> None:
        self.is_stopping = False
        self.drains = True
        self._dispatcher = dispatcher
        self._agenda = agenda
        self._inbox = inbox
        self._clock = clock
        self._switch_interval_s = switch_interval_s
        self._origin_ns: int | None = None
        self._waiting_sources: list[Source] = []

    def turn(self) -> bool:
        """Take in what has arrived, then let the dispatcher do one thing, if there is any."""
        if self._inbox.messages:
            self._inbox.drain()
        return self._dispatcher.turn()

    def run(self, duration_ns: int | None, until: Callable[[], bool] | None) -> None:
        """Dispatch for a duration or until `until()`, or else until idle; then end what is left."""
        origin_ns = self._clock.now_ns()
        end_ns = None if duration_ns is None else origin_ns + duration_ns
        try:
            with lowered_switch_interval(self._switch_interval_s):
                self._begin(origin_ns, end_ns)
                self._turns(end_ns, until)
                self._finish()
        except BaseException:
            self._dispatcher.quiesce()
            self._inbox.drain()
            self._dispatcher.cancel_all()
            raise
        finally:
            self.is_stopping = False
            self._origin_ns = None
            self._agenda.horizon_ns = NEVER_NS

    def begin_source(self, source: Source) -> None:
        """Let it release jobs in the present run, or else in the next."""
        if self._origin_ns is None:
            self._waiting_sources.append(source)
        else:
            self._agenda.start_source(source, self._clock.now_ns())

    def _begin(self, origin_ns: int, end_ns: int | None) -> None:
        self._dispatcher.prepare()
        self._inbox.drain()  # sources that were added before the run count from its start
        self._origin_ns = origin_ns
        if end_ns is not None:
            self._agenda.horizon_ns = end_ns
        sources, self._waiting_sources = self._waiting_sources, []
        for source in sources:
            self._agenda.start_source(source, origin_ns)

    def _turns(self, end_ns: int | None, until: Callable[[], bool] | None) -> None:
        is_bounded = end_ns is not None or until is not None
        while until is None or not until():
            if end_ns is not None and self._clock.now_ns() >= end_ns:
                return
            if self.turn():
                continue
            due_ns = self._dispatcher.next_due_ns()
            if due_ns is None and not is_bounded:
                return
            self._clock.wait(end_ns if due_ns is None else due_ns, self._inbox.wake)

    def _finish(self) -> None:
        self.is_stopping = True
        self._inbox.drain()
        if self._agenda.horizon_ns == NEVER_NS:
            self._agenda.horizon_ns = self._clock.now_ns()
        self._agenda.close_sources()
        while self.drains:
            if self.turn():
                continue
            if not self._dispatcher.is_busy:
                break
            self._clock.wait(self._dispatcher.next_due_ns(), self._inbox.wake)
        self._dispatcher.cancel_all()
