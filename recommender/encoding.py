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

    ``{_id, user_id, run_id, recommendations: [{gmap_id, score, rating?, because?}, ...]}``. Each
    restaurant's part of an entry is encoded once, not once for each of its entries; a million dicts
    are never built.

    Parameters
    ----------
    restaurant_ids
        The ids, in the order of the model's integers.
    run_id
        The training that writes.
    with_ratings
        Whether each entry carries a rating beside its score.
    """

    def __init__(
        self, restaurant_ids: Sequence[Any], run_id: str, *, with_ratings: bool = False
    ) -> None:
        self._with_ratings = with_ratings
        empty = {"score": 0.0, "rating": 0.0} if with_ratings else {"score": 0.0}
        tail = len(empty) * _DOUBLE_BYTES + (len(empty) - 1) * len(_RATING) + 1
        entries = [bson.encode({"gmap_id": i, **empty}) for i in restaurant_ids]
        self._heads = [entry[:-tail] for entry in entries]
        elements = [bson.encode({"": i}) for i in restaurant_ids]
        self._ids = [(element[4:5], element[6:-1]) for element in elements]
        self._run_id = run_id
        # Eight bytes of the run and four of the user: a retried task makes the same _id again.
        self._id_prefix = hashlib.blake2b(run_id.encode(), digest_size=8).digest()

    def encode(
        self,
        user: NDArray[np.int32],
        user_ids: Sequence[Any],
        items: NDArray[np.int32],
        scores: NDArray[np.float32],
        ratings: NDArray[np.float64] | None = None,
        reasons: NDArray[np.int32] | None = None,
    ) -> Iterator[RawBSONDocument]:
        """Yield the documents of a block of users.

        Parameters
        ----------
        user
            (n,), the model's integers of the users.
        user_ids
            Their ids.
        items, scores
            (n, m), as :func:`recommender.topn.top_n` returns them.
        ratings
            (n, m), what stands beside the scores ``with_ratings``; else None.
        reasons
            (n, m, c), the restaurants that each is recommended for, -1 after the last; None leaves
            ``because`` out.

        Raises
        ------
        ValueError
            If there are ratings where the encoder was made without, or the reverse.
        """
        if (ratings is not None) != self._with_ratings:
            raise ValueError(f"with_ratings={self._with_ratings}, ratings={ratings!r}")
        lengths = (items >= 0).sum(axis=1).tolist()
        beside = () if ratings is None else (ratings,)
        numbers = np.stack([scores.astype("<f8"), *beside], axis=-1)
        for row, (code, user_id, length) in enumerate(
            zip(user.tolist(), user_ids, lengths, strict=True)
        ):
            because = [] if reasons is None else reasons[row, :length].tolist()
            own = numbers[row, :length].tobytes()
            array = self._array(items[row, :length].tolist(), own, because)
            object_id = ObjectId(self._id_prefix + code.to_bytes(4, "big"))
            head = bson.encode({"_id": object_id, "user_id": user_id, "run_id": self._run_id})
            body = head[4:-1] + b"\x04recommendations\0" + array + b"\0"
            yield RawBSONDocument(_INT32.pack(len(body) + 4) + body)

    def _array(self, items: list[int], numbers: bytes, reasons: list[list[int]]) -> bytes:
        parts: list[bytes] = []
        width = len(numbers) // max(1, len(items))
        for place, item in enumerate(items):
            own = numbers[width * place : width * (place + 1)]
            fields = own if width == _DOUBLE_BYTES else _RATING.join((own[:8], own[8:]))
            head = self._heads[item]
            if reasons:
                because = self._because(reasons[place])
                head = _longer(head, len(because))
                fields += because
            parts += (b"\x03%d\0" % place, head, fields, b"\0")
        return _framed(parts)

    def _because(self, items: list[int]) -> bytes:
        elements: list[bytes] = []
        for place, item in enumerate(item for item in items if item >= 0):
            kind, value = self._ids[item]
            elements += (kind, b"%d\0" % place, value)
        return b"\x04because\0" + _framed(elements)


def _framed(parts: list[bytes]) -> bytes:
    body = b"".join(parts) + b"\0"
    return _INT32.pack(len(body) + _INT32.size) + body


def _longer(document: bytes, by: int) -> bytes:
    (length,) = _INT32.unpack_from(document)
    return _INT32.pack(length + by) + document[_INT32.size :]
