"""Files of reviews as blocks of raw values: delimited text, JSON and Parquet, compressed or not.

Compression, format and delimiter are detected from the content. A row that is not read is counted
with its reason and line number.
"""

from __future__ import annotations

import ast
import bz2
import codecs
import csv
import gzip
import io
import json
import logging
import lzma
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Literal, TypeAlias, cast

import pyarrow as pa
import pyarrow.parquet as pq
from bson import json_util
from bson.codec_options import DatetimeConversion
from bson.errors import BSONError

from recommender.core.errors import DataError
from recommender.core.logs import one_line
from recommender.core.mongo import Document

Format: TypeAlias = Literal["csv", "jsonl"]
# Line numbers, from 1, and the raw values by what they are, each of the same length.
Block: TypeAlias = tuple[Sequence[int], dict[str, list[Any]]]

USER, RESTAURANT, RATING, TIME = "user_id", "gmap_id", "rating", "time"
REQUIRED = (USER, RESTAURANT, RATING)
PRESETS: Mapping[str, Mapping[str, str]] = {
    "google": {USER: "user_id", RESTAURANT: "gmap_id", RATING: "rating", TIME: "time"},
    "yelp": {USER: "user_id", RESTAURANT: "business_id", RATING: "stars", TIME: "date"},
    "zomato": {USER: "Reviewer", RESTAURANT: "Restaurant", RATING: "Rating", TIME: "Time"},
}

_MAX_RECORD = 1_000_000
_TOO_LONG = f"a line of more than {_MAX_RECORD:,} characters"
_MAX_QUOTED_LINES = 1_000
_PIECE_BYTES = 1 << 21
_BLOCK_ROWS = 10_000
_EXAMPLES = 3
_DELIMITERS = ("\t", ";", "|", "::", ",")
_ONE_DELIMITER = "\x1f"
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OPENERS: Mapping[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda s: pa.CompressedInputStream(pa.PythonFile(s, "r"), "zstd"),
    b"PK\x03\x04": lambda stream: _only_member(zipfile.ZipFile(stream)),
}
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowInvalid)
_BETWEEN_OBJECTS = re.compile(r"[\s,\[\]\x1e]*")
_LINE_END = re.compile(r"\n")
_NEXT_IN_ARRAY = re.compile(r"\n|\}\s*,\s*(?=\{)")
_JSON_NAME = re.compile(r"\.(json|jsonl|ndjson)\b", re.IGNORECASE)
_EXTENDED_JSON = json_util.JSONOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Columns:
    """Which column, or key, of a file holds what.

    Parameters
    ----------
    names
        The column of each of ``user_id``, ``gmap_id``, ``rating`` and, where it has one, ``time``.
        A dotted name is a path into nested objects.
    time_may_lack
        Accept a table without the column of ``time``.
    """

    names: Mapping[str, str]
    time_may_lack: bool = False


DEFAULT_COLUMNS = Columns(PRESETS["google"], time_may_lack=True)


@dataclass(frozen=True)
class FileOptions:
    """Options of reading a file.

    Parameters
    ----------
    columns
        Which column holds what.
    file_format
        None: by the content, or else by the name's extension.
    encoding
        Of text; None: by the byte order mark, or else UTF-8.
    header
        The columns' names where the first line holds none.
    time_unit
        Of times that are numbers; see `recommender.data.times.TimeParser`.
    """

    columns: Columns = DEFAULT_COLUMNS
    file_format: Format | None = None
    encoding: str | None = None
    header: Sequence[str] | None = None
    time_unit: str | None = None


DEFAULT_OPTIONS = FileOptions()


@dataclass
class Report:
    """Counts of a file's rows; those rejected by reason, with the first rows' line numbers."""

    loaded: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[int]] = field(default_factory=dict)
    columns_found: list[str] = field(default_factory=list)
    times: Counter[str] = field(default_factory=Counter)

    @property
    def read(self) -> int:
        """How many rows were read, without header and blank lines."""
        return self.loaded + self.rejected.total()

    def reject(self, reason: str, line: int) -> None:
        """Count a row that is not a review."""
        self.rejected[reason] += 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(line)


