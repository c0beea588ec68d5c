"""The plots: what they show, and that the same figures make the same file."""

from pathlib import Path
from xml.etree import ElementTree

from recommender.core.plots import (
    LineChart,
    Point,
    keep_cache_in,
    line_charts_svg,
)


def texts(svg: bytes) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [
        "".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")
    ]


def chart(lines: int) -> LineChart:
    points = Point(0, 0.1, 0.01, "best"), Point(1, 0.2)
    labelled = tuple((f"rank {i}", points) for i in range(lines))
    return LineChart("title", "ALPHA", "NDCG", ("5", "20"), labelled)


def test_a_line_chart_has_ticks_notes_and_a_legend() -> None:
    svg = line_charts_svg(chart(3))
    shown = texts(svg)
    assert {"title", "ALPHA", "NDCG", "5", "20", "best"} <= set(shown)
    assert [shown.count(f"rank {i}") for i in range(4)] == [1, 1, 1, 0]
    line_charts_svg.cache_clear()
    assert line_charts_svg(chart(3)) == svg


def test_only_some_of_many_ticks_are_labelled() -> None:
    for number, labelled in ((4, 4), (5, 3), (9, 3), (20, 4), (50, 4)):
        ticks = tuple(f"k{i}" for i in range(number))
        line = tuple(Point(i, 0.1) for i in range(number))
        shown = texts(line_charts_svg(LineChart("", "", "", ticks, (("", line),))))
        assert [text for text in shown if text in ticks] == [*ticks[:: -(-number // 4)]]
        assert len(set(shown) & set(ticks)) == labelled


def test_the_plots_of_the_page_are_drawn_once(tmp_path: Path) -> None:
    keep_cache_in(tmp_path)
    chart = LineChart("a", "", "", ("1",), (("lists", (Point(0, 0.5, 0.1),)),))
    drawn = line_charts_svg(chart)
    assert b">lists</text>" in drawn
    assert line_charts_svg(chart) is drawn
