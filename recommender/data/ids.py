"""Keys of user and restaurant ids: a string for an id of any BSON type."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import bson
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from bson import Binary, Code, DatetimeMS, Decimal128, ObjectId, Timestamp
from bson.codec_options import CodecOptions, DatetimeConversion
from numpy.typing import NDArray

from recommender.data.rejection import Rejection

MAX_ID_BYTES = 1024
# Dates outside Python's years 1 to 9999 and broken UTF-8 must not stop the reading of the rest.
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    unicode_decode_error_handler="surrogateescape",
)
READABLE = CODEC.with_options(unicode_decode_error_handler="replace")  # of what is shown
_ID_TYPES = int | float | Decimal128 | ObjectId | bytes | Binary | DatetimeMS | Timestamp | Code


def encode_id(value: Any) -> str | Rejection:
    """Return the key of a user's or restaurant's id, or why the id is invalid.

    A string is its own key. Any other type becomes NUL and the hexadecimal BSON of the value, so
    that ``1`` and ``"1"`` stay two ids; a string that starts with NUL is marked as a string.
    """
    try:
        if type(value) is str:
            size, key = len(value.encode()), f"\0s{value}" if value.startswith("\0") else value
        elif isinstance(value, _ID_TYPES) and not (as_decimal(value) or Decimal()).is_nan():
            encoded = bson.encode({"": value}, codec_options=CODEC)
            size, key = len(encoded), f"\0{encoded.hex()}"
        else:
            return Rejection.ID_UNUSABLE
    except (UnicodeEncodeError, OverflowError, bson.errors.BSONError):
        return Rejection.ID_UNUSABLE
    return key if size <= MAX_ID_BYTES else Rejection.ID_TOO_LONG


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


class KeyIndex:
    """Positions of ids among ``keys``; numbers are compared by value, as in MongoDB."""

    def __init__(self, known: pa.StringArray) -> None:
        self.keys: list[str] = known.to_pylist()
        self._positions = {_comparable(decode_id(key)): i for i, key in enumerate(self.keys)}

    def find(self, value: Any) -> int:
        """Return the position of an id of any BSON type, -1 if it is unknown."""
        return self._positions.get(_comparable(value), -1)

    def find_all(self, values: Iterable[Any]) -> NDArray[np.int64]:
        """Return the position of each id, (n,), -1 for an unknown one."""
        return np.array([self.find(value) for value in values], dtype=np.int64)

    def add(self, value: Any) -> int:
        """Return the position of an id, which is added if it is new; -1 for an invalid id."""
        position = self.find(value)
        if position < 0 and isinstance(key := encode_id(value), str):
            position = self._positions[_comparable(value)] = len(self.keys)
            self.keys.append(key)
        return position


def same_number_same_key(keys: pa.StringArray) -> pa.StringArray:
    """Replace the keys of numbers equal in MongoDB (1, NumberLong(1), 1.0) by the smallest key."""
    if not pc.any(pc.starts_with(keys, "\0")).as_py():
        return keys
    comparable = {key: _comparable(decode_id(key)) for key in keys.to_pylist()}
    smallest = {comparable[key]: key for key in sorted(comparable, reverse=True)}
    return pa.array([smallest[comparable[key]] for key in keys.to_pylist()], pa.string())


def _comparable(value: Any) -> str | Decimal | None:
    """Return a value that is equal for equal ids; None for an invalid id that is not a string."""
    if type(value) is str and not value.startswith("\0"):  # not Code, a str without a hash
        return value
    key = encode_id(value)
    if isinstance(key, Rejection):
        return None
    number = as_decimal(value)
    return key if number is None else number


def as_decimal(value: Any) -> Decimal | None:
    """Return the exact value of a BSON number, None for any other type."""
    if isinstance(value, Decimal128):
        return value.to_decimal()
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Decimal(value) if is_number else None
