"""The published model of the clusters, read as a backend reads it."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dists import nearest_cluster
from recommender.core import mongo_collections as names
from recommender.core.errors import DataError
from recommender.core.logs import one_line
from recommender.core.mongo import Document, MongoDatabase, mongo_errors
from recommender.data.ids import CODEC, KeyIndex, encode_id, keys_of
from recommender.data.ratings import Ratings
from recommender.data.rejection import Rejection

_READS = 3
_REQUIRED = (names.COLUMNS_ID, names.CENTROIDS_ID, names.CLUSTERS_ID)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedModel:
    """The published clusters of one training."""

    run_id: str
    columns: pa.StringArray  # keys of the restaurants of the columns
    centroids: NDArray[np.float64]  # (k, columns)
    sizes: list[int]  # users in each cluster at the training
    rating_shift: float  # added to each rating in a user's vector
    clusters: list[Document]  # the documents of ``Clusters``, by ``cluster_id``
    fallback: list[Document]  # recommendations for users in no cluster

    @cached_property
    def _column_index(self) -> KeyIndex:
        return KeyIndex(self.columns)

    def vectors(self, ratings: Ratings) -> csr_array:
        """Return the users' vectors over the columns: sparse (users, columns), 0 where unrated."""
        return ratings.over(self._column_index, self.rating_shift)

    def labels(self, ratings: Ratings) -> NDArray[np.int32]:
        """Return the cluster of each user, (users,); -1 for none."""
        return nearest_cluster(self.vectors(ratings), self.centroids)[0]


def load_model(db: MongoDatabase) -> PublishedModel:
    """Read the published model; DataError if a part is missing or does not fit the rest."""
    db = db.with_options(codec_options=CODEC)
    for _ in range(_READS):  # the parts are switched one after the other; see both before or after
        with mongo_errors("reading the published model"):
            named = db[names.METADATA].find({"_id": {"$in": [*_REQUIRED, names.FALLBACK_ID]}})
            metadata = {part["_id"]: part for part in named}
            clusters = list(db[names.CLUSTERS].find().sort("cluster_id"))
        run_id = metadata.get(names.CENTROIDS_ID, {}).get("run_id")
        if all(cluster.get("run_id") == run_id for cluster in clusters):
            break
    missing = [f"Metadata's {name}" for name in _REQUIRED if name not in metadata]
    missing += ["Clusters"] * (not clusters)
    if missing:
        raise DataError(f"no model is published: no {', '.join(missing)}; run als_training.py")
    try:
        for problem in _problems(metadata, clusters):
            raise DataError(f"{problem}; run clustering_training.py")
        return _model(metadata, clusters)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"a part of the published model has an unexpected shape ({one_line(repr(error))}); "
            "run clustering_training.py"
        ) from None


def _problems(metadata: Mapping[str, Document], clusters: list[Document]) -> Iterator[str]:
    """Yield the reasons why the parts are no valid model."""
    parts = columns, centroids, figures = [metadata[name] for name in _REQUIRED]
    runs = {str(document.get("run_id")) for document in (*parts, *clusters)}
    if len(runs) > 1:
        yield f"Clusters and Metadata come from different trainings ({', '.join(sorted(runs))})"
    k, width = len(centroids["centroids"]), len(columns["columns"])
    lengths = {len(centroid) for centroid in centroids["centroids"]}
    if lengths != {width}:
        yield f"the centroids have {sorted(lengths)} values, but train_columns has {width}"
    if not np.isfinite(np.array(centroids["centroids"], dtype=np.float64)).all():
        yield "a centroid has a value that is not finite"
    for column in columns["columns"]:
        if isinstance(encode_id(column), Rejection):
            yield f"train_columns has {column!r}, which is no valid restaurant id"
    ids, sizes = [cluster.get("cluster_id") for cluster in clusters], figures["sizes"]
    if ids != list(range(k)) or len(sizes) != k:
        yield f"for {k} centroids, Clusters has the ids {ids} and Metadata {len(sizes)} sizes"


def _model(metadata: Mapping[str, Document], clusters: list[Document]) -> PublishedModel:
    figures = metadata[names.CLUSTERS_ID]
    return PublishedModel(
        run_id=str(figures.get("run_id")),
        columns=keys_of(metadata[names.COLUMNS_ID]["columns"]),
        centroids=np.array(metadata[names.CENTROIDS_ID]["centroids"], dtype=np.float64),
        sizes=[int(size) for size in figures["sizes"]],
        rating_shift=float(figures.get("rating_shift", 0.0)),
        clusters=clusters,
        fallback=metadata.get(names.FALLBACK_ID, {}).get("recommendations", []),
    )


def previous_labels(db: MongoDatabase, ratings: Ratings) -> NDArray[np.int32] | None:
    """Return each user's cluster in the published model, (users,); None without a usable model."""
    if db[names.CLUSTERS].find_one({}, {"_id": 1}) is None:  # as in a first training
        return None
    try:
        return load_model(db).labels(ratings)
    except (DataError, ValueError) as error:
        log.info("cluster ids start anew: %s", error)
        return None
