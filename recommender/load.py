"""Loads reviews from a file into the collection ``Reviews``.

Delimited text, JSON in any layout and Parquet, compressed or not.

Examples
--------
::

    python -m recommender.load reviews.json.gz --preset google
    python -m recommender.load ratings.csv --map user_id=who --map gmap_id=where --map rating=stars
    python -m recommender.load ratings.dat --columns user_id,gmap_id,rating,time --dry-run
"""

import argparse
import codecs
import json
import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from itertools import islice
from typing import Any

import pyarrow as pa
from bson import Int64, json_util

from recommender.core.logs import configure_logging
from recommender.core.mongo import Document, MongoDatabase, connected, mongo_errors
from recommender.core.mongo_collections import insert_batches, replacing
from recommender.core.script import READER_CODES, run_script, script_parser
from recommender.core.settings import Settings, load_settings
from recommender.core.terminal import print_json, print_table, progress
from recommender.data.files import (
    BLOCK_ROWS,
    PRESETS,
    REQUIRED,
    TIME,
    FileOptions,
    Report,
    open_reviews,
)
from recommender.data.reviews import gc_paused
from recommender.data.times import UNITS

_PREVIEW = 5

log = logging.getLogger(__name__)


def load(
    name: str, db: MongoDatabase, settings: Settings, options: FileOptions, *, replace: bool = False
) -> Report:
    """Load the reviews of a file, or stdin as ``-``, into ``Reviews`` of a database.

    With ``replace``, they replace the content of ``Reviews`` once all are inserted. If the file is
    unreadable, lacks a column or has no valid review, it raises `DataError` and inserts nothing. If
    MongoDB fails, it raises `DatabaseUnavailableError`; some of the reviews may have been added.
    """
    target = replacing(db, "Reviews") if replace else nullcontext(db["Reviews"])
    with progress() as display:
        reading = display.add_task("reading the file", total=None)
        with stored_reviews(name, settings, options) as (report, batches):
            display.remove_task(reading)
            count = math.ceil(report.loaded / BLOCK_ROWS)
            batches = iter(display.track(batches, count, description="inserting reviews"))
            try:
                with mongo_errors("loading reviews"), target as collection:
                    insert_batches(collection, batches)
            except BaseException:
                if not replace:
                    log.warning("up to %d reviews were added before the failure", report.loaded)
                raise
    return report


@contextmanager
def stored_reviews(
    name: str, settings: Settings, options: FileOptions
) -> Iterator[tuple[Report, Iterator[list[Document]]]]:
    """Read a file; yield the counts of its rows, and its reviews as they are stored, in batches."""
    settings.make_folder(settings.work_dir)
    with open_reviews(name, settings, options) as (report, blocks):
        yield report, (_documents_of(block, settings.reviews.fields) for block in blocks)


def _documents_of(block: pa.RecordBatch, fields: Sequence[str]) -> list[Document]:
    columns = {name: block[name].to_pylist() for name in block.schema.names}
    users = _ids(columns["user"], columns["user_json"])
    restaurants = _ids(columns["restaurant"], columns["restaurant_json"])
    ratings = [int(r) if r.is_integer() and abs(r) < 2**63 else r for r in columns["rating"]]
    times = [{} if ms is None else {fields[3]: Int64(ms)} for ms in columns["time"]]
    return [
        {fields[0]: user, fields[1]: restaurant, fields[2]: rating, **ms}
        for user, restaurant, rating, ms in zip(users, restaurants, ratings, times, strict=True)
    ]


def _ids(texts: Iterable[str], others: Iterable[str | None]) -> list[Any]:
    pairs = zip(texts, others, strict=True)
    return [text if other is None else _id(other) for text, other in pairs]


@lru_cache(maxsize=100_000)
def _id(text: str) -> Any:
    """Return an id in extended JSON; an integer beyond 64 bits becomes a text."""
    value = json_util.loads(text)
    return str(value) if isinstance(value, int) and not -(2**63) <= value < 2**63 else value


