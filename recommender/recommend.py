"""From user factors to staged recommendations: what a Spark executor does with its users."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from recommender.mongo import connect, database, mongo_errors
from recommender.ratings import decode_ids
from recommender.settings import Settings
from recommender.store import RecommendationEncoder, insert_once
from recommender.topn import top_n

COUNTS_SCHEMA = "users long, broken long"


@dataclass(frozen=True)
class RecommendTask:
    """Scores blocks of users, encodes their documents and stages them.

    Attributes
    ----------
    settings
        The training's settings.
    run_id, stage
        The training, and the name of the collection to write to.
    restaurant_factors
        float32 (restaurants, rank).
    rated
        (users, restaurants); what each user has rated, which is not recommended.
    users, restaurants
        Keys of the ids.
    """

    settings: Settings
    run_id: str
    stage: str
    restaurant_factors: NDArray[np.float32]
    rated: csr_array
    users: pa.StringArray
    restaurants: pa.StringArray

    def run(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Stage the recommendations of blocks of user factors.

        Spark may run a block twice; its documents carry the same ``_id`` again and are skipped.

        Parameters
        ----------
        batches
            Blocks with the columns ``id``, the user's number, and ``features``, its factors.

        Yields
        ------
        pyarrow.RecordBatch
            For each block, ``users``: how many were staged, and ``broken``: how many of them have
            a factor or a score that is not finite.
        """
        encoder = RecommendationEncoder(decode_ids(self.restaurants), self.run_id)
        # Spark runs a task on each core already; more threads in a task would only fight them.
        with connect(self.settings) as client, threadpool_limits(1):
            collection = database(client, self.settings)[self.stage]
            for batch in batches:
                user, factors = factor_block(batch)
                n = self.settings.als_top_n
                items, scores = top_n(factors, self.restaurant_factors, n, self.rated[user])
                user_ids = decode_ids(self.users.take(batch["id"]))
                with mongo_errors("staging recommendations"):
                    insert_once(collection, encoder.encode(user, user_ids, items, scores))
                broken = (~np.isfinite(scores) & (items >= 0)).any(axis=1)
                broken |= ~np.isfinite(factors).all(axis=1)
                counts = {"users": [len(user)], "broken": [int(broken.sum())]}
                yield pa.RecordBatch.from_pydict(counts)


def factor_block(batch: pa.RecordBatch) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the numbers (n,) and the factors (n, rank) of a block of MLlib's factors."""
    features = batch["features"]
    flat = features.flatten().to_numpy(zero_copy_only=False)
    return batch["id"].to_numpy(), flat.reshape(batch.num_rows, -1)
