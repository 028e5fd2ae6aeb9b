"""Times of captured graphs on the device: a chain and the whole network in turn."""

import gc
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from preempt_runtime.backends.cuda import Event, Stream

_WARM_UP_ROWS = 10
_MAX_ROWS = 1000


class Launched(Protocol):
    """Work that one call enqueues, such as a captured graph."""

    def launch(self, stream: Stream) -> None:
        """Enqueue it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One turn: each segment, the chain without events in it, the whole network."""

    segments_ns: tuple[int, ...]
    chained_ns: int
    whole_ns: int


def time_in_turn(
    chain: Sequence[Launched],
    whole: Sequence[Launched],
    stream: Stream,
    *,
    min_rows: int,
    budget_ns: int,
) -> list[Row]:
    """Rows by CUDA events, after a warm-up; graphs follow each other without the host.

    A short graph before each measured stretch hides the launch of what follows it, so that the
    times are the device's and not the host's.
    """
    rows: list[Row] = []
    with ExitStack() as stack:
        marks = [stack.enter_context(Event(timing=True)) for _ in range(len(chain) + 1)]
        pair = [stack.enter_context(Event(timing=True)) for _ in range(4)]
        gc.collect()
        begin_ns = time.perf_counter_ns()
        while len(rows) < min_rows + _WARM_UP_ROWS or (
            len(rows) < _MAX_ROWS and time.perf_counter_ns() - begin_ns < budget_ns
        ):
            rows.append(_row(chain, whole, stream, marks, pair))
    return rows[_WARM_UP_ROWS:]


def _row(
    chain: Sequence[Launched],
    whole: Sequence[Launched],
    stream: Stream,
    marks: Sequence[Event],
    pair: Sequence[Event],
) -> Row:
    for graph in whole:  # the device is busy while the host enqueues what is measured
        graph.launch(stream)
    marks[0].record(stream)
    for graph, mark in zip(chain, marks[1:], strict=True):
        graph.launch(stream)
        mark.record(stream)
    for graphs, begin, end in ((chain, pair[0], pair[1]), (whole, pair[2], pair[3])):
        begin.record(stream)
        for graph in graphs:
            graph.launch(stream)
        end.record(stream)
    stream.synchronize()
    return Row(
        segments_ns=tuple(end.elapsed_ns(begin) for begin, end in pairwise(marks)),
        chained_ns=pair[1].elapsed_ns(pair[0]),
        whole_ns=pair[3].elapsed_ns(pair[2]),
    )
