"""Clusters of users, by the spectral embedding or by raw ratings, as a reader finds them."""

import logging
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dists import Floats, KMeansResult, distinct_rows, kmeans, nearest_cluster
from recommender.clustering.embedding_clusters import embedding_clusters
from recommender.clustering.empty_clusters import repair_empty_clusters
from recommender.clustering.user_matrix import UserMatrix
from recommender.core.errors import DataError
from recommender.core.settings import ClustersSettings

_LEAST_SHARE = 1e-6

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class Clustering(KMeansResult):
    """The clusters as every reader of the published centroids finds them.

    A user without a common item with any centroid has label -1 and distance 1. Inertia, history,
    iterations and convergence are of the training in ``space``. ``closeness``, (users,), is the
    cosine of user and centroid in the embedding, or 1 - distance where ratings were clustered; NaN
    for users who were not clustered.
    """

    closeness: Floats
    space: str  # what was clustered: ``tastes`` (the spectral embedding) or ``ratings``
    reader_agreement: float  # share of users that a reader assigns to the training's cluster

    def assign(self, rows: csr_array) -> NDArray[np.int32]:
        """Return the cluster in which a reader finds each row, (n,); -1 for none."""
        return nearest_cluster(rows, self.centroids)[0]

    def extended(self, rows: csr_array, clustered: NDArray[np.int64]) -> Self:
        """Assign ``rows`` as a reader does; ``clustered`` are those of this clustering."""
        labels, distances = nearest_cluster(rows, self.centroids)
        closeness = np.full(len(labels), np.nan)
        closeness[clustered] = self.closeness
        return replace(self, labels=labels, distances=distances, closeness=closeness)

    def renumbered(self, ids: NDArray[np.int64]) -> Self:
        """Return the same clusters under other ids, (k,), a permutation of 0 to k - 1."""
        order = np.argsort(ids)
        labels = np.where(self.labels >= 0, ids[self.labels], -1).astype(np.int32)
        return replace(self, centroids=self.centroids[order], labels=labels)


def cluster(matrix: UserMatrix, clusters: ClustersSettings, seed: int) -> Clustering:
    """Cluster the users in the space of ``CLUSTERS_SPACE``; those with an empty row are in none.

    There are fewer than ``CLUSTERS_K`` clusters if fewer users differ. Raw ratings are clustered
    where the embedding does not exist, because no user has rated two restaurants, or does not
    separate as many clusters as the ratings. DataError if users differ by rounding only.
    """
    rated = np.flatnonzero(np.diff(matrix.rows.indptr))
    rows = csr_array(matrix.rows[rated])
    clustering = None
    if clusters.space == "tastes":
        clustering = _by_embedding(rows, clusters.k, matrix.lowest, seed)
    clustering = clustering or _by_ratings(rows, clusters.k, seed)
    if (n := len(clustering.centroids)) < clusters.k:
        log.warning("%d clusters instead of CLUSTERS_K=%d: the users form no more", n, clusters.k)
    everybody = len(rated) == matrix.rows.shape[0]
    return clustering if everybody else clustering.extended(matrix.rows, rated)


def _by_embedding(rows: csr_array, k: int, lowest: float, seed: int) -> Clustering | None:
    """Cluster the embedding and repair empty clusters; None where ratings separate more."""
    # On a scale from 0, the shortest user vector is the lowest rating above 0, but no less than a
    # millionth of the highest: distances to much shorter centroids would be rounding.
    shortest = lowest or float(max(rows.data.min(), rows.data.max() * _LEAST_SHARE))
    trained = embedding_clusters(rows, k, shortest=shortest, seed=seed)
    if trained is None or not trained.centroids.any():
        log.warning("no user has rated two restaurants that others have rated: clustering ratings")
        return None
    clustering = as_read(rows, trained, "tastes")
    if len(clustering.centroids) == k:
        return clustering
    possible = min(k, len(distinct_rows(rows).counts))
    if (filled := len(clustering.centroids)) < possible:
        log.info("splitting large clusters: %d of %d have users", filled, possible)
        clustering = as_read(rows, repair_empty_clusters(rows, trained, possible), "tastes")
    if (filled := len(clustering.centroids)) < possible:
        log.warning("%d clusters of %d in the embedding: clustering ratings", filled, possible)
        try:
            return _by_ratings(rows, k, seed)
        except DataError as error:
            log.warning("%s; keeping the clusters of the embedding", error)
    return clustering


def _by_ratings(rows: csr_array, k: int, seed: int) -> Clustering:
    try:
        trained = kmeans(rows, min(k, len(distinct_rows(rows).counts)), seed=seed)
    except ValueError as error:
        raise DataError(f"the ratings have no clusters: {error}") from None
    return as_read(rows, trained, "ratings")


def as_read(rows: csr_array, trained: KMeansResult, space: str) -> Clustering:
    """Assign every user as a reader does, and drop clusters that are then empty."""
    labels, distances = nearest_cluster(rows, trained.centroids)
    agreement = float((labels == trained.labels)[trained.labels >= 0].mean())
    filled, labels_filled = np.unique(labels[labels >= 0], return_inverse=True)
    labels[labels >= 0] = labels_filled
    return Clustering(
        centroids=trained.centroids[filled],
        labels=labels,
        distances=distances,
        inertia=trained.inertia,
        history=trained.history,
        iterations=trained.iterations,
        converged=trained.converged,
        closeness=1 - trained.distances,
        space=space,
        reader_agreement=agreement,
    )
