"""Loads reviews from a file into the collection ``Reviews``.

Delimited text, JSON in any layout and Parquet, compressed or not.

Examples
--------
::

    python -m recommender.load reviews.json.gz --preset google
    python -m recommender.load ratings.csv --map user_id=who --map gmap_id=where --map rating=stars
    python -m recommender.load ratings.dat --columns user_id,gmap_id,rating,time --dry-run
"""

from __future__ import annotations

import argparse
import codecs
import json
import logging
import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from decimal import Decimal
from functools import lru_cache
from io import FileIO, RawIOBase
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from bson import Int64, ObjectId, json_util
from bson.decimal128 import Decimal128
from tqdm import tqdm

from recommender.core.errors import DataError
from recommender.core.logs import configure_logging, one_line
from recommender.core.mongo import Document, MongoDatabase, connect, database, mongo_errors
from recommender.core.mongo_collections import insert_batches, replacing
from recommender.core.script import READER_CODES, run_script, script_parser
from recommender.core.settings import Settings, load_settings
from recommender.data.cleaning import BLOCK_SCHEMA, clean_block
from recommender.data.files import (
    DEFAULT_COLUMNS,
    DEFAULT_OPTIONS,
    PRESETS,
    RATING,
    REQUIRED,
    RESTAURANT,
    TIME,
    USER,
    Columns,
    FileOptions,
    Report,
    read_blocks,
)
from recommender.data.ratings import Ratings, gather
from recommender.data.reviews import gc_paused
from recommender.data.times import UNITS, TimeParser, is_implausible

_BATCH = 10_000
_PREVIEW = 5
_INT64_LIMIT = 2**63
# 4.5, 4,5 and 4.5/5.
_RATING = re.compile(r"\s*([+-]?\d+(?:[.,]\d+)?(?:[eE][+-]?\d+)?)\s*(?:/\s*\d+\s*)?", re.ASCII)

log = logging.getLogger(__name__)


class _RejectedError(Exception):
    """A row that is not a review; the message is the reason that is counted."""


def load(
    raw: RawIOBase,
    name: str,
    db: MongoDatabase,
    settings: Settings,
    options: FileOptions = DEFAULT_OPTIONS,
    *,
    replace: bool = False,
    batch: int = _BATCH,
) -> Report:
    """Load the reviews of a file into ``Reviews`` of a database.

    Parameters
    ----------
    raw
        The file's bytes, unbuffered.
    name
        The file's name, for messages and to detect the format.
    settings
        Its ``review_fields`` name the fields of ``Reviews``.
    replace
        Replace the content of ``Reviews`` once all was read, rather than add to it.
    batch
        Reviews inserted at a time.

    Raises
    ------
    DataError
        If the file cannot be read, lacks a column or has no valid review.
    DatabaseUnavailableError
        If MongoDB does not answer.
    """
    report = Report()
    reviews = db["Reviews"]
    documents = read_documents(raw, name, settings, options, report)
    target = replacing(db, reviews.name) if replace else nullcontext(reviews)
    try:
        with mongo_errors("loading reviews"), target as collection:
            insert_batches(collection, iter(lambda: list(islice(documents, batch)), []))
    except BaseException:
        if report.loaded and not replace:
            log.warning("up to %d reviews were added before the failure and stay", report.loaded)
        raise
    return report


def read_file(name: str, settings: Settings, columns: Columns = DEFAULT_COLUMNS) -> Ratings:
    """Return a file's ratings as a training finds them once the file is loaded.

    Raises
    ------
    DataError
        As `load`.
    """
    with _opened(name) as raw:
        documents = list(read_documents(raw, name, settings, FileOptions(columns), Report()))
    values = [[document.get(field) for document in documents] for field in settings.reviews.fields]
    low, high = settings.reviews.rating_min, settings.reviews.rating_max
    block = clean_block(*values, rating_min=low, rating_max=high)
    return gather(pa.Table.from_batches([block], schema=BLOCK_SCHEMA))