def read_blocks(
    raw: io.RawIOBase, name: str, options: FileOptions, report: Report
) -> Iterator[Block]:
    """Yield the rows of a file block by block.

    Raises
    ------
    DataError
        If the file is empty, damaged, of an unknown encoding or lacks a column.
    """
    with _damage_as_data_error(name), io.BufferedReader(raw, _PIECE_BYTES) as buffered:
        stream = _decompressed(buffered)
        if stream.peek(4).startswith(b"PAR1"):
            yield from _parquet_blocks(stream, name, options.columns, report)
            return
        texts = _texts(stream, name, options.encoding)
        start = ""
        while not start.strip():
            if not (text := next(texts, "")):
                raise DataError(f"{name} is empty")
            start += text
        texts = chain([start], texts)
        is_json = start.lstrip()[0] in "{[" or _JSON_NAME.search(name)
        if (options.file_format or ("jsonl" if is_json else "csv")) == "jsonl":
            yield from _json_blocks(texts, options.columns, report)
        else:
            yield from _Table(name, options, report).blocks(texts)


def _decompressed(stream: Any) -> Any:
    head = stream.peek(8)
    for magic, opener in _OPENERS.items():
        if head.startswith(magic):
            return io.BufferedReader(opener(stream), _PIECE_BYTES)
    return stream


def _only_member(archive: zipfile.ZipFile) -> Any:
    names = [i.filename for i in archive.infolist() if not i.is_dir()]
    names = [name for name in names if not name.startswith("__MACOSX/")]
    if len(names) != 1:
        raise DataError(
            f"the zip archive holds {len(names)} files ({one_line(', '.join(names), limit=200)}), "
            "expected one; unpack it and load one of them"
        )
    return archive.open(names[0])


@contextmanager
def _damage_as_data_error(name: str) -> Iterator[None]:
    try:
        yield
    except (*_DAMAGE, OSError) as error:
        if why := getattr(error, "strerror", None):
            raise DataError(f"{name} cannot be read: {why}") from None
        raise DataError(f"{name} is damaged or cut short: {one_line(str(error))}") from None


def _texts(stream: Any, name: str, encoding: str | None) -> Iterator[str]:
    """Yield pieces of a text file, its line ends made newlines."""
    head = stream.peek(4)
    marked = (e for mark, e in _BYTE_ORDER_MARKS.items() if head.startswith(mark))
    encoding = encoding or next(marked, "utf-8")
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(), True)
    line, data = 1, b" "
    while data:
        data = stream.read(_PIECE_BYTES)
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            before = error.object[: error.start]
            raise DataError(
                f"{name} is not {encoding} text: line {line + before.count(10)} has the byte "
                f"0x{error.object[error.start]:02x}; name its encoding, such as by "
                "--encoding latin-1"
            ) from None
        if line == 1:
            text = text.removeprefix("\ufeff")
            if "\0" in text:
                raise DataError(
                    f"{name} is not {encoding} text: it holds a NUL byte; if it is UTF-16, add "
                    "--encoding utf-16-le"
                )
        line += text.count("\n")
        yield text


