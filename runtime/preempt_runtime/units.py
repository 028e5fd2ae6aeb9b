"""Durations and sizes as people write them, to and from integer nanoseconds and bytes."""

import re

from preempt_runtime.errors import InputError

_NS_PER_UNIT = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "min": 60_000_000_000}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|ms|s|min)", re.ASCII)
MAX_NS = 10**18  # 31 years: longer is a typing error, and int64 holds it


def parse_duration_ns(text: str) -> int:
    """Integer nanoseconds of a duration such as `3ms`, `1.5 s`, `250us`.

    Raises:
        InputError: no number with a unit, or longer than 31 years.

    >>> parse_duration_ns("1.5ms")
    1500000
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InputError(f"{text!r} is not a duration; write a number and ns, us, ms, s or min")
    value_ns = float(match[1]) * _NS_PER_UNIT[match[2]]
    if value_ns > MAX_NS:  # before it is rounded: so many digits may make infinity
        raise InputError(f"{text[:40]!r} is longer than 31 years; check the unit")
    return round(value_ns)


def fmt_ns(value_ns: float) -> str:
    """A duration for people, three significant digits.

    >>> fmt_ns(1_234_567), fmt_ns(850), fmt_ns(2_500_000_000), fmt_ns(999_999)
    ('1.23 ms', '850 ns', '2.5 s', '1 ms')
    """
    for unit, scale in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if abs(value_ns) >= 0.9995 * scale:  # what rounds to 1000 of the smaller unit, too
            return f"{_three_digits(value_ns / scale)} {unit}"
    return f"{value_ns:.0f} ns"


def fmt_exact_ns(value_ns: int) -> str:
    """A duration as an option or a task set takes it, not rounded.

    >>> [fmt_exact_ns(ns) for ns in (12_300_000, 1_234_567, 50_000, 2_000_000_000)]
    ['12.3ms', '1234.567us', '50us', '2s']
    """
    for unit, scale in (("s", 10**9), ("ms", 10**6), ("us", 1000)):
        if value_ns >= scale and value_ns % (scale // 1000) == 0:
            whole, rest = divmod(value_ns, scale)
            digits = f"{rest * 1000 // scale:03d}".rstrip("0")
            return f"{whole}.{digits}{unit}" if digits else f"{whole}{unit}"
    return f"{value_ns}ns"


def rounded_up_ns(value_ns: int) -> int:
    """Three significant digits, rounded up, so that what is shown is what was verified.

    >>> rounded_up_ns(12_345_678), rounded_up_ns(999)
    (12400000, 999)
    """
    step: int = 10 ** max(0, len(str(value_ns)) - 3)
    return -(-value_ns // step) * step


def rounded_down_ns(value_ns: int) -> int:
    """Three significant digits, rounded down.

    >>> rounded_down_ns(12_345_678)
    12300000
    """
    step: int = 10 ** max(0, len(str(value_ns)) - 3)
    return value_ns // step * step


def _three_digits(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def fmt_bytes(num_bytes: float) -> str:
    """A size for people, in binary units.

    >>> fmt_bytes(3 * 1024 * 1024), fmt_bytes(12), fmt_bytes(1020 * 1024)
    ('3 MiB', '12 B', '1020 KiB')
    """
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if abs(num_bytes) >= scale:
            return f"{_three_digits(num_bytes / scale)} {unit}"
    return f"{num_bytes:.0f} B"


def fmt_count(number: int, noun: str) -> str:
    """How many of something there are.

    >>> fmt_count(1, "segment"), fmt_count(0, "segment"), fmt_count(2, "gate")
    ('1 segment', '0 segments', '2 gates')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def printable(text: str) -> str:
    r"""The text in one line, without what a terminal would obey: names come from outside.

    >>> printable("ev\x1b[31mil\nname")
    'ev\\x1b[31mil\\nname'
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
