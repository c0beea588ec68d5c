"""Cleaning of raw rows; only this module decides which ratings are valid."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from numpy.typing import NDArray

from recommender.core.mongo import Document
from recommender.core.settings import Settings
from recommender.data.ids import MAX_ID_BYTES, Rejection, encode_id, is_nan
from recommender.data.times import parse_times

BLOCK_SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("restaurant", pa.string()),
        ("rating", pa.float64()),
        ("time", pa.float64()),
        ("rejected", pa.int8()),
    ]
)
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


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
    columns = [user_keys, restaurant_keys, values, parse_times(times), rejected]
    arrays = [pa.array(c, type=f.type) for c, f in zip(columns, BLOCK_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=BLOCK_SCHEMA)


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
        return math.nan if is_nan(value) else float(value.to_decimal())
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return Rejection.RATING_NOT_A_NUMBER


def _first_reason(*columns: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return each row's lowest reason that is not NONE; their numbers are their order."""
    stacked = np.stack(columns)
    lowest = np.where(stacked == Rejection.NONE, len(Rejection), stacked).min(axis=0)
    return np.where(lowest == len(Rejection), Rejection.NONE, lowest).astype(np.int8)


def clean_rows(
    rows: Sequence[Document], fields: tuple[str, str, str, str], settings: Settings
) -> pa.RecordBatch:
    """Clean documents by :func:`clean_block`; ``fields`` name user, restaurant, rating and time."""
    user, restaurant, rating, time = fields
    return clean_block(
        [row.get(user) for row in rows],
        [row.get(restaurant) for row in rows],
        [row.get(rating) for row in rows],
        [row.get(time) for row in rows],
        rating_min=settings.reviews.rating_min,
        rating_max=settings.reviews.rating_max,
    )