def main(argv: Sequence[str] | None = None) -> int:
    """Load a file into ``Reviews``, print the counts of its rows and return 0."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    options = FileOptions(
        columns=columns_of(arguments.preset, arguments.map, parser),
        file_format=arguments.format,
        encoding=arguments.encoding,
        header=arguments.columns and [name.strip() for name in arguments.columns.split(",")],
        time_unit=arguments.time_unit,
    )
    settings = load_settings()
    configure_logging(settings)
    started = time.monotonic()
    verb, first = "Would load" if arguments.dry_run else "Loaded", list[Document]()
    with gc_paused():
        if arguments.dry_run:
            with stored_reviews(arguments.file, settings, options) as (report, batches):
                first = list(islice(next(batches), _PREVIEW))
        else:
            with connected(settings.mongo) as db:
                report = load(arguments.file, db, settings, options, replace=arguments.replace)
    for reason, lines in report.examples.items():
        log.warning("rejected: %s, such as line %s", reason, ", ".join(map(str, lines)))
    if arguments.json:
        figures = {**vars(report), "read": report.read, "seconds": time.monotonic() - started}
        print_json({**figures, "dry_run": arguments.dry_run, "first": first})
        return 0
    for document in first:
        sys.stdout.write(f"{json.dumps(document, default=json_util.default)}\n")
    times = ", ".join(f"{count:,} {notation}" for notation, count in report.times.items() if count)
    summary = [
        f"Read {report.read:,} rows in {time.monotonic() - started:.1f} s.",
        f"{report.continued:,} more lines continue a quoted text." if report.continued else "",
        f"{verb} {report.loaded:,} reviews into {settings.mongo.db}.Reviews.",
        f"Times: {times}.",
        f"Rejected {report.rejected.total():,} rows{':' if report.rejected else '.'}",
    ]
    reasons = [(f"{count:,}", reason) for reason, count in report.rejected.most_common()]
    print_table("\n".join(filter(None, summary)), reasons, numbers=[0])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__ or "", *READER_CODES, prog="python -m recommender.load")
    add = parser.add_argument
    add("file", metavar="FILE", help="the file to load; - for stdin")
    add("--preset", choices=sorted(PRESETS), help="the source whose columns the file has")
    what = f"{', '.join(REQUIRED)} or {TIME}"
    path = f"the column, or path of keys as in user.id, of {what}; wins over the preset"
    add("--map", action="append", default=[], metavar="WHAT=COLUMN", help=path)
    add("--columns", metavar="NAME,...", help="all columns' names, if the first line is no header")
    add("--format", choices=["csv", "jsonl"], help="text as a table or as JSON, if misread")
    add("--encoding", type=_encoding, help="of the text, such as latin-1")
    unit = "of times that are numbers; detected from their size by default"
    add("--time-unit", choices=[*UNITS, "yyyymmdd", "years"], help=unit)
    add("--replace", action="store_true", help="replace the content of Reviews, not add to it")
    dry_run = "print the first reviews as they would be stored, and the counts; no database is used"
    add("--dry-run", action="store_true", help=dry_run)
    return parser


def _encoding(text: str) -> str:
    try:
        "".encode(text)  # refuses codecs of bytes, such as base64
        return codecs.lookup(text).name
    except LookupError:
        raise argparse.ArgumentTypeError(f"{text!r} is no encoding, such as latin-1") from None


def columns_of(
    preset: str | None, maps: Sequence[str], parser: argparse.ArgumentParser
) -> Mapping[str, str] | None:
    """Return which column holds what, by the options ``--preset`` and ``--map``; None: default."""
    if not preset and not maps:
        return None
    names = dict(PRESETS.get(preset or "", {}))
    for text in maps:
        what, _, column = text.partition("=")
        if what not in (*REQUIRED, TIME) or not column:
            parser.error(f"--map {text}: expected WHAT=COLUMN, WHAT one of {REQUIRED} or {TIME}")
        names[what] = column
    if missing := [what for what in REQUIRED if what not in names]:
        parser.error(f"no column given for {', '.join(missing)}; add --map or --preset")
    return names


if __name__ == "__main__":
    raise SystemExit(run_script(main))
