"""The clusters of users, found on a map of tastes or on the ratings, as a reader finds them."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dists import KMeansResult, Search, assign, distinct_rows, kmeans
from recommender.errors import DataError
from recommender.matching import matched_ids, users_moved
from recommender.mongo import MongoDatabase
from recommender.published import load_model
from recommender.ratings import Ratings, reader_shift
from recommender.reseeding import reseeded
from recommender.settings import Settings
from recommender.tastes import TasteClusters, taste_clusters
from recommender.user_matrix import UserMatrix

_LEAST_SHARE = 1e-6

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Clustering:
    """The clusters as every reader of the published centroids sees them.

    Attributes
    ----------
    centroids
        float64 (k, columns).
    labels, distances
        (users,) each: the cluster where a reader finds the user, and the distance; -1 and 1 for who
        shares nothing with any.
    closeness
        float64 (users,), cosine on the taste map, or 1 - distance where ratings were clustered; NaN
        for who is on no map or gave nothing but 0.
    sizes
        int64 (k,), users in each cluster, none 0.
    space
        What was clustered: ``tastes``, ``factors`` or ``ratings``.
    landed
        Share of the users whom a reader finds where the training put them, of those it put
        anywhere.
    inertia, history, iterations, converged
        As ``dists.KMeansResult`` has them, in that space.
    """

    centroids: NDArray[np.float64]
    labels: NDArray[np.int32]
    distances: NDArray[np.float64]
    closeness: NDArray[np.float64]
    sizes: NDArray[np.int64]
    space: str
    landed: float
    inertia: float
    history: tuple[float, ...]
    iterations: int
    converged: bool

    def place(self, rows: csr_array) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Find users by their ratings as a reader does: ``labels`` and ``distances`` of rows."""
        labels, nearest = assign(rows, self.centroids)
        labels[nearest == 1] = -1
        return labels, nearest


def cluster(matrix: UserMatrix, settings: Settings) -> Clustering:
    """Cluster the users in the space of ``CLUSTERS_SPACE``.

    Fewer clusters than ``CLUSTERS_K`` come out where fewer users differ. The ratings themselves are
    clustered where nobody has rated two restaurants, so that there are no tastes to tell apart, and
    where enough users differ only in how high they rate the same restaurants. Users of whom a
    reader sees nothing, as they gave nothing but 0, are in no cluster.
    """
    heard = np.flatnonzero(np.diff(matrix.rows.indptr))
    part = matrix if len(heard) == len(matrix.users) else matrix.part(heard)
    found = _by_tastes(part, settings) if settings.clusters_space != "ratings" else None
    found = _among(found or _by_ratings(part, settings), heard, len(matrix.users))
    if len(found.centroids) < settings.clusters_k:
        log.warning(
            "CLUSTERS_K lowered from %d to %d, the number of clusters that these users make",
            settings.clusters_k,
            len(found.centroids),
        )
    return found


def _among(found: Clustering, heard: NDArray[np.int64], users: int) -> Clustering:
    """Return the clustering of some users as that of all, the others being in no cluster."""
    labels, far = np.full(users, -1, dtype=np.int32), np.ones(users)
    closeness = np.full(users, np.nan)
    labels[heard], far[heard], closeness[heard] = found.labels, found.distances, found.closeness
    return replace(found, labels=labels, distances=far, closeness=closeness)


def _by_tastes(matrix: UserMatrix, settings: Settings) -> Clustering | None:
    trained = taste_clusters(
        matrix.rows,
        settings.clusters_k,
        directions=settings.clusters_directions,
        shortest=_shortest(matrix, settings),
        search=_search(settings),
        places=matrix.places,
    )
    if trained is None or not trained.centroids.any():
        log.warning("no user has rated two restaurants that tell tastes apart: clustering ratings")
        return None
    found = as_read(matrix, trained, trained.labels, trained.closeness, settings.clusters_space)
    lacking = settings.clusters_k - len(found.centroids)
    return _with_splits(matrix, trained, found, settings) if lacking else found


