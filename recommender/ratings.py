"""From what Reviews holds to clean ratings: the one place that decides what a valid rating is.

A block of raw values is cleaned by :func:`clean_block`, wherever it was read; the blocks are then
gathered by :func:`gather` into :class:`Ratings`, where users and restaurants are small integers.
In between, an id of any BSON type travels as a string, its *key*: see :func:`encode_id`.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import IntEnum
from typing import Any

import bson
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from bson.binary import Binary
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.timestamp import Timestamp
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.errors import DataError

MAX_ID_BYTES = 1024

BLOCK_SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("restaurant", pa.string()),
        ("rating", pa.float64()),
        ("time", pa.float64()),
        ("rejected", pa.int8()),
    ]
)

# Dates outside Python's years 1 to 9999 and broken UTF-8 must not stop the reading of the rest.
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    unicode_decode_error_handler="surrogateescape",
)

log = logging.getLogger(__name__)

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_ID_TYPES = (
    int,
    float,
    Decimal128,
    ObjectId,
    bytes,
    Binary,
    DatetimeMS,
    Timestamp,
)


class Rejection(IntEnum):
    """Why a row is left out; a row counts once, under the first that applies."""

    NONE = 0
    USER_MISSING = 1
    RESTAURANT_MISSING = 2
    RATING_MISSING = 3
    ID_TOO_LONG = 4
    ID_UNUSABLE = 5
    RATING_NOT_A_NUMBER = 6
    RATING_NOT_FINITE = 7
    RATING_OUT_OF_RANGE = 8


@dataclass(frozen=True)
class CleaningReport:
    """What became of the rows read.

    Attributes
    ----------
    rows_read
        Rows found in Reviews.
    rejected
        Count of the rows left out, by the name of their :class:`Rejection` in small letters.
    merged
        Rows that went into another one of the same user and restaurant.
    """

    rows_read: int
    rejected: dict[str, int] = field(default_factory=dict)
    merged: int = 0


@dataclass(frozen=True)
class Ratings:
    """Clean ratings, each user and restaurant pair once, ordered by user, then restaurant.

    Attributes
    ----------
    users, restaurants
        Keys of the ids, sorted; a row's integers point into them.
    user, restaurant
        int32 (n,), positions in ``users`` and ``restaurants``.
    rating
        float64 (n,), on the scale of the settings.
    time
        float64 (n,), milliseconds since the epoch, NaN where unknown.
    report
        What became of the rows that this was made from.
    """

    users: pa.StringArray
    restaurants: pa.StringArray
    user: NDArray[np.int32]
    restaurant: NDArray[np.int32]
    rating: NDArray[np.float64]
    time: NDArray[np.float64]
    report: CleaningReport

    def __len__(self) -> int:
        return len(self.rating)

    def rows(self, chosen: NDArray[np.bool_]) -> Ratings:
        """Return the rows where ``chosen``, bool (n,), is true; users and restaurants stay."""
        return replace(
            self,
            user=self.user[chosen],
            restaurant=self.restaurant[chosen],
            rating=self.rating[chosen],
            time=self.time[chosen],
        )

    def matrix(self, shift: float = 0.0) -> csr_array:
        """Return the sparse users x restaurants matrix of the ratings plus ``shift``."""
        counts = np.bincount(self.user, minlength=len(self.users))
        indptr = np.concatenate([[0], np.cumsum(counts)])
        shape = (len(self.users), len(self.restaurants))
        return csr_array((self.rating + shift, self.restaurant, indptr), shape=shape)


def rating_shift(rating_min: float) -> float:
    """Return what is added to ratings in a training, so that none is 0, which means unrated."""
    return 0.0 if rating_min > 0 else 1.0 - rating_min


def reader_shift(rating_min: float) -> float:
    """Return what a reader of the clusters adds to ratings, so that none is below 0.

    Nothing on a scale from 0: the contract's reader takes ratings as they are, so that the clusters
    are found by those above 0.
    """
    return 0.0 if rating_min >= 0 else rating_shift(rating_min)


def clean_block(
    users: Sequence[Any],
    restaurants: Sequence[Any],
    ratings: Sequence[Any],
    times: Sequence[Any],
    *,
    rating_min: float,
    rating_max: float,
) -> pa.RecordBatch:
    """Clean a block of raw values, as ``CODEC`` decodes them; None is null or missing.

    Parameters
    ----------
    users, restaurants, ratings, times
        The block's columns, each of the same length.
    rating_min, rating_max
        The valid range, both ends included.

    Returns
    -------
    pyarrow.RecordBatch
        Of :data:`BLOCK_SCHEMA`, a row for each row given. ``rejected`` is a :class:`Rejection`;
        in a rejected row ``user`` and ``restaurant`` are null.
    """
    user_keys, user_rejected = _encode_ids(users, Rejection.USER_MISSING)
    restaurant_keys, restaurant_rejected = _encode_ids(restaurants, Rejection.RESTAURANT_MISSING)
    values, rating_rejected = _parse_ratings(ratings, rating_min, rating_max)
    rejected = _first_reason(user_rejected, restaurant_rejected, rating_rejected)
    if rejected.any():
        dropped = pa.array(rejected != 0)
        user_keys = pc.if_else(dropped, None, user_keys)
        restaurant_keys = pc.if_else(dropped, None, restaurant_keys)
    columns = [user_keys, restaurant_keys, values, _parse_times(times), rejected]
    arrays = [pa.array(c, type=f.type) for c, f in zip(columns, BLOCK_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=BLOCK_SCHEMA)


def gather(table: pa.Table) -> Ratings:
    """Return cleaned blocks with users and restaurants numbered, and repeated pairs merged.

    The same user and restaurant twice: the latest by time where one is known, else the mean; the
    mean as well of those that share the latest time. The order of the rows does not matter.

    Parameters
    ----------
    table
        Rows of :data:`BLOCK_SCHEMA`.

    Raises
    ------
    DataError
        If no row is valid.
    """
    reasons = np.bincount(_numpy(table["rejected"]), minlength=len(Rejection))
    rejected = {r.name.lower(): int(reasons[r]) for r in Rejection if r and reasons[r]}
    report = CleaningReport(rows_read=table.num_rows, rejected=rejected)
    if not reasons[Rejection.NONE]:
        raise DataError(_no_valid_row(report))
    users, user = _number(table["user"])
    restaurants, restaurant = _number(table["restaurant"])
    rating, time = _numpy(table["rating"]), _numpy(table["time"])
    valid = user >= 0
    user, restaurant, rating, time = _merge(
        user[valid], restaurant[valid], rating[valid], time[valid]
    )
    report = replace(report, merged=int(reasons[Rejection.NONE]) - len(rating))
    log.info("%s", report)
    return Ratings(
        users=users,
        restaurants=restaurants,
        user=user,
        restaurant=restaurant,
        rating=rating,
        time=time,
        report=report,
    )


def counts_of(ratings: Ratings) -> dict[str, Any]:
    """Return what the ledger says of the rows that were read."""
    return {
        "rows_read": ratings.report.rows_read,
        "rows_rejected": ratings.report.rejected,
        "rows_merged": ratings.report.merged,
        "ratings": len(ratings),
        "users": len(ratings.users),
        "restaurants": len(ratings.restaurants),
    }


def encode_id(value: Any) -> str | Rejection:
    """Return the key of a user's or restaurant's id, or why it cannot be one.

    A string is its own key. Any other type becomes NUL and the hexadecimal BSON of the value, so
    that ``1`` and ``"1"`` stay two ids; a string that starts with NUL is marked as a string.
    """
    if isinstance(value, str):
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            return Rejection.ID_UNUSABLE
        if size > MAX_ID_BYTES:
            return Rejection.ID_TOO_LONG
        return f"\0s{value}" if value.startswith("\0") else value
    if not isinstance(value, _ID_TYPES) or _is_nan(value):
        return Rejection.ID_UNUSABLE
    try:
        encoded = bson.encode({"": value}, codec_options=CODEC)
    except (UnicodeEncodeError, bson.errors.BSONError):
        return Rejection.ID_UNUSABLE
    return Rejection.ID_TOO_LONG if len(encoded) > MAX_ID_BYTES else f"\0{encoded.hex()}"


def keys_of(values: Iterable[Any]) -> pa.StringArray:
    """Return the keys of those values that can be ids."""
    keys = map(encode_id, values)
    return pa.array([key for key in keys if isinstance(key, str)], pa.string())


def decode_id(key: str) -> Any:
    """Return the id, in its own BSON type, of a key made by :func:`encode_id`."""
    if not key.startswith("\0"):
        return key
    if key[1] == "s":
        return key[2:]
    return bson.decode(bytes.fromhex(key[1:]), codec_options=CODEC)[""]


def decode_ids(keys: pa.StringArray) -> list[Any]:
    """Return the ids of an array of keys."""
    return [decode_id(key) for key in keys.to_pylist()]


def _is_nan(value: Any) -> bool:
    if isinstance(value, Decimal128):
        return value.to_decimal().is_nan()
    return isinstance(value, float) and math.isnan(value)


def _types(values: Sequence[Any]) -> set[type]:
    return set(map(type, values))


def _encode_ids(
    values: Sequence[Any], missing: Rejection
) -> tuple[pa.StringArray, NDArray[np.int8]]:
    if _types(values) <= {str}:
        try:
            keys = pa.array(values, type=pa.string())
        except UnicodeEncodeError:
            keys = None
        if keys is not None and _are_plain(keys):
            return keys, np.zeros(len(values), dtype=np.int8)
    encoded = [missing if value is None else encode_id(value) for value in values]
    rejected = np.array([e if isinstance(e, Rejection) else 0 for e in encoded], dtype=np.int8)
    keys = pa.array([None if isinstance(e, Rejection) else e for e in encoded], pa.string())
    return keys, rejected


def _are_plain(keys: pa.StringArray) -> bool:
    longest = pc.max(pc.binary_length(keys)).as_py() or 0
    return longest <= MAX_ID_BYTES and not pc.any(pc.starts_with(keys, "\0")).as_py()


def _parse_ratings(
    values: Sequence[Any], low: float, high: float
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    rejected = np.zeros(len(values), dtype=np.int8)
    if not _types(values) <= {int, float, Int64}:
        parsed = [_parse_rating(value) for value in values]
        rejected[:] = [p if isinstance(p, Rejection) else 0 for p in parsed]
        values = [math.nan if isinstance(p, Rejection) else p for p in parsed]
    numbers = np.array(values, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        outside = (numbers < low) | (numbers > high)
    checked = np.select(
        [rejected != 0, ~np.isfinite(numbers), outside],
        [rejected, Rejection.RATING_NOT_FINITE, Rejection.RATING_OUT_OF_RANGE],
        default=Rejection.NONE,
    )
    return numbers, checked.astype(np.int8)


def _parse_rating(value: Any) -> float | Rejection:
    if value is None:
        return Rejection.RATING_MISSING
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, Decimal128):
        return math.nan if _is_nan(value) else float(value.to_decimal())
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return Rejection.RATING_NOT_A_NUMBER


def _parse_times(values: Sequence[Any]) -> NDArray[np.float64]:
    if not _types(values) <= {int, float, Int64, type(None)}:
        values = [_parse_time(value) for value in values]
    times = np.array(values, dtype=np.float64)
    return np.where(np.isfinite(times), times, np.nan)


def _parse_time(value: Any) -> float:
    """Return milliseconds since the epoch, NaN for what is no time: a rating needs none."""
    if isinstance(value, DatetimeMS):
        return float(int(value))
    parsed = _parse_rating(value)
    return math.nan if isinstance(parsed, Rejection) else parsed


def _first_reason(*columns: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return each row's lowest reason that is not NONE; their numbers are their order."""
    stacked = np.stack(columns)
    lowest = np.where(stacked == Rejection.NONE, len(Rejection), stacked).min(axis=0)
    return np.where(lowest == len(Rejection), Rejection.NONE, lowest).astype(np.int8)


