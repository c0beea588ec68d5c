"""Encodes recommendations straight to BSON, in blocks of users."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import bson
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from numpy.typing import NDArray

# The bytes of an entry after the name of its score.
_SCORE = np.dtype([("score", "<f8"), ("end", "S1")])
_SCORE_AND_RATING = np.dtype([("score", "<f8"), ("name", "S8"), ("rating", "<f8"), ("end", "S1")])
_BLOCK_USERS = 1_024
_RATING_NAME = b"\x01rating\0"


class RecommendationEncoder:
    """Encodes ``{_id, user_id, run_id, recommendations: [{gmap_id, score, rating?}, ...]}``."""

    def __init__(self, restaurant_ids: Sequence[Any], run_id: str, *, with_ratings: bool) -> None:
        self._dtype = _SCORE_AND_RATING if with_ratings else _SCORE
        empty = {"score": 0.0, "rating": 0.0} if with_ratings else {"score": 0.0}
        tail = self._dtype.itemsize
        # Each restaurant's part of an entry is encoded once for all lists.
        heads = [bson.encode({"gmap_id": i, **empty})[:-tail] for i in restaurant_ids]
        self._heads = pa.array(heads, pa.binary())
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
        """Yield the documents of n users, with `top_n`'s results and predicted ratings, (n, m)."""
        if (ratings is None) != (self._dtype == _SCORE):
            state = "missing" if ratings is None else "given"
            raise ValueError(f"ratings are {state}, with_ratings={ratings is None}")
        values = np.zeros(items.shape, self._dtype)
        values["score"] = scores
        if ratings is not None:
            values["name"], values["rating"] = _RATING_NAME, ratings
        for start in range(0, len(user), _BLOCK_USERS):
            block = slice(start, start + _BLOCK_USERS)
            arrays = self._arrays(items[block], values[block])
            of_users = zip(user[block].tolist(), user_ids[block], arrays, strict=True)
            for position, user_id, array in of_users:
                object_id = ObjectId(self._id_prefix + position.to_bytes(4, "big"))
                head = bson.encode({"_id": object_id, "user_id": user_id, "run_id": self._run_id})
                length = (len(array) + 5).to_bytes(4, "little")
                body = b"".join((head[4:-1], b"\x04recommendations\0", length, array, b"\0\0"))
                yield RawBSONDocument((len(body) + 4).to_bytes(4, "little") + body)

    def _arrays(self, items: NDArray[np.int32], values: NDArray[np.void]) -> list[bytes]:
        """Return the entries of each user's BSON array, joined."""
        used = items >= 0
        names = pa.array([b"\x03%d\0" % rank for rank in range(items.shape[1])], pa.binary())
        names = names.take(pa.array(used.nonzero()[1]))
        buffers = [None, pa.py_buffer(values[used].tobytes())]
        tails = pa.Array.from_buffers(pa.binary(self._dtype.itemsize), len(names), buffers)
        heads = self._heads.take(pa.array(items[used]))
        entries = pc.binary_join_element_wise(names, heads, tails.cast(pa.binary()), b"")
        ends = np.cumsum(used.sum(axis=1), dtype=np.int32)
        lists = pa.ListArray.from_arrays(np.append(np.int32(0), ends), entries)
        joined: list[bytes] = pc.binary_join(lists, b"").to_pylist()
        return joined
