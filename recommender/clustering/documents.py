"""The documents of ``Clusters`` and ``Metadata`` that a clustering publishes."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.clustering.fit import Clustering
from recommender.clustering.reader_checks import distance_checks, user_checks
from recommender.clustering.scoring import ClusterScores, best_items, standing_out
from recommender.clustering.user_matrix import UserMatrix
from recommender.core import mongo_collections as names
from recommender.core.mongo import Document
from recommender.data.ids import decode_ids

_STANDING_OUT = 5


def cluster_documents(
    clustering: Clustering, scored: ClusterScores, matrix: UserMatrix, top_n: int, run_id: str
) -> Iterator[Document]:
    """Yield the documents of ``Clusters``, each with the ``top_n`` best restaurants."""
    all_shares = _raters(matrix.ratings) / matrix.ratings.shape[0]
    for cluster_id, scores in enumerate(scored.scores):
        members = np.flatnonzero(clustering.labels == cluster_id)
        rated = csr_array(matrix.ratings[members])
        distinctive = standing_out(_raters(rated), len(members), all_shares, _STANDING_OUT)
        shares = (_raters(rated) / len(members))[distinctive]
        of_all = all_shares[distinctive]
        yield {
            "cluster_id": cluster_id,
            "recommendations": _top(scores, matrix, top_n),
            "size": len(members),
            "ratings": rated.nnz,
            "mean_rating": float(rated.data.mean()) - matrix.shift,
            "mean_distance": float(clustering.distances[members].mean()),
            "tightness": float(np.nanmean(clustering.closeness[members])),
            "stands_out": _entries(matrix, distinctive, share=shares, city_share=of_all),
            "run_id": run_id,
        }


def _raters(ratings: csr_array) -> NDArray[np.int64]:
    return np.bincount(ratings.indices, minlength=ratings.shape[1])


def _top(scores: NDArray[np.float64], matrix: UserMatrix, n: int) -> list[Document]:
    """Return the restaurants of the ``n`` highest scores above 0, best first."""
    best = best_items(scores, n)
    best = best[best >= 0]
    return _entries(matrix, best, score=scores[best])


def _entries(
    matrix: UserMatrix, chosen: NDArray[np.int64], **figures: NDArray[np.float64]
) -> list[Document]:
    """Return an entry per chosen restaurant, with its figures."""
    columns = {"gmap_id": decode_ids(matrix.restaurants.take(chosen))}
    columns |= {name: values.tolist() for name, values in figures.items()}
    return [dict(zip(columns, entry, strict=True)) for entry in zip(*columns.values(), strict=True)]


def metadata_documents(
    clustering: Clustering,
    scored: ClusterScores,
    matrix: UserMatrix,
    figures: Mapping[str, Any],
    rating_bounds: tuple[float, float],
    top_n: int,
    run_id: str,
) -> list[Document]:
    """Return the documents of ``Metadata``; ``rating_bounds`` are the lowest and highest rating."""
    columns = decode_ids(matrix.restaurants.take(matrix.columns))
    users = user_checks(clustering.centroids, columns, rating_bounds[::-1], matrix.shift)
    documents: list[Document] = [
        {"_id": names.COLUMNS_ID, "columns": columns},
        {"_id": names.CENTROIDS_ID, "centroids": clustering.centroids.tolist()},
        {"_id": names.FALLBACK_ID, "recommendations": _top(scored.fallback, matrix, top_n)},
        {"_id": names.CHECKS_ID, "distances": distance_checks(), "users": list(users)},
        {
            "_id": names.CLUSTERS_ID,
            "contract": 1,  # raised when a reader has to change
            "distance": "cosine similarity with magnitude",
            "rating_shift": matrix.shift,
            "sizes": clustering.sizes.tolist(),
            **figures,
        },
    ]
    return [{**document, "run_id": run_id} for document in documents]


def figures_of(clustering: Clustering, matrix: UserMatrix) -> dict[str, Any]:
    """Return the figures of the clusters for the ledger and ``kmeans_clusters``."""
    clustered = clustering.labels >= 0
    figures = {
        "k": len(clustering.centroids),
        "space": clustering.space,
        "users": len(clustered),
        "users_left_out": 0,  # all users take part; the field stays for existing readers
        "users_without_overlap": int((~clustered).sum()),
        "landed": clustering.reader_agreement,
        "columns": len(matrix.columns),
        "restaurants_left_out": matrix.restaurants_left_out,
        "inertia": clustering.inertia,
        "mean_distance": float(clustering.distances.mean()),
        "tightness": float(np.nanmean(clustering.closeness[clustered])),
        "iterations": clustering.iterations,
        "converged": clustering.converged,
        "smallest": int(clustering.sizes.min()),
        "largest": int(clustering.sizes.max()),
    }
    if matrix.shift:
        # The share of the clustered users whose cluster a reader finds without the shift.
        parts = (matrix.rows.data - matrix.shift, matrix.rows.indices, matrix.rows.indptr)
        labels = clustering.assign(csr_array(parts, shape=matrix.rows.shape))
        figures["landed_unshifted"] = float((labels == clustering.labels)[clustered].mean())
    return figures
