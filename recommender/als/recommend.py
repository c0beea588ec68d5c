"""Stages every user's recommendations: the work of a Spark executor on a block of users."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa
from bson.raw_bson import RawBSONDocument
from numpy.typing import NDArray
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from recommender.als.bson_encoder import RecommendationEncoder
from recommender.als.model import Model
from recommender.core.mongo import connected, mongo_errors
from recommender.core.mongo_collections import insert_once
from recommender.core.settings import MongoSettings
from recommender.data.ids import decode_ids

# A block's work: its ratings plus five a user; 60,000 is about a megabyte.
_BLOCK_WORK, _WORK_A_USER = 60_000, 5


@dataclass(frozen=True, eq=False)
class UserBlock:
    """Consecutive users, with everything that an executor needs of them."""

    first: int  # position of the first user
    users: pa.StringArray  # keys of the users' ids, (n,)
    bias: NDArray[np.float64]  # of the rating model, (n,)
    factors: NDArray[np.float32]  # of the rating model, (n, rank)
    confidence: csr_array  # rows of the confidence matrix, (n, restaurants)
    rated: csr_array  # bool (n, restaurants), restaurants not to recommend


def user_blocks(
    model: Model, users: pa.StringArray, confidence: csr_array, rated: csr_array
) -> Iterator[UserBlock]:
    """Cut the users of a model into blocks of about equal work, in their order."""
    work = rated.indptr + _WORK_A_USER * np.arange(len(users) + 1)
    cuts = np.searchsorted(work, np.arange(0, work[-1], _BLOCK_WORK))
    for start, stop in pairwise(np.unique([*cuts, len(users)]).tolist()):
        yield UserBlock(
            first=start,
            # A copy: a slice is pickled with the keys of all users.
            users=pa.concat_arrays([users.slice(start, stop - start)]),
            bias=model.rating.bias.users[start:stop],
            factors=model.rating.user_factors[start:stop],
            confidence=confidence[start:stop],
            rated=rated[start:stop],
        )


@dataclass(frozen=True, eq=False)
class RecommendTask:
    """Ranks restaurants for blocks of users, and encodes and stages their documents."""

    mongo: MongoSettings
    top_n: int
    run_id: str
    stage_name: str  # the collection to write to
    model: Model  # without users, who come with each block
    shown: NDArray[np.bool_]  # (restaurants,), the restaurants to recommend
    restaurants: pa.StringArray  # keys of their ids

    @cached_property
    def _encoder(self) -> RecommendationEncoder:
        ids, with_ratings = decode_ids(self.restaurants), self.model.preferences is not None
        return RecommendationEncoder(ids, self.run_id, with_ratings=with_ratings)

    @cached_property
    def _largest_norm(self) -> np.float32:
        """The largest norm of the restaurants' ranking factors."""
        norms = np.linalg.norm(self.model.restaurant_factors, axis=1)
        return np.float32(norms.max(initial=0))

    def run(self, blocks: Iterable[UserBlock]) -> Iterator[tuple[int, int]]:
        """Stage the documents of blocks; yield each one's users, and those of no finite scores."""
        write = mongo_errors("staging recommendations")(insert_once)
        # Spark runs a task on each core already: one thread of BLAS for each.
        with connected(self.mongo) as db, threadpool_limits(1), ThreadPoolExecutor(1) as pool:
            written: Future[None] | None = None
            for block in blocks:
                documents, not_finite = self._ranked(block)  # while the one before is written
                if written:
                    written.result()
                written = pool.submit(write, db[self.stage_name], documents)
                yield len(block.users), not_finite
            if written:
                written.result()

    def _ranked(self, block: UserBlock) -> tuple[Iterator[RawBSONDocument], int]:
        """Return the documents of a block, yet to be encoded, and how many users lack scores."""
        model = self.model.with_users(block.bias, block.factors)
        rows = np.arange(len(block.users), dtype=np.int32)
        factors = model.user_factors(rows, block.confidence)
        n, rated = self.top_n, block.rated
        items, scores = model.best(factors, block.confidence, n, rated, self.shown)
        ratings = model.rating.predict(rows[:, None], items) if model.preferences else None
        ids = decode_ids(block.users)
        documents = self._encoder.encode(block.first + rows, ids, items, scores, ratings)
        # A factor that is not finite, or so large that a score may not be.
        broken = ~np.isfinite(np.linalg.norm(factors, axis=1) * self._largest_norm)
        return documents, int(broken.sum())
