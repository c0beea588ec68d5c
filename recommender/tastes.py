"""Clusters of users by taste: which places the same people go to, whoever has been to which.

Two users with one rating each, of two places, share nothing, though half of the city goes to both.
So users are compared on a *taste map*: directions in which places lie close when the same users
rate them, the leading eigenvectors of the graph of co-visited places. They are clustered there by
spherical K-Means, and each cluster is handed to readers as a centroid over the places themselves,
which raw ratings are compared with by the distance of ``dists``. Arrays in, arrays out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array

from dists import DistinctRows, Search, distinct_rows
from recommender.spherical import spherical_kmeans

_Operator: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_USER_POWER = 0.5
_PLACE_POWER = 0.25
_EIGENVALUE_POWER = 0.5
_SWEEPS = 8
_NOISE = 1e-9
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class TasteClusters:
    """Clusters found on the taste map.

    Attributes
    ----------
    centroids
        float64 (k, m), non-negative, for readers of raw ratings; k can be lower than asked for.
    labels
        int32 (n,), each user's cluster on the map; -1 for a user whose places are not on it.
    closeness
        float64 (n,), cosine of user and centroid on the map; NaN for a user who is not on it.
    inertia, history, iterations, converged
        As ``dists.KMeansResult`` has them, on the map.
    """

    centroids: NDArray[np.float64]
    labels: NDArray[np.int32]
    closeness: NDArray[np.float64]
    inertia: float
    history: tuple[float, ...]
    iterations: int
    converged: bool


def taste_map(
    rows: csr_array, *, weights: NDArray[np.float64], directions: int, seed: int
) -> NDArray[np.float64] | None:
    """Place the columns on the map of tastes.

    With n_u the places of user u, the graph is A_ij = sum over the users of both i and j of
    (n_u - 1)^-1/2, and A_ii = 0: that one has been somewhere says nothing of where else. With
    D = diag(A 1), the map is

        W = D^-1/4 V (L / max L)^1/2,     D^-1/4 A D^-1/4 V = V L,     L the largest eigenvalues.

    V is found by subspace iteration (Halko, Martinsson and Tropp, 2011), with products by the
    rows only: A is never built. Negative eigenvalues count as 0.

    Parameters
    ----------
    rows
        (n, m), what users have rated; values do not matter.
    weights
        (n,), how many users each row stands for.
    directions
        Eigenvectors, at most; there are no more than columns.
    seed
        Of the iteration's start.

    Returns
    -------
    float64 (m, directions) or None
        A column that nobody has visited besides another is 0. None where nobody has two.
    """
    if (np.diff(rows.indptr) < 2).all():
        return None
    scale, scaled_graph = _graph(rows, weights)
    values, vectors = _leading(scaled_graph, len(scale), directions, seed)
    if not values.max() > 0:
        return None
    shares = np.maximum(values, 0) / values.max()
    places: NDArray[np.float64] = scale[:, None] * vectors * shares**_EIGENVALUE_POWER
    lengths = np.linalg.norm(places, axis=1)
    places[lengths <= _NOISE * lengths.max()] = 0  # off all directions: only rounding is left
    return places


def _graph(rows: csr_array, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], _Operator]:
    """Return D^-1/4 of `taste_map`, 0 where D is, and what multiplies by D^-1/4 A D^-1/4."""
    degrees = np.diff(rows.indptr)
    many = np.flatnonzero(degrees >= 2)
    visits = csr_array(rows[many])
    each = np.sqrt(weights[many] * (degrees[many] - 1.0) ** -_USER_POWER)
    visits.data = np.repeat(each, degrees[many])
    turned = csr_array(visits.T)
    own = np.asarray(turned.power(2).sum(axis=1)).ravel()
    degree = turned @ (visits @ np.ones(visits.shape[1])) - own
    scale = np.zeros(len(degree))
    scale[degree > 0] = degree[degree > 0] ** -_PLACE_POWER

    def times(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        spread = scale[:, None] * vectors
        return np.asarray(scale[:, None] * (turned @ (visits @ spread) - own[:, None] * spread))

    return scale, times


def _leading(
    times: _Operator, size: int, directions: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the largest eigenvalues and their vectors of the symmetric operator ``times``."""
    directions = min(directions, size)
    wide = min(size, directions + max(8, directions // 4))
    start = np.random.default_rng(seed).standard_normal((size, wide))
    basis = np.linalg.qr(start)[0]
    for _ in range(_SWEEPS):
        basis = np.linalg.qr(times(basis))[0]
    small = basis.T @ times(basis)
    values, vectors = np.linalg.eigh((small + small.T) / 2)
    largest = np.argsort(-values)[:directions]
    return values[largest], basis @ vectors[:, largest]


def published_centroids(
    directions: NDArray[np.float64], places: NDArray[np.float64], shortest: float
) -> NDArray[np.float64]:
    """Turn centroids on the map into centroids that readers of raw ratings compare with.

    A user x lies on the map at x W and is nearest to the centroid c of largest (x W).c, which is
    x.(W c): so W c, over the places, is what a reader needs. The contract's distance puts negative
    values out of use, so they become 0. All are multiplied by one number that makes none longer
    than the shortest user: then max(|x|^2, |p|^2) is |x|^2 for every one of them, the distance is
    1 - x.p / |x|^2, and the reader's nearest is that of largest x.p.

    Parameters
    ----------
    directions
        (k, d), unit centroids on the map.
    places
        (m, d), the map W.
    shortest
        Length of the shortest vector that a user can have, above 0.

    Returns
    -------
    float64 (k, m)
    """
    pulls = np.maximum(directions @ places.T, 0)
    longest = np.linalg.norm(pulls, axis=1).max()
    return np.asarray(pulls * ((1 - _ROUNDING) * shortest / longest)) if longest > 0 else pulls


def taste_clusters(
    rows: csr_array,
    k: int,
    *,
    directions: int,
    shortest: float,
    search: Search,
    places: NDArray[np.float64] | None = None,
) -> TasteClusters | None:
    """Cluster users on the map of their own tastes.

    Parameters
    ----------
    rows
        (n, m), ratings, positive, 0 where unrated; no row is empty.
    k
        Most clusters.
    directions, shortest
        As in `taste_map` and `published_centroids`.
    search
        How to search; its seed is the map's, too.
    places
        (m, d), another map than that of `taste_map`.

    Returns
    -------
    TasteClusters or None
        None where there is no map, as where nobody has rated two places.
    """
    lengths = np.sqrt(np.asarray(rows.power(2).sum(axis=1)).ravel())
    distinct = distinct_rows(csr_array(diags_array(1 / lengths) @ rows))
    if places is None:
        weights, visits = distinct.counts, csr_array(distinct.rows)
        places = taste_map(visits, weights=weights, directions=directions, seed=search.seed)
    return (
        None
        if places is None or not places.any()
        else _clusters_on(places, distinct, k, shortest, search)
    )


def _clusters_on(
    places: NDArray[np.float64], distinct: DistinctRows, k: int, shortest: float, search: Search
) -> TasteClusters:
    points = np.asarray(distinct.rows @ places)
    lengths = np.linalg.norm(points, axis=1)
    on_map = np.flatnonzero(lengths > _NOISE * lengths.max())
    found = spherical_kmeans(
        points[on_map] / lengths[on_map, None], k, weights=distinct.counts[on_map], search=search
    )
    labels = np.full(len(points), -1, dtype=np.int32)
    closeness = np.full(len(points), np.nan)
    labels[on_map], closeness[on_map] = found.labels, 1 - found.distances
    return TasteClusters(
        centroids=published_centroids(found.centroids, places, shortest),
        labels=labels[distinct.inverse],
        closeness=closeness[distinct.inverse],
        inertia=found.inertia,
        history=found.history,
        iterations=found.iterations,
        converged=found.converged,
    )
