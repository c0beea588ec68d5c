"""What is published of the clusters: the documents of ``Clusters`` and of ``Metadata``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.checks import distance_checks, user_checks
from recommender.clusters import Clustering
from recommender.factors import factors_document, live_factors, still_shown
from recommender.foldin import Preferences
from recommender.mongo import Document
from recommender.ratings import Ratings, decode_ids, rating_shift, reader_shift
from recommender.runs import TrainingRun
from recommender.scoring import ClusterScores, best_places, standing_out
from recommender.store import CENTROIDS_ID, CHECKS_ID, CLUSTERS_ID, COLUMNS_ID, FALLBACK_ID
from recommender.user_matrix import UserMatrix

_STANDING_OUT = 5


def cluster_documents(
    found: Clustering,
    scored: ClusterScores,
    ratings: Ratings,
    matrix: UserMatrix,
    run: TrainingRun,
) -> list[Document]:
    """Return the documents of ``Clusters``, one for each cluster."""
    shift = rating_shift(run.settings.rating_min)
    city_shares = _raters(matrix.everything) / len(matrix.users)
    documents = []
    for cluster_id, scores in enumerate(scored.scores):
        members = np.flatnonzero(found.labels == cluster_id)
        rated = csr_array(matrix.everything[members])
        shares = _raters(rated) / len(members)
        apart = standing_out(_raters(rated), len(members), city_shares, _STANDING_OUT)
        stands_out = zip(
            decode_ids(ratings.restaurants.take(apart)),
            shares[apart].tolist(),
            city_shares[apart].tolist(),
            strict=True,
        )
        documents.append(
            {
                "cluster_id": cluster_id,
                "recommendations": _top(scores, ratings, run.settings.clusters_top_n),
                "size": len(members),
                "ratings": rated.nnz,
                "mean_rating": float(rated.data.mean()) - shift,
                "mean_distance": float(found.distances[members].mean()),
                "tightness": float(np.nanmean(found.closeness[members])),
                "stands_out": [
                    {"gmap_id": gmap_id, "share": share, "city_share": city_share}
                    for gmap_id, share, city_share in stands_out
                ],
                "run_id": run.run_id,
            }
        )
    return documents


def _raters(rows: csr_array) -> NDArray[np.int64]:
    """Return how many users have rated each restaurant."""
    return np.bincount(rows.indices, minlength=rows.shape[1])


def _top(scores: NDArray[np.float64], ratings: Ratings, n: int) -> list[Document]:
    """Return the restaurants of the ``n`` highest scores above 0, best first."""
    best = best_places(scores, n)
    ids = decode_ids(ratings.restaurants.take(best))
    return [
        {"gmap_id": gmap_id, "score": score}
        for gmap_id, score in zip(ids, scores[best].tolist(), strict=True)
    ]


def metadata_documents(
    found: Clustering,
    matrix: UserMatrix,
    scored: ClusterScores,
    ratings: Ratings,
    run: TrainingRun,
    figures: Mapping[str, Any],
) -> list[Document]:
    """Return the documents of ``Metadata``: all that a reader needs to place a user.

    Parameters
    ----------
    figures
        Those of :func:`figures_of`.
    """
    fallback = _top(scored.city, ratings, run.settings.clusters_top_n)
    columns = decode_ids(ratings.restaurants.take(matrix.columns))
    low, high = run.settings.rating_min, run.settings.rating_max
    return [
        {"_id": COLUMNS_ID, "run_id": run.run_id, "columns": columns},
        {"_id": CENTROIDS_ID, "run_id": run.run_id, "centroids": found.centroids.tolist()},
        {"_id": FALLBACK_ID, "run_id": run.run_id, "recommendations": fallback},
        {
            "_id": CHECKS_ID,
            "run_id": run.run_id,
            "distances": distance_checks(),
            "users": user_checks(found.centroids, columns, (high, low), reader_shift(low)),
        },
        {
            "_id": CLUSTERS_ID,
            "run_id": run.run_id,
            "distance": "cosine similarity with magnitude",
            "rating_shift": reader_shift(low),
            "sizes": found.sizes.tolist(),
            **figures,
        },
    ]


def figures_of(found: Clustering, matrix: UserMatrix, shift: float) -> dict[str, Any]:
    """Return what the ledger and ``kmeans_clusters`` tell of the clusters.

    Parameters
    ----------
    shift
        What a reader adds to each rating, as ``matrix.rows`` has it.
    """
    placed = found.labels >= 0
    return {
        "k": len(found.centroids),
        "space": found.space,
        "users": len(matrix.users),
        "users_left_out": matrix.users_left_out,
        "users_without_overlap": int((~placed).sum()),
        "landed": found.landed,
        **({"landed_unshifted": _landed_unshifted(found, matrix, shift)} if shift else {}),
        "columns": len(matrix.columns),
        "restaurants_left_out": matrix.restaurants_left_out,
        "inertia": found.inertia,
        "mean_distance": float(found.distances.mean()),
        "tightness": float(np.nanmean(found.closeness[placed])),
        "iterations": found.iterations,
        "converged": found.converged,
        "smallest": int(found.sizes.min()),
        "largest": int(found.sizes.max()),
    }


def _landed_unshifted(found: Clustering, matrix: UserMatrix, shift: float) -> float:
    """Return the share of those in a cluster whom a reader finds there without the shift."""
    rows, placed = matrix.rows, found.labels >= 0
    unshifted = csr_array((rows.data - shift, rows.indices, rows.indptr), shape=rows.shape)
    return float((found.place(unshifted)[0] == found.labels)[placed].mean())


def factors_documents(
    run: TrainingRun, ratings: Ratings, preferences: Preferences | None, shown: NDArray[np.bool_]
) -> list[Document]:
    """Return the factors to publish beside the clusters: of this training, else the live ones.

    All that is published together is of one run; ``fitted_by`` tells whose factors they are.
    """
    if preferences is None:
        live = live_factors(run.db)
        return [still_shown(live, ratings.restaurants, shown, run.run_id)] if live else []
    shift = rating_shift(run.settings.rating_min)
    return [factors_document(preferences, ratings.restaurants, shown, run.run_id, shift)]
