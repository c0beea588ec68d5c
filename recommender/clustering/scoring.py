"""Scores of items for each cluster, by leave-one-out.

A reader finds a user's cluster by the rated items and recommends other ones. So a rating counts for
the cluster nearest to its user *without* that rating, and the scores describe the next item of a
user in this cluster.
"""

from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_array
from scipy.special import gammaln

from dists import Floats
from recommender.als.fold_in import popularity_scores
from recommender.core.threads import map_blocks

Ints = NDArray[np.int64]

_BLOCK_VALUES = 2**21  # similarities of ratings and clusters
_LARGEST_WEIGHT = 1e6
_TIE_BREAK = 1e-9
_CENTROID_SHARE = 0.95  # the rest keeps every rated item's share above 0


@dataclass(frozen=True, eq=False)
class ClusterScores:
    """Scores of all items for each cluster."""

    scores: Floats  # (k, items)
    fallback: Floats  # (items,), for users without a cluster
    shrinkage: float  # number of ratings that the prior counts for in each cluster


def score(
    confidence: csr_array, ratings: csr_array, centroids: Floats, columns: Ints
) -> ClusterScores:
    """Score every item for every cluster by the ratings that count for it.

    Of the n_k ratings that count for cluster k, those of item i sum to s_ki. With a prior p_ki
    and its weight w,

        score_ki = (s_ki + w p_ki) / (n_k + w).

    Two priors are compared: p_i, the mean next rating of all users (unrated = 0), and a blend of
    p_i with the centroid, (1 - m) p_i + m c_ki sum_j p_j / sum_j c_kj, which knows items that few
    members have rated from items like them. The likelier is taken for all clusters. Only users of
    two or more ratings have a next one. All ratings together break ties.

    The ratings, (users, items), include stored zeros, and ``columns`` are the items of the columns
    of the centroids, (k, columns). Ratings count by their ``confidence``, which is above 0.
    """
    k, items = len(centroids), ratings.shape[1]
    values = confidence.data
    # Sums and counts of the ratings by cluster and item.
    cluster_of = clusters_without(ratings, centroids, columns)
    counted = cluster_of >= 0
    cell = cluster_of[counted] * np.int64(items) + ratings.indices[counted]
    sums = np.bincount(cell, weights=values[counted], minlength=k * items).reshape(k, items)
    counts = np.bincount(cell, minlength=k * items).reshape(k, items)
    # The mean next rating of all users, with popularity as a tie-break.
    fallback = popularity_scores(ratings.indices, values, items)
    prior = _TIE_BREAK * fallback
    per_user = np.diff(ratings.indptr)
    is_next = np.repeat(per_user >= 2, per_user)
    if is_next.any():
        next_sums = np.bincount(ratings.indices[is_next], values[is_next], items)
        prior += next_sums / is_next.sum()
    # The prior that makes the counts more likely; the one of all users on a tie.
    priors = np.tile(prior, (k, 1)), _blended(prior, centroids, columns)
    shares = [each / each.sum(axis=1, keepdims=True) for each in priors]
    fits = [(each, *prior_weight(counts, p)) for each, p in zip(priors, shares, strict=True)]
    chosen, weight, _likelihood = max(fits, key=itemgetter(2))
    total = counts.sum(axis=1, keepdims=True) + weight
    return ClusterScores((sums + weight * chosen) / total, fallback, weight)


def _blended(prior: Floats, centroids: Floats, columns: Ints) -> Floats:
    """Blend a prior, (items,), with each centroid scaled to its sum: (k, items), as by `score`."""
    over_items = np.zeros((len(centroids), len(prior)))
    over_items[:, columns] = centroids
    lengths = over_items.sum(axis=1, keepdims=True)
    by_centroid = over_items * (prior.sum() / np.where(lengths > 0, lengths, 1))
    return np.asarray((1 - _CENTROID_SHARE) * prior + _CENTROID_SHARE * by_centroid)


