"""How long TensorRT builds, whoever asks it to."""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from preemptc.backends.tensorrt.engine_builder import EngineBuilder


@dataclass(slots=True)
class BuildTime:
    """Engines built, and the time that took, so far."""

    num_builds: int = 0
    time_ns: int = 0

    @property
    def seconds(self) -> float:
        """The time in seconds."""
        return self.time_ns / 1e9


@contextmanager
def counted_builds() -> Iterator[BuildTime]:
    """Counts every engine that is built meanwhile, of whichever builder; failed ones too.

    The builders' own counts would have to be found first: each set of options has one of its own.
    """
    found, build = BuildTime(), EngineBuilder.build

    @functools.wraps(build)
    def counted(self: EngineBuilder, *args: Any, **named: Any) -> bytes:
        start_ns = time.perf_counter_ns()
        try:
            return build(self, *args, **named)
        finally:
            found.num_builds += 1
            found.time_ns += time.perf_counter_ns() - start_ns

    EngineBuilder.build = counted  # type: ignore[method-assign]
    try:
        yield found
    finally:
        EngineBuilder.build = build  # type: ignore[method-assign]
