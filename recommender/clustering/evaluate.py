"""Evaluation of clusters on test users."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dists import silhouette
from recommender.als.fold_in import PreferenceModel
from recommender.clustering.fit import Clustering, cluster
from recommender.clustering.member_preferences import score_clusters
from recommender.clustering.scoring import best_items
from recommender.clustering.user_matrix import UserMatrix
from recommender.core.settings import Settings
from recommender.data.ratings import Ratings
from recommender.evaluation.metrics import no_quality, quality_beside
from recommender.evaluation.splitting import choose_test_users, relevant_items, split

_TEST_SHARE = 0.1
_MOST_TEST_USERS = 20_000


def silhouette_of(clustering: Clustering, matrix: UserMatrix, seed: int) -> float | None:
    """Return the mean silhouette of the users in a cluster, of a seeded sample."""
    clustered = clustering.labels >= 0
    return silhouette(matrix.rows[clustered], clustering.labels[clustered], seed=seed)


def training_users(matrix: UserMatrix, seed: int) -> NDArray[np.int64] | None:
    """Return the training users if their clusters are published (above 200,000 users), or None."""
    if matrix.ratings.shape[0] * _TEST_SHARE <= _MOST_TEST_USERS:
        return None
    users = np.flatnonzero(~_is_test_user(matrix, seed))
    return users if matrix.rows[users].nnz else None


def evaluate_clusters(
    ratings: Ratings,
    matrix: UserMatrix,
    settings: Settings,
    clustering: Clustering | None = None,
    preferences: PreferenceModel | None = None,
) -> dict[str, Any]:
    """Evaluate the clusters on test users: the ledger's ``metrics.clusters.held_out``.

    A tenth of the users, 20,000 at most, are test users: their training ratings find the cluster,
    and their relevant test ratings are to be in its list. ``clustering`` is that of the
    `training_users`, who are clustered here if it is None. ``preferences`` must have been fitted
    without any test rating.
    """
    is_test = _is_test_user(matrix, settings.seed)
    train_set, test_set = split(ratings, settings.als, settings.seed, is_test)
    users, relevant = relevant_items(test_set, settings.reviews.relevant_from)
    if not len(users):
        return {"users": 0, **no_quality("no test user has a relevant test rating")}
    train = matrix.subset(np.flatnonzero(~is_test))
    if not train.rows.nnz:
        return {"users": 0, **no_quality("the training users have no rating above 0")}
    clustering = clustering or cluster(train, settings.clusters, settings.seed)
    scored = score_clusters(clustering, train, preferences, settings.seed)
    lists = best_items(np.vstack([scored.scores, scored.fallback]), settings.clusters.top_n)
    of_test_users = train_set.rows(is_test[train_set.user]).matrix(matrix.shift)
    seen, shown = csr_array(of_test_users[users]), settings.als.top_n
    own = lists[clustering.assign(seen[:, train.columns])]
    popular = lists[np.full(len(users), -1)]
    return {"users": len(users), **quality_beside(own, popular, seen, relevant, shown)}


def _is_test_user(matrix: UserMatrix, seed: int) -> NDArray[np.bool_]:
    users = matrix.ratings.shape[0]
    return choose_test_users(users, min(_TEST_SHARE, _MOST_TEST_USERS / users), seed)
