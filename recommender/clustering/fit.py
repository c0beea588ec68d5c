"""Clusters of users, by the spectral embedding or by raw ratings, as a reader finds them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dists import KMeansResult, assign, distinct_rows, kmeans
from recommender.clustering.empty_clusters import repair_empty_clusters
from recommender.clustering.spectral import EmbeddingClusters, embedding_clusters
from recommender.clustering.user_matrix import UserMatrix
from recommender.core.errors import DataError
from recommender.core.settings import Settings

_LEAST_SHARE = 1e-6

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Clustering:
    """The clusters as every reader of the published centroids finds them.

    Attributes
    ----------
    centroids
        float64 (k, columns).
    labels, distances
        (users,) each: the nearest centroid and the distance to it; -1 and 1 for a user without a
        common item with any centroid.
    closeness
        float64 (users,), cosine of user and centroid in the embedding, or 1 - distance where
        ratings were clustered; NaN for users who could not be clustered.
    sizes
        int64 (k,), users in each cluster, none 0.
    space
        What was clustered: ``tastes`` (the spectral embedding) or ``ratings``.
    reader_agreement
        Share of the clustered users whom a reader finds in the cluster of the training.
    inertia, history, iterations, converged
        As in ``dists.KMeansResult``, in that space.
    """

    centroids: NDArray[np.float64]
    labels: NDArray[np.int32]
    distances: NDArray[np.float64]
    closeness: NDArray[np.float64]
    sizes: NDArray[np.int64]
    space: str
    reader_agreement: float
    inertia: float
    history: tuple[float, ...]
    iterations: int
    converged: bool

    def assign(self, rows: csr_array) -> NDArray[np.int32]:
        """Return the cluster in which a reader finds each row, (n,); -1 for none."""
        return _as_reader(rows, self.centroids)[0]


def cluster(matrix: UserMatrix, settings: Settings) -> Clustering:
    """Cluster the users in the space of ``CLUSTERS_SPACE``.

    There are fewer than ``CLUSTERS_K`` clusters if fewer users differ. Raw ratings are clustered
    where the embedding does not exist, because no user has rated two restaurants, or does not
    separate as many clusters as the ratings. Users with an empty row are in no cluster.

    Raises
    ------
    DataError
        If users differ by rounding only.
    """
    rated = np.flatnonzero(np.diff(matrix.rows.indptr))
    rows = csr_array(matrix.rows[rated])
    clustering = None
    if settings.clusters.space == "tastes":
        shortest = _shortest(rows, matrix.lowest)
        clustering = _by_embedding(rows, settings.clusters.k, shortest, settings.seed)
    clustering = clustering or _by_ratings(rows, settings.clusters.k, settings.seed)
    if len(clustering.centroids) < settings.clusters.k:
        log.warning(
            "%d clusters instead of CLUSTERS_K=%d: the users do not form more",
            len(clustering.centroids),
            settings.clusters.k,
        )
    return _among_all(clustering, rated, matrix.rows.shape[0])


def _among_all(clustering: Clustering, rated: NDArray[np.int64], users: int) -> Clustering:
    """Return the clustering of some users as one of all; the others are in no cluster."""
    labels, distances = np.full(users, -1, dtype=np.int32), np.ones(users)
    closeness = np.full(users, np.nan)
    labels[rated], distances[rated] = clustering.labels, clustering.distances
    closeness[rated] = clustering.closeness
    return replace(clustering, labels=labels, distances=distances, closeness=closeness)


def _shortest(rows: csr_array, lowest: float) -> float:
    """Return the length of the shortest possible user vector, above 0.

    On a scale from 0 it is the lowest rating above 0, but at least a millionth of the highest:
    distances to much shorter centroids would be rounding.
    """
    return lowest or float(max(rows.data.min(), rows.data.max() * _LEAST_SHARE))


def _by_embedding(rows: csr_array, k: int, shortest: float, seed: int) -> Clustering | None:
    """Cluster the embedding and repair empty clusters; None where ratings separate more."""
    trained = embedding_clusters(rows, k, shortest=shortest, seed=seed)
    if trained is None or not trained.centroids.any():
        log.warning("no user has rated two restaurants that others have rated: clustering ratings")
        return None
    clustering = as_read(rows, trained, trained.closeness, "tastes")
    if len(clustering.centroids) == k:
        return clustering
    wanted = min(k, len(distinct_rows(rows).counts))
    if len(clustering.centroids) < wanted:
        log.info("splitting large clusters: %d of %d have users", len(clustering.centroids), wanted)
        repaired = repair_empty_clusters(rows, trained, wanted)
        clustering = as_read(rows, repaired, repaired.closeness, "tastes")
    if len(clustering.centroids) < wanted:
        log.warning(
            "%d clusters of %d in the embedding: clustering ratings",
            len(clustering.centroids),
            wanted,
        )
        try:
            return _by_ratings(rows, k, seed)
        except DataError as error:
            log.warning("%s; keeping the clusters of the embedding", error)
    return clustering


def _by_ratings(rows: csr_array, k: int, seed: int) -> Clustering:
    try:
        trained = kmeans(rows, min(k, len(distinct_rows(rows).counts)), seed=seed)
    except ValueError as error:
        raise DataError(f"the ratings cannot be clustered: {error}") from None
    return as_read(rows, trained, 1 - trained.distances, "ratings")


def as_read(
    rows: csr_array,
    trained: EmbeddingClusters | KMeansResult,
    closeness: NDArray[np.float64],
    space: str,
) -> Clustering:
    """Assign every user as a reader does, and drop clusters that are then empty."""
    labels, distances = _as_reader(rows, trained.centroids)
    agreement = float((labels == trained.labels)[trained.labels >= 0].mean())
    filled, labels_filled = np.unique(labels[labels >= 0], return_inverse=True)
    labels[labels >= 0] = labels_filled
    return Clustering(
        centroids=trained.centroids[filled],
        labels=labels,
        distances=distances,
        closeness=closeness,
        sizes=np.bincount(labels_filled),
        space=space,
        reader_agreement=agreement,
        inertia=trained.inertia,
        history=trained.history,
        iterations=trained.iterations,
        converged=trained.converged,
    )


def _as_reader(
    rows: csr_array, centroids: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    labels, distances = assign(rows, centroids)
    labels[distances == 1] = -1
    return labels, distances
