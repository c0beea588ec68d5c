"""The output of the scripts: tables and progress in a terminal, plain lines elsewhere, or JSON."""

import datetime
import io
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from bson import json_util
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

_UNWRAPPED = 100_000  # a width at which no line is wrapped
_console = partial(Console, highlight=False, markup=False, emoji=False)


def print_json(document: object) -> None:
    """Print a document as JSON: dates in ISO 8601, other BSON types as extended JSON."""
    sys.stdout.write(json.dumps(document, default=_json_value, indent=2) + "\n")


def _json_value(value: Any) -> object:
    return value.isoformat() if isinstance(value, datetime.datetime) else json_util.default(value)


def print_table(
    title: str,
    rows: Iterable[Sequence[str]],
    header: Sequence[str] = (),
    numbers: Sequence[int] = (),
) -> None:
    """Print a title with a table below; lines are wrapped and coloured only in a terminal.

    Without ``header``, there is none. ``numbers`` are the positions of right-aligned columns.
    """
    table, rows = Table(box=None, pad_edge=False, show_header=bool(header)), list(rows)
    for i, name in enumerate(header or [""] * max(map(len, rows), default=0)):
        justify: Any = "right" if i in numbers else "left"
        table.add_column(name, style=None if i else "cyan", justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console, plain = _console(), io.StringIO()
    if not console.is_terminal:
        console = _console(file=plain, width=_UNWRAPPED, color_system=None, no_color=True)
    console.print(Text(title, "bold"), Padding(table, (0, 0, 0, 2), expand=False))
    for line in plain.getvalue().splitlines():
        sys.stdout.write(f"{line.rstrip()}\n")


@contextmanager
def progress() -> Iterator[Progress]:
    """Yield a display of tasks below the log on stderr, disabled where that is no terminal."""
    console = _console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    off = not console.is_terminal
    options: Any = {"transient": True, "redirect_stdout": False, "disable": off}
    with Progress(*columns, console=console, **options) as display:
        # The display has replaced sys.stderr, and moves out of the way of what is written there.
        logs = [h for h in logging.root.handlers if type(h) is logging.StreamHandler and not off]
        before = [(handler, handler.setStream(sys.stderr)) for handler in logs]
        try:
            yield display
        finally:
            for handler, stream in before:
                handler.setStream(stream or handler.stream)
