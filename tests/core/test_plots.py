"""The plots: what they show, and that the same figures make the same file."""

from pathlib import Path
from xml.etree import ElementTree

from recommender.core.plots import (
    LineChart,
    Point,
    keep_cache_in,
    line_charts_svg,
    save_line_chart,
)


def texts(path: Path) -> list[str]:
    root = ElementTree.parse(path).getroot()
    return [
        "".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")
    ]


def chart(lines: int) -> LineChart:
    points = [Point(0, 0.1, 0.01, "best"), Point(1, 0.2)]
    return LineChart(
        "title", "ALPHA", "NDCG", ["5", "20"], [(f"rank {i}", points) for i in range(lines)]
    )


def test_a_line_chart_has_ticks_notes_and_a_legend(tmp_path: Path) -> None:
    path = tmp_path / "lines.svg"
    save_line_chart(path, chart(3))
    shown = texts(path)
    assert {"title", "ALPHA", "NDCG", "5", "20", "best"} <= set(shown)
    assert [shown.count(f"rank {i}") for i in range(4)] == [1, 1, 1, 0]
    first = path.read_bytes()
    save_line_chart(path, chart(3))
    assert path.read_bytes() == first


def test_only_some_of_many_ticks_are_labelled(tmp_path: Path) -> None:
    path = tmp_path / "lines.svg"
    ticks = [f"k{i}" for i in range(20)]
    line = [Point(i, 0.1) for i in range(20)]
    save_line_chart(path, LineChart("", "", "", ticks, [("", line)]))
    assert [text for text in texts(path) if text in ticks] == ticks[::4]


def test_the_plots_of_the_page_are_drawn_once(tmp_path: Path) -> None:
    keep_cache_in(tmp_path)
    chart = LineChart("a", "", "", ("1",), (("lists", (Point(0, 0.5, 0.1),)),))
    drawn = line_charts_svg(chart)
    assert b">lists</text>" in drawn
    assert line_charts_svg(chart) is drawn
