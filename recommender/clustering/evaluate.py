"""Evaluation of clusters on users who did not take part in the training."""

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dists import silhouette
from recommender.clustering.fit import Clustering, cluster
from recommender.clustering.scoring import least_cost, lists_of, score
from recommender.clustering.user_matrix import UserMatrix
from recommender.core.settings import ReviewsSettings, Settings
from recommender.evaluation.metrics import no_quality, quality_beside, rating_error
from recommender.evaluation.splitting import UserSplit, split_users

Floats = NDArray[np.float64]

_LARGEST_DAMPING = 1e6
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
    """Return the users, (n,), whose clusters can be evaluated and published alike.

    None where test users are a tenth of all: there, clustering everybody again takes seconds.
    """
    if matrix.ratings.shape[0] * _TEST_SHARE <= _MOST_TEST_USERS:
        return None
    relevant = relevant_from(matrix, settings.reviews)
    users = _split(matrix, relevant, settings.seed).train_users
    return users if matrix.rows[users].nnz else None


def evaluate_clusters(
    matrix: UserMatrix, settings: Settings, clustering: Clustering | None = None
) -> dict[str, Any]:
    """Evaluate the clusters on test users: the ledger's ``metrics.clusters.held_out``.

    A tenth of the users, 20,000 at most, are test users, and a fifth of their relevant items are
    test items; their other ratings find the cluster. ``ratings`` evaluates predicted ratings on a
    fifth of all their ratings, because an error on relevant items only would reward high guesses.
    ``clustering`` is that of the `training_users`, who are clustered here if it is None.
    """
    test = _split(matrix, relevant_from(matrix, settings.reviews), settings.seed)
    rating_test = _split(matrix, -np.inf, settings.seed)
    train = matrix.subset(test.train_users)
    if clustering is None and rating_test.relevant.nnz and train.rows.nnz:
        clustering = cluster(train, settings.clusters, settings.seed)
    return {
        **_evaluate_lists(test, train, clustering, settings),
        "ratings": _evaluate_ratings(rating_test, train, clustering),
    }


def _split(matrix: UserMatrix, relevant_from: float, seed: int) -> UserSplit:
    """Choose test users, the same for any ``relevant_from``."""
    share = min(_TEST_SHARE, _MOST_TEST_USERS / matrix.ratings.shape[0])
    return split_users(matrix.ratings, relevant_from, seed=seed, users_share=share)


def _evaluate_lists(
    test: UserSplit, train: UserMatrix, clustering: Clustering | None, settings: Settings
) -> dict[str, Any]:
    users, shown = test.seen.shape[0], settings.als.top_n
    if not users:
        return {"users": 0, **no_quality("no test user has two ratings with a relevant one")}
    if not clustering:
        return {"users": 0, **no_quality("the training users have no rating above 0")}
    scored = score(train.ratings, clustering.centroids, train.columns, train.lowest)
    lists = lists_of(scored.scores, scored.fallback, settings.clusters.top_n)
    own = lists[clustering.assign(test.seen[:, train.columns])]
    popular = lists[np.full(users, -1)]
    return {"users": users, **quality_beside(own, popular, test.seen, test.relevant, shown)}


def _evaluate_ratings(
    test: UserSplit, train: UserMatrix, clustering: Clustering | None
) -> dict[str, Any]:
    """Compare test ratings with the mean ratings of the user's cluster and of all users."""
    actual, item = test.relevant.data, test.relevant.indices
    if not clustering:
        return {**asdict(rating_error(actual[:0], actual[:0], 0.0)), "city_rmse": None}
    means = rating_means(train.ratings, clustering.labels, len(clustering.centroids))
    of_user = clustering.assign(test.seen[:, train.columns])
    labels = np.repeat(of_user, np.diff(test.relevant.indptr))
    mean = float(train.ratings.data.mean())
    error = rating_error(means[labels, item], actual, mean)
    overall = rating_error(means[-1, item], actual, mean)
    return {**asdict(error), "city_rmse": overall.rmse}


def rating_means(ratings: csr_array, labels: NDArray[np.int32], k: int) -> Floats:
    """Predict the rating of each item in each cluster, by damped means.

    With n_ki ratings of item i by cluster k, of sum s_ki, the n_i and s_i of all users, and the
    mean m of all ratings,

        mean_ki = (s_ki + w mean_i) / (n_ki + w),      mean_i = (s_i + v m) / (n_i + v).

    The damping w and v minimises the squared error of each rating predicted by the others.

    ``labels``, (users,), are the clusters, 0 to k - 1, or -1. The result is (k + 1, items), with
    all users in the last row, and NaN for an item without ratings.
    """
    items, mean = ratings.shape[1], ratings.data.mean()
    # Means over all users, damped towards the mean of all ratings.
    priors = np.full(ratings.nnz, mean), np.full(items, mean)
    overall, without = _damped_means(ratings.indices, ratings.data, *priors)
    overall[np.bincount(ratings.indices, minlength=items) == 0] = np.nan
    # Means by cluster, damped towards those of all users.
    label = np.repeat(labels, np.diff(ratings.indptr))
    clustered = label >= 0
    cell = label[clustered] * np.int64(items) + ratings.indices[clustered]
    means, _ = _damped_means(cell, ratings.data[clustered], without[clustered], np.tile(overall, k))
    return np.vstack([means.reshape(k, items), overall])


def _damped_means(
    cell: NDArray[np.integer[Any]], rating: Floats, prior: Floats, cell_prior: Floats
) -> tuple[Floats, Floats]:
    """Return the damped mean of each cell, (cells,), and of each rating's cell without it, (n,).

    ``prior``, (n,), predicts each rating without its cell; ``cell_prior``, (cells,), a further one.
    """
    sums = np.bincount(cell, weights=rating, minlength=len(cell_prior))
    counts = np.bincount(cell, minlength=len(cell_prior))
    other_sums, other_counts = sums[cell] - rating, counts[cell] - 1

    def without(damping: float) -> Floats:
        return np.asarray((other_sums + damping * prior) / (other_counts + damping))

    def cost(damping: float) -> float:
        return float(((rating - without(damping)) ** 2).sum())

    damping = least_cost(cost, 1 / _LARGEST_DAMPING, _LARGEST_DAMPING)
    return (sums + damping * cell_prior) / (counts + damping), without(damping)
