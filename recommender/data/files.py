"""Review files as blocks of columns: delimited text, JSON and Parquet, compressed or not.

DuckDB parses the whole file into a table before the first review is returned. So the unit and the
format of times are chosen by all of their column, and a damaged file loads nothing. What the values
mean is in ``files_macros.sql``, what becomes of a row in the two other ``files_*.sql``.
"""

# ruff: noqa: S608 - what is put into queries is of this module, or quoted by it.
import bz2
import gzip
import io
import lzma
import re
import shutil
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import duckdb
import pyarrow as pa

from recommender.core.errors import DataError
from recommender.core.logs import one_line
from recommender.core.settings import Settings
from recommender.data.times import EARLIEST_MS, END_MS, latest_ms

BLOCK_ROWS = 10_000
USER, RESTAURANT, RATING, TIME = "user_id", "gmap_id", "rating", "time"
REQUIRED = (USER, RESTAURANT, RATING)
PRESETS: Mapping[str, Mapping[str, str]] = {
    "google": {USER: "user_id", RESTAURANT: "gmap_id", RATING: "rating", TIME: "time"},
    "yelp": {USER: "user_id", RESTAURANT: "business_id", RATING: "stars", TIME: "date"},
    "zomato": {USER: "Reviewer", RESTAURANT: "Restaurant", RATING: "Rating", TIME: "Time"},
}

_DELIMITERS = {"\t": "\t", ";": ";", "|": r"\|", "::": "::", ",": ","}  # with their patterns
# A field as DuckDB reads it, up to a delimiter: quoted, or with quotes in its middle.
_FIELD = r'(?: ?"[^"]*+(?:""[^"]*+)*+" *+|(?! ?")(?:(?!%s)[^\n])*+)'
_OPENERS: Mapping[bytes, Any] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream, mode="rb"),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
    b"]\0\0": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda s: pa.CompressedInputStream(pa.PythonFile(s, "r"), "zstd"),
    b"\x04\x22\x4d\x18": lambda s: pa.CompressedInputStream(pa.PythonFile(s, "r"), "lz4"),
    b"PK\x03\x04": lambda stream: _only_member(stream),
}
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowInvalid, duckdb.Error)
_BROKEN_JSON = re.compile(r"Malformed JSON .*at byte (\d+) in record/value (\d+): ([^.]*)")
# An object alone on the first or second line, or on the first before a comma, and another below.
_JSON_LINES = re.compile(r"((.*\n)?\{(?!.*\} *\{).*\}|\{(?!.*\} *\{).*\},)\s*\n\{")
_BETWEEN_OBJECTS = re.compile(r'\}(\s*(?=\{"[^"\\]*"\s*:)|,\s*$)')
_RAW = {USER: "user", RESTAURANT: "restaurant", RATING: "rating_text", TIME: "time_text"}
_UTF32, _UTF16 = (b"\xff\xfe\0\0", b"\0\0\xfe\xff"), (b"\xff\xfe", b"\xfe\xff")  # their marks
# Blank, or Excel's note of the delimiter.
_NO_HEADER = re.compile(r'[\s\ufeff]*("?sep=.{1,2}"?\s*)?', re.IGNORECASE)
_Lines = Iterator[tuple[int, str]]  # with their numbers
_LONGEST = 2_000_000  # bytes of a line; DuckDB would lose lines of 32 MB uncounted


@dataclass(frozen=True)
class FileOptions:
    """Options of reading a file."""

    # The column, or dotted path of keys, of each of REQUIRED and, if any, of TIME. None: those of
    # the preset google, of which the time may be missing.
    columns: Mapping[str, str] | None = None
    file_format: Literal["csv", "jsonl"] | None = None  # None: by the content
    encoding: str | None = None  # None: by the byte order mark, or else UTF-8
    header: Sequence[str] | None = None  # the columns' names where the first line holds none
    time_unit: str | None = None  # of times that are numbers, of UNITS; None: by their size


@dataclass
class Report:
    """Counts of a file's rows, and the numbers of the first lines (or records) per rejection."""

    loaded: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[int]] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    times: Counter[str] = field(default_factory=Counter)
    continued: int = 0  # lines of texts of several lines, but for the first of each

    @property
    def read(self) -> int:
        """How many rows were read, without header and blank lines."""
        return self.loaded + self.rejected.total()


