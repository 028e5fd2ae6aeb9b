"""Pareto fronts and curves as SVG pictures, written without any plotting library."""

import math
from collections.abc import Mapping, Sequence

from preempt_runtime.errors import InputError
from preempt_runtime.svg import GRID, INK, document, linear_ticks, log_ticks, scale, words
from preempt_runtime.units import fmt_ns

_WIDTH, _HEIGHT = 720, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 24, 64, 60
_LINE = "#1f5fa8"
_LEAST_PERCENT = 0.01  # less than this is no overhead, and no scale

_LEGEND_LEFT, _LEGEND_TOP = _LEFT + 130, _TOP + 90
_COLOURS = ("#1f5fa8", "#c2410c", "#15803d", "#7c3aed", "#6b7280")
_DASHES = ("", "8 3", "2 3", "10 3 2 3", "4 2")

FrontPoint = tuple[int, float, int]


def pareto_svg(points: Sequence[FrontPoint], *, title: str, label: str) -> str:
    """An SVG document: the bound in ms on a logarithmic axis against the overhead in percent.

    The line is a staircase, as a bound between two points gets the plan of the smaller one.

    Args:
        points: (bound_ns, overhead_frac, num_segments) of each plan, in any order.
        title: Stands above the picture.
        label: Second line, such as the machine and whether costs were measured.

    Raises:
        InputError: no point, or a bound that is not positive.
    """
    if not points or min(bound_ns for bound_ns, _, _ in points) <= 0:
        raise InputError(f"{title}: a plot needs at least one point, each with a positive bound")
    ordered = sorted(points)
    bounds_ms = [bound_ns / 1e6 for bound_ns, _, _ in ordered]
    percents = [100 * overhead_frac for _, overhead_frac, _ in ordered]
    x_ticks = log_ticks(bounds_ms[0], bounds_ms[-1])
    least, most = min(0.0, *percents), max(percents)
    y_ticks = linear_ticks(least, most if most - least > _LEAST_PERCENT else least + 1.0)
    x_of = scale(math.log(x_ticks[0]), math.log(x_ticks[-1]), _LEFT, _WIDTH - _RIGHT)
    y_of = scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    places = [
        (x_of(math.log(bound_ms)), y_of(percent))
        for bound_ms, percent in zip(bounds_ms, percents, strict=True)
    ]
    parts = [
        words(_LEFT, 26, title, size=16),
        words(_LEFT, 46, label),
        *(_x_tick(x_of(math.log(tick)), tick) for tick in x_ticks),
        *(_y_tick(y_of(tick), tick) for tick in y_ticks),
        words((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 16, "longest segment (ms)", "middle"),
        words(18, (_TOP + _HEIGHT - _BOTTOM) / 2, "overhead (%)", "middle", is_upright=True),
        f'<path d="{_staircase(places)}" fill="none" stroke="{_LINE}" stroke-width="1.5"/>',
        *(_dot(place, point) for place, point in zip(places, ordered, strict=True)),
    ]
    return document(_WIDTH, _HEIGHT, parts)


def curves_svg(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    label: str,
    x_name: str,
    y_name: str,
) -> str:
    """An SVG document: curves over one linear axis each, named in a legend, at most five.

    Args:
        curves: the points of each curve by its name, ascending in x.
        title: Stands above the picture.
        label: Second line.
        x_name: What stands below the horizontal axis.
        y_name: What stands beside the vertical one.

    Raises:
        InputError: no curve, more than five, or one without a point.
    """
    if not 1 <= len(curves) <= len(_COLOURS) or not all(curves.values()):
        raise InputError(f"{title}: {len(curves)} curves, allowed 1 to 5, each with a point")
    points = [point for curve in curves.values() for point in curve]
    x_ticks = linear_ticks(min(x for x, _ in points), max(x for x, _ in points))
    y_ticks = linear_ticks(min(0.0, *(y for _, y in points)), max(y for _, y in points))
    x_of = scale(x_ticks[0], x_ticks[-1], _LEFT, _WIDTH - _RIGHT)
    y_of = scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        words(_LEFT, 26, title, size=16),
        words(_LEFT, 46, label),
        *(_x_tick(x_of(tick), tick) for tick in x_ticks),
        *(_y_tick(y_of(tick), tick) for tick in y_ticks),
        words((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 16, x_name, "middle"),
        words(18, (_TOP + _HEIGHT - _BOTTOM) / 2, y_name, "middle", is_upright=True),
    ]
    legend = [_legend_ground(len(curves))]
    for idx, (name, curve) in enumerate(curves.items()):
        stroke = f'stroke="{_COLOURS[idx]}" stroke-width="2" stroke-dasharray="{_DASHES[idx]}"'
        path = "L".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in curve)
        parts.append(f'<path d="M{path}" fill="none" {stroke}/>')
        height = _LEGEND_TOP + 18 * idx
        legend += [
            f'<path d="M{_LEGEND_LEFT},{height}h34" {stroke}/>',
            words(_LEGEND_LEFT + 42, height + 4, name),
        ]
    return document(_WIDTH, _HEIGHT, [*parts, *legend])


def _legend_ground(num_curves: int) -> str:
    """White, so that names can be read where a curve passes below them."""
    place = f'x="{_LEGEND_LEFT - 8}" y="{_LEGEND_TOP - 14}" width="250"'
    return f'<rect {place} height="{18 * num_curves + 10}" fill="#ffffff" fill-opacity="0.85"/>'


def _staircase(places: Sequence[tuple[float, float]]) -> str:
    (x, y), *rest = places
    return f"M{x:.1f},{y:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in rest)


def _dot(place: tuple[float, float], point: FrontPoint) -> str:
    bound_ns, overhead_frac, num_segments = point
    plural = "" if num_segments == 1 else "s"
    hint = f"{num_segments} segment{plural}: {fmt_ns(bound_ns)}, overhead {overhead_frac:.2%}"
    x, y = place
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{_LINE}"><title>{hint}</title></circle>'
    )


def _x_tick(x: float, tick: float) -> str:
    top, bottom = _TOP, _HEIGHT - _BOTTOM
    line = f'<path d="M{x:.1f},{top}V{bottom + 4}" stroke="{GRID}"/>'
    return line + words(x, bottom + 20, f"{tick:g}", "middle")


def _y_tick(y: float, tick: float) -> str:
    colour = INK if tick == 0 else GRID
    line = f'<path d="M{_LEFT - 4},{y:.1f}H{_WIDTH - _RIGHT}" stroke="{colour}"/>'
    return line + words(_LEFT - 10, y + 4, f"{tick:g}", "end")
