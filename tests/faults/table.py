"""The table of faults in the documentation: written from what happened, and read again."""

import datetime
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from importlib.metadata import version
from pathlib import Path

from recommender.demo.embedded_mongod import find_mongod
from recommender.spark.java import find_java
from tests.faults.catalogue import Fault

INTRODUCTION = """\
# Faults, and what happened to each

Written by `make faults`: do not edit. Each fault hits real processes and a real MongoDB, in a
database with a published model of an earlier run. A reader polls `Recommendations`, `Clusters` and
`Metadata` all the time. An empty, partial or duplicated state, or one of mixed runs, fails the
suite; so does any error but a lost connection while MongoDB is away. If `Clusters` and `Metadata`
differ, the reader reads both once more, as `docs/reading-the-collections.md` says. In the rows that
say *mixed* the fault lies between the two renames and lasts longer: readers see it by the `run_id`.

After each fault the clustering is run by hand: it must publish, and neither find nor leave a stage.
*exit* is the exit code of the attacked process, 128 + n if signal n ended it; *run* is its state in
the ledger. Then follow the documents published before the clustering: all *old*, all *new*, or
those named, of the attacked run (*new*) or of one that took over (*another's*). *restored* are
those of the generation that a rollback brings back.

"""
_NEXT_SECTION = "\n## "
HEADER = ("fault", "expected", "what happened", "the reader", "seconds", "on")


@dataclass(frozen=True)
class Row:
    """A line of the table; its fields are the columns of ``HEADER``."""

    fault: str
    expected: str
    happened: str
    reader: str
    seconds: str
    on: str


def read_table(file: Path) -> dict[str, Row]:
    """Return the rows of a table by fault; none where there is no file."""
    if not file.exists():
        return {}
    text = file.read_text().partition(_NEXT_SECTION)[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:])
    return {row[0]: Row(*row) for row in cells}


def write_table(file: Path, faults: Iterable[Fault], happened: Mapping[str, Row]) -> None:
    """Write a row for each fault: what happened now, or else what the file says of it.

    The sections after the table stay as they are.
    """
    rows = read_table(file) | dict(happened)
    kept = [rows[fault.name] for fault in faults if fault.name in rows]
    rule = ("---", "---", "---", "---", "---:", "---")
    lines = [f"| {' | '.join(cells)} |" for cells in (HEADER, rule, *map(astuple, kept))]
    file.parent.mkdir(parents=True, exist_ok=True)
    _, heading, rest = (file.read_text() if file.exists() else "").partition(_NEXT_SECTION)
    table = INTRODUCTION + "\n".join(lines) + f"\n\n{_versions()}\n"
    file.write_text(f"{table}{heading}{rest}")


def today() -> str:
    """Return the date, UTC."""
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"


def _versions() -> str:
    mongod = _first_line(str(find_mongod()), "--version").removeprefix("db version v")
    java = _first_line(str(find_java()), "--version")
    packages = ", ".join(f"{name} {version(name)}" for name in ("pyspark", "pymongo", "fastapi"))
    return (
        f"Last run with MongoDB {mongod}, {java}, Python {platform.python_version()}, {packages}."
    )


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]
