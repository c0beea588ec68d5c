"""Spherical K-Means: clusters of unit vectors of any sign, by cosine."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dists import BLOCK_ROWS, Floats, KMeansResult, Labels, Space, lloyd
from recommender.core.threads import map_blocks

_SEEDING_ROWS = 1_000  # for each cluster: the first centroids are chosen among them


def spherical_kmeans(rows: Floats, k: int, weights: Floats, *, seed: int = 0) -> KMeansResult:
    """Find at most k clusters of unit vectors with a small summed distance 1 - x.c.

    Among unit centroids the sum of v_x x.c is largest for c along sum v_x x (Cauchy-Schwarz), so
    each update is optimal and the inertia cannot rise (Dhillon and Modha, 2001).

    ``weights``, (n,), are the multiplicities v_x above 0, which count in the inertia. There are
    fewer than k clusters if fewer rows differ by more than rounding. The rows, (n, d), one or more,
    are of length 1, and k is at least 1.
    """
    rng = np.random.default_rng([seed, 0])
    space = Space(rows, weights, _distances, _nearest, _update)
    seeds = np.arange(0)
    if len(rows) > k * _SEEDING_ROWS:
        drawn = rng.choice(len(rows), k * _SEEDING_ROWS, p=weights / weights.sum())
        sample, times = np.unique(drawn, return_counts=True)  # twice drawn: twice the weight
        part = replace(space, rows=rows[sample], weights=times.astype(np.float64))
        seeds = sample[part.seeds(k, rng)]
    if len(seeds) < k:  # also where a sample has too few distinct rows
        seeds = space.seeds(k, rng)
    return lloyd(space, seeds)


def _distances(rows: Floats, centroids: Floats) -> Floats:
    return np.clip(1 - rows @ centroids.T, 0, 2)


def _nearest(rows: Floats, centroids: Floats) -> tuple[NDArray[np.int32], Floats]:
    labels, nearest = np.empty(len(rows), dtype=np.int32), np.empty(len(rows))

    def assign(start: int) -> None:
        block = slice(start, start + BLOCK_ROWS)
        cosines = rows[block] @ centroids.T
        labels[block] = cosines.argmax(axis=1)
        nearest[block] = 1 - cosines[np.arange(len(cosines)), labels[block]]

    list(map_blocks(assign, range(0, len(rows), BLOCK_ROWS)))
    return labels, np.clip(nearest, 0, 2)


def _update(rows: Floats, labels: Labels, centroids: Floats, weights: Floats) -> Floats:
    """Sum the members of each cluster and normalise; a zero sum leaves the centroid in place."""
    members = csr_array((weights, (labels, np.arange(len(rows)))), (len(centroids), len(rows)))
    sums = np.asarray(members @ rows)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(np.divide(sums, lengths, out=centroids.copy(), where=lengths > 0))
