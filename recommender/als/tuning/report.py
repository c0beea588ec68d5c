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
        print_table(
            "failed", [(" ".join(_assignments(f["parameters"])), f["reason"]) for f in failed]
        )


def env_lines(entries: Iterable[Entry], names: Collection[str]) -> list[str]:
    """Return the best values of the searched parameters ``names`` as ``NAME=value`` lines."""
    best = [row["parameters"] for entry in entries for row in entry["table"][:1]]
    return _assignments({n: value for each in best for n, value in each.items() if n in names})


def _assignments(parameters: Mapping[str, float | None]) -> list[str]:
    # An empty value leaves a setting unset.
    values = {n: "" if v is None else _format_value(v) for n, v in parameters.items()}
    return [f"{name.upper()}={value}" for name, value in values.items()]


def _format_value(value: float | None) -> str:
    return "unset" if value is None else f"{value:.12g}"
