"""Clusters of users in a spectral embedding of the items.

Two users with one rating each, of two items, share nothing, even if many users rate both items. So
items are embedded by the leading eigenvectors of their co-rating graph, users by their items, and
the users are clustered there by spherical K-Means. Each cluster is published as a centroid over the
items, to compare raw ratings with by the distance of ``dists``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array

from dists import KMeansResult, distinct_rows
from recommender.clustering.spherical_kmeans import spherical_kmeans

Floats: TypeAlias = NDArray[np.float64]

DIMENSIONS = 48
_USER_POWER = 0.5
_ITEM_POWER = 0.25
_EIGENVALUE_POWER = 0.5
_POWER_ITERATIONS = 8
_NOISE = 1e-9
_ROUNDING = 1e-9


def embedding_clusters(
    rows: csr_array, k: int, *, shortest: float, seed: int, dimensions: int = DIMENSIONS
) -> KMeansResult | None:
    """Cluster users in the spectral embedding of their ratings, into at most k clusters.

    Parameters
    ----------
    rows
        (n, m), ratings, positive, 0 where unrated; no row is empty.
    shortest, dimensions
        As in `published_centroids` and `spectral_embedding`.

    Returns
    -------
    KMeansResult or None
        The centroids are over the items; all else is of the embedding, with distance 1 - cosine: a
        user without embedded items has label -1 and distance NaN. None if no user has rated two
        items.
    """
    # Users are compared by direction: normalise their rows, then collapse equal ones.
    lengths = np.sqrt(np.asarray(rows.power(2).sum(axis=1)).ravel())
    distinct = distinct_rows(csr_array(diags_array(1 / lengths) @ rows))
    items = spectral_embedding(
        csr_array(distinct.rows), weights=distinct.counts, dimensions=dimensions, seed=seed
    )
    if not items.any():
        return None
    # Embed the users, and cluster those who have an embedded item.
    users = np.asarray(distinct.rows @ items)
    lengths = np.linalg.norm(users, axis=1)
    embedded = np.flatnonzero(lengths > _NOISE * lengths.max())
    clusters = spherical_kmeans(
        users[embedded] / lengths[embedded, None], k, distinct.counts[embedded], seed=seed
    )
    # Give each original row the label of its distinct row.
    labels, distances = np.full(len(users), -1, dtype=np.int32), np.full(len(users), np.nan)
    labels[embedded], distances[embedded] = clusters.labels, clusters.distances
    labels = labels[distinct.inverse]
    return replace(
        clusters,
        centroids=published_centroids(clusters.centroids, items, shortest),
        labels=labels,
        distances=distances[distinct.inverse],
        sizes=np.bincount(labels[labels >= 0]),
    )


def spectral_embedding(rows: csr_array, *, weights: Floats, dimensions: int, seed: int) -> Floats:
    """Embed the items by their co-ratings.

    With n_u the number of items that user u has rated, the graph is A_ij = sum over the users of
    both i and j of (n_u - 1)^-1/2, and A_ii = 0. With D = diag(A 1), the embedding is

        W = D^-1/4 V (L / max L)^1/2,     D^-1/4 A D^-1/4 V = V L,     L the largest eigenvalues.

    Negative eigenvalues count as 0. V is computed by subspace iteration (Halko, Martinsson and
    Tropp, 2011), with products by the rows only: A is never built.

    Parameters
    ----------
    rows, weights
        (n, m), non-zero where rated, and (n,), how many users each row stands for.
    dimensions
        Most eigenvectors; at most m are computed.

    Returns
    -------
    float64 (m, dimensions)
        0 for an item without co-ratings.
    """
    scale, scaled_graph = _graph(rows, weights)
    values, vectors = _leading(scaled_graph, len(scale), dimensions, seed)
    if not values.max() > 0:
        return np.zeros(vectors.shape)
    relative = np.maximum(values, 0) / values.max()
    items: Floats = scale[:, None] * vectors * relative**_EIGENVALUE_POWER
    # An item outside the computed dimensions has rounding errors only.
    lengths = np.linalg.norm(items, axis=1)
    items[lengths <= _NOISE * lengths.max()] = 0
    return items


def _graph(rows: csr_array, weights: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
    """Return D^-1/4 of `spectral_embedding` and the product with D^-1/4 A D^-1/4."""
    # Users of one item add nothing to A.
    lengths = np.diff(rows.indptr)
    several = np.flatnonzero(lengths >= 2)
    weighted = csr_array(rows[several])
    # A = B^T B less its diagonal, with B_ui = (v_u (n_u - 1)^-1/2)^1/2.
    each = np.sqrt(weights[several] * (lengths[several] - 1.0) ** -_USER_POWER)
    weighted.data = np.repeat(each, lengths[several])
    transposed = csr_array(weighted.T)
    diagonal = np.asarray(transposed.power(2).sum(axis=1)).ravel()
    degree = transposed @ (weighted @ np.ones(weighted.shape[1])) - diagonal
    scale = np.zeros(len(degree))
    scale[degree > 0] = degree[degree > 0] ** -_ITEM_POWER

    def times(vectors: Floats) -> Floats:
        scaled = scale[:, None] * vectors
        product = transposed @ (weighted @ scaled) - diagonal[:, None] * scaled
        return np.asarray(scale[:, None] * product)

    return scale, times


def _leading(
    times: Callable[[Floats], Floats], size: int, dimensions: int, seed: int
) -> tuple[Floats, Floats]:
    """Return the largest eigenvalues of a symmetric operator and their vectors."""
    # Oversample: iterate on a wider subspace than requested.
    dimensions = min(dimensions, size)
    width = min(size, dimensions + max(8, dimensions // 4))
    start = np.random.default_rng(seed).standard_normal((size, width))
    basis = np.linalg.qr(start)[0]
    for _ in range(_POWER_ITERATIONS):
        basis = np.linalg.qr(times(basis))[0]
    # Rayleigh-Ritz: solve the small problem within the subspace.
    small = basis.T @ times(basis)
    values, vectors = np.linalg.eigh((small + small.T) / 2)
    largest = np.argsort(-values)[:dimensions]
    return values[largest], basis @ vectors[:, largest]


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
    if not longest > 0:
        return over_items
    return np.asarray(over_items * ((1 - _ROUNDING) * shortest / longest))
