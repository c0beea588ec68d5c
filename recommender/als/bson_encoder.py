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
_DOUBLE_BYTES = 8
_RATING = b"\x01rating\0"


class RecommendationEncoder:
    """Encodes blocks of recommendations straight to BSON, one document a user.

    ``{_id, user_id, run_id, recommendations: [{gmap_id, score, rating?}, ...]}``. Each restaurant's
    part of an entry is encoded once and reused in all lists, without a dict for each entry.

    Parameters
    ----------
    restaurant_ids
        The ids, by position.
    run_id
        The training.
    with_ratings
        Whether each entry has a rating beside its score.
    """

    def __init__(
        self, restaurant_ids: Sequence[Any], run_id: str, *, with_ratings: bool = False
    ) -> None:
        self._with_ratings = with_ratings
        empty = {"score": 0.0, "rating": 0.0} if with_ratings else {"score": 0.0}
        tail = len(empty) * _DOUBLE_BYTES + (len(empty) - 1) * len(_RATING) + 1
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
        user
            (n,), positions of the users.
        user_ids
            Their ids.
        items, scores
            (n, m), as :func:`recommender.als.top_n.top_n` returns them.
        ratings
            (n, m), predicted ratings; None without ``with_ratings``.

        Raises
        ------
        ValueError
            If ``ratings`` does not match ``with_ratings``.
        """
        if (ratings is not None) != self._with_ratings:
            raise ValueError(f"with_ratings={self._with_ratings}, ratings={ratings!r}")
        lengths = (items >= 0).sum(axis=1).tolist()
        columns = (scores,) if ratings is None else (scores, ratings)
        numbers = np.stack([column.astype("<f8") for column in columns], axis=-1)
        for row, (position, user_id, length) in enumerate(
            zip(user.tolist(), user_ids, lengths, strict=True)
        ):
            array = self._array(items[row, :length].tolist(), numbers[row].tobytes())
            object_id = ObjectId(self._id_prefix + position.to_bytes(4, "big"))
            head = bson.encode({"_id": object_id, "user_id": user_id, "run_id": self._run_id})
            body = head[4:-1] + b"\x04recommendations\0" + array + b"\0"
            yield RawBSONDocument(_INT32.pack(len(body) + 4) + body)

    def _array(self, items: list[int], numbers: bytes) -> bytes:
        """Return the BSON array of the entries; ``numbers`` are their doubles, in turn."""
        parts: list[bytes] = []
        width = 2 * _DOUBLE_BYTES if self._with_ratings else _DOUBLE_BYTES
        for rank, item in enumerate(items):
            values = numbers[width * rank : width * (rank + 1)]
            if self._with_ratings:
                values = _RATING.join((values[:_DOUBLE_BYTES], values[_DOUBLE_BYTES:]))
            parts += (b"\x03%d\0" % rank, self._heads[item], values, b"\0")
        body = b"".join(parts) + b"\0"
        return _INT32.pack(len(body) + _INT32.size) + body
