"""The published model of the clusters, read as a backend reads it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pymongo.collection import Collection
from scipy.sparse import csr_array

from dists import assign
from recommender.core.errors import DataError
from recommender.core.logs import one_line
from recommender.core.mongo import Document, MongoDatabase, mongo_errors
from recommender.core.mongo_collections import (
    CENTROIDS_ID,
    CLUSTERS,
    CLUSTERS_ID,
    COLUMNS_ID,
    FALLBACK_ID,
    METADATA,
)
from recommender.data.ids import CODEC, Rejection, encode_id, positions_in
from recommender.data.ratings import Ratings

_READS = 3
_PARTS = [COLUMNS_ID, CENTROIDS_ID, CLUSTERS_ID, FALLBACK_ID]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedModel:
    """The published clusters of one training.

    Attributes
    ----------
    run_id
        The training that published it.
    columns
        Keys of the restaurants of the columns.
    centroids
        float64 (k, columns).
    sizes
        Users in each cluster at the training.
    unclustered
        Users in no cluster at the training.
    rating_shift
        Added to each rating in a user's vector.
    clusters
        The documents of ``Clusters``, by ``cluster_id``.
    fallback
        Recommendations for users in no cluster.
    """

    run_id: str
    columns: pa.StringArray
    centroids: NDArray[np.float64]
    sizes: list[int]
    unclustered: int
    rating_shift: float
    clusters: list[Document]
    fallback: list[Document]

    def vectors(self, ratings: Ratings) -> csr_array:
        """Return the users' vectors over the columns: sparse (users, columns), 0 where unrated."""
        column_of = positions_in(self.columns, ratings.restaurants)[ratings.restaurant]
        kept = column_of >= 0
        values = ratings.rating[kept] + self.rating_shift
        shape = (len(ratings.users), len(self.columns))
        return csr_array((values, (ratings.user[kept], column_of[kept])), shape=shape)

    def labels(self, ratings: Ratings) -> NDArray[np.int32]:
        """Return the cluster of each user, (users,); -1 for none."""
        labels, distances = assign(self.vectors(ratings), self.centroids)
        labels[distances == 1] = -1
        return labels


def load_model(db: MongoDatabase) -> PublishedModel:
    """Read the published model and check that its parts belong together.

    Raises
    ------
    DataError
        If a part is missing, of another training or of another size than the rest.
    DatabaseUnavailableError
        If MongoDB does not answer.
    """
    for _ in range(_READS):  # the parts are switched one after the other; see both before or after
        with mongo_errors("reading the published model"):
            parts = _as_written(db, METADATA).find({"_id": {"$in": _PARTS}})
            metadata = {part["_id"]: part for part in parts}
            clusters = list(_as_written(db, CLUSTERS).find().sort("cluster_id"))
        runs = {document.get("run_id") for document in clusters}
        if runs == {metadata.get(CENTROIDS_ID, {}).get("run_id")}:
            break
    return _checked(metadata, clusters, runs)


def _as_written(db: MongoDatabase, name: str) -> Collection[Document]:
    """Return a collection whose ids decode as those of the reviews do."""
    return db[name].with_options(codec_options=CODEC)


def _checked(
    metadata: Mapping[str, Document], clusters: list[Document], runs: set[Any]
) -> PublishedModel:
    missing = [name for name in (COLUMNS_ID, CENTROIDS_ID, CLUSTERS_ID) if name not in metadata]
    if missing or not clusters:
        lacking = ", ".join(
            [f"Metadata's {name}" for name in missing] + ["Clusters"] * (not clusters)
        )
        raise DataError(f"no model is published: {lacking} is missing; run als_training.py first")
    parts = [metadata[name] for name in (COLUMNS_ID, CENTROIDS_ID, CLUSTERS_ID)]
    runs |= {part.get("run_id") for part in parts}
    if len(runs) > 1:
        raise DataError(
            f"Clusters and Metadata come from different trainings ({', '.join(map(str, runs))}); "
            "run clustering_training.py"
        )
    try:
        return _model(parts, clusters, metadata.get(FALLBACK_ID, {}))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"a part of the published model has an unexpected shape ({one_line(repr(error))}); "
            "run clustering_training.py"
        ) from None


def _model(parts: list[Document], clusters: list[Document], fallback: Document) -> PublishedModel:
    columns, centroids, figures = parts
    matrix = _matrix(columns["columns"], centroids["centroids"])
    ids = [cluster.get("cluster_id") for cluster in clusters]
    if ids != list(range(len(matrix))) or len(figures["sizes"]) != len(matrix):
        raise DataError(
            f"Clusters holds the ids {ids} and Metadata {len(figures['sizes'])} sizes, where there "
            f"are {len(matrix)} centroids; run clustering_training.py"
        )
    return PublishedModel(
        run_id=str(columns.get("run_id")),
        columns=pa.array([_key(column) for column in columns["columns"]], pa.string()),
        centroids=matrix,
        sizes=[int(size) for size in figures["sizes"]],
        unclustered=int(figures.get("users_without_overlap", 0)),
        rating_shift=float(figures.get("rating_shift", 0.0)),
        clusters=clusters,
        fallback=fallback.get("recommendations", []),
    )


def _matrix(columns: list[Any], centroids: list[list[float]]) -> NDArray[np.float64]:
    lengths = {len(centroid) for centroid in centroids}
    if lengths != {len(columns)}:
        raise DataError(
            f"the centroids have {sorted(lengths)} values where there are {len(columns)} columns; "
            "run clustering_training.py"
        )
    matrix = np.array(centroids, dtype=np.float64)
    if not np.isfinite(matrix).all():
        raise DataError("a centroid holds a value that is not finite; run clustering_training.py")
    return matrix


def _key(column: Any) -> str:
    key = encode_id(column)
    if isinstance(key, Rejection):
        raise DataError(
            f"train_columns holds {column!r}, which is no valid restaurant id; "
            "run clustering_training.py"
        )
    return key


def previous_labels(db: MongoDatabase, ratings: Ratings) -> NDArray[np.int32] | None:
    """Return each user's cluster in the published model, (users,); None without a usable model."""
    try:
        return load_model(db).labels(ratings)
    except (DataError, ValueError) as error:
        log.info("cluster ids start anew: %s", error)
        return None