class _Table:
    """Reads delimited text: a header, then a record a line, or more where a field is quoted."""

    def __init__(self, name: str, options: FileOptions, report: Report) -> None:
        self._name = name
        self._options = options
        self._report = report
        self._header = list(options.header or [])
        self._delimiter = ","
        self._places: list[tuple[str, int]] = []

    def blocks(self, texts: Iterable[str]) -> Iterator[Block]:
        """Yield the records of a text given in pieces."""
        open_lines: list[str] = []
        for number, lines, is_last in _line_blocks(texts):
            if not self._places:
                start = next(i for i, line in enumerate(lines) if line.strip())
                self._read_header(lines[start])
                skipped = start if self._options.header else start + 1
                number, lines = number + skipped, lines[skipped:]
            number, lines = number - len(open_lines), open_lines + lines
            numbers, records, open_lines = self._records(lines, number, is_last)
            columns = list(zip(*records, strict=True)) or [()] * len(self._header)
            yield numbers, {what: list(columns[place]) for what, place in self._places}

    def _read_header(self, line: str) -> None:
        """Find the delimiter by the first line, and where the columns are."""
        columns = self._options.columns
        given = self._header
        splits = {d: self._split(line, d) or [line] for d in _DELIMITERS}

        def fit(delimiter: str) -> tuple[int, int]:
            fields = splits[delimiter]
            wanted = len(fields) == len(given) if given else 0
            return wanted or len(set(columns.names.values()) & set(fields)), len(fields)

        self._delimiter = max(_DELIMITERS, key=fit)
        header = self._header = given or splits[self._delimiter]
        self._report.columns_found = header
        self._places = _places(header, columns, self._name)

    def _split(self, line: str, delimiter: str = "", escape: str | None = None) -> list[str] | None:
        """Return the fields of one line, None if it is no record by itself."""
        try:
            (record,) = self._reader([line], delimiter or self._delimiter, escape)
        except (csv.Error, ValueError):
            return None
        return [text.strip() for text in record] if delimiter else record

    def _reader(self, lines: Iterable[str], delimiter: str, escape: str | None = None) -> Any:
        if delimiter == "::":
            lines = (line.replace("::", _ONE_DELIMITER) for line in lines)
            delimiter = _ONE_DELIMITER
        return csv.reader(
            lines, delimiter=delimiter, strict=True, skipinitialspace=True, escapechar=escape
        )

    def _records(
        self, lines: list[str], number: int, is_last: bool
    ) -> tuple[Sequence[int], list[list[str]], list[str]]:
        """Return line numbers, records, and the lines of a record that is still incomplete."""
        width = len(self._header)
        try:
            records = list(self._reader(lines, self._delimiter))
        except csv.Error:
            records = []
        whole = len(records) == len(lines) and set(map(len, records)) == {width}
        if whole and max(map(len, lines)) <= _MAX_RECORD:
            return range(number, number + len(lines)), records, []
        numbers, records, at = [], [], 0
        while at < len(lines):
            record, length = self._record_at(lines, at)
            if record is None and length > len(lines) - at and not is_last:
                break
            if record is not None and len(record) == width:
                numbers.append(number + at)
                records.append(record)
                at += length
                continue
            if lines[at].strip():
                self._report.reject(_why_no_record(lines[at], record), number + at)
            at += 1
        return numbers, records, lines[at:]

    def _record_at(self, lines: list[str], at: int) -> tuple[list[str] | None, int]:
        """Return the record that starts at a line and how many lines it has.

        The record is None if there is none: a quote that would contain whole reviews is a stray
        one. The number of lines exceeds those at hand if a quote is still open at their end.
        """
        if len(lines[at]) > _MAX_RECORD:
            return None, 1
        if record := self._split(lines[at]) or self._split(lines[at], escape="\\"):
            return record, 1
        reader = self._reader(islice(lines, at, at + _MAX_QUOTED_LINES), self._delimiter)
        try:
            record = next(reader)
        except csv.Error as error:
            is_open = "unexpected end" in str(error) and at + _MAX_QUOTED_LINES > len(lines)
            within = lines[at + 1 : at + _MAX_QUOTED_LINES]
            is_open = is_open and not any(map(self._is_review, within))
            return None, len(lines) - at + 1 if is_open else 1
        within = lines[at + 1 : at + reader.line_num]
        return (None, 1) if any(map(self._is_review, within)) else (record, reader.line_num)

    def _is_review(self, line: str) -> bool:
        record = self._split(line)
        if not record or len(record) != len(self._header):
            return False
        values = {what: record[place] for what, place in self._places}
        return bool(values[USER] and values[RESTAURANT] and values[RATING][:1].isdigit())


def _why_no_record(line: str, record: list[str] | None) -> str:
    if len(line) > _MAX_RECORD:
        return _TOO_LONG
    return "not as many fields as the header" if record else "unclosed or stray quote"


def _line_blocks(texts: Iterable[str]) -> Iterator[tuple[int, list[str], bool]]:
    """Yield the first line's number, lines, and whether they are the last ones.

    A line that is too long is cut just beyond the limit.
    """
    number, rest = 1, ""
    for text in texts:
        *lines, rest = (rest + text).split("\n")
        rest = rest[: _MAX_RECORD + 1]
        if any(lines):
            yield number, lines, False
        number += len(lines)
    yield number, [rest] if rest else [], True