def read_documents(
    raw: RawIOBase, name: str, settings: Settings, options: FileOptions, report: Report
) -> Iterator[Document]:
    """Yield the reviews of a file as they are stored, and count all rows in ``report``.

    Raises
    ------
    DataError
        If the file cannot be read, lacks a column or has no valid review.
    """
    parser = TimeParser(options.time_unit, calendar=True)
    user_field, restaurant_field, rating_field, time_field = settings.reviews.fields
    for numbers, values in read_blocks(raw, name, options, report):
        times = parser.parse(values.get(TIME) or [None] * len(numbers))
        columns = (values[USER], values[RESTAURANT], values[RATING], times.tolist())
        rejected = []
        for row, (user, restaurant, rating, ms) in enumerate(zip(*columns, strict=True)):
            try:
                document = {
                    user_field: _id(user, USER),
                    restaurant_field: _id(restaurant, RESTAURANT),
                    rating_field: _rating(rating),
                }
            except _RejectedError as reason:
                report.reject(str(reason), numbers[row])
                rejected.append(row)
                continue
            if ms == ms:
                document[time_field] = Int64(round(ms))
            report.loaded += 1
            yield document
        times = np.delete(times, rejected)
        report.times["unknown"] += int(np.isnan(times).sum())
        report.times["before 1990 or in the future"] += int(is_implausible(times).sum())
    report.times += parser.notations
    if not report.loaded:
        raise DataError(_nothing_valid(name, report))


def _id(value: Any, what: str) -> Any:
    """Return an id as it is stored; an integer beyond 64 bits becomes a text."""
    if value is None or value == "":
        raise _RejectedError(f"{what} missing")
    if isinstance(value, str):
        # JSON can hold half of a surrogate pair, which no database can.
        if value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value):
            return value
    elif isinstance(value, ObjectId | Decimal128):
        return value
    elif isinstance(value, int) and not isinstance(value, bool):
        return value if -_INT64_LIMIT <= value < _INT64_LIMIT else str(value)
    elif isinstance(value, float) and math.isfinite(value):
        return value
    raise _RejectedError(f"{what} is no id")


def _rating(value: Any) -> int | float:
    if value is None or value == "":
        raise _RejectedError("rating missing")
    if isinstance(value, Decimal | Decimal128):
        value = str(value)
    if isinstance(value, str):
        number = _rating_of_text(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value) if abs(value) < _INT64_LIMIT else math.inf
    else:
        number = math.nan
    if not math.isfinite(number):
        raise _RejectedError("rating is no finite number")
    return int(number) if number.is_integer() and abs(number) < _INT64_LIMIT else number


@lru_cache(maxsize=10_000)
def _rating_of_text(text: str) -> float:
    match = _RATING.fullmatch(text)
    return float(match[1].replace(",", ".")) if match else math.nan


def _nothing_valid(name: str, report: Report) -> str:
    if not report.read:
        return f"{name} has no review in it, only a header"
    reasons = ", ".join(f"{reason} ({count:,})" for reason, count in report.rejected.most_common())
    columns = one_line(", ".join(report.columns_found), limit=200)
    return f"{name} has no valid review among {report.read:,} rows: {reasons}" + (
        f"; it has the columns {columns}; name the right ones by --map" if columns else ""
    )


class _Watched(FileIO):
    """A file that moves a progress bar on as it is read."""

    def __init__(self, file: str | int, bar: tqdm[Any]) -> None:
        super().__init__(file, closefd=isinstance(file, str))
        self._bar = bar

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer) or 0
        self._bar.update(count)
        return count


@contextmanager
def _opened(name: str) -> Iterator[RawIOBase]:
    """Open a file, or stdin as ``-``, with a progress bar where stderr is a terminal."""
    path = Path(name)
    size = path.stat().st_size if path.is_file() else None
    with tqdm(total=size, unit="B", unit_scale=True, disable=None) as bar:
        try:
            raw = _Watched(0 if name == "-" else name, bar)
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror}") from None
        with raw:
            yield raw


