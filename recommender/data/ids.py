"""Keys of user and restaurant ids: a string for an id of any BSON type."""

from __future__ import annotations

import math
from collections.abc import Iterable
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
from bson.objectid import ObjectId
from bson.timestamp import Timestamp
from numpy.typing import NDArray

MAX_ID_BYTES = 1024
# Dates outside Python's years 1 to 9999 and broken UTF-8 must not stop the reading of the rest.
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    unicode_decode_error_handler="surrogateescape",
)
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
    """Reasons to reject a row; a row counts once, under the first that applies."""

    NONE = 0
    USER_MISSING = 1
    RESTAURANT_MISSING = 2
    RATING_MISSING = 3
    ID_TOO_LONG = 4
    ID_UNUSABLE = 5
    RATING_NOT_A_NUMBER = 6
    RATING_NOT_FINITE = 7
    RATING_OUT_OF_RANGE = 8


def encode_id(value: Any) -> str | Rejection:
    """Return the key of a user's or restaurant's id, or why the id is invalid.

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
    if not isinstance(value, _ID_TYPES) or is_nan(value):
        return Rejection.ID_UNUSABLE
    try:
        encoded = bson.encode({"": value}, codec_options=CODEC)
    except (UnicodeEncodeError, bson.errors.BSONError):
        return Rejection.ID_UNUSABLE
    return Rejection.ID_TOO_LONG if len(encoded) > MAX_ID_BYTES else f"\0{encoded.hex()}"


def keys_of(values: Iterable[Any]) -> pa.StringArray:
    """Return the keys of the values that are valid ids."""
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


def positions_in(known: pa.StringArray, keys: pa.StringArray) -> NDArray[np.int64]:
    """Return the position of each key among the known ones, -1 for an unknown key."""
    same = same_number_same_key(pa.concat_arrays([known, keys]))
    position = pc.index_in(same.slice(len(known)), value_set=same.slice(0, len(known)))
    positions: NDArray[np.int64] = position.fill_null(-1).to_numpy().astype(np.int64)
    return positions


class KeyIndex:
    """Positions of known keys by id, for many look-ups: built once, unlike `positions_in`."""

    def __init__(self, known: pa.StringArray) -> None:
        self._positions: dict[object, int] = {}
        for position, key in enumerate(known.to_pylist()):
            self._positions[_comparable(decode_id(key), key)] = position

    def __len__(self) -> int:
        return len(self._positions)

    def find(self, value: Any) -> int:
        """Return the position of an id of any BSON type, -1 where it is not known."""
        if not isinstance(value, str) or value.startswith("\0"):
            value = _comparable(value, encode_id(value))
        return self._positions.get(value, -1)

    def add(self, value: Any) -> int | None:
        """Return the position of an id, which is added if it is new; None for an invalid id."""
        key = encode_id(value)
        if isinstance(key, Rejection):
            return None
        return self._positions.setdefault(_comparable(value, key), len(self._positions))


def _comparable(value: Any, key: str | Rejection) -> object:
    """Return a value that is equal for equal ids: a decimal for numbers, the key for others."""
    number = None if isinstance(key, Rejection) else as_decimal(value)
    return key if number is None else number


def same_number_same_key(keys: pa.StringArray) -> pa.StringArray:
    """Replace the keys of numbers equal in MongoDB (1, NumberLong(1), 1.0) by the smallest key."""
    typed = pc.starts_with(keys, "\0")
    if not pc.any(typed).as_py():
        return keys
    texts: list[str] = keys.to_pylist()
    smallest: dict[Decimal, str] = {}
    for key in sorted(key for key in texts if key.startswith("\0")):
        number = as_decimal(decode_id(key))
        if number is not None:
            smallest.setdefault(number, key)
    one_key = {
        key: smallest[number]
        for key in texts
        if key.startswith("\0") and (number := as_decimal(decode_id(key))) is not None
    }
    return pa.array([one_key.get(key, key) for key in texts], pa.string())


def is_nan(value: Any) -> bool:
    """Return true if a value is a float or decimal that is not a number."""
    if isinstance(value, Decimal128):
        return value.to_decimal().is_nan()
    return isinstance(value, float) and math.isnan(value)


def as_decimal(value: Any) -> Decimal | None:
    """Return the exact number of a numeric id, None for any other type."""
    if isinstance(value, Decimal128):
        return value.to_decimal()
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return Decimal(value) if is_number else None
