"""The curve over the number of clusters, and what is shown of it."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from recommender.elbow import CurvePoint, knee_of, parse_range, svg_of, table_of

BENT = [CurvePoint(k, 1000 - 90 * k if k <= 10 else 100 - k, 0.1, 0.5) for k in range(2, 31, 2)]


def test_the_range_includes_its_last() -> None:
    assert list(parse_range("5:100:5"))[:2] == [5, 10]
    assert list(parse_range("5:100:5"))[-1] == 100
    assert list(parse_range("3:3:1")) == [3]


@pytest.mark.parametrize("text", ["5", "5:10", "5:10:0", "0:10:1", "9:5:1", "a:b:c", "1:2:3:4", ""])
def test_another_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|invalid literal|unpack"):
        parse_range(text)


def test_the_knee_is_where_the_curve_bends() -> None:
    assert knee_of(BENT) == 10


@pytest.mark.parametrize("points", [[], BENT[:2], [CurvePoint(k, 0.0, None, 1) for k in (1, 2, 3)]])
def test_too_few_or_equal_points_have_no_knee(points: list[CurvePoint]) -> None:
    assert knee_of(points) is None


def test_the_table_marks_the_knee_alone() -> None:
    lines = table_of([*BENT, CurvePoint(40, 50, None, 2)], 10).splitlines()
    assert len(lines) == len(BENT) + 2
    assert [line.split()[0] for line in lines if "knee" in line] == ["10"]
    assert lines[-1].split() == ["40", "50.00", "none", "2.0"]


@pytest.mark.parametrize("points", [BENT, BENT[:1], [CurvePoint(1, 0.0, None, 0)]])
def test_the_drawing_is_svg_with_a_dot_for_each_point(points: list[CurvePoint]) -> None:
    root = ElementTree.fromstring(svg_of(points, 10))
    dots = root.findall("{http://www.w3.org/2000/svg}circle")
    assert len(dots) == len(points)
    for dot in dots:
        assert 0 <= float(dot.attrib["cx"]) <= 640
        assert 0 <= float(dot.attrib["cy"]) <= 400
    marked = [dot for dot in dots if dot.attrib["fill"] == "crimson"]
    assert len(marked) == (points is BENT)