@contextmanager
def open_reviews(
    name: str, settings: Settings, options: FileOptions
) -> Iterator[tuple[Report, Iterator[pa.RecordBatch]]]:
    """Read a file, or stdin as ``-``; yield the counts of its rows, and its reviews in blocks.

    A block has ``user`` and ``restaurant``, ids that are texts; ``user_json`` and
    ``restaurant_json``, other ids as MongoDB's extended JSON; ``rating``, float64; and ``time``,
    int64 milliseconds since the epoch, null if unknown. A temporary folder in ``work_dir`` takes
    the size of the decompressed file, or twice that. If the file is empty, damaged, of an unknown
    encoding, lacks a column or has no review, it raises `DataError`.
    """
    title = "stdin" if name == "-" else name
    with (
        TemporaryDirectory(dir=settings.work_dir, prefix="load-") as temporary,
        duckdb.connect(config={"temp_directory": temporary}) as connection,
    ):
        try:
            connection.execute(_sql("files_macros.sql"))
            connection.execute(f"""
                SET VARIABLE rating_max = {settings.reviews.rating_max};
                SET VARIABLE earliest_ms = {EARLIEST_MS}; SET VARIABLE end_ms = {END_MS};
                SET VARIABLE latest_ms = {latest_ms()}""")
            report = _File(name, title, Path(temporary) / "content", connection, options).read()
        except RuntimeError as error:
            # DuckDB wraps what a signal's handler raises during a query.
            raise error.__cause__ or error from None
        except UnicodeError as error:
            why = re.sub(r" in position [\d-]+", "", one_line(error))  # of a part of the file
            raise DataError(
                f"{title} is not text of the encoding expected: {why}; name its encoding, such as "
                "by --encoding latin-1, cp1252 or utf-16-le; or export CSV, JSON or Parquet"
            ) from None
        except (OSError, *_DAMAGE) as error:
            why = str(error).partition("\n\nLINE ")[0].replace(f"{temporary}/content", title)
            if "No space left" in why or isinstance(error, duckdb.OutOfMemoryException):
                room = f"memory, or room in WORK_DIR={settings.work_dir}"
                raise DataError(f"{title} needs more {room}; add some, or split the file") from None
            if system := getattr(error, "strerror", None):
                raise DataError(f"{title} is not readable: {system}") from None
            remedy = "export it again"
            if broken := _BROKEN_JSON.search(why):
                byte, value, what = broken.groups()
                why = f"no JSON at byte {byte} of record {int(value) - 1}: {what}"
                remedy = "correct it, write one object a line, or give --format csv for a table"
            why = one_line(why, limit=200)
            raise DataError(f"{title} is damaged or cut short: {why}; {remedy}") from None
        yield report, iter(connection.sql("FROM valid").to_arrow_reader(BLOCK_ROWS))


