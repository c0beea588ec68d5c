"""Groups the users by K-Means and publishes each cluster's restaurants and the model to find it.

The data's way: read -> matrix -> cluster -> score -> publish. Run it by hand to cluster again at
once; ``als_training.py`` chains into it with the ratings that it has already read.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dists import KMeansResult, distinct_rows, kmeans, silhouette
from recommender.errors import DataError
from recommender.mongo import Document
from recommender.ratings import Ratings, counts_of, decode_ids, rating_shift
from recommender.reviews import read_ratings
from recommender.runs import TrainingRun, training_run
from recommender.scripts import EXIT_CODES, configure_logging, run_script
from recommender.settings import Settings, load_settings
from recommender.store import (
    CENTROIDS_ID,
    CLUSTERS_ID,
    COLUMNS_ID,
    FALLBACK_ID,
    columns_that_fit,
    publish_clusters,
)
from recommender.summary import summary_of

log = logging.getLogger("clustering_training")


@dataclass(frozen=True)
class UserMatrix:
    """What is clustered.

    Attributes
    ----------
    rows
        (users, columns), shifted ratings, 0 where unrated; no row is empty.
    columns
        int64 (columns,), the restaurants that the columns stand for, the most rated first.
    users
        int64 (users,), the users that the rows stand for.
    users_left_out, restaurants_left_out
        Users and restaurants with ratings that take no part, by the limits in force.
    """

    rows: csr_array
    columns: NDArray[np.int64]
    users: NDArray[np.int64]
    users_left_out: int
    restaurants_left_out: int


@dataclass(frozen=True)
class ClusterScores:
    """Scores of all restaurants for each cluster, and what they are made of.

    Attributes
    ----------
    scores
        float64 (k, restaurants).
    city
        float64 (restaurants,), the same for all users as one cluster.
    ratings
        int64 (k,), ratings given by each cluster's users.
    mean_rating
        float64 (k,), their mean.
    """

    scores: NDArray[np.float64]
    city: NDArray[np.float64]
    ratings: NDArray[np.int64]
    mean_rating: NDArray[np.float64]


def user_matrix(ratings: Ratings, settings: Settings) -> UserMatrix:
    """Build the sparse matrix of the users and restaurants that take part.

    Restaurants are left out below ``CLUSTERS_MIN_RESTAURANT_RATINGS``, beyond
    ``CLUSTERS_MAX_RESTAURANTS``, and where the centroids would outgrow a MongoDB document, the
    least rated first; users below ``CLUSTERS_MIN_USER_RATINGS``, beyond ``CLUSTERS_MAX_USERS``,
    and those who have rated nothing but what was left out.

    Raises
    ------
    DataError
        If nobody or nothing is left.
    """
    columns = _columns(ratings, settings)
    users = _most_active(ratings, settings)
    rows = ratings.matrix(rating_shift(settings.rating_min))[users][:, columns]
    filled = np.diff(rows.indptr) > 0
    if not filled.any():
        raise DataError(
            f"no user is left to cluster: of {len(ratings.users):,} users and "
            f"{len(ratings.restaurants):,} restaurants, the CLUSTERS_MIN_* and CLUSTERS_MAX_* "
            f"settings leave {len(users):,} and {len(columns):,}, with no rating in common"
        )
    matrix = UserMatrix(
        rows=csr_array(rows[filled]),
        columns=columns,
        users=users[filled],
        users_left_out=len(ratings.users) - int(filled.sum()),
        restaurants_left_out=len(ratings.restaurants) - len(columns),
    )
    if matrix.users_left_out or matrix.restaurants_left_out:
        log.warning(
            "%d users and %d restaurants take no part in the clustering, by the limits in force",
            matrix.users_left_out,
            matrix.restaurants_left_out,
        )
    return matrix


def _columns(ratings: Ratings, settings: Settings) -> NDArray[np.int64]:
    counts = np.bincount(ratings.restaurant, minlength=len(ratings.restaurants))
    order = np.argsort(-counts, kind="stable")[: settings.clusters_max_restaurants]
    order = order[counts[order] >= settings.clusters_min_restaurant_ratings]
    ids = decode_ids(ratings.restaurants.take(order))
    return order[: columns_that_fit(settings.clusters_k, ids)]


def _most_active(ratings: Ratings, settings: Settings) -> NDArray[np.int64]:
    counts = np.bincount(ratings.user, minlength=len(ratings.users))
    order = np.argsort(-counts, kind="stable")[: settings.clusters_max_users]
    return np.sort(order[counts[order] >= settings.clusters_min_user_ratings])


def cluster(matrix: UserMatrix, settings: Settings) -> KMeansResult:
    """Cluster the users; where fewer are distinct than ``CLUSTERS_K``, into so many clusters."""
    distinct = len(distinct_rows(matrix.rows).counts)
    if distinct < settings.clusters_k:
        log.warning(
            "CLUSTERS_K lowered from %d to %d, the number of users with different ratings",
            settings.clusters_k,
            distinct,
        )
    return kmeans(
        matrix.rows,
        min(settings.clusters_k, distinct),
        seed=settings.seed,
        max_iter=settings.clusters_max_iter,
        tolerance=settings.clusters_tolerance,
        starts=settings.clusters_starts,
    )


def score(
    ratings: Ratings, matrix: UserMatrix, labels: NDArray[np.int32], k: int, settings: Settings
) -> ClusterScores:
    """Score every restaurant for every cluster.

    A score is the mean rating that the cluster's users gave the restaurant, an unrated one
    counting as 0, so that what many of them rated highly leads. ``CLUSTERS_SHRINKAGE`` more users
    of the city's average taste weigh in: a small cluster leans on the city, and a single
    enthusiast carries no restaurant to the top.

    Parameters
    ----------
    labels
        (users,), the cluster of each of the matrix's users.
    k
        Number of clusters.
    """
    shift = rating_shift(settings.rating_min)
    full = ratings.matrix(shift)[matrix.users]
    ones = np.ones(len(labels))
    members = csr_array((ones, (labels, np.arange(len(labels)))), shape=(k, len(labels)))
    totals = (members @ full).toarray()
    sizes = np.bincount(labels, minlength=k)[:, None]
    city = totals.sum(axis=0) / len(labels)
    counts = members @ np.diff(full.indptr)
    extra = settings.clusters_shrinkage
    return ClusterScores(
        scores=(totals + extra * city) / (sizes + extra),
        city=city,
        ratings=counts.astype(np.int64),
        mean_rating=totals.sum(axis=1) / counts - shift,
    )


def cluster_documents(
    found: KMeansResult, scored: ClusterScores, ratings: Ratings, run: TrainingRun
) -> list[Document]:
    """Return the documents of ``Clusters``, one for each cluster."""
    documents = []
    for cluster_id, scores in enumerate(scored.scores):
        members = found.distances[found.labels == cluster_id]
        documents.append(
            {
                "cluster_id": cluster_id,
                "recommendations": _top(scores, ratings, run.settings.clusters_top_n),
                "size": len(members),
                "ratings": int(scored.ratings[cluster_id]),
                "mean_rating": float(scored.mean_rating[cluster_id]),
                "mean_distance": float(members.mean()),
                "run_id": run.run_id,
            }
        )
    return documents


def _top(scores: NDArray[np.float64], ratings: Ratings, n: int) -> list[Document]:
    """Return the restaurants of the ``n`` highest scores above 0, best first."""
    best = np.argsort(-scores, kind="stable")[:n]
    best = best[scores[best] > 0]
    ids = decode_ids(ratings.restaurants.take(best))
    return [
        {"gmap_id": gmap_id, "score": score}
        for gmap_id, score in zip(ids, scores[best].tolist(), strict=True)
    ]


def metadata_documents(
    found: KMeansResult,
    matrix: UserMatrix,
    scored: ClusterScores,
    ratings: Ratings,
    run: TrainingRun,
) -> list[Document]:
    """Return the documents of ``Metadata``: all that a reader needs to place a user."""
    fallback = _top(scored.city, ratings, run.settings.clusters_top_n)
    return [
        {
            "_id": COLUMNS_ID,
            "run_id": run.run_id,
            "columns": decode_ids(ratings.restaurants.take(matrix.columns)),
        },
        {"_id": CENTROIDS_ID, "run_id": run.run_id, "centroids": found.centroids.tolist()},
        {"_id": FALLBACK_ID, "run_id": run.run_id, "recommendations": fallback},
        {
            "_id": CLUSTERS_ID,
            "run_id": run.run_id,
            "distance": "cosine similarity with magnitude",
            "rating_shift": rating_shift(run.settings.rating_min),
            "sizes": found.sizes.tolist(),
            **_figures(found, matrix),
        },
    ]


def _figures(found: KMeansResult, matrix: UserMatrix) -> dict[str, Any]:
    return {
        "k": len(found.centroids),
        "users": len(matrix.users),
        "users_left_out": matrix.users_left_out,
        "columns": len(matrix.columns),
        "restaurants_left_out": matrix.restaurants_left_out,
        "inertia": found.inertia,
        "mean_distance": found.inertia / len(matrix.users),
        "iterations": found.iterations,
        "converged": found.converged,
        "smallest": int(found.sizes.min()),
        "largest": int(found.sizes.max()),
    }


def train(run: TrainingRun, ratings: Ratings) -> None:
    """Do the whole K-Means job on ratings, up to the published ``Clusters`` and ``Metadata``."""
    settings = run.settings
    with run.phase("cluster"):
        matrix = user_matrix(ratings, settings)
        found = cluster(matrix, settings)
    with run.phase("evaluate clusters"):
        width = silhouette(matrix.rows, found.labels, seed=settings.seed)
        run.record(**{"metrics.clusters": {**_figures(found, matrix), "silhouette": width}})
    with run.phase("publish clusters"):
        scored = score(ratings, matrix, found.labels, len(found.centroids), settings)
        publish_clusters(
            run.db,
            run.run_id,
            cluster_documents(found, scored, ratings, run),
            metadata_documents(found, matrix, scored, ratings, run),
            before_publishing=run.may_publish,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Cluster the users of the reviews in MongoDB and publish the outcome."""
    parser = argparse.ArgumentParser(
        description="Group the users by K-Means and publish Clusters and Metadata.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(argv)
    settings = load_settings()
    configure_logging(settings)
    with training_run(settings) as run:
        with run.phase("read"):
            ratings = read_ratings(settings)
            run.record(**counts_of(ratings))
        train(run, ratings)
    print(summary_of(run.document))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
