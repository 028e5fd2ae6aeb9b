"""When a task releases its jobs: seeded, replayable streams of release offsets.

An arrival is a frozen value; `release_offsets` turns it into a lazy, non-decreasing iterator of
integer nanoseconds from the start of the run. The same arrival, seed and task name give the same
offsets on every machine. A `ClosedLoop` has no offsets of its own: its next release depends on
when the previous job ended, so the executor makes it.
"""

import json
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preempt_runtime.errors import InputError
from preempt_runtime.input_file import read_regular
from preempt_runtime.units import MAX_NS, parse_duration_ns

MAX_TRACE_BYTES = 64 << 20
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Periodic:
    """Job k is released at `offset + k * period`, late by a uniform part of [0, `jitter`]."""

    period_ns: int
    offset_ns: int = 0
    jitter_ns: int = 0

    def __post_init__(self) -> None:
        _require("period", self.period_ns, at_least=1)
        _require("offset", self.offset_ns, at_least=0)
        _require("jitter", self.jitter_ns, at_least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sporadic:
    """Gaps of `min_interval` plus an exponential extra, so that their mean is `mean_interval`."""

    min_interval_ns: int
    mean_interval_ns: int

    def __post_init__(self) -> None:
        _require("min_interval", self.min_interval_ns, at_least=1)
        _require("mean_interval", self.mean_interval_ns, at_least=self.min_interval_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Poisson:
    """Independent releases, `rate_per_s` of them a second on average."""

    rate_per_s: float

    def __post_init__(self) -> None:
        if not _NS_PER_S / MAX_NS <= self.rate_per_s <= _NS_PER_S:
            raise InputError(
                f"rate is {self.rate_per_s:g} per second, allowed 1e-9 (one in 31 years) to 1e9"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoop:
    """The next job is released `think_ns` after the previous one ended."""

    think_ns: int = 0

    def __post_init__(self) -> None:
        _require("think", self.think_ns, at_least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Releases at recorded offsets, then no more."""

    offsets_ns: tuple[int, ...]

    def __post_init__(self) -> None:
        last_ns = 0
        for idx, offset_ns in enumerate(self.offsets_ns):
            if not last_ns <= offset_ns <= MAX_NS:
                raise InputError(
                    f"release {idx} is at {offset_ns} ns, allowed {last_ns} (the release before"
                    f" it, or the start) to {MAX_NS}; sort the trace and check its unit"
                )
            last_ns = offset_ns


OpenArrival = Periodic | Sporadic | Poisson | Recorded
Arrival = OpenArrival | ClosedLoop


def release_offsets(arrival: OpenArrival, *, seed: int, task: str) -> Iterator[int]:
    """Release offsets in ns from the start of the run: lazy, non-decreasing, replayable.

    Endless, but for a `Recorded` arrival.

    >>> arrival = Periodic(period_ns=20, offset_ns=5)
    >>> offsets = release_offsets(arrival, seed=0, task="camera")
    >>> next(offsets), next(offsets), next(offsets)
    (5, 25, 45)
    """
    # A string seed is hashed with SHA-512: the same stream on every Python and platform.
    rng = random.Random(f"{seed}/{task}")
    if isinstance(arrival, Recorded):
        return iter(arrival.offsets_ns)
    if isinstance(arrival, Periodic):
        return _periodic(arrival, rng)
    if isinstance(arrival, Sporadic):
        return _sporadic(arrival, rng)
    return _poisson(arrival, rng)


def releases_per_s(arrival: Arrival) -> float:
    """How many jobs are released a second on average, whatever becomes of them.

    0 of a closed loop, which waits for its jobs, and of a recorded arrival, which ends.

    >>> releases_per_s(Periodic(period_ns=20_000_000))
    50.0
    """
    match arrival:
        case Periodic():
            return _NS_PER_S / arrival.period_ns
        case Sporadic():
            return _NS_PER_S / arrival.mean_interval_ns
        case Poisson():
            return arrival.rate_per_s
        case _:
            return 0.0


def read_trace(path: Path) -> Recorded:
    """The releases of a trace file: a JSON list, or one release a line (`#` starts a comment).

    A bare integer is nanoseconds; a duration with its unit, such as `12.5ms`, is taken as such.

    Raises:
        InputError: unreadable, too large, no releases, not sorted, or not a number; the message
            names the file and the release.
    """
    content = read_regular(path, "the trace", max_bytes=MAX_TRACE_BYTES)
    try:
        text = content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as err:
        raise InputError(f"{path}: not a text file ({err.reason} at byte {err.start})") from err
    entries = _json_entries(text, path) if text.lstrip().startswith("[") else _line_entries(text)
    offsets_ns = tuple(_offset_ns(entry, f"{path}, {place}") for place, entry in entries)
    if not offsets_ns:
        raise InputError(f"{path}: no releases; write one a line, such as 12.5ms")
    try:
        return Recorded(offsets_ns=offsets_ns)
    except InputError as err:
        raise InputError(f"{path}: {err}") from err


def first_too_early(offsets_ns: Iterable[int], *, period_ns: int, jitter_ns: int) -> int | None:
    """The index of the first release that a period and its jitter do not allow; None if all are.

    They are if nominal releases exist, a period or more apart, of which each comes at most the
    jitter before its release: the earliest ones are tried.

    >>> first_too_early((0, 20, 38, 57), period_ns=20, jitter_ns=2)
    3
    """
    nominal_ns = -period_ns - jitter_ns
    for idx, offset_ns in enumerate(offsets_ns):
        nominal_ns = max(nominal_ns + period_ns, offset_ns - jitter_ns)
        if nominal_ns > offset_ns:
            return idx
    return None


def _periodic(arrival: Periodic, rng: random.Random) -> Iterator[int]:
    nominal_ns, last_ns = arrival.offset_ns, 0
    while True:
        late_ns = math.floor(rng.random() * (arrival.jitter_ns + 1))
        # Jitter above the period could overtake the release before: then both come together.
        last_ns = max(last_ns, nominal_ns + late_ns)
        yield last_ns
        nominal_ns += arrival.period_ns


def _sporadic(arrival: Sporadic, rng: random.Random) -> Iterator[int]:
    mean_extra_ns = arrival.mean_interval_ns - arrival.min_interval_ns
    release_ns = _exponential_ns(rng, mean_extra_ns)
    while True:
        yield release_ns
        release_ns += arrival.min_interval_ns + _exponential_ns(rng, mean_extra_ns)


def _poisson(arrival: Poisson, rng: random.Random) -> Iterator[int]:
    release_ns = 0
    while True:
        release_ns += _exponential_ns(rng, _NS_PER_S / arrival.rate_per_s)
        yield release_ns


def _exponential_ns(rng: random.Random, mean_ns: float) -> int:
    return round(-math.log(1.0 - rng.random()) * mean_ns)


def _json_entries(text: str, path: Path) -> list[tuple[str, Any]]:
    try:
        entries: list[Any] = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise InputError(f"{path}: not a JSON list of releases ({err})") from err
    return [(f"release {idx}", entry) for idx, entry in enumerate(entries)]


def _line_entries(text: str) -> list[tuple[str, str]]:
    lines = (
        (number, line.partition("#")[0].strip()) for number, line in enumerate(text.split("\n"), 1)
    )
    return [(f"line {number}", line) for number, line in lines if line]


def _offset_ns(entry: object, where: str) -> int:
    if isinstance(entry, int) and not isinstance(entry, bool):
        return entry
    if isinstance(entry, str):
        try:
            return int(entry) if entry.lstrip("-").isdecimal() else parse_duration_ns(entry)
        except (InputError, ValueError) as err:
            raise InputError(
                f"{where}: {entry[:40]!r} is not a release; write whole ns, or 12.5ms"
            ) from err
    raise InputError(f"{where}: {str(entry)[:40]!r} is not a release; write whole ns, or 12.5ms")


def _require(what: str, found_ns: int, *, at_least: int) -> None:
    if not at_least <= found_ns <= MAX_NS:
        raise InputError(
            f"{what} is {found_ns} ns, allowed {at_least} ns to {MAX_NS} ns (31 years)"
        )
