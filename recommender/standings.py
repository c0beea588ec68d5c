"""How the candidates of a search stand: as a table, as a drawing, and for the ledger."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from recommender.drawing import Panel, dot, line, sheet, words
from recommender.grids import Parameters, Search, shown
from recommender.tuning import Candidate, ranked

_WIDTH, _PANEL_HEIGHT, _MARGIN, _LEGEND = 820, 340, 60, 300
_COLOURS = ("steelblue", "darkorange", "seagreen", "orchid", "sienna", "slategray")
_DASHES = ("none", "7,4", "2,3", "10,3,2,3")
_LEGEND_ROWS = 14


def best_of(candidates: Sequence[Candidate], search: Search, folds: int) -> Candidate | None:
    """Return a search's best candidate; None while none has a figure for each fold."""
    best = ranked(candidates, search, folds)
    return best[0] if best else None


def table_of(candidates: Sequence[Candidate], search: Search, folds: int) -> str:
    """Return a search's candidates as lines, best first, what is in force marked."""
    own = [c for c in candidates if c.search is search]
    complete = ranked(candidates, search, folds)
    failed = [c for c in own if c.reason]
    best = "most" if search.sign > 0 else "least"
    head = f"{search.name}: {search.measure}, {best} first, over {folds} folds"
    names = list(own[0].parameters)
    widths = [max(len(name), 8) for name in names]
    titles = " ".join(f"{n.upper():>{w}}" for n, w in zip(names, widths, strict=True))
    lines = [head, f"  {'mean':>8} {'deviation':>9} {'seconds':>8}  {titles}"]
    for candidate in [*complete, *failed]:
        values = zip(candidate.parameters.values(), widths, strict=True)
        row = " ".join(f"{shown(value):>{width}}" for value, width in values)
        mark = "  <- in force" if candidate.in_force else ""
        lines.append(f"  {_figures(candidate)} {candidate.seconds:>8.1f}  {row}{mark}")
        lines += [f"  {'':>8} {candidate.reason}"] if candidate.reason else []
    if missing := len(own) - len(complete) - len(failed):
        lines.append(f"  {missing} of {len(own)} candidates were not reached within the budget")
    return "\n".join(lines)


def _figures(candidate: Candidate) -> str:
    if candidate.reason:
        return f"{'none':>8} {'none':>9}"
    deviation = candidate.deviation
    spread = "none" if deviation is None else f"{deviation:.4f}"
    return f"{candidate.mean:>8.4f} {spread:>9}"


def document_of(candidates: Sequence[Candidate], search: Search, folds: int) -> dict[str, Any]:
    """Return what the ledger says of a search."""
    own = [c for c in candidates if c.search is search]
    complete = ranked(candidates, search, folds)
    return {
        "measure": search.measure,
        "candidates": len(own),
        "complete": len(complete),
        "table": [entry_of(c) for c in complete],
        "failed": [{"parameters": c.parameters, "reason": c.reason} for c in own if c.reason],
    }


def entry_of(candidate: Candidate) -> dict[str, Any]:
    """Return what the ledger says of a candidate."""
    return {
        "parameters": candidate.parameters,
        "in_force": candidate.in_force,
        "mean": candidate.mean,
        "deviation": candidate.deviation,
        "folds": candidate.figures,
        "seconds": candidate.seconds,
    }


def svg_of(candidates: Sequence[Candidate], searches: Sequence[Search], folds: int) -> str:
    """Return a panel for each search: its measure over one parameter, a line for the others."""
    found = [(search, ranked(candidates, search, folds)) for search in searches]
    drawn = [(search, complete) for search, complete in found if complete]
    parts: list[str] = []
    for number, (search, complete) in enumerate(drawn):
        top = number * _PANEL_HEIGHT
        panel = Panel(_MARGIN, top + _MARGIN, _WIDTH - _LEGEND, top + _PANEL_HEIGHT - _MARGIN + 10)
        parts += _panel(panel, search, complete)
    return sheet(_WIDTH, max(1, len(drawn)) * _PANEL_HEIGHT, parts)


