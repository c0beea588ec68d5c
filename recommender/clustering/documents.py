"""The documents of ``Clusters`` and ``Metadata`` that a clustering publishes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.clustering.fit import Clustering
from recommender.clustering.reader_checks import distance_checks, user_checks
from recommender.clustering.scoring import ClusterScores, best_items, standing_out
from recommender.clustering.user_matrix import UserMatrix
from recommender.core.mongo import Document
from recommender.core.mongo_collections import (
    CENTROIDS_ID,
    CHECKS_ID,
    CLUSTERS_ID,
    COLUMNS_ID,
    FALLBACK_ID,
)
from recommender.data.ids import decode_ids

_STANDING_OUT = 5


def cluster_documents(
    clustering: Clustering,
    scored: ClusterScores,
    matrix: UserMatrix,
    restaurants: pa.StringArray,
    top_n: int,
    run_id: str,
) -> list[Document]:
    """Return the documents of ``Clusters``, one per cluster.

    Parameters
    ----------
    restaurants
        Keys of the restaurants' ids.
    top_n
        Most recommendations per cluster.
    """
    city_shares = _raters(matrix.ratings) / matrix.ratings.shape[0]
    documents = []
    for cluster_id, scores in enumerate(scored.scores):
        members = np.flatnonzero(clustering.labels == cluster_id)
        rated = csr_array(matrix.ratings[members])
        distinctive = standing_out(_raters(rated), len(members), city_shares, _STANDING_OUT)
        stands_out = zip(
            decode_ids(restaurants.take(distinctive)),
            (_raters(rated) / len(members))[distinctive].tolist(),
            city_shares[distinctive].tolist(),
            strict=True,
        )
        documents.append(
            {
                "cluster_id": cluster_id,
                "recommendations": _top(scores, restaurants, top_n),
                "size": len(members),
                "ratings": rated.nnz,
                "mean_rating": float(rated.data.mean()) - matrix.shift,
                "mean_distance": float(clustering.distances[members].mean()),
                "tightness": float(np.nanmean(clustering.closeness[members])),
                "stands_out": [
                    {"gmap_id": gmap_id, "share": share, "city_share": city_share}
                    for gmap_id, share, city_share in stands_out
                ],
                "run_id": run_id,
            }
        )
    return documents


def _raters(ratings: csr_array) -> NDArray[np.int64]:
    """Return how many users have rated each restaurant."""
    return np.bincount(ratings.indices, minlength=ratings.shape[1])


def _top(scores: NDArray[np.float64], restaurants: pa.StringArray, n: int) -> list[Document]:
    """Return the restaurants of the ``n`` highest scores above 0, best first."""
    best = best_items(scores, n)
    return [
        {"gmap_id": gmap_id, "score": score}
        for gmap_id, score in zip(
            decode_ids(restaurants.take(best)), scores[best].tolist(), strict=True
        )
    ]


def metadata_documents(
    clustering: Clustering,
    scored: ClusterScores,
    matrix: UserMatrix,
    restaurants: pa.StringArray,
    figures: Mapping[str, Any],
    rating_bounds: tuple[float, float],
    top_n: int,
    run_id: str,
) -> list[Document]:
    """Return the documents of ``Metadata`` by which a reader finds a user's cluster.

    Parameters
    ----------
    restaurants
        Keys of the restaurants' ids.
    figures
        Those of :func:`figures_of`.
    rating_bounds
        Lowest and highest valid rating.
    top_n
        Most restaurants of the fallback list.
    """
    columns = decode_ids(restaurants.take(matrix.columns))
    low, high = rating_bounds
    documents: list[Document] = [
        {"_id": COLUMNS_ID, "columns": columns},
        {"_id": CENTROIDS_ID, "centroids": clustering.centroids.tolist()},
        {"_id": FALLBACK_ID, "recommendations": _top(scored.fallback, restaurants, top_n)},
        {
            "_id": CHECKS_ID,
            "distances": distance_checks(),
            "users": user_checks(clustering.centroids, columns, (high, low), matrix.shift),
        },
        {
            "_id": CLUSTERS_ID,
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
    return {
        "k": len(clustering.centroids),
        "space": clustering.space,
        "users": len(clustered),
        "users_left_out": 0,  # all users take part; the field stays for existing readers
        "users_without_overlap": int((~clustered).sum()),
        "landed": clustering.reader_agreement,
        **({"landed_unshifted": _agreement_unshifted(clustering, matrix)} if matrix.shift else {}),
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


def _agreement_unshifted(clustering: Clustering, matrix: UserMatrix) -> float:
    """Return the share of the clustered users whose cluster a reader finds without the shift."""
    parts = (matrix.rows.data - matrix.shift, matrix.rows.indices, matrix.rows.indptr)
    labels = clustering.assign(csr_array(parts, shape=matrix.rows.shape))
    return float((labels == clustering.labels)[clustering.labels >= 0].mean())