@dataclass
class _File:
    """Reads a file into the table ``reviews``, which also holds its rejected rows."""

    name: str
    title: str
    content: Path  # where its content is copied to
    connection: duckdb.DuckDBPyConnection
    options: FileOptions
    report: Report = field(default_factory=Report)

    def __post_init__(self) -> None:
        self._columns = self.options.columns or PRESETS["google"]
        self._left_out: dict[int, str] = {}  # the rows that DuckDB does not get, with why
        self._quoted = str(self.content).replace("'", "''")

    def read(self) -> Report:
        """Read the file, and return the counts of its rows."""
        source: Any = nullcontext(getattr(sys.stdin, "buffer", io.BufferedReader(io.BytesIO())))
        with source if self.name == "-" else Path(self.name).open("rb") as stream:
            for _ in range(2):  # such as gzip in zip
                start = stream.peek(8)
                opener = next((o for magic, o in _OPENERS.items() if start.startswith(magic)), None)
                stream = io.BufferedReader(opener(stream), 1 << 16) if opener else stream
            self._read_stream(stream)
        self._clean()
        return self._report()

    def _read_stream(self, stream: Any) -> None:
        start = stream.peek(1 << 16)
        if start.startswith(b"PAR1"):
            with self.content.open("wb") as target:
                shutil.copyfileobj(stream, target)
            # Hardly any column has this name.
            rows = f"read_parquet('{self._quoted}') AS row_of_file"
            self._read_objects(f"SELECT to_json(row_of_file) AS json FROM {rows}")
            return
        utf16_or_8 = "utf-16" if start.startswith(_UTF16) else "utf-8"
        encoding = self.options.encoding or ("utf-32" if start.startswith(_UTF32) else utf16_or_8)
        lines = io.TextIOWrapper(stream, {"utf-8": "utf-8-sig"}.get(encoding, encoding))
        head = start.decode(encoding, errors="ignore").removeprefix("\ufeff").lstrip()
        if 10 * head.count("\0") > len(head):
            raise UnicodeError("it holds NUL bytes")
        layout = "newline_delimited" if _JSON_LINES.match(head) else "auto"
        is_json = head[:1] in {"{", "["} or layout != "auto"
        if (self.options.file_format or ("jsonl" if is_json else "csv")) == "csv":
            self._read_table(enumerate(lines, 1))
        elif re.match(r"\[?\s*\{\s*u?'", head):
            raise DataError(f"{self.title} holds Python dictionaries, not JSON; use json.dumps")
        else:
            end = ""
            with self.content.open("w", encoding="utf-8") as text:
                while part := lines.read(1 << 20):
                    text.write(part)
                    end = part.rstrip()[-1:] or end
            if end == "," and layout == "auto":  # which DuckDB takes for the end of an array
                raise EOFError("it ends with a comma")
            self._read_objects(self._json_records(layout))

    def _json_records(self, layout: str) -> str:
        """Return the query for the JSON values of the file, one a line or laid out anyhow."""
        records = f"FROM read_json_objects('{self._quoted}', format='%s', ignore_errors=%s)"
        lines, anyhow = records % (layout, "true"), records % ("unstructured", "false")
        is_broken = f"SELECT count(*) FROM ({lines}) WHERE json IS NULL"
        # A line that is no value may hold several, or a part of one.
        if self.connection.execute(is_broken).fetchall() == [(0,)]:
            return lines
        with suppress(duckdb.Error):  # else one is damaged, and rejected alone
            self.connection.execute(f"SELECT count(json) FROM ({anyhow})")
            return anyhow
        whole = self.content.rename(self.content.with_suffix(".whole"))
        with whole.open(encoding="utf-8") as old, self.content.open("w", encoding="utf-8") as new:
            new.writelines(_BETWEEN_OBJECTS.sub("}\n", line) for line in old)
        return lines

    def _read_objects(self, records: str) -> None:
        """Read the JSON objects of a query into the table ``raw``."""
        objects = f"SELECT unnest(objects_in(json)) AS json FROM ({records})"
        self.connection.execute(f"CREATE VIEW records AS {objects}")
        first = "SELECT json_keys(json) FROM records WHERE json_type(json) = 'OBJECT' LIMIT 1"
        keys = self.connection.execute(first).fetchone()
        self.report.columns = keys[0] if keys else []
        names = [self._columns[what] for what in (*REQUIRED, TIME) if what in self._columns]
        # The name is a key, or else a path of keys.
        paths = [_json_path(name) for name in names] + [_json_path(*n.split(".")) for n in names]
        self.connection.execute(_sql("files_objects.sql"), [paths, len(names)])

    def _read_table(self, lines: _Lines) -> None:
        """Read delimited text, as numbered lines, into the table ``raw``."""
        filled = ((n, line) for n, line in lines if not _NO_HEADER.fullmatch(line))
        number, first = next(filled, (0, ""))
        if not first or len(first) > _LONGEST:
            what = f"has a first line of more than {_LONGEST:,} bytes" if first else "is empty"
            raise DataError(f"{self.title} {what}; expected a table or JSON")
        delimiter = self._read_header(first)
        positions = {what: self.report.columns.index(name) for what, name in self._columns.items()}
        if self.options.header:
            lines = chain([(number, first)], lines)
        padded = f"{delimiter} " in first
        width = len(self.report.columns)
        row = _row_pattern(delimiter, width, positions[RATING], padded=padded)
        written = 0
        with self.content.open("w", encoding="utf-8") as text:
            for first_line, record in self._records(lines, delimiter, row):
                if 4 * len(record) > _LONGEST and len(record.encode()) > _LONGEST:
                    self._left_out[first_line] = f"a line of more than {_LONGEST:,} bytes"
                else:
                    written += text.write(f"{first_line}{delimiter}{record}") > 0
        values = ", ".join(f"present(c{n}) AS {_RAW[what]}" for what, n in positions.items())
        columns = ["line", *(f"c{position}" for position in range(width))]
        self.connection.execute(f"""
            INSERT INTO raw BY NAME SELECT line::BIGINT AS row, {values}
            FROM read_csv('{self._quoted}', delim='{delimiter}', quote='"', escape='"',
                columns={dict.fromkeys(columns, "VARCHAR")}, header=false, auto_detect=false,
                strict_mode=true, store_rejects=true, max_line_size={_LONGEST + 100})""")
        # A row may have more errors than one.
        self.connection.execute(f"""
            INSERT INTO raw BY NAME SELECT split_part(csv_line, '{delimiter}', 1)::BIGINT AS row,
                'not as many fields as the header' AS rejection FROM reject_errors GROUP BY row""")
        if self.connection.execute("SELECT count(*) FROM raw").fetchall() != [(written,)]:
            raise DataError(f"{self.title} has rows that DuckDB loses; export it as JSON")
        left_out = "SELECT unnest($1::BIGINT[]) AS row, unnest($2::VARCHAR[]) AS rejection"
        parameters = [list(self._left_out), list(self._left_out.values())]
        self.connection.execute(f"INSERT INTO raw BY NAME {left_out}", parameters)

    def _records(self, lines: _Lines, delimiter: str, row: str) -> _Lines:
        """Yield each record with the number of its first line, blank lines left out.

        A quote escaped by a backslash is doubled. Stray are lines where a quote opens that is not
        closed before the next ``row``, and those after which DuckDB would lose the next ones.
        """
        end = _DELIMITERS[delimiter]
        is_row = re.compile(row).fullmatch
        is_record = re.compile(rf"{_FIELD % end}(?:{end}{_FIELD % end})*+\n?").fullmatch
        escaped_end = re.compile(rf'\\"\s*({end}|$)')

        def joined(texts: list[str]) -> str:
            """Return lines between two quotes as one record; empty if both quotes are stray."""
            record = "".join(texts)
            are_rows = all(is_row(each.replace('"', "")) for each in (texts[0], texts[-1]))
            return record if is_record(record) and not are_rows else ""

        opened: dict[int, str] = {}  # the lines since a quote that is not closed, by number
        held = 0  # their characters, without the first line's
        for number, line in lines:
            if '\\"' in line:
                line = _with_doubled_quotes(line, escaped_end)
            is_odd = line.count('"') % 2 == 1
            if opened and not is_odd and held < _LONGEST and not is_row(line):  # inside a text
                opened[number] = line
                held += len(line)
            elif opened and is_odd and (text := joined([*opened.values(), line])):  # its last line
                yield next(iter(opened)), text
                self.report.continued += len(opened)
                opened = {}
            else:  # the quote that was open is stray
                self._leave_out(opened)
                opened, held = {}, 0
                if is_odd:
                    opened[number] = line
                elif '"' in line and not is_record(line):
                    self._leave_out({number: line})
                elif line.strip():
                    yield number, line
        self._leave_out(opened)

    def _leave_out(self, lines: Mapping[int, str]) -> None:
        stray = (number for number, line in lines.items() if line.strip())
        self._left_out.update(dict.fromkeys(stray, "unclosed or stray quote"))

    def _read_header(self, line: str) -> str:
        """Take the columns from the first line if not from the options; return the delimiter."""
        names, wanted = self.options.header, {*self._columns.values()}
        splits = {
            d: [c.strip(' "\n\ufeff') for c in re.findall(f"(?:^|{end})({_FIELD % end})", line)]
            for d, end in _DELIMITERS.items()
        }
        # The delimiter that gives as many columns as are named, or the most of those wanted.
        fits = {
            d: (len(cells) == len(names) if names else len(wanted & {*cells}), len(cells))
            for d, cells in splits.items()
        }
        delimiter = max(_DELIMITERS, key=fits.__getitem__)
        self.report.columns = header = list(names or splits[delimiter])
        if not self.options.columns and self._columns[TIME] not in header:
            self._columns = {what: self._columns[what] for what in REQUIRED}
        wrong = [name for name in self._columns.values() if header.count(name) != 1]
        if wrong:
            raise DataError(
                f"{self.title} should have each of the columns {', '.join(wrong)} once, and "
                f"has the columns {one_line(', '.join(header), limit=200)}; name the right ones by "
                "--map or --preset, or all by --columns where the first line is no header"
            )
        return delimiter

    def _clean(self) -> None:
        """Make the table ``reviews`` of ``raw``: ratings, times and why a row is rejected."""
        ((known,),) = self.connection.execute("SELECT getvariable('date_formats')").fetchall()
        counts = ", ".join(f"reads(time_text, '{each}')" for each in known)
        (read,) = self.connection.execute(f"SELECT {counts} FROM unread_times").fetchall()
        formats = sorted(known, key=dict(zip(known, read, strict=True)).__getitem__, reverse=True)
        unit = f"'in {self.options.time_unit}'" if self.options.time_unit else "NULL"
        self.connection.execute(f"SET VARIABLE formats = {formats}; SET VARIABLE unit = {unit}")
        self.connection.execute(_sql("files_reviews.sql"))

    def _report(self) -> Report:
        report = self.report
        for reason, count, rows in self.connection.sql("FROM rejections").fetchall():
            report.rejected[reason], report.examples[reason] = count, rows
        for notation, count, unknown, outside in self.connection.sql("FROM notations").fetchall():
            report.loaded += count
            report.times["unknown"] += unknown
            report.times["before 1990 or in the future"] += outside
            if notation:
                report.times[notation] += count - unknown
        if not report.read:
            raise DataError(f"{self.title} is empty, or holds only a header")
        if not report.loaded:
            reasons = ", ".join(f"{why} ({n:,})" for why, n in report.rejected.most_common())
            columns = one_line(", ".join(report.columns), limit=200)
            raise DataError(
                f"{self.title} has no valid review among {report.read:,} rows: {reasons}; "
                f"its columns are {columns}; name others by --map"
            )
        return report


