"""The report of a parameter search, from an entry for each: tables, ``.env`` lines, charts."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from recommender.core.plots import LineChart, Point
from recommender.core.terminal import print_table

Entry = Mapping[str, Any]  # of `summarize`


def print_search(name: str, entry: Entry) -> None:
    """Print the trials of a search, best first, and its failed ones."""
    table, failed = entry["table"], entry["failed"]
    missing = entry["candidates"] - len(table) - len(failed)
    title = f"{name}: {entry['measure']}, best first"
    if missing:
        title += f"; {missing} of {entry['candidates']} not reached within the budget"
    names = [name.upper() for row in table[:1] for name in row["parameters"]]
    header = ["mean", "deviation", "seconds", *names, ""] if table else []
    rows = [
        [
            f"{row['mean']:.4f}",
            "none" if row["deviation"] is None else f"{row['deviation']:.4f}",
            f"{row['seconds']:.1f}",
            *map(_format_value, row["parameters"].values()),
            "<- in force" if row["in_force"] else "",
        ]
        for row in table
    ]
    print_table(title, rows, header, range(len(header) - 1))
    if failed:
        print_table("failed", [(_assignments(row["parameters"]), row["reason"]) for row in failed])


def env_lines(entries: Iterable[Entry], names: Collection[str]) -> list[str]:
    """Return the best values of the searched parameters ``names`` as ``NAME=value`` lines."""
    best = [row["parameters"] for entry in entries for row in entry["table"][:1]]
    values = [(n, value) for each in best for n, value in each.items() if n in names]
    # An empty value leaves a setting unset.
    return [f"{n.upper()}={'' if v is None else _format_value(v)}" for n, v in values]


def line_chart(name: str, entry: Entry) -> LineChart:
    """Return a chart of one trial or more over the longest axis, a line per point of the others."""
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
        lines[_assignments({n: row["parameters"][n] for n in others})].append(point)
    return LineChart(
        title=f"{name}: mean {entry['measure']} over the folds, with its deviation",
        x_label=axis.upper(),
        y_label=entry["measure"],
        ticks=[_format_value(value) for value in values[axis]],
        lines=list(lines.items()),
    )


def _assignments(parameters: Mapping[str, float | None]) -> str:
    return " ".join(f"{n.upper()}={_format_value(value)}" for n, value in parameters.items())


def _format_value(value: float | None) -> str:
    return "unset" if value is None else f"{value:.12g}"


def _order(value: float | None) -> float:
    return math.inf if value is None else value  # None last
