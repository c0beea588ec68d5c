"""Encodes recommendations straight to BSON, in blocks of users."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import bson
import numpy as np
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from numpy.typing import NDArray

_INT32 = struct.Struct("<i")
# The bytes of an entry after the name of its score.
_SCORE = np.dtype([("score", "<f8")])
_SCORE_AND_RATING = np.dtype([("score", "<f8"), ("name", "S8"), ("rating", "<f8")])
_RATING_NAME = b"\x01rating\0"


class RecommendationEncoder:
    """Encodes blocks of recommendations straight to BSON, one document a user.

    ``{_id, user_id, run_id, recommendations: [{gmap_id, score, rating?}, ...]}``, with predicted
    ratings if ``with_ratings``. Each restaurant's part of an entry is encoded once for all lists.
    """

    def __init__(
        self, restaurant_ids: Sequence[Any], run_id: str, *, with_ratings: bool = False
    ) -> None:
        self._dtype = _SCORE_AND_RATING if with_ratings else _SCORE
        empty = {"score": 0.0, "rating": 0.0} if with_ratings else {"score": 0.0}
        tail = self._dtype.itemsize + 1
        self._heads = [bson.encode({"gmap_id": i, **empty})[:-tail] for i in restaurant_ids]
        self._run_id = run_id
        # Eight bytes of the run and four of the user: a retried task writes the same _id again.
        self._id_prefix = hashlib.blake2b(run_id.encode(), digest_size=8).digest()

    def encode(
        self,
        user: NDArray[np.int32],
        user_ids: Sequence[Any],
        items: NDArray[np.int32],
        scores: NDArray[np.float32],
        ratings: NDArray[np.float64] | None = None,
    ) -> Iterator[RawBSONDocument]:
        """Yield the documents of a block of users.

        Parameters
        ----------
        user, user_ids
            Positions of the users, (n,), and their ids.
        items, scores, ratings
            (n, m), the first two as `top_n` returns them; predicted ratings if ``with_ratings``.
        """
        if (ratings is None) != (self._dtype == _SCORE):
            raise ValueError(f"ratings={ratings!r}, expected if and only if with_ratings")
        values = np.empty(items.shape, self._dtype)
        values["score"] = scores
        if ratings is not None:
            values["name"], values["rating"] = _RATING_NAME, ratings
        lengths = (items >= 0).sum(axis=1).tolist()
        for row, (position, user_id, length) in enumerate(
            zip(user.tolist(), user_ids, lengths, strict=True)
        ):
            array = self._array(items[row, :length].tolist(), values[row].tobytes())
            object_id = ObjectId(self._id_prefix + position.to_bytes(4, "big"))
            head = bson.encode({"_id": object_id, "user_id": user_id, "run_id": self._run_id})
            body = head[4:-1] + b"\x04recommendations\0" + array + b"\0"
            yield RawBSONDocument(_INT32.pack(len(body) + 4) + body)

    def _array(self, items: list[int], values: bytes) -> bytes:
        """Return the BSON array of the entries."""
        width = self._dtype.itemsize
        parts: list[bytes] = []
        for rank, item in enumerate(items):
            value = values[width * rank : width * (rank + 1)]
            parts += (b"\x03%d\0" % rank, self._heads[item], value, b"\0")
        body = b"".join(parts) + b"\0"
        return _INT32.pack(len(body) + 4) + body
