"""The report of a parameter search, from its entries in the ledger: tables, ``.env`` lines, charts.

An entry is one search of ``metrics.tuning.searches``; its table has the best trial first.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from recommender.core.plots import LineChart, Point

Entry = Mapping[str, Any]


def format_table(name: str, entry: Entry) -> str:
    """Return a search as a table, best first, with its failed trials below."""
    table, failed = entry["table"], entry["failed"]
    names = [name.upper() for row in table[:1] for name in row["parameters"]]
    rows = [["mean", "deviation", "seconds", *names, ""]] if table else []
    for row in table:
        deviation = "none" if row["deviation"] is None else f"{row['deviation']:.4f}"
        values = map(_format_value, row["parameters"].values())
        mark = "<- in force" if row["in_force"] else ""
        rows.append([f"{row['mean']:.4f}", deviation, f"{row['seconds']:.1f}", *values, mark])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{name}: {entry['measure']}, best first"]
    lines += ["  ".join(["", *map(str.rjust, row, widths)]).rstrip() for row in rows]
    for row in failed:
        point = " ".join(f"{n.upper()}={_format_value(v)}" for n, v in row["parameters"].items())
        lines.append(f"  failed: {point}: {row['reason']}")
    if missing := entry["candidates"] - len(table) - len(failed):
        lines.append(f"  {missing} of {entry['candidates']} not reached within the budget")
    return "\n".join(lines)


def env_lines(entries: Iterable[Entry], names: Collection[str]) -> list[str]:
    """Return the best values of the searched parameters ``names`` as ``NAME=value`` lines."""
    best = {n: value for n, value in best_parameters(entries).items() if n in names}
    # An empty value leaves a setting unset.
    return [f"{n.upper()}={'' if v is None else _format_value(v)}" for n, v in best.items()]


def best_parameters(entries: Iterable[Entry]) -> dict[str, Any]:
    """Return the parameters of each search's best trial; those of a later search win."""
    return {n: v for e in entries for row in e["table"][:1] for n, v in row["parameters"].items()}


def line_chart(name: str, entry: Entry) -> LineChart:
    """Return a chart over the longest axis, a line per combination of the others.

    The entry's table must not be empty.
    """
    table = entry["table"]
    names = table[0]["parameters"]
    values = {n: sorted({row["parameters"][n] for row in table}, key=_order) for n in names}
    axis = max(values, key=lambda name: len(values[name]))
    others = [name for name in values if name != axis and len(values[name]) > 1]
    lines: dict[str, list[Point]] = defaultdict(list)
    for row in sorted(table, key=lambda row: [*map(_order, row["parameters"].values())]):
        notes = ["best"] * (row is table[0]) + ["in force"] * row["in_force"]
        tick = values[axis].index(row["parameters"][axis])
        point = Point(tick, row["mean"], row["deviation"] or 0.0, ", ".join(notes))
        lines[", ".join(_label(n, row["parameters"][n]) for n in others)].append(point)
    return LineChart(
        title=f"{name}: mean {entry['measure']} over the folds, with its deviation",
        x_label=axis.upper(),
        y_label=entry["measure"],
        ticks=[_format_value(value) for value in values[axis]],
        lines=list(lines.items()),
    )


def _label(name: str, value: float | None) -> str:
    short = name.removeprefix("als_").removeprefix("preference_").replace("_", " ")
    return f"{short} {_format_value(value)}"


def _format_value(value: float | None) -> str:
    return "unset" if value is None else f"{value:.12g}"


def _order(value: float | None) -> float:
    """Return a sort key that puts None last."""
    return math.inf if value is None else value
