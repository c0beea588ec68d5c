"""SVG plots by matplotlib, which is imported only when a plot is drawn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABELLED_TICKS = 4  # at most; more would overlap
_INK = "#59635d"  # on white; on a dark page, the style replaces it
_ON_DARK = b"<style>@media (prefers-color-scheme: dark) { svg { --ink: #a0aaa4 } }</style>"
# Colours of a contrast of 3 and more on white and on black.
_CYCLE = "cycler('color', ['#2477b3', '#d2561a', '#2f8f3f', '#9467bd', '#8c6d31', '#c0408f'])"
_COLOURED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
_STYLE: Any = dict.fromkeys(_COLOURED, _INK)
_STYLE |= {"svg.hashsalt": "recommender", "svg.fonttype": "none", "axes.prop_cycle": _CYCLE}
_STYLE |= {"savefig.transparent": True, "legend.framealpha": 0.0, "font.size": 12.0}
_STYLE |= {"axes.spines.top": False, "axes.spines.right": False}
_STYLE |= {"figure.constrained_layout.hspace": 0.12}  # from a legend to the next title
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


@lru_cache(maxsize=64)
def line_charts_svg(*charts: LineChart) -> bytes:
    """Return charts, hashable ones, below each other as SVG for a light or a dark page.

    The same charts are the same bytes.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    svg = BytesIO()
    with _drawing, rc_context(_STYLE):  # matplotlib's settings are those of the whole process
        figure = Figure(figsize=(6, 3.4 * max(1, len(charts))), layout="constrained")
        for number, chart in enumerate(charts, start=1):
            _draw_lines(figure.add_subplot(len(charts), 1, number), chart)
        figure.savefig(svg, format="svg", metadata={"Date": None})
    drawn = svg.getvalue().replace(b"<defs>", _ON_DARK + b"<defs>", 1)
    return drawn.replace(_INK.encode(), f"var(--ink, {_INK})".encode())


def _draw_lines(axes: Axes, chart: LineChart) -> None:
    for number, (label, points) in enumerate(chart.lines):
        # Shifted by parts of a tick, so that error bars of different lines do not overlap.
        shift = (number - (len(chart.lines) - 1) / 2) * min(0.04, 0.4 / len(chart.lines))
        ticks, values, errors, notes = zip(*points, strict=True)
        xs = [tick + shift for tick in ticks]
        marker = "os^DvP"[number % 6]  # for readers who cannot distinguish colours
        axes.errorbar(xs, values, errors, label=label, marker=marker, capsize=3)
        for x, value, error, note in zip(xs, values, errors, notes, strict=True):
            axes.text(x, value + error, note, ha="center", va="bottom", weight="bold")
    axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
    labelled = range(0, len(chart.ticks), -(-len(chart.ticks) // _LABELLED_TICKS) or 1)
    axes.set_xticks(labelled, [chart.ticks[tick] for tick in labelled])
    axes.set_xlim(-0.5, len(chart.ticks) - 0.5)
    axes.margins(y=0.12)
    axes.grid(alpha=0.3)
    if any(label for label, _ in chart.lines):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=4, fontsize="small")