def _panel(panel: Panel, search: Search, complete: list[Candidate]) -> list[str]:
    """Draw a search's candidates, the best first of them, on a panel."""
    values = {n: sorted({c.parameters[n] for c in complete}, key=_place_of) for n in search.grid}
    axis = max(values, key=lambda name: len(values[name]))
    others = [name for name in complete[0].parameters if name != axis]
    varied = [name for name in others if len({c.parameters[name] for c in complete}) > 1]
    low, high = min(c.mean for c in complete), max(c.mean for c in complete)
    room = 0.2 * (high - low) or 0.01

    def place(candidate: Candidate) -> tuple[float, float]:
        step = values[axis].index(candidate.parameters[axis])
        across = (step + 0.5) / len(values[axis])
        return panel.place(across, (candidate.mean - low + room) / (high - low + 2 * room))

    lines: dict[tuple[Any, ...], list[Candidate]] = defaultdict(list)
    for candidate in sorted(complete, key=lambda c: _place_of(c.parameters[axis])):
        lines[tuple(candidate.parameters[name] for name in varied)].append(candidate)
    parts = [
        panel.axes(),
        words(panel.left, panel.top - 25, f"{search.name}: mean {search.measure} of the folds"),
        words((panel.left + panel.right) / 2, panel.bottom + 38, axis.upper(), anchor="middle"),
        *_ticks(panel, values[axis], low, high, room),
    ]
    for number, key in enumerate(sorted(lines, key=lambda key: [*map(_place_of, key)])):
        colour = _COLOURS[number % len(_COLOURS)]
        dashes = _DASHES[number // len(_COLOURS) % len(_DASHES)]
        parts.append(line([place(c) for c in lines[key]], colour, dashes))
        parts += [dot(*place(c), colour) for c in lines[key]]
        parts += _legend(panel, number, _short(dict(zip(varied, key, strict=True))), colour, dashes)
    return parts + _marks(complete, place)


def _place_of(value: float | None) -> float:
    """Return what to sort values by: one that is not set comes last."""
    return math.inf if value is None else value


def _ticks(panel: Panel, values: list[Any], low: float, high: float, room: float) -> list[str]:
    parts = []
    for step, value in enumerate(values):
        x, _ = panel.place((step + 0.5) / len(values), 0)
        parts.append(words(x, panel.bottom + 18, shown(value), anchor="middle"))
    for figure in sorted({low, (low + high) / 2, high}):
        x, y = panel.place(0, (figure - low + room) / (high - low + 2 * room))
        parts.append(words(x - 6, y + 4, f"{figure:.4f}", anchor="end"))
    return parts


def _legend(panel: Panel, number: int, text: str, colour: str, dashes: str) -> list[str]:
    if not text or number > _LEGEND_ROWS:
        return []
    x, y = panel.right + 15, panel.top + 16 * number
    if number == _LEGEND_ROWS:
        return [words(x, y, "and more lines; the table has them all")]
    return [line([(x, y), (x + 30, y)], colour, dashes), words(x + 38, y + 4, text)]


def _short(parameters: Parameters) -> str:
    names = {name: name.removeprefix("als_").removeprefix("preference_") for name in parameters}
    return ", ".join(
        f"{names[name].replace('_', ' ')} {shown(v)}" for name, v in parameters.items()
    )


def _marks(complete: list[Candidate], place: Any) -> list[str]:
    """Mark the best, and what is in force."""
    parts = []
    for candidate in complete:
        x, y = place(candidate)
        if candidate.in_force:
            parts.append(f'<circle cx="{x}" cy="{y}" r="8" fill="none" stroke="black"/>')
            parts.append(words(x + 11, y - 8, "in force"))
    x, y = place(complete[0])
    return [*parts, dot(x, y, "crimson"), words(x, y + 20, "best", anchor="middle", fill="crimson")]
