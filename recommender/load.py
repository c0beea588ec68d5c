"""Loads reviews from CSV or JSON lines, gzipped or not, into the collection ``Reviews``.

Examples
--------
::

    python -m recommender.load reviews.json.gz --preset google
    python -m recommender.load ratings.csv --map user_id=who --map gmap_id=where --map rating=stars
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import logging
import math
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BufferedReader, FileIO, RawIOBase
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, cast

import pyarrow as pa
from bson import Int64
from tqdm import tqdm

from recommender.bulk import insert_batches, replacing
from recommender.errors import DataError
from recommender.mongo import Document, MongoDatabase, connect, database, mongo_errors, one_line
from recommender.ratings import BLOCK_SCHEMA, Ratings, clean_block, gather
from recommender.scripts import configure_logging, run_script, script_parser
from recommender.settings import Settings, load_settings

Format: TypeAlias = Literal["csv", "jsonl"]
# A review as it was read: its line, from 1, and its values by what they are.
Row: TypeAlias = tuple[int, Mapping[str, Any]]

USER, RESTAURANT, RATING, TIME = "user_id", "gmap_id", "rating", "time"
REQUIRED = (USER, RESTAURANT, RATING)
PRESETS: Mapping[str, Mapping[str, str]] = {
    "google": {USER: "user_id", RESTAURANT: "gmap_id", RATING: "rating", TIME: "time"},
    "yelp": {USER: "user_id", RESTAURANT: "business_id", RATING: "stars", TIME: "date"},
}

_BATCH = 10_000
_MAX_LINE_BYTES = 1_000_000
_BUFFER_BYTES = 1 << 20
_EXAMPLES = 3
_GZIP_MAGIC = b"\x1f\x8b"
_UTF8_BOM = b"\xef\xbb\xbf"
_INT64_LIMIT = 2**63
_FORMATS: Mapping[str, Format] = {
    ".csv": "csv",
    ".json": "jsonl",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}

log = logging.getLogger(__name__)


class _RejectedError(Exception):
    """A line that holds no review; the message is the reason that is counted."""


@dataclass(frozen=True)
class Columns:
    """Which column, or key, of a file holds what.

    Parameters
    ----------
    names
        The column of each of ``user_id``, ``gmap_id``, ``rating`` and, where it has one, ``time``.
    time_may_lack
        Whether a CSV file without the column of ``time`` will do.
    """

    names: Mapping[str, str]
    time_may_lack: bool = False


GOOGLE_IF_NOTHING_IS_SAID = Columns(PRESETS["google"], time_may_lack=True)


@dataclass
class Report:
    """What became of a file's lines; those rejected by reason, with the first lines' numbers."""

    loaded: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[int]] = field(default_factory=dict)
    columns_found: list[str] = field(default_factory=list)

    @property
    def read(self) -> int:
        """How many lines, or CSV records, were read, without header and blank lines."""
        return self.loaded + self.rejected.total()

    def reject(self, reason: str, line: int) -> None:
        """Count a line that holds no review."""
        self.rejected[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(line)


def load(
    raw: RawIOBase,
    name: str,
    db: MongoDatabase,
    settings: Settings,
    *,
    columns: Columns = GOOGLE_IF_NOTHING_IS_SAID,
    file_format: Format | None = None,
    replace: bool = False,
    batch: int = _BATCH,
) -> Report:
    """Load the reviews of a file into ``Reviews`` of a database.

    Parameters
    ----------
    raw
        The file's bytes, unbuffered.
    name
        The file's name, for messages, and for the format where its content does not tell.
    settings
        Its ``review_fields`` name the fields of ``Reviews``.
    columns
        Which column holds what.
    file_format
        None: by the name's extension, or else by the content.
    replace
        Replace what ``Reviews`` holds once all was read, rather than add to it.
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
    documents = _documents(_rows(raw, name, columns, file_format, report), settings, report)
    target = replacing(db, reviews.name) if replace else nullcontext(reviews)
    try:
        with mongo_errors("loading reviews"), target as collection:
            insert_batches(collection, _batches(documents, batch, report))
            if not report.loaded:
                raise DataError(_nothing_valid(name, report))
    except BaseException:
        if report.loaded and not replace:
            log.warning("up to %d reviews were added before the failure and stay", report.loaded)
        raise
    return report


def read_file(
    name: str, settings: Settings, columns: Columns = GOOGLE_IF_NOTHING_IS_SAID
) -> Ratings:
    """Return a file's ratings as a training finds them once the file is loaded.

    Raises
    ------
    DataError
        As `load`.
    """
    report = Report()
    with _opened(name) as raw:
        rows = _rows(raw, name, columns, None, report)
        found = list(_documents(rows, settings, report))
    if not found:
        raise DataError(_nothing_valid(name, report))
    values = [[document.get(field) for document in found] for field in settings.review_fields]
    low, high = settings.rating_min, settings.rating_max
    block = clean_block(*values, rating_min=low, rating_max=high)
    return gather(pa.Table.from_batches([block], schema=BLOCK_SCHEMA))


