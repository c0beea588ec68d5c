"""The report of a parameter search, from an entry for each: a table and ``.env`` lines."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

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


def _assignments(parameters: Mapping[str, float | None]) -> str:
    return " ".join(f"{n.upper()}={_format_value(value)}" for n, value in parameters.items())


def _format_value(value: float | None) -> str:
    return "unset" if value is None else f"{value:.12g}"
