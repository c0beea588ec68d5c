"""Times in any common notation, as milliseconds since the epoch."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from numpy.typing import NDArray

UNITS = {"s": 1e3, "ms": 1.0, "us": 1e-3}

_DAY_MS = 86_400_000
_EARLIEST_MS = 631_152_000_000  # 1990
_END_MS = 4_102_444_800_000  # 2100
_INT64_END = 2.0**63
_SAMPLE = 1_000
# Of two formats that read as many of the sampled texts, the earlier one is taken.
_FORMATS = [
    *("%m/%d/%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %I:%M %p", "%m/%d/%Y", "%m/%d/%y"),
    *("%d/%m/%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%d/%m/%Y", "%d/%m/%y", "%d-%m-%Y %H:%M", "%d-%m-%Y"),
    *("%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d"),
    *("%B %d, %Y", "%b %d, %Y", "%d %B %Y", "%d %b %Y", "%m %d, %Y", "%a %b %d %H:%M:%S %z %Y"),
]


class TimeParser:
    """Parses columns of times block by block; a date format once chosen is preferred later.

    Numbers are seconds, milliseconds, microseconds or nanoseconds, whichever puts a number between
    1990 and 2100; no number fits two of them. All others are taken for milliseconds.

    Parameters
    ----------
    unit
        The unit of all numbers, of :data:`UNITS`; None: by their size.
    calendar
        Read numbers such as 20171012 and 2017 as dates too, in blocks where every number fits some
        notation.

    Attributes
    ----------
    notations
        Counts of the values by how they were read.
    """

    def __init__(self, unit: str | None = None, *, calendar: bool = False) -> None:
        self.notations: Counter[str] = Counter()
        self._unit = unit
        self._calendar = calendar
        self._formats = list(_FORMATS)

    def parse(self, values: Sequence[Any]) -> NDArray[np.float64]:
        """Return milliseconds since the epoch, (n,), NaN for a missing or unreadable time.

        Texts are numbers or dates, in UTC unless they name a zone.
        """
        if not set(map(type, values)) <= {int, float, Int64, str, type(None)}:
            return self._of_objects(values)
        try:
            numbers = [math.nan if value is None else float(value) for value in values]
        except (ValueError, OverflowError):  # a date, or an integer beyond the doubles
            return self._of_objects(values)
        return self._of_numbers(np.array(numbers, dtype=np.float64))

    def _of_objects(self, values: Sequence[Any]) -> NDArray[np.float64]:
        import pandas as pd

        column = pd.Series([_number_or_text(value) for value in values], dtype=object)
        numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
        ms = self._of_numbers(numbers)
        is_date = np.array([isinstance(value, date | DatetimeMS) for value in values], dtype=bool)
        ms[is_date] = [_date_ms(values[row]) for row in np.flatnonzero(is_date).tolist()]
        texts = column[np.isnan(numbers) & [isinstance(value, str) for value in column]]
        is_text = np.zeros(len(ms), dtype=bool)
        is_text[texts.index] = True
        codes, distinct = pd.factorize(texts)
        ms[is_text] = self._of_texts(pd.Series(distinct, dtype=object))[codes]
        self._count("dates", int(np.isfinite(ms[is_text | is_date]).sum()))
        return ms

    def _of_numbers(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        finite = np.abs(numbers) < _INT64_END
        ms = np.where(finite, numbers, np.nan)
        if self._unit:
            self._count(f"in {self._unit}", int(finite.sum()))
            return ms * UNITS[self._unit]
        unread = finite
        for notation, factor in {**UNITS, "ns": 1e-6}.items():
            fits = unread & (numbers * factor >= _EARLIEST_MS) & (numbers * factor < _END_MS)
            ms[fits] = numbers[fits] * factor
            unread = unread & ~fits
            self._count(f"in {notation}", int(fits.sum()))
        if self._calendar and unread.any():
            dates = _calendar_ms(numbers[unread])
            if np.isfinite(dates).all():
                self._count("dates as numbers", len(dates))
                ms[unread] = dates
        return ms

    def _of_texts(self, texts: Any) -> NDArray[np.float64]:
        """Return the milliseconds of a Series of distinct texts: ISO 8601, then other formats."""
        ms = _parsed(texts, "ISO8601")
        while len(unread := np.flatnonzero(np.isnan(ms))):
            sample = texts.iloc[unread[:_SAMPLE]]
            read = [int(np.isfinite(_parsed(sample, form)).sum()) for form in self._formats]
            if not max(read):
                break
            best = self._formats.pop(int(np.argmax(read)))
            self._formats.insert(0, best)
            ms[unread] = _parsed(texts.iloc[unread], best)
        return ms

    def _count(self, notation: str, count: int) -> None:
        if count:
            self.notations[notation] += count


def is_implausible(ms: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which known times are before 1990 or later than a day from now."""
    return (ms < _EARLIEST_MS) | (ms > time.time() * 1000 + _DAY_MS)


def _number_or_text(value: Any) -> float | str | None:
    if isinstance(value, Decimal128):
        value = value.to_decimal()
        return None if value.is_nan() else float(value)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        return None if "_" in value else value
    try:
        return float(value)
    except OverflowError:
        return None


def _date_ms(value: Any) -> float:
    if isinstance(value, DatetimeMS):
        return float(int(value))
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    return float(1000 * value.replace(tzinfo=value.tzinfo or UTC).timestamp())


def _calendar_ms(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the milliseconds of numbers such as 20171012 and 2017, NaN for others."""
    import pandas as pd

    days = np.where(numbers < 10_000, numbers * 10_000 + 101, numbers)
    plausible = (days >= 19900101) & (days < 21000101) & (days % 1 == 0)
    texts = pd.Series(np.where(plausible, days, 0).astype(np.int64).astype(str))
    return _parsed(texts, "%Y%m%d")


def _parsed(texts: Any, form: str) -> NDArray[np.float64]:
    import pandas as pd

    dates = pd.to_datetime(texts, format=form, utc=True, errors="coerce").dt.tz_localize(None)
    ms = dates.astype("datetime64[ms]").to_numpy().astype(np.float64)
    return np.where(dates.isna(), np.nan, ms)
