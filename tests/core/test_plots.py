"""The plots: what they show, and that the same figures make the same file."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from recommender.core.plots import (
    LineChart,
    Point,
    keep_cache_in,
    line_charts_svg,
    save_elbow,
    save_line_charts,
    timeline_svg,
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


@pytest.mark.parametrize("knee", [10, None])
def test_the_elbow_plot_marks_the_knee_if_there_is_one(tmp_path: Path, knee: int | None) -> None:
    path = tmp_path / "elbow.svg"
    save_elbow(path, [5, 10, 15], [9.0, 3.0, 2.5], knee)
    assert ("knee: k = 10" in texts(path)) == (knee is not None)
    first = path.read_bytes()
    save_elbow(path, [5, 10, 15], [9.0, 3.0, 2.5], knee)
    assert path.read_bytes() == first


def test_line_charts_have_ticks_notes_and_a_legend_that_ends(tmp_path: Path) -> None:
    path = tmp_path / "lines.svg"
    save_line_charts(path, [chart(1), chart(31)])
    shown = texts(path)
    assert {"title", "ALPHA", "NDCG", "5", "20", "best"} <= set(shown)
    assert [shown.count(f"rank {i}") for i in (0, 1, 13, 14)] == [2, 1, 1, 0]
    save_line_charts(path, [])
    assert texts(path) == []


def test_the_plots_of_the_page_are_drawn_once(tmp_path: Path) -> None:
    keep_cache_in(tmp_path)
    phases = (("read", 0.0, 1.5), ("train", 1.5, 20.25))
    svg = timeline_svg(phases)
    assert {b"read", b"20.2 s"} <= set(re.findall(rb">([^<>]+)</text>", svg))
    assert timeline_svg(tuple(phases)) is svg
    point = Point(0, 0.5, 0.1)
    drawn = line_charts_svg(LineChart("a", "", "", ("1",), (("lists", (point,)),)))
    assert b">lists</text>" in drawn
