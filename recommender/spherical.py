"""K-Means of directions: the distance of ``dists`` between vectors of length 1, of any sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dists import BLOCK_ROWS, KMeansResult, Search, Space, best_clusters

Floats = NDArray[np.float64]


def spherical_kmeans(
    rows: Floats, k: int, *, weights: Floats | None = None, search: Search | None = None
) -> KMeansResult:
    """Find at most k clusters of unit vectors, of least summed distance.

    Between unit vectors the larger norm is 1 and the distance is 1 - x.c, in [0, 2] where signs
    differ. Among unit centroids the gain sum v_x x.c is largest for c along sum v_x x
    (Cauchy-Schwarz), so each update is optimal and the inertia cannot rise: the spherical K-Means
    of Dhillon and Modha (2001).

    Parameters
    ----------
    rows
        (n, d), dense, each of length 1.
    k
        Most clusters; there are fewer where fewer directions are further apart than rounding.
    weights
        (n,), how often each row counts, above 0; once by default. The inertia counts them.
    search
        How to search; by default as ``dists.kmeans`` does.

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
    return best_clusters(_Directions(rows, weights), k, search or Search())


@dataclass(frozen=True, eq=False)
class _Directions(Space):
    """Dense unit vectors."""

    def points(self, chosen: NDArray[np.intp]) -> Floats:
        return np.asarray(self.rows[chosen])

    def gaps(self, centroids: Floats) -> Floats:
        return _gaps(self.rows, centroids)

    def nearest(self, centroids: Floats) -> tuple[NDArray[np.int32], Floats]:
        labels, nearest = np.empty(len(self.rows), dtype=np.int32), np.empty(len(self.rows))
        for start in range(0, len(self.rows), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            found = _gaps(self.rows[block], centroids)
            labels[block], nearest[block] = found.argmin(axis=1), found.min(axis=1)
        return labels, nearest

    def moved(self, labels: NDArray[Any], centroids: Floats, weights: Floats) -> Floats:
        n = len(self.rows)
        members = csr_array((weights, (labels, np.arange(n))), shape=(len(centroids), n))
        pulls = np.asarray(members @ self.rows)
        lengths = np.linalg.norm(pulls, axis=1, keepdims=True)
        return np.asarray(np.divide(pulls, lengths, out=centroids.copy(), where=lengths > 0))


def _gaps(rows: Floats, centroids: Floats) -> Floats:
    found = rows @ centroids.T
    np.subtract(1, found, out=found)
    return np.clip(found, 0, 2, out=found)
