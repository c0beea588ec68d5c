"""Empty-cluster repair: large clusters are split until each centroid is some user's nearest.

Centroids of ``recommender.clustering.spectral`` can be fewer than requested, if few users differ.
And one can be nearest to no user, because its negative values are not published. Both happen with
few users or many clusters.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dists import assign, distinct_rows
from recommender.clustering.spectral import EmbeddingClusters

_TRIES = 32
_CLEAR = 1e-6

Floats = NDArray[np.float64]


def repair_empty_clusters(
    rows: csr_array, clusters: EmbeddingClusters, k: int
) -> EmbeddingClusters:
    """Replace empty centroids, and add centroids up to ``k``, by splitting large clusters.

    While no centroid is longer than any user, a user's nearest centroid is that of largest x.p. A
    new centroid a x_u, in the direction of user u, then takes exactly the users y with

        r_y = max_j y.p_j / y.x_u < a.

    The largest cluster is split by its farthest member u. The scale a is that which comes nearest
    to halving the cluster while u is taken, no cluster becomes empty, and a x_u is no longer than
    the longest centroid. If there is none, the next farthest members are tried. Fewer than ``k``
    clusters result where the users are too few or too similar.

    Parameters
    ----------
    rows
        (n, m), the ratings of the clustered users; no row is empty.
    clusters
        Their clusters.
    k
        Number of clusters to reach.

    Returns
    -------
    EmbeddingClusters
        With new ``labels`` and ``closeness`` (cosine over the items) for users taken by a split.
    """
    distinct = distinct_rows(rows)
    state = _Assignment(csr_array(distinct.rows), distinct.counts, clusters.centroids)
    while state.filled() < k and state.split():
        pass
    moved = state.moved[distinct.inverse]
    return replace(
        clusters,
        centroids=state.centroids,
        labels=np.where(moved, state.nearest[distinct.inverse], clusters.labels),
        closeness=np.where(moved, state.closeness()[distinct.inverse], clusters.closeness),
    )


class _Assignment:
    """Distinct users, their nearest centroids, and the splits made so far.

    Attributes
    ----------
    best, nearest
        (n,) each, the largest x.p of each user and its centroid; -1 where it is 0.
    moved
        bool (n,), users taken by a split.
    """

    def __init__(self, rows: csr_array, weights: Floats, centroids: Floats) -> None:
        self.rows, self.weights, self.centroids = rows, weights, centroids
        squared = np.asarray(rows.power(2).sum(axis=1)).ravel()
        self.lengths = np.sqrt(squared)
        self.longest = np.linalg.norm(centroids, axis=1).max()
        nearest, distances = assign(rows, centroids)
        self.best = (1 - distances) * squared
        self.nearest = np.where(distances < 1, nearest, -1)
        self.moved = np.zeros(rows.shape[0], dtype=bool)

    def sizes(self) -> NDArray[np.int64]:
        """Return the distinct users of each centroid."""
        return np.bincount(self.nearest[self.nearest >= 0], minlength=len(self.centroids))

    def filled(self) -> int:
        """Return the number of centroids with users."""
        return int(np.count_nonzero(self.sizes()))

    def closeness(self) -> Floats:
        """Return the cosine of each user and the nearest centroid."""
        norms = np.linalg.norm(self.centroids, axis=1)[self.nearest]
        cosines = np.zeros_like(norms)
        return np.asarray(np.divide(self.best, self.lengths * norms, out=cosines, where=norms > 0))

    def split(self) -> bool:
        """Split one cluster, preferably the largest; return false if none can be split."""
        filled = self.filled()
        for user in self._candidates():
            scale, taken = self._taken(user)
            # The new cluster must hold its user, and no other cluster may become empty.
            nearest = np.where(taken, -2, self.nearest)
            if taken[user] and len(np.unique(nearest[nearest != -1])) == filled + 1:
                self._take(user, scale, taken)
                return True
        return False

    def _candidates(self) -> NDArray[np.int64]:
        """Return users to split off: by size of the cluster, then the farthest first.

        Users without a cluster come last, because few others share an item with them.
        """
        weights = np.bincount(self.nearest + 1, weights=self.weights)[self.nearest + 1]
        weights[self.nearest < 0] = 0
        single = np.bincount(self.nearest + 1)[self.nearest + 1] == 1
        order = np.lexsort((self.best / self.lengths, self.nearest, -weights))
        return np.asarray(order[~(single & (self.nearest >= 0))[order]][:_TRIES])

    def _taken(self, user: int) -> tuple[float, NDArray[np.bool_]]:
        """Return the scale a for this user and the users that it takes; none if there is no a."""
        # r_y of every user, infinite without a common item, in ascending order.
        shared = np.asarray(self.rows @ self.rows[[user]].toarray()[0])
        ratio = np.full(len(shared), np.inf)
        np.divide(self.best, shared, out=ratio, where=shared > 0)
        order = np.argsort(ratio, kind="stable")
        steps = ratio[order]
        after = np.append(steps[1:], np.inf)
        # A cut lies between two clearly different ratios, takes the user, and respects the length.
        limit = self.longest / self.lengths[user]
        clear = (steps >= ratio[user]) & (after > steps * (1 + _CLEAR)) & (after > 0)
        cuts = np.flatnonzero(clear & (steps * (1 + _CLEAR) < limit))
        if not len(cuts):
            return 0.0, np.zeros(len(shared), dtype=bool)
        # Of these cuts, take the one nearest to half of the user's own cluster.
        own = np.where(self.nearest == self.nearest[user], self.weights, 0)[order].cumsum()
        cut = cuts[np.abs(own[cuts] - own[-1] / 2).argmin()]
        return float((steps[cut] + min(after[cut], limit)) / 2), ratio <= steps[cut]

    def _take(self, user: int, scale: float, taken: NDArray[np.bool_]) -> None:
        """Put the new centroid in the place of an empty one, or add it."""
        centroid = scale * self.rows[[user]].toarray()
        empty = np.flatnonzero(self.sizes() == 0)
        position = empty[0] if len(empty) else len(self.centroids)
        kept = np.delete(self.centroids, empty[:1], axis=0)
        self.centroids = np.insert(kept, position, centroid, axis=0)
        self.best = np.maximum(self.best, np.asarray(self.rows @ centroid[0]))
        self.nearest = np.where(taken, np.int32(position), self.nearest)
        self.moved |= taken
