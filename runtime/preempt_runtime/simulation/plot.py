"""A sweep as an SVG picture: missed deadlines above, best-effort throughput below."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from preempt_runtime.simulation.points import SweepAxis, Value
from preempt_runtime.simulation.table import Estimate, PointResult
from preempt_runtime.svg import GRID, INK, Scale, document, linear_ticks, log_ticks, scale, words

_WIDTH, _LEFT, _RIGHT, _TOP = 720, 76, 24, 64
_PANEL, _GAP = 200, 34
_LEGEND_ROW = 18
_COLOURS = ("#1f5fa8", "#c4501b", "#2e7d32", "#7b3fa0", "#8a6d00", "#555555")
_DASHES = ("", "6 3", "2 3")
_LOG_FROM = 20  # a range of bounds this wide is spread out


Figure = Callable[[PointResult], Estimate | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """The points that differ in nothing but the horizontal axis."""

    name: str
    style: str
    colour: str
    points: tuple[tuple[float, PointResult], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Horizontal:
    """Where values lie on the horizontal axis, and what stands below it.

    `is_ordered` is False of names: nothing lies between two of them, so no line joins them.
    """

    at: Scale
    ticks: tuple[tuple[float, str], ...]
    is_ordered: bool = True


def sweep_svg(
    axes: Sequence[SweepAxis], results: Sequence[PointResult], *, title: str, label: str
) -> str:
    """An SVG document; the first axis of numbers is horizontal, the others become lines.

    Bars are 95 % confidence intervals over seeds.

    Args:
        axes: at least one.
        results: every combination of their values.
        title: stands above the picture.
        label: second line, such as how long and with which costs.
    """
    across = next((idx for idx, axis in enumerate(axes) if axis.key != "policy"), 0)
    lines = _lines(axes, across, results)
    horizontal = _horizontal(axes[across])
    panels: list[tuple[str, Figure]] = [("deadlines missed (%)", _missed)]
    if any(result.best_effort_per_s is not None for result in results):
        panels.append(("best effort (jobs/s)", _best_effort))
    parts = [words(_LEFT, 26, title, size=16), words(_LEFT, 46, label)]
    top = float(_TOP)
    for name, figure in panels:
        parts += _panel(top, name, lines, figure, horizontal)
        top += _PANEL + _GAP
    parts.append(words((_LEFT + _WIDTH - _RIGHT) / 2, top + 6, _unit(axes[across]), "middle"))
    has_legend = len(lines) > 1
    if has_legend:
        parts += [_legend_row(top + 28 + idx * _LEGEND_ROW, line) for idx, line in enumerate(lines)]
    height = round(top + 24 + (len(lines) * _LEGEND_ROW + 8 if has_legend else 0))
    return document(_WIDTH, height, parts)


def _unit(axis: SweepAxis) -> str:
    if axis.key == "max_segment":
        return f"longest segment{'' if axis.task is None else f' of {axis.task}'} (ms)"
    return "offered load (%)" if axis.key == "load" else axis.key


def _missed(result: PointResult) -> Estimate | None:
    found = result.miss_rate
    return None if found is None else _times(found, 100)


def _best_effort(result: PointResult) -> Estimate | None:
    return result.best_effort_per_s


def _times(found: Estimate, factor: float) -> Estimate:
    low, high = (None if end is None else factor * end for end in (found.low, found.high))
    return Estimate(mean=factor * found.mean, low=low, high=high)


def _lines(axes: Sequence[SweepAxis], across: int, results: Sequence[PointResult]) -> list[_Line]:
    others = [axis for idx, axis in enumerate(axes) if idx != across]
    found: dict[tuple[Value, ...], list[tuple[float, PointResult]]] = {}
    for result in results:
        rest = tuple(value for idx, value in enumerate(result.values) if idx != across)
        place = _place(axes[across], result.values[across])
        found.setdefault(rest, []).append((place, result))
    return [
        _Line(
            name=", ".join(
                str(value) if axis.key == "policy" else f"{axis.label} {axis.text_of(value)}"
                for axis, value in zip(others, rest, strict=True)
            ),
            colour=_COLOURS[idx % len(_COLOURS)],
            style=_DASHES[idx // len(_COLOURS) % len(_DASHES)],
            points=tuple(sorted(points, key=lambda point: point[0])),
        )
        for idx, (rest, points) in enumerate(found.items())
    ]


def _place(axis: SweepAxis, value: Value) -> float:
    """A value in the unit of the axis; names are numbered."""
    if axis.key == "policy":
        return float(axis.values.index(value))
    return 100 * float(value) if axis.key == "load" else float(value) / 1e6


def _horizontal(axis: SweepAxis) -> _Horizontal:
    places = sorted(_place(axis, value) for value in axis.values)
    start, end = _LEFT, _WIDTH - _RIGHT
    if axis.key == "policy":
        at = scale(-0.5, len(places) - 0.5, start, end)
        ticks_of_names = tuple((at(_place(axis, v)), str(v)) for v in axis.values)
        return _Horizontal(at=at, ticks=ticks_of_names, is_ordered=False)
    if axis.key == "max_segment" and places[-1] >= _LOG_FROM * places[0]:
        ticks = log_ticks(places[0], places[-1])
        log_at = scale(math.log(ticks[0]), math.log(ticks[-1]), start, end)
        return _Horizontal(
            at=lambda place: log_at(math.log(place)),
            ticks=tuple((log_at(math.log(tick)), f"{tick:g}") for tick in ticks),
        )
    ticks = linear_ticks(places[0], places[-1])
    at = scale(ticks[0], ticks[-1], start, end)
    return _Horizontal(at=at, ticks=tuple((at(tick), f"{tick:g}") for tick in ticks))


def _panel(
    top: float, name: str, lines: Sequence[_Line], figure: Figure, horizontal: _Horizontal
) -> list[str]:
    bottom = top + _PANEL
    estimates = [found for line in lines for _, r in line.points if (found := figure(r))]
    highest = max((max(each.mean, each.high or 0.0) for each in estimates), default=1.0)
    ticks = linear_ticks(0.0, highest or 1.0)
    up = scale(ticks[0], ticks[-1], bottom, top)
    parts = [words(18, (top + bottom) / 2, name, "middle", is_upright=True)]
    for tick in ticks:
        colour = INK if tick == 0 else GRID
        y = up(tick)
        parts.append(f'<path d="M{_LEFT - 4},{y:.1f}H{_WIDTH - _RIGHT}" stroke="{colour}"/>')
        parts.append(words(_LEFT - 10, y + 4, f"{tick:g}", "end"))
    for x, text in horizontal.ticks:
        parts.append(f'<path d="M{x:.1f},{top:.1f}V{bottom + 4:.1f}" stroke="{GRID}"/>')
        parts.append(words(x, bottom + 18, text, "middle"))
    for line in lines:
        parts += _drawn(line, figure, horizontal, up)
    return parts


def _drawn(line: _Line, figure: Figure, horizontal: _Horizontal, up: Scale) -> list[str]:
    """The line, its points with their values as tooltips, and their intervals."""
    places = [
        (horizontal.at(place), up(found.mean), found)
        for place, result in line.points
        if (found := figure(result)) is not None
    ]
    if not places:
        return []
    parts = []
    if horizontal.is_ordered:
        route = "L".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
        parts.append(
            f'<path d="M{route}" fill="none" stroke="{line.colour}" stroke-width="1.5"'
            f' stroke-dasharray="{line.style}"/>'
        )
    for x, y, found in places:
        if found.low is not None and found.high is not None:
            low, high = up(found.low), up(found.high)
            parts.append(f'<path d="M{x:.1f},{low:.1f}V{high:.1f}" stroke="{line.colour}"/>')
        hint = f"{line.name}: {found.mean:.4g}" if line.name else f"{found.mean:.4g}"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.colour}">'
            f"<title>{escape(hint)}</title></circle>"
        )
    return parts


def _legend_row(y: float, line: _Line) -> str:
    stroke = f'stroke="{line.colour}" stroke-width="1.5" stroke-dasharray="{line.style}"'
    return f'<path d="M{_LEFT},{y - 4:.1f}h24" {stroke}/>' + words(_LEFT + 32, y, line.name)
