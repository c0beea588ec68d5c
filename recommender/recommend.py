"""From user factors to staged recommendations: what a Spark executor does with its users."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from recommender.encoding import RecommendationEncoder
from recommender.models import Model
from recommender.mongo import connect, database, mongo_errors
from recommender.ratings import decode_ids
from recommender.settings import Settings
from recommender.store import insert_once
from recommender.topn import top_n_shown

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
    model
        What ranks, and what foretells ratings.
    visits
        (users, restaurants); what ranks and explains: how sure each user's ratings are.
    rated
        bool (users, restaurants); what each user has rated, which is not recommended.
    shown
        bool (restaurants,), which may be recommended.
    users, restaurants
        Keys of the ids.
    """

    settings: Settings
    run_id: str
    stage: str
    model: Model
    visits: csr_array
    rated: csr_array
    shown: NDArray[np.bool_]
    users: pa.StringArray
    restaurants: pa.StringArray

    def run(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Stage the recommendations of blocks of users.

        Spark may run a block twice; its documents carry the same ``_id`` again and are skipped.

        Parameters
        ----------
        batches
            Blocks with the column ``id``, the users' numbers.

        Yields
        ------
        pyarrow.RecordBatch
            For each block, ``users``: how many were staged, and ``broken``: how many of them have
            a factor or a score that is not finite.
        """
        encoder = RecommendationEncoder(
            decode_ids(self.restaurants),
            self.run_id,
            with_ratings=self.model.preferences is not None,
        )
        # Spark runs a task on each core already; more threads in a task would only fight them.
        with connect(self.settings) as client, threadpool_limits(1):
            collection = database(client, self.settings)[self.stage]
            restaurant_factors = self.model.restaurant_factors
            for batch in batches:
                user = batch["id"].to_numpy().astype(np.int32)
                visits = self.visits[user]
                factors = self.model.user_factors(user, visits)
                n, rated = self.settings.als_top_n, self.rated[user]
                items, scores = top_n_shown(factors, restaurant_factors, n, rated, self.shown)
                user_ids = decode_ids(self.users.take(pa.array(user)))
                beside = self._ratings(user, items), self._reasons(visits, items)
                documents = encoder.encode(user, user_ids, items, scores, *beside)
                with mongo_errors("staging recommendations"):
                    insert_once(collection, documents)
                broken = (~np.isfinite(scores) & (items >= 0)).any(axis=1)
                broken |= ~np.isfinite(factors).all(axis=1)
                counts = {"users": [len(user)], "broken": [int(broken.sum())]}
                yield pa.RecordBatch.from_pydict(counts)

    def _ratings(
        self, user: NDArray[np.int32], items: NDArray[np.int32]
    ) -> NDArray[np.float64] | None:
        """Return the foretold ratings of what is recommended, where they are not the scores."""
        if self.model.preferences is None:
            return None
        return self.model.rating.predict(user[:, None], items)

    def _reasons(self, visits: csr_array, items: NDArray[np.int32]) -> NDArray[np.int32] | None:
        """Return what speaks most for each recommendation, where it is asked for and known."""
        if self.model.preferences is None or not self.settings.als_reasons:
            return None
        return self.model.preferences.reasons(visits, items, self.settings.als_reasons)