def _no_valid_row(report: CleaningReport) -> str:
    if not report.rows_read:
        return "Reviews holds no review; load some, or check MONGO_DB"
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.rejected.items())
    return (
        f"none of the {report.rows_read:,} reviews is valid ({reasons}); check RATING_MIN, "
        "RATING_MAX and the REVIEWS_*_FIELD settings"
    )


def _numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    array: NDArray[Any] = column.to_numpy()
    return array


def _number(keys: pa.ChunkedArray) -> tuple[pa.StringArray, NDArray[np.int32]]:
    """Return the distinct keys, sorted, and each row's position among them; -1 for null."""
    coded = keys.dictionary_encode().combine_chunks()
    same = same_number_same_key(coded.dictionary).dictionary_encode()
    order = pc.sort_indices(same.dictionary)
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    # A null is number -1, and so finds the -1 behind the last position.
    position = np.append(rank[same.indices], np.int32(-1))
    return same.dictionary.take(order), position[coded.indices.fill_null(-1)]


def positions_in(known: pa.StringArray, keys: pa.StringArray) -> NDArray[np.int64]:
    """Return where each key stands among the known ones, -1 where it is none of them."""
    same = same_number_same_key(pa.concat_arrays([known, keys]))
    found = pc.index_in(same.slice(len(known)), value_set=same.slice(0, len(known)))
    positions: NDArray[np.int64] = found.fill_null(-1).to_numpy().astype(np.int64)
    return positions