def clusters_without(ratings: csr_array, centroids: Floats, columns: Ints) -> NDArray[np.int32]:
    """Find the cluster of each rating's user by the user's other ratings.

    Without the rating r of item i, x.c falls by r c_i and |x|^2 by r^2. The clusters, (ratings,),
    are in the order of ``ratings.data``; -1 without a common item with any centroid.
    """
    # Centroids over all items, 0 for items that are no columns.
    weights = np.zeros((ratings.shape[1], len(centroids)))
    weights[columns] = centroids.T
    user = np.repeat(np.arange(ratings.shape[0]), np.diff(ratings.indptr))
    squares = ratings.data**2 * np.isin(ratings.indices, columns)
    squared = np.bincount(user, weights=squares, minlength=ratings.shape[0])
    centroids_squared = (centroids**2).sum(axis=1)
    clusters = np.empty(len(user), dtype=np.int32)
    size = max(1, _BLOCK_VALUES // len(centroids))

    def assign(start: int) -> None:
        block = slice(start, start + size)
        # x.c of each rating's user, less the product of the rating itself.
        first, last = user[block][0], user[block][-1]
        similarity = np.asarray(ratings[first : last + 1] @ weights)[user[block] - first]
        similarity -= ratings.data[block, None] * weights[ratings.indices[block]]
        # Divide by the larger of the squared norms, as the distance does.
        others_squared = squared[user[block]] - squares[block]
        similarity /= np.maximum(others_squared[:, None], centroids_squared)
        nearest = similarity.argmax(axis=1)
        nearest[similarity.max(axis=1) == 0] = -1
        clusters[block] = nearest

    list(map_blocks(assign, range(0, len(user), size)))
    return clusters


def prior_weight(counts: Ints, shares: Floats) -> tuple[float, float]:
    """Return the weight of a prior that maximises the likelihood of the counts, and its logarithm.

    Each cluster's counts are multinomial with shares from a Dirichlet distribution of mean q_k and
    concentration w (Minka, 2000). With n_k the sum of the counts c_ki of cluster k, the
    log-likelihood is, up to a constant of the counts,

        sum_k [ln G(w) - ln G(w + n_k)] + sum_ki [ln G(c_ki + w q_ki) - ln G(w q_ki)].

    The shares q, (k, items), are above 0 where the counts, (k, items), are. The weight is between 1
    and a million; 1 without counts.
    """
    if not counts.any():
        return 1.0, 0.0
    sizes = counts.sum(axis=1)
    counted = counts > 0
    count, share = counts[counted], shares[counted]

    def cost(w: float) -> float:
        of_sizes = (gammaln(w) - gammaln(w + sizes)).sum()
        return -float(of_sizes + (gammaln(count + w * share) - gammaln(w * share)).sum())

    # The weight is searched by its logarithm.
    bounds = 0.0, np.log(_LARGEST_WEIGHT)
    weight = float(np.exp(minimize_scalar(lambda x: cost(np.exp(x)), bounds=bounds).x))
    return weight, -cost(weight)


def best_items(scores: Floats, n: int) -> Ints:
    """Return the items of the ``n`` highest scores above 0, best first, ties by position.

    Along the last axis: (..., items) scores give (..., min(n, items)); the rest is -1.
    """
    best = np.argsort(-scores, axis=-1, kind="stable")[..., :n]
    return np.where(np.take_along_axis(scores, best, axis=-1) > 0, best, -1)


def standing_out(counts: Ints, size: int, all_shares: Floats, n: int) -> Ints:
    """Return at most n items that distinguish a cluster from all users, most distinctive first.

    Of its ``size`` members, ``counts``, (items,), have rated each item: two or more, and twice the
    share of all users, ``all_shares``, or more. Ordered by (count - expected) / sqrt(expected).
    """
    expected = size * all_shares
    distinctive = np.flatnonzero((counts >= 2) & (counts >= 2 * expected))
    excess = (counts[distinctive] - expected[distinctive]) / np.sqrt(expected[distinctive])
    return distinctive[np.argsort(-excess, kind="stable")[:n]]
