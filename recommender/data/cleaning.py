"""Cleaning of raw rows; only this module decides which ratings are valid."""

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from bson import Int64
from numpy.typing import NDArray

from recommender.core.mongo import Document
from recommender.core.settings import ReviewsSettings
from recommender.data.ids import MAX_ID_BYTES, as_decimal, encode_id
from recommender.data.rejection import Rejection
from recommender.data.times import parse_times

BLOCK_SCHEMA = pa.schema(
    {
        "user": pa.string(),
        "restaurant": pa.string(),
        "rating": pa.float64(),
        "time": pa.float64(),
        "rejected": pa.int8(),
    }
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
    """Return raw values, as ``CODEC`` decodes them, as rows of :data:`BLOCK_SCHEMA`.

    The four columns have the same length; None is null or missing. Ratings from ``rating_min`` to
    ``rating_max``, both included, are valid. ``rejected`` is a :class:`Rejection`; in a rejected
    row ``user`` and ``restaurant`` are null.
    """
    user_keys, user_rejected = _encode(users, Rejection.USER_MISSING)
    restaurant_keys, restaurant_rejected = _encode(restaurants, Rejection.RESTAURANT_MISSING)
    values, rating_rejected = parse_ratings(ratings, rating_min, rating_max)
    # The lowest reason of each row, 0 (NONE) where there is none.
    reasons = np.stack([user_rejected, restaurant_rejected, rating_rejected])
    lowest = reasons.min(axis=0, where=reasons > 0, initial=len(Rejection))
    rejected = np.where(lowest == len(Rejection), 0, lowest)
    if rejected.any():
        dropped = pa.array(rejected > 0)
        user_keys = pc.if_else(dropped, None, user_keys)
        restaurant_keys = pc.if_else(dropped, None, restaurant_keys)
    columns = [user_keys, restaurant_keys, values, parse_times(times), rejected]
    return pa.RecordBatch.from_arrays(list(map(pa.array, columns)), schema=BLOCK_SCHEMA)


def clean_rows(
    rows: Sequence[Document], scale: ReviewsSettings, fields: Sequence[str] = ()
) -> pa.RecordBatch:
    """Clean documents by :func:`clean_block`, on the settings' rating scale.

    ``fields`` name user, restaurant, rating and time, by default as in Reviews.
    """
    columns = ([row.get(field) for row in rows] for field in fields or scale.fields)
    return clean_block(*columns, rating_min=scale.rating_min, rating_max=scale.rating_max)


def parse_ratings(
    values: Sequence[Any], low: float, high: float
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Return the values as numbers, NaN if unreadable, and the :class:`Rejection` of each."""
    rejected = np.zeros(len(values), dtype=np.int8)
    if not set(map(type, values)) <= {int, float, Int64}:
        parsed = [_parse_rating(value) for value in values]
        rejected[:] = [p if isinstance(p, Rejection) else 0 for p in parsed]
        values = [math.nan if isinstance(p, Rejection) else p for p in parsed]
    numbers = np.array(values, dtype=np.float64)
    rejected[(rejected == 0) & ~np.isfinite(numbers)] = Rejection.RATING_NOT_FINITE
    outside = (numbers < low) | (numbers > high)
    rejected[(rejected == 0) & outside] = Rejection.RATING_OUT_OF_RANGE
    return numbers, rejected


def _parse_rating(value: Any) -> float | Rejection:
    if value is None:
        return Rejection.RATING_MISSING
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if (number := as_decimal(value)) is None:
        return Rejection.RATING_NOT_A_NUMBER
    return math.nan if number.is_nan() else float(number)


def _encode(values: Sequence[Any], missing: Rejection) -> tuple[pa.StringArray, NDArray[np.int8]]:
    """Return the keys of ids, null for an invalid id, and the :class:`Rejection` of each."""
    if set(map(type, values)) <= {str}:
        with suppress(UnicodeEncodeError):
            keys = pa.array(values, type=pa.string())
            longest = pc.max(pc.binary_length(keys)).as_py() or 0
            if longest <= MAX_ID_BYTES and not pc.any(pc.starts_with(keys, "\0")).as_py():
                return keys, np.zeros(len(values), dtype=np.int8)
    encoded = [missing if value is None else encode_id(value) for value in values]
    rejected = np.array([e if isinstance(e, Rejection) else 0 for e in encoded], dtype=np.int8)
    return pa.array([e if isinstance(e, str) else None for e in encoded], pa.string()), rejected
