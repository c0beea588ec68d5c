"""Stages every user's recommendations: the work of a Spark executor on a block of users."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from recommender.als.bson_encoder import RecommendationEncoder
from recommender.als.model import Model
from recommender.als.top_n import top_n
from recommender.core.mongo import connect, database, mongo_errors
from recommender.core.mongo_collections import insert_once
from recommender.core.settings import Settings
from recommender.data.ids import decode_ids

# Of a block: its ratings, and a few more for each user. About a megabyte.
_BLOCK_RATINGS = 60_000
_RATINGS_A_USER = 5


@dataclass(frozen=True, eq=False)
class UserBlock:
    """A part of the users, with all that an executor needs of them.

    Attributes
    ----------
    first
        Position of the first user.
    users
        Keys of the users' ids, (n,).
    bias, factors
        float64 (n,) and float32 (n, rank), theirs in the rating model.
    confidence
        (n, restaurants), the confidence matrix.
    rated
        bool (n, restaurants); restaurants not to recommend.
    """

    first: int
    users: pa.StringArray
    bias: NDArray[np.float64]
    factors: NDArray[np.float32]
    confidence: csr_array
    rated: csr_array


def user_blocks(
    model: Model, users: pa.StringArray, confidence: csr_array, rated: csr_array
) -> Iterator[UserBlock]:
    """Cut the users into blocks of about equal work, in their order.

    Parameters
    ----------
    model
        Of these users.
    users
        Keys of their ids.
    confidence, rated
        (users, restaurants), as in :class:`UserBlock`.
    """
    work = rated.indptr + _RATINGS_A_USER * np.arange(len(users) + 1)
    cuts = np.searchsorted(work, np.arange(0, work[-1], _BLOCK_RATINGS))
    bounds = np.unique([*cuts, len(users)]).tolist()
    for start, stop in pairwise(bounds):
        yield UserBlock(
            first=start,
            users=users.slice(start, stop - start),
            bias=model.rating.bias.users[start:stop],
            factors=model.rating.user_factors[start:stop],
            confidence=_rows(confidence, start, stop),
            rated=_rows(rated, start, stop),
        )


def _rows(matrix: csr_array, start: int, stop: int) -> csr_array:
    """Return rows as views of the matrix."""
    first, last = matrix.indptr[start], matrix.indptr[stop]
    parts = (
        matrix.data[first:last],
        matrix.indices[first:last],
        matrix.indptr[start : stop + 1] - first,
    )
    return csr_array(parts, shape=(stop - start, matrix.shape[1]))


@dataclass(frozen=True, eq=False)
class RecommendTask:
    """Ranks restaurants for blocks of users, and encodes and stages their documents.

    Attributes
    ----------
    settings
        For the connection to MongoDB.
    run_id, stage
        The training, and the name of the collection to write to.
    model
        Without users: theirs come with each block.
    shown
        bool (restaurants,), the restaurants to recommend.
    restaurants
        Keys of their ids.
    top_n
        Length of the lists.
    """

    settings: Settings
    run_id: str
    stage: str
    model: Model
    shown: NDArray[np.bool_]
    restaurants: pa.StringArray
    top_n: int

    @cached_property
    def _encoder(self) -> RecommendationEncoder:
        with_ratings = self.model.preferences is not None
        return RecommendationEncoder(
            decode_ids(self.restaurants), self.run_id, with_ratings=with_ratings
        )

    @cached_property
    def _item_factors(self) -> NDArray[np.float32]:
        """The factors in the layout that `top_n` does not copy."""
        return np.asfortranarray(self.model.restaurant_factors)

    def run(self, block: UserBlock) -> tuple[int, int]:
        """Stage the recommendations of a block.

        Spark may run a block twice; its documents have the same ``_id`` again and are skipped.

        Returns
        -------
        users
            Number of documents staged.
        broken
            Number of users with a factor or a score that is not finite.
        """
        model = self.model.with_users(block.bias, block.factors)
        rows = np.arange(len(block.users), dtype=np.int32)
        # Spark runs a task on each core already: one thread for each.
        with connect(self.settings) as client, threadpool_limits(1):
            factors = model.user_factors(rows, block.confidence)
            items, scores = top_n(factors, self._item_factors, self.top_n, block.rated, self.shown)
            ratings = (
                None if model.preferences is None else model.rating.predict(rows[:, None], items)
            )
            documents = self._encoder.encode(
                block.first + rows, decode_ids(block.users), items, scores, ratings
            )
            with mongo_errors("staging recommendations"):
                insert_once(database(client, self.settings)[self.stage], documents)
        broken = (~np.isfinite(scores) & (items >= 0)).any(axis=1)
        broken |= ~np.isfinite(factors).all(axis=1)
        return len(rows), int(broken.sum())