def _shortest(matrix: UserMatrix, settings: Settings) -> float:
    """Return the length of the shortest vector that a reader can have, above 0.

    On a scale from 0 that is the least rating above it, but at least a millionth of the highest:
    centroids much shorter would leave everybody's distances to rounding.
    """
    low = settings.rating_min + reader_shift(settings.rating_min)
    given = matrix.rows.data
    return low or float(max(given.min(), given.max() * _LEAST_SHARE))


def _with_splits(
    matrix: UserMatrix, trained: TasteClusters, found: Clustering, settings: Settings
) -> Clustering:
    """Split clusters until there are as many as users can make; else cluster the ratings."""
    wanted = min(settings.clusters_k, len(distinct_rows(matrix.rows).counts))
    if len(found.centroids) == wanted:
        return found
    log.info("a reader finds %d clusters of %d: splitting large ones", len(found.centroids), wanted)
    split = reseeded(matrix.rows, trained, wanted)
    found = as_read(matrix, split, split.labels, split.closeness, settings.clusters_space)
    if len(found.centroids) == wanted:
        return found
    log.warning("tastes make %d clusters of %d: clustering ratings", len(found.centroids), wanted)
    try:
        return _by_ratings(matrix, settings)
    except DataError as error:
        log.warning("%s; keeping those of tastes", error)
        return found


def _by_ratings(matrix: UserMatrix, settings: Settings) -> Clustering:
    distinct = len(distinct_rows(matrix.rows).counts)
    try:
        found = kmeans(
            matrix.rows,
            min(settings.clusters_k, distinct),
            **asdict(_search(settings)),
        )
    except ValueError as error:  # users so alike that their distances are rounding
        raise DataError(f"the users cannot be told apart: {error}") from None
    return as_read(matrix, found, found.labels, 1 - found.distances, "ratings")


def _search(settings: Settings) -> Search:
    return Search(
        seed=settings.seed,
        max_iter=settings.clusters_max_iter,
        tolerance=settings.clusters_tolerance,
        starts=settings.clusters_starts,
    )


def as_read(
    matrix: UserMatrix,
    found: TasteClusters | KMeansResult,
    trained: NDArray[np.int32],
    closeness: NDArray[np.float64],
    space: str,
) -> Clustering:
    """Find every user as a reader does, and leave out clusters in which that finds nobody."""
    labels, nearest = assign(matrix.rows, found.centroids)
    labels[nearest == 1] = -1
    landed = float((labels == trained)[trained >= 0].mean())
    filled, labels_filled = np.unique(labels[labels >= 0], return_inverse=True)
    labels[labels >= 0] = labels_filled
    return Clustering(
        centroids=found.centroids[filled],
        labels=labels,
        distances=nearest,
        closeness=closeness,
        sizes=np.bincount(labels_filled),
        space=space,
        landed=landed,
        inertia=found.inertia,
        history=found.history,
        iterations=found.iterations,
        converged=found.converged,
    )


def with_previous_ids(
    found: Clustering, ratings: Ratings, matrix: UserMatrix, db: MongoDatabase
) -> tuple[Clustering, int | None]:
    """Give the clusters ids under which most users stay where the published model has them.

    Returns
    -------
    found
        The same clusters in another order.
    moved
        How many users whom the published model places change their id; None without such a model.
    """
    try:
        model = load_model(db)
        previous, nearest = assign(model.vectors(ratings)[matrix.users], model.centroids)
    except (DataError, ValueError) as error:
        log.info("cluster ids start anew: %s", error)
        return found, None
    previous[nearest == 1] = -1
    ids = matched_ids(found.labels, previous, len(found.centroids))
    order = np.argsort(ids)
    labels = np.where(found.labels >= 0, ids[found.labels], -1).astype(np.int32)
    numbered = replace(
        found, centroids=found.centroids[order], sizes=found.sizes[order], labels=labels
    )
    return numbered, users_moved(labels, previous)