def _with_doubled_quotes(line: str, escaped_end: re.Pattern[str]) -> str:
    r"""Return a line with ``\"`` as ``""``, unless its quotes pair up as they are."""
    doubled = line.replace('\\"', '""')
    pairs_up = line.count('"') % 2 < doubled.count('"') % 2
    return line if pairs_up and escaped_end.search(line) else doubled


def _only_member(stream: Any) -> Any:
    if not stream.seekable():
        raise DataError("a zip archive cannot be read from a pipe; give the name of its file")
    archive = zipfile.ZipFile(stream)
    names = [name for name in archive.namelist() if not re.match(r"__MACOSX/|(.*/)?\.|.*/$", name)]
    if len(names) != 1:
        raise DataError(
            f"the zip archive holds {len(names)} files ({one_line(', '.join(names), limit=200)}), "
            "expected one; unpack it and load one of them, or save a workbook as CSV"
        )
    try:
        return archive.open(names[0])
    except RuntimeError as error:  # a password, or a method that Python does not know
        raise DataError(f"the zip archive is not readable: {error}; unpack it first") from None


def _row_pattern(delimiter: str, width: int, rating: int, *, padded: bool) -> str:
    """Return the pattern of a row, as opposed to a line of a text of several lines.

    Its rating is a number, after blanks no more than a number, or a word. A line of a text has a
    blank after some delimiter, and so has a row with a word if the table is ``padded`` with them.
    """
    end = _DELIMITERS[delimiter]
    digits = rf"[-+]?[.,]?\d(?:(?!{end})[\d.,/ ])*+"
    number = rf'"?[-+]?[.,]?\d| *+"?(?i:{digits}|null|none|nan|\\n)"? *+(?:{end}|$)'
    blanks = " *+" if padded else ""
    word = rf'{blanks}"?(?:(?!{end})[^\s"])*+"? *+(?:{end}|$)'
    field = _FIELD % end
    before, after = [field] * rating, [field] * (width - rating - 1)
    rows = [end.join([*before, f"(?={start}){field}", *after]) for start in (number, word)]
    no_text = "" if padded else f"(?!.*{end} )"
    return rf"(?:{rows[0]}|{no_text}{rows[1]})\n?"


def _json_path(*keys: str) -> str:
    """Return the path of keys into an object, in DuckDB's notation."""
    return "$" + "".join('."{}"'.format(key.replace('"', '\\"')) for key in keys)


def _sql(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
