"""Evaluation of clusters on test users."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dists import silhouette
from recommender.clustering.fit import Clustering, cluster
from recommender.clustering.scoring import best_items, score
from recommender.clustering.user_matrix import UserMatrix
from recommender.core.settings import ReviewsSettings, Settings
from recommender.evaluation.metrics import no_quality, quality_beside
from recommender.evaluation.splitting import UserSplit, split_users

_TEST_SHARE = 0.1
_MOST_TEST_USERS = 20_000


def relevant_from(matrix: UserMatrix, reviews: ReviewsSettings) -> float:
    """Return the lowest rating of a relevant item, as in ``matrix.ratings``."""
    return reviews.relevant_from + matrix.shift


def silhouette_of(clustering: Clustering, matrix: UserMatrix, seed: int) -> float | None:
    """Return the mean silhouette of the users in a cluster, of a seeded sample."""
    clustered = clustering.labels >= 0
    return silhouette(matrix.rows[clustered], clustering.labels[clustered], seed=seed)


def training_users(matrix: UserMatrix, settings: Settings) -> NDArray[np.int64] | None:
    """Return the training users if their clusters are published (above 200,000 users), or None."""
    if matrix.ratings.shape[0] * _TEST_SHARE <= _MOST_TEST_USERS:
        return None
    users = _split(matrix, settings).train_users
    return users if matrix.rows[users].nnz else None


def evaluate_clusters(
    matrix: UserMatrix, settings: Settings, clustering: Clustering | None = None
) -> dict[str, Any]:
    """Evaluate the clusters on test users: the ledger's ``metrics.clusters.held_out``.

    A tenth of the users, 20,000 at most, are test users, and a fifth of their relevant items are
    test items; their other ratings find the cluster. ``clustering`` is that of the
    `training_users`, who are clustered here if it is None.
    """
    test = _split(matrix, settings)
    users, shown = test.seen.shape[0], settings.als.top_n
    if not users:
        return {"users": 0, **no_quality("no test user has two ratings with a relevant one")}
    train = matrix.subset(test.train_users)
    if not train.rows.nnz:
        return {"users": 0, **no_quality("the training users have no rating above 0")}
    clustering = clustering or cluster(train, settings.clusters, settings.seed)
    scored = score(train.ratings, clustering.centroids, train.columns, train.lowest)
    lists = best_items(np.vstack([scored.scores, scored.fallback]), settings.clusters.top_n)
    own = lists[clustering.assign(test.seen[:, train.columns])]
    popular = lists[np.full(users, -1)]
    return {"users": users, **quality_beside(own, popular, test.seen, test.relevant, shown)}


def _split(matrix: UserMatrix, settings: Settings) -> UserSplit:
    """Choose test users and their test items."""
    share = min(_TEST_SHARE, _MOST_TEST_USERS / matrix.ratings.shape[0])
    relevant = relevant_from(matrix, settings.reviews)
    return split_users(matrix.ratings, relevant, seed=settings.seed, users_share=share)
