"""More clusters where a reader finds fewer than were asked for: large ones are split.

The centroids of ``recommender.tastes`` can be fewer than asked for, where few users make few
directions, and a reader can find nobody in one, because what a centroid holds against places is not
published. Both happen with few users or many clusters.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dists import assign, distinct_rows
from recommender.tastes import TasteClusters

_TRIES = 32
_CLEAR = 1e-6

Floats = NDArray[np.float64]


def reseeded(rows: csr_array, found: TasteClusters, k: int) -> TasteClusters:
    """Give centroids that find nobody to users of large clusters, and add what lacks to ``k``.

    As long as no centroid is longer than any user, a reader's nearest is that of largest x.p. A
    centroid a x_u, of the direction of user u, then takes the users y with

        r_y = max_j y.p_j / y.x_u < a,

    and no other. The largest cluster is split by its farthest member u, with the a that is nearest
    to halving it while u goes along, no cluster ends empty, and a x_u is no longer than the other
    centroids; where there is no such a, the next farthest are tried. Users can be so few or so
    alike that there is none, and fewer than ``k`` centroids are somebody's nearest.

    Parameters
    ----------
    rows
        (n, m), the users that were clustered, as a reader has them.
    found
        Their clusters; ``labels`` and ``closeness`` of users whom a split takes become its own.
    k
        Centroids to reach.
    """
    distinct = distinct_rows(rows)
    city = _City(csr_array(distinct.rows), distinct.counts, found.centroids)
    while city.found() < k and city.split():
        pass
    moved = city.moved[distinct.inverse]
    return replace(
        found,
        centroids=city.centroids,
        labels=np.where(moved, city.nearest[distinct.inverse], found.labels),
        closeness=np.where(moved, city.closeness()[distinct.inverse], found.closeness),
    )


class _City:
    """Users, what they are nearest to, and the splits made so far.

    Attributes
    ----------
    best, nearest
        (n,) each, the largest x.p of each user and whose it is; -1 where it is 0.
    moved
        (n,), whether a split has taken the user.
    """

    def __init__(self, rows: csr_array, weights: Floats, centroids: Floats) -> None:
        self.rows, self.weights, self.centroids = rows, weights, centroids
        squared = np.asarray(rows.power(2).sum(axis=1)).ravel()
        self.lengths = np.sqrt(squared)
        self.longest = np.linalg.norm(centroids, axis=1).max()
        nearest, far = assign(rows, centroids)
        self.best = (1 - far) * squared
        self.nearest = np.where(far < 1, nearest, -1)
        self.moved = np.zeros(rows.shape[0], dtype=bool)

    def sizes(self) -> NDArray[np.int64]:
        """Return how many distinct users each centroid has."""
        return np.bincount(self.nearest[self.nearest >= 0], minlength=len(self.centroids))

    def found(self) -> int:
        return int(np.count_nonzero(self.sizes()))

    def closeness(self) -> Floats:
        """Return the cosine of each user with the centroid that is nearest."""
        norms = np.linalg.norm(self.centroids, axis=1)[self.nearest]
        cosines = np.zeros_like(norms)
        return np.asarray(np.divide(self.best, self.lengths * norms, out=cosines, where=norms > 0))

    def split(self) -> bool:
        """Split a cluster, the largest for choice; say whether that could be done."""
        found = self.found()
        for user in self._candidates():
            share, taken = self._taken(user)
            nearest = np.where(taken, -2, self.nearest)
            if taken[user] and len(np.unique(nearest[nearest != -1])) == found + 1:
                self._take(user, share, taken)
                return True
        return False

    def _candidates(self) -> NDArray[np.int64]:
        """Return users to split off, of the largest clusters first, the farthest of each first.

        Whom nothing finds come last: few share a restaurant with one of them.
        """
        weights = np.bincount(self.nearest + 1, weights=self.weights)[self.nearest + 1]
        weights[self.nearest < 0] = 0
        single = np.bincount(self.nearest + 1)[self.nearest + 1] == 1
        order = np.lexsort((self.best / self.lengths, self.nearest, -weights))
        return np.asarray(order[~(single & (self.nearest >= 0))[order]][:_TRIES])

    def _taken(self, user: int) -> tuple[float, NDArray[np.bool_]]:
        """Return the a of `reseeded` for this user, and whom that takes; nobody without one."""
        shared = np.asarray(self.rows @ self.rows[[user]].toarray()[0])
        ratio = np.full(len(shared), np.inf)
        np.divide(self.best, shared, out=ratio, where=shared > 0)
        order = np.argsort(ratio, kind="stable")
        steps = ratio[order]
        after = np.append(steps[1:], np.inf)
        limit = self.longest / self.lengths[user]
        own = np.where(self.nearest == self.nearest[user], self.weights, 0)[order].cumsum()
        clear = (steps >= ratio[user]) & (after > steps * (1 + _CLEAR)) & (after > 0)
        cuts = np.flatnonzero(clear & (steps * (1 + _CLEAR) < limit))
        if not len(cuts):
            return 0.0, np.zeros(len(shared), dtype=bool)
        cut = cuts[np.abs(own[cuts] - own[-1] / 2).argmin()]
        return float((steps[cut] + min(after[cut], limit)) / 2), ratio <= steps[cut]

    def _take(self, user: int, share: float, taken: NDArray[np.bool_]) -> None:
        centroid = share * self.rows[[user]].toarray()
        empty = np.flatnonzero(self.sizes() == 0)
        place = empty[0] if len(empty) else len(self.centroids)
        if not len(empty):
            self.centroids = np.vstack([self.centroids, centroid])
        else:
            self.centroids = self.centroids.copy()
            self.centroids[place] = centroid
        self.best = np.maximum(self.best, np.asarray(self.rows @ centroid[0]))
        self.nearest = np.where(taken, np.int32(place), self.nearest)
        self.moved |= taken
