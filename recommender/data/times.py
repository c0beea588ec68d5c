"""Times in the notations of databases and exports, as milliseconds since the epoch."""

import math
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64
from numpy.typing import NDArray

from recommender.data.ids import as_decimal

# Milliseconds in each unit.
UNITS = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
EARLIEST_MS = 631_152_000_000  # 1990
END_MS = 4_102_444_800_000  # 2100
_DAY = re.compile(r"\s*(199|20\d)\d{5}\s*")  # ISO 8601's date without hyphens


def parse_times(values: Sequence[Any]) -> NDArray[np.float64]:
    """Return the times of MongoDB values as milliseconds since the epoch, (n,).

    A number has the unit, of :data:`UNITS`, that puts it between 1990 and 2100; no number fits two.
    All others are taken for milliseconds. A text is such a number or an ISO 8601 date, in UTC
    unless it names a zone. NaN for a missing or unreadable time.
    """
    if set(map(type, values)) <= {int, float, Int64, type(None)}:
        numbers = [math.nan if value is None else value for value in values]
        return _from_numbers(np.array(numbers, dtype=np.float64))
    ms = _from_numbers(np.array([_number(value) for value in values], dtype=np.float64))
    dates = np.array([_date_ms(value) for value in values], dtype=np.float64)
    return np.where(np.isnan(ms), dates, ms)


def is_implausible(ms: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which known times are before 1990 or later than a day from now."""
    return (ms < EARLIEST_MS) | (ms > latest_ms())


def latest_ms() -> float:
    """Return the latest plausible time: a day from now."""
    return 1000 * (time.time() + 86_400)


def _from_numbers(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    ms = np.where(np.abs(numbers) < 2**63, numbers, np.nan)
    units = np.outer(list(UNITS.values()), ms)
    fits = (units >= EARLIEST_MS) & (units < END_MS)
    return np.select(list(fits), list(units), default=ms)


def _number(value: Any) -> float:
    is_day = isinstance(value, str) and _DAY.fullmatch(value)
    number = value if isinstance(value, str) else as_decimal(value)
    try:
        return math.nan if number is None or is_day else float(number)
    except ValueError:
        return math.nan


def _date_ms(value: Any) -> float:
    if isinstance(value, DatetimeMS):
        return float(int(value))
    try:
        date = datetime.fromisoformat(value.strip()) if isinstance(value, str) else value
        return 1000 * date.replace(tzinfo=date.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError, TypeError, AttributeError):
        return math.nan