def _places(header: list[str], columns: Columns, name: str) -> list[tuple[str, int]]:
    """Return where in a record the values are."""
    wanted = dict(columns.names)
    if columns.time_may_lack and wanted.get(TIME) not in header:
        wanted.pop(TIME, None)
        log.info("%s has no column of times", name)
    wrong = [column for column in wanted.values() if header.count(column) != 1]
    if wrong:
        raise DataError(
            f"{name} should have each of the columns {', '.join(wrong)} once, and has the columns "
            f"{one_line(', '.join(header), limit=200)}; name the right ones by --map or --preset, "
            "or all by --columns where the first line is no header"
        )
    return [(what, header.index(column)) for what, column in wanted.items()]


def _json_blocks(texts: Iterable[str], columns: Columns, report: Report) -> Iterator[Block]:
    objects = _objects(texts, report)
    while block := list(islice(objects, _BLOCK_ROWS)):
        numbers, rows = zip(*block, strict=True)
        report.columns_found = report.columns_found or list(rows[0])
        yield numbers, _values(rows, columns)


def _objects(texts: Iterable[str], report: Report) -> Iterator[tuple[int, Document]]:
    """Yield line numbers and objects: of lines, of an array, or of one after another."""
    decode = json.JSONDecoder().raw_decode
    text, at, line = "", 0, 1
    in_array: bool | None = None
    for piece in chain(texts, [None]):
        text, at = text[at:] + (piece or ""), 0
        while True:
            start = cast("re.Match[str]", _BETWEEN_OBJECTS.match(text, at)).end()
            if in_array is None:
                in_array = "[" in text[:start]
            line += text.count("\n", at, start)
            at = start
            # Unless the text ends here, a whole object lies ahead.
            if at == len(text) or (piece is not None and len(text) - at <= _MAX_RECORD):
                break
            try:
                value, end = decode(text, at)
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict) or end - at > _MAX_RECORD:
                stop = (_NEXT_IN_ARRAY if in_array else _LINE_END).search(text, at + 1)
                end = stop.end() if stop else len(text)
                value = _python_dict(text[at:end])
            if value is not None:
                yield line, value
            elif end - at > _MAX_RECORD:
                report.reject(_TOO_LONG, line)
            else:
                report.reject("not a JSON object", line)
            line += text.count("\n", at, end)
            at = end


def _python_dict(text: str) -> Document | None:
    """Return the dictionary that a text is the Python representation of, if any."""
    if not text.startswith(("{'", "{u'")):
        return None
    try:
        value = ast.literal_eval(text.rstrip().rstrip(","))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _values(rows: Sequence[Document], columns: Columns) -> dict[str, list[Any]]:
    values = {}
    for what, path in columns.names.items():
        values[what] = [row.get(path) for row in rows]
        if "." in path or dict in set(map(type, values[what])):
            values[what] = [_value(row, path) for row in rows]
    return values


def _value(row: Document, path: str) -> Any:
    """Return the value at a dotted path, with MongoDB's extended JSON decoded; None if missing."""
    value = row.get(path)
    if value is None and "." in path:
        key, _, rest = path.partition(".")
        inner = row.get(key)
        return _value(inner, rest) if isinstance(inner, dict) else None
    if isinstance(value, dict):
        with suppress(ValueError, TypeError, BSONError):
            return json_util.loads(json.dumps(value), json_options=_EXTENDED_JSON)
    return value


def _parquet_blocks(stream: Any, name: str, columns: Columns, report: Report) -> Iterator[Block]:
    file = pq.ParquetFile(stream)
    report.columns_found = file.schema_arrow.names
    roots = {path: path.partition(".")[0] for path in columns.names.values()}
    roots = {path: path if path in report.columns_found else root for path, root in roots.items()}
    header = [path for path, root in roots.items() if root in report.columns_found]
    wanted = dict(_places(header or report.columns_found, columns, name))
    number = 1
    for batch in file.iter_batches(_BLOCK_ROWS, columns=sorted({roots[path] for path in header})):
        rows = batch.to_pylist()
        yield (
            range(number, number + len(rows)),
            {what: values for what, values in _values(rows, columns).items() if what in wanted},
        )
        number += len(rows)
