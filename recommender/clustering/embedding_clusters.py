"""Clusters of users in a spectral embedding of the items.

Two users with one rating each, of two items, share nothing, even if many users rate both items. So
items are embedded by the leading eigenvectors of their co-rating graph, users by their items, and
the users are clustered there by spherical K-Means. Each cluster is published as a centroid over the
items, to compare raw ratings with by the distance of ``dists``.
"""

from dataclasses import replace

import numpy as np
from scipy.sparse import csr_array, diags_array

from dists import Floats, KMeansResult, distinct_rows
from recommender.als.spectral_embedding import spectral_embedding
from recommender.clustering.spherical_kmeans import spherical_kmeans

DIMENSIONS = 48
_NOISE = 1e-9
_ROUNDING = 1e-9
_SINGLE_RATING = 1e-6  # enough to fill clusters that others do not


def embedding_clusters(
    rows: csr_array, k: int, *, shortest: float, seed: int
) -> KMeansResult | None:
    """Cluster users by their positive ratings, (n, m), no row empty, into at most k clusters.

    The centroids are over the items, none longer than ``shortest``; all else is of the embedding,
    with distance 1 - cosine: a user without embedded items has label -1 and distance NaN. A user of
    one item, who has no next item to predict, counts a millionth in centroids and inertia. None if
    no user has rated two items.
    """
    # Users are compared by direction: normalise their rows, then collapse equal ones.
    lengths = np.sqrt(np.asarray(rows.power(2).sum(axis=1)).ravel())
    distinct = distinct_rows(csr_array(diags_array(1 / lengths) @ rows))
    items = spectral_embedding(
        csr_array(distinct.rows), weights=distinct.counts, dimensions=DIMENSIONS, seed=seed
    )
    if not items.any():
        return None
    # Embed the users, and cluster those who have an embedded item.
    users = np.asarray(distinct.rows @ items)
    lengths = np.linalg.norm(users, axis=1)
    embedded = np.flatnonzero(lengths > _NOISE * lengths.max())
    weights = np.where(np.diff(distinct.rows.indptr) >= 2, 1, _SINGLE_RATING) * distinct.counts
    clusters = spherical_kmeans(
        users[embedded] / lengths[embedded, None], k, weights[embedded], seed=seed
    )
    # Give each original row the label of its distinct row.
    labels, distances = np.full(len(users), -1, dtype=np.int32), np.full(len(users), np.nan)
    labels[embedded], distances[embedded] = clusters.labels, clusters.distances
    return replace(
        clusters,
        centroids=published_centroids(clusters.centroids, items, shortest),
        labels=labels[distinct.inverse],
        distances=distances[distinct.inverse],
    )


def published_centroids(centroids: Floats, items: Floats, shortest: float) -> Floats:
    """Turn unit centroids (k, d) of the embedding ``items``, (m, d), into centroids (k, m).

    A user x lies at x W, nearest to the centroid c of largest (x W).c = x.(W c): a reader needs
    p = W c. Negative values are set to 0, as the distance requires. All p are scaled by one factor
    that makes none longer than ``shortest``, the length of the shortest possible user: then
    max(|x|^2, |p|^2) = |x|^2, the distance is 1 - x.p / |x|^2, and the nearest centroid is that of
    largest x.p.
    """
    over_items = np.maximum(centroids @ items.T, 0)
    longest = np.linalg.norm(over_items, axis=1).max()
    scale = (1 - _ROUNDING) * shortest / longest if longest > 0 else 0.0
    return np.asarray(over_items * scale)
