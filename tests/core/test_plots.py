"""The plots: what they show, and that the same figures make the same file."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from recommender.core.plots import LineChart, Point, save_elbow, save_line_charts


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
