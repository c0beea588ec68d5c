"""Empty-cluster repair: large clusters are split until each centroid is some user's nearest.

Spherical K-Means finds fewer centroids than requested if few users differ, and a centroid can be
nearest to no user, because its negative values are not published.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dists import Floats, KMeansResult, assign, distinct_rows

_TRIES = 32
_CLEAR = 1e-6


def repair_empty_clusters(rows: csr_array, clusters: KMeansResult, k: int) -> KMeansResult:
    """Replace empty centroids, and add centroids up to ``k``, by splitting large clusters.

    While no centroid is longer than any user, a user's nearest centroid is that of largest x.p. A
    new centroid a x_u, in the direction of user u, then takes exactly the users y with

        r_y = max_j y.p_j / y.x_u < a.

    The largest cluster is split by its farthest member u, with the scale a that comes nearest to
    halving it while u is taken, no cluster becomes empty, and a x_u is no longer than the longest
    centroid. If there is none, the next farthest members are tried. Fewer than ``k`` clusters
    result where the users are too few or too similar.

    The ratings, (n, m), have no empty row. Users taken by a split have 1 - cosine as distance.
    """
    distinct = distinct_rows(rows)
    state = _Assignment(csr_array(distinct.rows), distinct.counts, clusters.centroids)
    while np.count_nonzero(state.sizes()) < k and state.split():
        pass
    moved = state.moved[distinct.inverse]
    return replace(
        clusters,
        centroids=state.centroids,
        labels=np.where(moved, state.nearest[distinct.inverse], clusters.labels),
        distances=np.where(moved, 1 - state.cosines()[distinct.inverse], clusters.distances),
    )


class _Assignment:
    """Distinct users, (n,), their nearest centroids, and the splits made so far."""

    def __init__(self, rows: csr_array, weights: Floats, centroids: Floats) -> None:
        self.rows, self.weights, self.centroids = rows, weights, centroids
        squared = np.asarray(rows.power(2).sum(axis=1)).ravel()
        self.lengths = np.sqrt(squared)
        self.longest = np.linalg.norm(centroids, axis=1).max()
        nearest, distances = assign(rows, centroids)
        self.best = (1 - distances) * squared  # the largest x.p
        self.nearest = np.where(distances < 1, nearest, -1)  # its centroid, -1 where it is 0
        self.moved = np.zeros(rows.shape[0], dtype=bool)  # taken by a split

    def sizes(self) -> NDArray[np.int64]:
        """Return the distinct users of each centroid."""
        return np.bincount(self.nearest[self.nearest >= 0], minlength=len(self.centroids))

    def cosines(self) -> Floats:
        """Return the cosine of each user and the nearest centroid."""
        norms = np.linalg.norm(self.centroids, axis=1)[self.nearest]
        cosines = np.zeros_like(norms)
        return np.asarray(np.divide(self.best, self.lengths * norms, out=cosines, where=norms > 0))

    def split(self) -> bool:
        """Split one cluster, preferably the largest; return false if none can be split."""
        filled = np.count_nonzero(self.sizes())
        for user in self._candidates():
            scale, taken = self._taken(user)
            # The new cluster must hold its user, and no other cluster may become empty.
            nearest = np.where(taken, -2, self.nearest)
            if taken[user] and len(np.unique(nearest[nearest != -1])) == filled + 1:
                self._add(scale * self.rows[[user]].toarray(), taken)
                return True
        return False

    def _candidates(self) -> NDArray[np.int64]:
        """Return users to split off: by size of the cluster, those of none last; farthest first."""
        cluster = self.nearest + 1
        sizes = np.bincount(cluster, weights=self.weights)
        sizes[0] = 0
        splittable = np.bincount(cluster) > 1
        splittable[0] = True
        order = np.lexsort((self.best / self.lengths, cluster, -sizes[cluster]))
        return np.asarray(order[splittable[cluster][order]][:_TRIES])

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

    def _add(self, centroid: Floats, taken: NDArray[np.bool_]) -> None:
        """Put a centroid, (1, m), in the place of an empty one, or at the end."""
        empty = np.flatnonzero(self.sizes() == 0)
        position = empty[0] if len(empty) else len(self.centroids)
        before, after = self.centroids[:position], self.centroids[position + 1 :]
        self.centroids = np.vstack([before, centroid, after])
        self.best = np.maximum(self.best, np.asarray(self.rows @ centroid[0]))
        self.nearest = np.where(taken, np.int32(position), self.nearest)
        self.moved |= taken
