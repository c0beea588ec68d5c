"""SVG plots by matplotlib, which is imported only when a plot is drawn."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABELLED_LINES = 14
_STABLE: Any = {"svg.hashsalt": "recommender", "svg.fonttype": "none"}
_GREY = "#7f8792"  # readable on white and on black
_COLOURED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
_ON_ANY_PAGE: Any = _STABLE | dict.fromkeys(_COLOURED, _GREY)
_ON_ANY_PAGE |= {"savefig.transparent": True, "legend.framealpha": 0.0, "font.size": 12.0}
_ON_ANY_PAGE |= {"axes.spines.top": False, "axes.spines.right": False}
_drawing = Lock()


class Point(NamedTuple):
    """A point of a line; ``error`` is half its error bar, ``note`` stands above it."""

    tick: int
    value: float
    error: float = 0.0
    note: str = ""


class LineChart(NamedTuple):
    """Lines over named ticks; each line has a label for the legend."""

    title: str
    x_label: str
    y_label: str
    ticks: Sequence[str]
    lines: Sequence[tuple[str, Sequence[Point]]]


def keep_cache_in(folder: Path) -> None:
    """Let matplotlib, once imported, write its font cache to the folder."""
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))


def save_elbow(path: Path, ks: Sequence[int], inertias: Sequence[float], knee: int | None) -> None:
    """Plot inertia over the number of clusters as SVG, with a line at the knee."""
    with _saved_figure(path, 4.5) as figure:
        axes = figure.subplots()
        axes.plot(ks, inertias, marker="o")
        if knee is not None:
            axes.axvline(knee, color="crimson", linestyle="--", label=f"knee: k = {knee}")
            axes.legend()
        axes.set(title="Elbow curve", xlabel="number of clusters k", ylabel="inertia")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)


def save_line_charts(path: Path, charts: Sequence[LineChart]) -> None:
    """Plot charts below each other as SVG; without charts, an empty figure."""
    with _saved_figure(path, 4.5 * max(1, len(charts))) as figure:
        for number, chart in enumerate(charts, start=1):
            _draw_lines(figure.add_subplot(len(charts), 1, number), chart)


def _draw_lines(axes: Axes, chart: LineChart) -> None:
    for number, (label, points) in enumerate(chart.lines):
        style = ("-", "--", ":")[number // 10 % 3]  # there are ten colours
        # Shifted by parts of a tick, so that error bars of different lines do not overlap.
        shift = (number - (len(chart.lines) - 1) / 2) * min(0.04, 0.4 / len(chart.lines))
        ticks, values, errors, notes = zip(*points, strict=True)
        xs = [tick + shift for tick in ticks]
        shown = label if number < _LABELLED_LINES else ""
        axes.errorbar(xs, values, errors, label=shown, linestyle=style, marker="o", capsize=3)
        for x, value, error, note in zip(xs, values, errors, notes, strict=True):
            axes.text(x, value + error, note, ha="center", va="bottom", weight="bold")
    axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
    axes.set_xticks(range(len(chart.ticks)), chart.ticks)
    axes.set_xlim(-0.5, len(chart.ticks) - 0.5)
    axes.margins(y=0.12)
    axes.grid(alpha=0.3)
    if any(label for label, _ in chart.lines):
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small", handlelength=4)


@lru_cache(maxsize=64)
def timeline_svg(phases: tuple[tuple[str, float, float], ...]) -> bytes:
    """Return bars of phases, (name, start, seconds), as SVG on a transparent background."""
    svg = BytesIO()
    names, starts, seconds = zip(*phases, strict=True)
    with _saved_figure(svg, 0.6 + 0.3 * len(phases), _ON_ANY_PAGE) as figure:
        axes = figure.subplots()
        bars = axes.barh(names, seconds, left=starts, height=0.6)
        axes.bar_label(bars, [f"{value:.1f} s" for value in seconds], padding=4)
        axes.invert_yaxis()
        axes.margins(x=0.08)
        axes.set_xlabel("seconds since the first phase")
        axes.grid(axis="x", alpha=0.3)
    return svg.getvalue()


@lru_cache(maxsize=64)
def line_charts_svg(*charts: LineChart) -> bytes:
    """Return charts, hashable ones, below each other as SVG on a transparent background."""
    svg = BytesIO()
    with _saved_figure(svg, 3.2 * len(charts), _ON_ANY_PAGE) as figure:
        for number, chart in enumerate(charts, start=1):
            _draw_lines(figure.add_subplot(len(charts), 1, number), chart)
    return svg.getvalue()


@contextmanager
def _saved_figure(target: Path | BytesIO, height: float, style: Any = _STABLE) -> Iterator[Figure]:
    """Yield a figure and save it: the same bytes for the same plot, without date or random ids."""
    if isinstance(target, Path):
        keep_cache_in(target.parent)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with _drawing, rc_context(style):  # matplotlib's settings are those of the whole process
        figure = Figure(figsize=(10, height), layout="constrained")
        yield figure
        figure.savefig(target, format="svg", metadata={"Date": None})