def main(argv: Sequence[str] | None = None) -> int:
    """Load a file into ``Reviews``, print the counts of its rows and return 0.

    Raises
    ------
    RecommenderError
        If nothing was loaded, or not all.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    options = FileOptions(
        columns=columns_of(arguments.preset, arguments.map, parser),
        file_format=arguments.format,
        encoding=arguments.encoding,
        header=arguments.columns,
        time_unit=arguments.time_unit,
    )
    settings = load_settings()
    configure_logging(settings)
    started = time.monotonic()
    name = "stdin" if arguments.file == "-" else arguments.file
    with _opened(arguments.file) as raw, gc_paused():
        if arguments.dry_run:
            report = _preview(raw, name, settings, options)
        else:
            with connect(settings) as client:
                db = database(client, settings)
                how = {"replace": arguments.replace, "batch": arguments.batch}
                report = load(raw, name, db, settings, options, **how)
    for reason, lines in report.examples.items():
        log.warning("rejected: %s, such as line %s", reason, ", ".join(map(str, lines)))
    verb = "Would load" if arguments.dry_run else "Loaded"
    _print_summary(
        report,
        f"{verb} {report.loaded:,} reviews into {settings.mongo.db}.Reviews.",
        time.monotonic() - started,
    )
    return 0


def _preview(raw: RawIOBase, name: str, settings: Settings, options: FileOptions) -> Report:
    """Print the first reviews as they would be stored, and count all rows."""
    report = Report()
    for count, document in enumerate(read_documents(raw, name, settings, options, report)):
        if count < _PREVIEW:
            sys.stdout.write(f"{json.dumps(document, default=json_util.default)}\n")
    return report


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__ or "", *READER_CODES, prog="python -m recommender.load")
    parser.add_argument("file", metavar="FILE", help="the file to load; - for stdin")
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), help="the source whose columns the file has"
    )
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="WHAT=COLUMN",
        help=f"the column, or the path of keys as in user.id, that holds {', '.join(REQUIRED)} or "
        f"{TIME}; wins over the preset",
    )
    parser.add_argument(
        "--columns",
        type=lambda text: [name.strip() for name in text.split(",")],
        metavar="NAME,...",
        help="the names of all columns, where the first line is no header",
    )
    parser.add_argument(
        "--format", choices=["csv", "jsonl"], help="text as a table or as JSON, if misread"
    )
    parser.add_argument("--encoding", type=_encoding, help="of the text, such as latin-1")
    parser.add_argument(
        "--time-unit",
        choices=list(UNITS),
        help="of times that are numbers; detected from their size by default",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace the content of Reviews once all was read, rather than add to it",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the first reviews as they would be stored, and the counts, without a database",
    )
    parser.add_argument(
        "--batch", type=_positive, default=_BATCH, metavar="N", help="reviews inserted at a time"
    )
    return parser


def _encoding(text: str) -> str:
    try:
        return codecs.lookup(text).name
    except LookupError:
        raise argparse.ArgumentTypeError(f"{text!r} is no encoding, such as latin-1") from None


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def columns_of(preset: str | None, maps: Sequence[str], parser: argparse.ArgumentParser) -> Columns:
    """Return which column holds what, by the options ``--preset`` and ``--map``."""
    if not preset and not maps:
        return DEFAULT_COLUMNS
    names = dict(PRESETS[preset]) if preset else {}
    for text in maps:
        what, _, column = text.partition("=")
        if what not in (*REQUIRED, TIME) or not column:
            parser.error(f"--map {text}: expected WHAT=COLUMN, WHAT one of {REQUIRED} or {TIME}")
        names[what] = column
    missing = [what for what in REQUIRED if what not in names]
    if missing:
        parser.error(f"no column given for {', '.join(missing)}; add --map or --preset")
    return Columns(names)


def _print_summary(report: Report, loaded: str, seconds: float) -> None:
    times = ", ".join(f"{count:,} {notation}" for notation, count in report.times.items() if count)
    lines = [
        f"Read {report.read:,} rows in {seconds:.1f} s.",
        loaded,
        f"Times: {times or 'none'}.",
        f"Rejected {report.rejected.total():,} rows" + (":" if report.rejected else "."),
        *(f"  {count:,}  {reason}" for reason, count in report.rejected.most_common()),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    raise SystemExit(run_script(main))
