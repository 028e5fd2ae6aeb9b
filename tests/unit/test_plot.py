from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preempt_runtime.errors import InputError
from preemptc.plot import curves_svg, pareto_svg

SVG = "{http://www.w3.org/2000/svg}"
FRONT = ((40_000_000, 0.0, 1), (11_000_000, 0.012, 4), (3_000_000, 0.065, 15))


def draw(points: tuple[tuple[int, float, int], ...], title: str = "t") -> ElementTree.Element:
    return ElementTree.fromstring(pareto_svg(points, title=title, label="a label"))


def places(root: ElementTree.Element) -> list[tuple[float, float]]:
    circles = root.findall(f"{SVG}circle")
    return [(float(circle.attrib["cx"]), float(circle.attrib["cy"])) for circle in circles]


def texts(root: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in root.findall(f"{SVG}text")]


def test_points_lie_where_the_axes_say() -> None:
    root = draw(FRONT)
    ticks = {text.text: text for text in root.findall(f"{SVG}text")}
    (x3, y3), (x11, y11), (x40, y40) = places(root)
    assert float(ticks["2"].attrib["x"]) < x3 < float(ticks["5"].attrib["x"])
    assert float(ticks["10"].attrib["x"]) < x11 < float(ticks["20"].attrib["x"])
    assert float(ticks["20"].attrib["x"]) < x40 < float(ticks["50"].attrib["x"])
    assert y3 < y11 < y40  # more overhead is higher up
    assert "longest segment (ms)" in texts(root)
    assert "overhead (%)" in texts(root)


def test_each_point_has_a_tooltip() -> None:
    hints = [title.text for title in draw(FRONT).iter(f"{SVG}title")]
    assert hints == [
        "15 segments: 3 ms, overhead 6.50%",
        "4 segments: 11 ms, overhead 1.20%",
        "1 segment: 40 ms, overhead 0.00%",
    ]


def test_the_order_of_the_points_does_not_matter() -> None:
    assert pareto_svg(FRONT, title="t", label="l") == pareto_svg(FRONT[::-1], title="t", label="l")


def test_names_are_escaped() -> None:
    assert texts(draw(FRONT, title='<b> & "co"'))[0] == '<b> & "co"'


@given(
    st.lists(
        st.tuples(
            st.integers(1, 10**13),
            st.floats(-0.5, 50, allow_nan=False),
            st.integers(1, 1000),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_everything_stays_inside_the_picture(points: list[tuple[int, float, int]]) -> None:
    root = draw(tuple(points))
    assert len(places(root)) == len(points)
    for x, y in places(root):
        assert 76 <= x <= 720 - 24
        assert 64 <= y <= 440 - 60
    assert 4 <= len(root.findall(f"{SVG}path")) <= 40


@pytest.mark.parametrize("overhead_frac", [0.0, 1e-300, -1e-9])
def test_a_front_without_overhead_has_an_axis(overhead_frac: float) -> None:
    root = draw(((5_000_000, overhead_frac, 1),))
    assert {"0", "0.2", "0.8"} <= set(texts(root))


def test_nothing_to_draw_is_an_error() -> None:
    for points in ((), ((0, 0.1, 1),)):
        with pytest.raises(InputError, match="at least one point"):
            pareto_svg(points, title="t", label="l")


CURVES = {"planned": [(0.1, 100.0), (0.9, 40.0)], "<none>": [(0.1, 50.0), (0.9, 0.0)]}


def test_curves_start_and_end_where_the_axes_say() -> None:
    svg = curves_svg(CURVES, title="t", label="l", x_name="load", y_name="share (%)")
    root = ElementTree.fromstring(svg)
    assert {"load", "share (%)", "planned", "<none>"} <= set(texts(root))
    ticks = {text.text: text for text in root.findall(f"{SVG}text")}
    paths = [path.attrib for path in root.findall(f"{SVG}path") if "stroke-width" in path.attrib]
    first, second, _, _ = [path["d"] for path in paths]
    assert len({path["stroke"] for path in paths}) == len(CURVES)
    (x, y), (end_x, end_y) = [tuple(map(float, p.split(","))) for p in first[1:].split("L")]
    assert float(ticks["0"].attrib["x"]) < x < float(ticks["0.2"].attrib["x"])
    assert float(ticks["0.8"].attrib["x"]) < end_x < float(ticks["1"].attrib["x"])
    assert y < end_y == pytest.approx(float(ticks["40"].attrib["y"]) - 4)
    assert float(second.split("L")[1].split(",")[1]) > end_y


@pytest.mark.parametrize("curves", [{}, {"a": []}, {str(n): [(0.0, 1.0)] for n in range(6)}])
def test_no_curve_an_empty_one_or_too_many_are_refused(
    curves: dict[str, list[tuple[float, float]]],
) -> None:
    with pytest.raises(InputError, match="curves, allowed 1 to 5"):
        curves_svg(curves, title="t", label="l", x_name="x", y_name="y")
