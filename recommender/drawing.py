"""Pieces of an SVG drawing: the sheet, a panel's axes, places on it, and words."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple


class Panel(NamedTuple):
    """The part of a sheet that a curve is drawn on, in the sheet's units."""

    left: float
    top: float
    right: float
    bottom: float

    def place(self, across: float, up: float) -> tuple[float, float]:
        """Return where a point is; both are shares of the panel, from the lower left."""
        x = self.left + (self.right - self.left) * across
        y = self.bottom - (self.bottom - self.top) * up
        return round(x, 1), round(y, 1)

    def axes(self) -> str:
        """Return the left and the lower edge."""
        path = f"M{self.left} {self.top} V{self.bottom} H{self.right}"
        return f'<path d="{path}" fill="none" stroke="black"/>'


def sheet(width: float, height: float, parts: Sequence[str]) -> str:
    """Return the drawing of these parts."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">'
    )
    ground = f'<rect width="{width}" height="{height}" fill="white"/>'
    return "\n".join([head, ground, *parts, "</svg>", ""])


def words(x: float, y: float, text: str, *, anchor: str = "start", fill: str = "black") -> str:
    """Return a text that starts, ends or is centred (``middle``) at a point."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{fill}">{escape(text)}</text>'


def line(places: Sequence[tuple[float, float]], stroke: str, dashes: str = "none") -> str:
    """Return a line through points."""
    points = " ".join(f"{x},{y}" for x, y in places)
    return (
        f'<polyline points="{points}" fill="none" stroke="{stroke}" stroke-width="2" '
        f'stroke-dasharray="{dashes}"/>'
    )


def dot(x: float, y: float, fill: str) -> str:
    """Return a dot."""
    return f'<circle cx="{x}" cy="{y}" r="4" fill="{fill}"/>'