def _rows(
    raw: RawIOBase, name: str, columns: Columns, file_format: Format | None, report: Report
) -> Iterator[Row]:
    stream = BufferedReader(raw, _BUFFER_BYTES)
    extension = Path(name.lower().removesuffix(".gz")).suffix
    with _damage_as_data_error(name):
        if stream.peek(len(_GZIP_MAGIC)).startswith(_GZIP_MAGIC):
            # A buffer around it makes reading by lines twice as fast.
            unzipped = cast("RawIOBase", gzip.GzipFile(fileobj=stream))
            stream = BufferedReader(unzipped, _BUFFER_BYTES)
        start = stream.peek(_BUFFER_BYTES).removeprefix(_UTF8_BOM).lstrip()
    if not start:
        raise DataError(f"{name} is empty")
    found = file_format or _FORMATS.get(extension) or ("jsonl" if start[:1] == b"{" else "csv")
    lines = _Lines(stream, name, report)
    reader = _csv_rows if found == "csv" else _json_rows
    return reader(lines, columns, report)


class _Lines:
    """The lines of a file, decoded; ``number`` is the current one's, from 1."""

    def __init__(self, stream: BinaryIO, name: str, report: Report) -> None:
        self.name = name
        self.number = 0
        self._stream = stream
        self._report = report

    def __iter__(self) -> Iterator[str]:
        while line := self._read():
            self.number += 1
            if len(line) <= _MAX_LINE_BYTES:
                yield self._decode(line)
                continue
            self._report.reject(f"a line of more than {_MAX_LINE_BYTES:,} bytes", self.number)
            while line and not line.endswith(b"\n"):
                line = self._read()

    def _read(self) -> bytes:
        with _damage_as_data_error(f"{self.name}, line {self.number + 1}"):
            return self._stream.readline(_MAX_LINE_BYTES + 1)

    def _decode(self, line: bytes) -> str:
        if self.number == 1:
            line = line.removeprefix(_UTF8_BOM)
            if b"\0" in line:
                raise DataError(f"{self.name} is not UTF-8 text: its first line holds a NUL byte")
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.name} is not UTF-8 text: line {self.number} has the byte "
                f"0x{line[error.start]:02x} at place {error.start + 1}; convert the file, such as "
                "by 'iconv -f LATIN1 -t UTF-8'"
            ) from None


@contextmanager
def _damage_as_data_error(where: str) -> Iterator[None]:
    try:
        yield
    except EOFError:
        raise DataError(f"{where}: the gzip file is cut short") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{where}: the gzip file is damaged: {error}") from None
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror or error}") from None


def _csv_rows(lines: _Lines, columns: Columns, report: Report) -> Iterator[Row]:
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise DataError(f"{lines.name} has no CSV header: {error}") from None
    report.columns_found = header
    places = _places(header, columns, lines.name)
    while True:
        first_line = lines.number + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            report.reject(f"not CSV: {error}", first_line)
            continue
        if len(record) == len(header):
            yield first_line, {what: record[place] for what, place in places}
        elif record:
            report.reject("not as many fields as the header", first_line)


def _places(header: list[str], columns: Columns, name: str) -> list[tuple[str, int]]:
    """Return where in a CSV record the values are."""
    wanted = dict(columns.names)
    if columns.time_may_lack and wanted.get(TIME) not in header:
        wanted.pop(TIME, None)
        log.info("%s has no column of times", name)
    wrong = [column for column in wanted.values() if header.count(column) != 1]
    if wrong:
        raise DataError(
            f"{name} should have each of the columns {', '.join(wrong)} once; found are "
            f"{one_line(', '.join(header))}; say which holds what by --map or --preset"
        )
    return [(what, header.index(column)) for what, column in wanted.items()]


def _json_rows(lines: _Lines, columns: Columns, report: Report) -> Iterator[Row]:
    wanted = list(columns.names.items())
    for line in lines:
        if line.isspace():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            report.columns_found = report.columns_found or list(found)
            yield lines.number, {what: found.get(key) for what, key in wanted}
        elif lines.number == 1 and line.startswith("["):
            raise DataError(
                f"{lines.name} is one JSON array, not one object a line; convert it, such as by "
                "'jq -c .[]'"
            )
        else:
            report.reject("not a JSON object", lines.number)


def _documents(rows: Iterator[Row], settings: Settings, report: Report) -> Iterator[Document]:
    user_field, restaurant_field, rating_field, time_field = settings.review_fields
    for line, row in rows:
        try:
            document = {
                user_field: _parse_id(row, USER),
                restaurant_field: _parse_id(row, RESTAURANT),
                rating_field: _parse_rating(row[RATING]),
            }
            when = _parse_time(row.get(TIME))
        except _RejectedError as reason:
            report.reject(str(reason), line)
            continue
        if when is not None:
            document[time_field] = when
        yield document


