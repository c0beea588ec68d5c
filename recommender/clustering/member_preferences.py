"""Scores of items for each cluster by its ratings and by what its members would prefer."""

from dataclasses import replace

import numpy as np
from scipy.sparse import csr_array

from dists import Floats, Labels
from recommender.als.fold_in import PreferenceModel
from recommender.clustering.fit import Clustering
from recommender.clustering.scoring import ClusterScores, score
from recommender.clustering.user_matrix import UserMatrix

_MOST_MEMBERS = 50_000  # of all clusters: enough for means
_LEAST_PREFERENCE = 1e-4  # of a cluster's highest: ratings alone rank the items below it


def score_clusters(
    clustering: Clustering, matrix: UserMatrix, preferences: PreferenceModel | None, seed: int
) -> ClusterScores:
    """Score every item for every cluster by the ratings of the matrix, as `score` does.

    With ``preferences``, a score becomes the geometric mean of that and of `mean_preferences`,
    which knows items that few have rated from the factors of the fit.
    """
    confidence = matrix.confidence
    scored = score(confidence, matrix.ratings, clustering.centroids, matrix.columns)
    if preferences is None:
        return scored
    k = len(clustering.centroids)
    means = mean_preferences(preferences, confidence, clustering.labels, k, seed)
    return replace(scored, scores=np.sqrt(scored.scores * means))


def mean_preferences(
    preferences: PreferenceModel, confidence: csr_array, labels: Labels, k: int, seed: int
) -> Floats:
    """Return each cluster's mean of its members' scores by the factors, above 0: (k, items).

    Members are those of two ratings or more in the confidence matrix, (users, items), at most
    50,000 at random; ``labels``, (users,), are their clusters, -1 for none. Lower means than a
    ten-thousandth of a cluster's highest are raised to it; a cluster without members has ones.
    """
    members = np.flatnonzero((labels >= 0) & (np.diff(confidence.indptr) >= 2))
    if len(members) > _MOST_MEMBERS:
        members = np.random.default_rng(seed).choice(members, _MOST_MEMBERS, replace=False)
    # The mean of products is the product of the mean user factors and the item factors.
    factors = preferences.user_factors(csr_array(confidence[members]))
    positions = labels[members], np.arange(len(members))
    of_cluster = csr_array((np.ones(len(members)), positions), shape=(k, len(members)))
    sizes = np.bincount(labels[members], minlength=k)[:, None]
    means = (of_cluster @ factors / np.maximum(sizes, 1)) @ preferences.item_factors.T
    highest = means.max(axis=1, keepdims=True)
    return np.where(highest > 0, np.maximum(means, _LEAST_PREFERENCE * highest), 1.0)
