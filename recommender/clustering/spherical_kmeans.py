"""Spherical K-Means: clusters of unit vectors of any sign, by cosine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dists import BLOCK_ROWS, KMeansResult, Space, lloyd

Floats = NDArray[np.float64]


def spherical_kmeans(
    rows: Floats,
    k: int,
    *,
    weights: Floats | None = None,
    seed: int = 0,
    max_iter: int = 100,
    tolerance: float = 1e-4,
) -> KMeansResult:
    """Find at most k clusters of unit vectors with a small summed distance 1 - x.c.

    Among unit centroids the sum of v_x x.c is largest for c along sum v_x x (Cauchy-Schwarz), so
    each update is optimal and the inertia cannot rise (Dhillon and Modha, 2001).

    Parameters
    ----------
    rows
        (n, d), dense, each of length 1.
    k
        Most clusters; there are fewer if fewer rows differ by more than rounding.
    weights
        (n,), multiplicities v_x, above 0; 1 by default. They count in the inertia.
    seed, max_iter, tolerance
        As in ``dists.kmeans``.

    Raises
    ------
    ValueError
        If an argument is not as described.
    """
    if k < 1:
        raise ValueError(f"{k=}: expected at least 1")
    if not len(rows) or not np.allclose(np.linalg.norm(rows, axis=1), 1):
        raise ValueError("expected at least one row, and all of length 1; normalise them")
    weights = np.ones(len(rows)) if weights is None else weights
    space = _UnitVectors(rows, weights)
    return lloyd(space, k, seed=seed, max_iter=max_iter, tolerance=tolerance)


@dataclass(frozen=True, eq=False)
class _UnitVectors(Space):
    """Dense unit vectors under the distance 1 - x.c, in [0, 2]."""

    def points(self, chosen: NDArray[np.intp]) -> Floats:
        return np.asarray(self.rows[chosen])

    def distances(self, centroids: Floats) -> Floats:
        return _distances(self.rows, centroids)

    def nearest(self, centroids: Floats) -> tuple[NDArray[np.int32], Floats]:
        labels, nearest = np.empty(len(self.rows), dtype=np.int32), np.empty(len(self.rows))
        for start in range(0, len(self.rows), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            distances = _distances(self.rows[block], centroids)
            labels[block], nearest[block] = distances.argmin(axis=1), distances.min(axis=1)
        return labels, nearest

    def moved(self, labels: NDArray[Any], centroids: Floats, weights: Floats) -> Floats:
        # Sum the members of each cluster and normalise; a zero sum leaves the centroid in place.
        n = len(self.rows)
        members = csr_array((weights, (labels, np.arange(n))), shape=(len(centroids), n))
        sums = np.asarray(members @ self.rows)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        return np.asarray(np.divide(sums, lengths, out=centroids.copy(), where=lengths > 0))


def _distances(rows: Floats, centroids: Floats) -> Floats:
    products = rows @ centroids.T
    np.subtract(1, products, out=products)
    return np.clip(products, 0, 2, out=products)