def _parse_id(row: Mapping[str, Any], what: str) -> str | int | float:
    value = row[what]
    if value is None or value == "":
        raise _RejectedError(f"{what} missing")
    if isinstance(value, str):
        # JSON can hold half of a surrogate pair, which no database can.
        if value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value):
            return value
    elif isinstance(value, int | float) and not isinstance(value, bool) and _fits(value):
        return value
    raise _RejectedError(f"{what} is no id")


def _parse_rating(value: object) -> int | float:
    if value is None or value == "":
        raise _RejectedError("rating missing")
    number = _parse_number(value)
    if not math.isfinite(number):
        raise _RejectedError("rating is no finite number")
    return int(number) if number.is_integer() and _fits(number) else number


def _parse_time(value: object) -> Int64 | None:
    """Return ms since epoch: of a number, these; of a date without a zone, in UTC."""
    if value is None or value == "":
        return None
    number = _parse_number(value)
    if math.isnan(number) and isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            raise _RejectedError("time is neither ms since epoch nor a date") from None
        number = 1000 * moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    if not _fits(number):
        raise _RejectedError("time is neither ms since epoch nor a date")
    return Int64(round(number))


def _parse_number(value: object) -> float:
    """Return a number, or the number that a text spells; NaN for all else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    if isinstance(value, str) and "_" in value:
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _fits(number: float) -> bool:
    """Say whether a number is finite and, rounded, one of 64 bits."""
    return -_INT64_LIMIT <= number < _INT64_LIMIT


def _batches(documents: Iterator[Document], size: int, report: Report) -> Iterator[list[Document]]:
    while batch := list(islice(documents, size)):
        report.loaded += len(batch)
        yield batch


def _nothing_valid(name: str, report: Report) -> str:
    if not report.read:
        return f"{name} has no review in it, only a header"
    found = one_line(", ".join(report.columns_found), limit=200)
    return f"{name} has no valid review among {report.read:,} lines: {_reasons(report)}" + (
        f"; columns found: {found}" if found else ""
    )


def _reasons(report: Report) -> str:
    return ", ".join(f"{reason} ({count:,})" for reason, count in report.rejected.most_common())


class _Watched(RawIOBase):
    """A file that moves a progress bar on as it is read."""

    def __init__(self, raw: RawIOBase, bar: tqdm[Any]) -> None:
        self._raw = raw
        self._bar = bar

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count: int | None = self._raw.readinto(buffer)
        self._bar.update(count or 0)
        return count


@contextmanager
def _opened(name: str) -> Iterator[RawIOBase]:
    """Open a file, or stdin as ``-``, with a progress bar where stderr is a terminal."""
    try:
        raw = FileIO(0, closefd=False) if name == "-" else FileIO(name)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}") from None
    size = None if name == "-" else Path(name).stat().st_size
    with raw, tqdm(total=size, unit="B", unit_scale=True, disable=None) as bar:
        yield _Watched(raw, bar)


def main(argv: Sequence[str] | None = None) -> int:
    """Load a file into ``Reviews``, print what became of its lines and return 0.

    Raises
    ------
    RecommenderError
        If nothing could be loaded, or not all.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    columns = columns_of(arguments.preset, arguments.map, parser)
    settings = load_settings()
    configure_logging(settings)
    started = time.monotonic()
    with _opened(arguments.file) as raw, connect(settings) as client:
        report = load(
            raw,
            "stdin" if arguments.file == "-" else arguments.file,
            database(client, settings),
            settings,
            columns=columns,
            file_format=arguments.format,
            replace=arguments.replace,
            batch=arguments.batch,
        )
    for reason, lines in report.examples.items():
        log.warning("rejected: %s, such as line %s", reason, ", ".join(map(str, lines)))
    _print_summary(report, settings, time.monotonic() - started)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__ or "", "python -m recommender.load")
    parser.add_argument("file", metavar="FILE", help="the file to load; - for stdin")
    parser.add_argument("--preset", choices=sorted(PRESETS), help="whose columns the file has")
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="WHAT=COLUMN",
        help=f"the column that holds {', '.join(REQUIRED)} or {TIME} (ms since epoch, or a date "
        "and time, in UTC unless it says else); wins over the preset",
    )
    parser.add_argument("--format", choices=["csv", "jsonl"], help="where name and content mislead")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace what Reviews holds, once all was read; otherwise the file is added to it",
    )
    parser.add_argument(
        "--batch", type=_positive, default=_BATCH, metavar="N", help="reviews inserted at a time"
    )
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def columns_of(preset: str | None, maps: Sequence[str], parser: argparse.ArgumentParser) -> Columns:
    """Return which column holds what, by the options ``--preset`` and ``--map``."""
    if not preset and not maps:
        return GOOGLE_IF_NOTHING_IS_SAID
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


def _print_summary(report: Report, settings: Settings, seconds: float) -> None:
    lines = [
        f"Read {report.read:,} lines in {seconds:.1f} s.",
        f"Loaded {report.loaded:,} reviews into {settings.mongo_db}.Reviews.",
        f"Rejected {report.rejected.total():,} lines" + (":" if report.rejected else "."),
        *(f"  {count:,}  {reason}" for reason, count in report.rejected.most_common()),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    raise SystemExit(run_script(main))
