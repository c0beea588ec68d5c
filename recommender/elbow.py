"""What each number of clusters would give: a curve, its knee, a table and a drawing of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from recommender.drawing import Panel, dot, line, sheet, words

_WIDTH, _HEIGHT, _MARGIN = 640, 400, 60


class CurvePoint(NamedTuple):
    """What a clustering into k clusters reaches, and how long it took."""

    k: int
    inertia: float
    silhouette: float | None
    seconds: float


def parse_range(text: str) -> range:
    """Read ``first:last:step``, the last included.

    Raises
    ------
    ValueError
        If the text is not of that form, or names no number of clusters.
    """
    first, last, step = (int(part) for part in text.split(":"))
    if not (1 <= first <= last and step >= 1):
        raise ValueError(f"{text!r}: expected 1 <= first <= last and a step of at least 1")
    return range(first, last + 1, step)


def knee_of(points: Sequence[CurvePoint]) -> int | None:
    """Return the k after which the inertia falls off slowly (Satopaa et al., 2011).

    Returns
    -------
    int or None
        None where there are fewer than three points, or the curve has no knee.
    """
    if len(points) < 3 or points[0].inertia == points[-1].inertia:
        return None
    from kneed import KneeLocator  # here, since it is slow to import and few ask for a knee

    ks, inertias = [point.k for point in points], [point.inertia for point in points]
    knee = KneeLocator(ks, inertias, curve="convex", direction="decreasing").knee
    return None if knee is None else int(knee)


def table_of(points: Sequence[CurvePoint], knee: int | None) -> str:
    """Return the points as lines, the knee marked."""
    lines = [f"{'k':>6} {'inertia':>14} {'silhouette':>11} {'seconds':>8}"]
    for point in points:
        width = "none" if point.silhouette is None else f"{point.silhouette:.4f}"
        mark = "  <- knee" if point.k == knee else ""
        lines.append(
            f"{point.k:>6} {point.inertia:>14,.2f} {width:>11} {point.seconds:>8.1f}{mark}"
        )
    return "\n".join(lines)


def svg_of(points: Sequence[CurvePoint], knee: int | None) -> str:
    """Return the inertia over k as an SVG drawing, the knee marked."""
    ks, inertias = [point.k for point in points], [point.inertia for point in points]
    across, up = max(ks[-1] - ks[0], 1), max(inertias) or 1.0

    panel = Panel(_MARGIN, _MARGIN, _WIDTH - _MARGIN, _HEIGHT - _MARGIN)
    places = [panel.place((p.k - ks[0]) / across, p.inertia / up) for p in points]
    parts = [
        panel.axes(),
        words(_WIDTH / 2, _HEIGHT - 15, "clusters", anchor="middle"),
        words(_MARGIN, _MARGIN - 15, f"inertia, 0 to {up:,.2f}"),
        line(places, "steelblue"),
    ]
    for point, (x, y) in zip(points, places, strict=True):
        parts.append(dot(x, y, "crimson" if point.k == knee else "steelblue"))
        parts.append(words(x, panel.bottom + 18, str(point.k), anchor="middle"))
        if point.k == knee:
            parts.append(words(x, y - 10, f"knee at {knee}", fill="crimson"))
    return sheet(_WIDTH, _HEIGHT, parts)