def same_number_same_key(keys: pa.StringArray) -> pa.StringArray:
    """Give numeric ids that MongoDB holds equal (1, NumberLong(1), 1.0) one key, the smallest."""
    typed = pc.starts_with(keys, "\0")
    if not pc.any(typed).as_py():
        return keys
    texts: list[str] = keys.to_pylist()
    smallest: dict[Decimal, str] = {}
    for key in sorted(key for key in texts if key.startswith("\0")):
        number = _as_decimal(decode_id(key))
        if number is not None:
            smallest.setdefault(number, key)
    one_key = {
        key: smallest[number]
        for key in texts
        if key.startswith("\0") and (number := _as_decimal(decode_id(key))) is not None
    }
    return pa.array([one_key.get(key, key) for key in texts], pa.string())


def _as_decimal(value: Any) -> Decimal | None:
    if isinstance(value, Decimal128):
        return value.to_decimal()
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return Decimal(value) if is_number else None


def _merge(
    user: NDArray[np.int32],
    restaurant: NDArray[np.int32],
    rating: NDArray[np.float64],
    time: NDArray[np.float64],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
    """Order rows by user and restaurant, and make each pair one row."""
    pair = user.astype(np.int64) << 32 | restaurant
    order = np.argsort(pair)
    starts = _run_starts(pair[order])
    if not starts.all():
        # The rating as the last key keeps the mean's rounding independent of the rows' order.
        known = np.where(np.isnan(time), -np.inf, time)
        order = np.lexsort((rating, known, pair))
        latest = np.maximum.reduceat(known[order], np.flatnonzero(starts))
        row_of = np.cumsum(starts) - 1
        kept = known[order] == latest[row_of]
        totals = np.bincount(row_of[kept], weights=rating[order][kept])
        rating = totals / np.bincount(row_of[kept])
        time = np.where(np.isneginf(latest), np.nan, latest)
        return user[order][starts], restaurant[order][starts], rating, time
    return user[order], restaurant[order], rating[order], time[order]


def _run_starts(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return where a run of equal values starts in sorted ``values``."""
    starts = np.ones(len(values), dtype=bool)
    starts[1:] = values[1:] != values[:-1]
    return starts
