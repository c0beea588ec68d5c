"""How many array elements fit a MongoDB document, computed without encoding the document."""

from collections.abc import Sequence
from typing import Any

import bson
import numpy as np
from numpy.typing import NDArray

MAX_DOCUMENT_BYTES = 16 * 2**20

_DOUBLE_BYTES = 8
_ARRAY_BYTES = 5  # the length before a nested array's elements and the NUL after them
_ENCODED_ALONE_BYTES = 7  # of {"": id} beside the id: length, type, empty name, final NUL
_OTHER_FIELDS_BYTES = 4096


def bytes_of_ids(ids: Sequence[Any]) -> NDArray[np.int64]:
    """Return the bytes of each id as an element of one BSON array, (n,)."""
    values = [len(bson.encode({"": each})) - _ENCODED_ALONE_BYTES for each in ids]
    return _key_bytes(len(ids)) + np.array(values, dtype=np.int64)


def entries_that_fit(entry_bytes: NDArray[np.int64], fixed_bytes: int = 0) -> int:
    """Return how many entries, from the first on, fit one document, by the bytes of each, (n,).

    ``fixed_bytes`` are those of the document without entries, beyond 4 KB of short fields.
    """
    available = MAX_DOCUMENT_BYTES - _OTHER_FIELDS_BYTES - fixed_bytes
    return int(np.searchsorted(np.cumsum(entry_bytes), available, side="right"))


def columns_that_fit(k: int, column_ids: Sequence[Any]) -> int:
    """Return how many columns, from the first on, fit both documents of the published model.

    One holds the ids of the columns, the other ``k`` centroids of one double per column.
    """
    centroids_bytes = k * (_key_bytes(len(column_ids)) + _DOUBLE_BYTES)
    around_centroids = int(_key_bytes(k).sum()) + k * _ARRAY_BYTES
    ids_that_fit = entries_that_fit(bytes_of_ids(column_ids))
    return min(ids_that_fit, entries_that_fit(centroids_bytes, around_centroids))


def _key_bytes(n: int) -> NDArray[np.int64]:
    """Return the bytes before each value of a BSON array: type, decimal position, NUL."""
    return np.char.str_len(np.arange(n).astype(str)) + 2
