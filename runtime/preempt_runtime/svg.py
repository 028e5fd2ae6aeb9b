"""What plots are drawn from, as SVG text: scales, round ticks, words. No plotting library."""

import math
from collections.abc import Callable
from html import escape

INK, GRID = "#222222", "#dddddd"

Scale = Callable[[float], float]


def scale(low: float, high: float, start: float, end: float) -> Scale:
    """A straight line from [low, high] to [start, end].

    >>> scale(0.0, 10.0, 100.0, 200.0)(2.5)
    125.0
    """
    return lambda value: start + (value - low) / (high - low) * (end - start)


def log_ticks(low: float, high: float) -> list[float]:
    """Values 1, 2 and 5 times powers of ten around [low, high]; powers alone where it is wide.

    >>> log_ticks(0.7, 9.0)
    [0.5, 1.0, 2.0, 5.0, 10.0]
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1
    steps = (1, 2, 5) if high / low < 1e4 else (1,)
    ticks = [step * 10.0**power for power in range(first, last) for step in steps]
    start = max(idx for idx, tick in enumerate(ticks) if tick <= low)
    end = min(idx for idx, tick in enumerate(ticks) if tick >= high)
    return ticks[start : max(end, start + 1) + 1]


def linear_ticks(low: float, high: float) -> list[float]:
    """Four to eleven round values around [low, high].

    >>> linear_ticks(0.0, 9.0)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    high = high if high > low else low + 1.0
    extent = high - low
    power = 10.0 ** math.floor(math.log10(extent))
    step = next(part * power for part in (0.2, 0.5, 1, 2) if extent <= 5 * part * power)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(idx * step, 12) for idx in range(first, last + 1)]


def words(
    x: float,
    y: float,
    text: str,
    anchor: str = "start",
    *,
    size: int = 12,
    is_upright: bool = False,
) -> str:
    """A line of text that begins, is centred ("middle") or ends ("end") at a place."""
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if is_upright else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
        f' fill="{INK}"{turn}>{escape(text)}</text>'
    )


def document(width: int, height: int, parts: list[str]) -> str:
    """The picture on white."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" font-family="sans-serif" font-size="12">'
    )
    ground = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, ground, *parts, "</svg>"]) + "\n"
