"""Groups the users by K-Means and publishes each cluster's restaurants and the model to find it.

The data's way: read -> matrix -> cluster -> score -> publish. Run it by hand to cluster again at
once; ``als_training.py`` chains into it with the ratings that it has already read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dists import KMeansResult, Search, assign, distinct_rows, kmeans, silhouette
from recommender.checks import distance_checks, user_checks
from recommender.elbow import CurvePoint, knee_of, parse_range, svg_of, table_of
from recommender.errors import DataError
from recommender.evaluation import HeldOut, hold_out, ranking_quality, rating_error
from recommender.factors import factors_document, live_factors, load_factors
from recommender.foldin import Preferences
from recommender.gate import add_force_option, check_clusters, check_finite, settings_as_asked
from recommender.matching import matched_ids, users_moved
from recommender.mongo import Document, MongoDatabase, connect, database
from recommender.published import load_model
from recommender.ratings import Ratings, counts_of, decode_ids, positions_in, rating_shift
from recommender.reseeding import reseeded
from recommender.restaurants import shown_restaurants
from recommender.reviews import read_ratings
from recommender.runs import TrainingRun, training_run
from recommender.scoring import (
    ClusterScores,
    best_places,
    leave_one_out_scores,
    lists_of,
    rating_means,
    standing_out,
)
from recommender.scripts import configure_logging, run_script, script_parser
from recommender.settings import Settings
from recommender.store import (
    CENTROIDS_ID,
    CHECKS_ID,
    CLUSTERS_ID,
    COLUMNS_ID,
    FALLBACK_ID,
    columns_that_fit,
    publish_clusters,
)
from recommender.summary import summary_of
from recommender.tastes import TasteClusters, taste_clusters

_STANDING_OUT = 5

log = logging.getLogger("clustering_training")


@dataclass(frozen=True)
class UserMatrix:
    """What is clustered.

    Attributes
    ----------
    rows
        (users, columns), shifted ratings, 0 where unrated; no row is empty.
    everything
        (users, restaurants), the same users' ratings of all restaurants, also those that are no
        columns.
    columns
        int64 (columns,), the restaurants that the columns stand for, the most rated first.
    users
        int64 (users,), the users that the rows stand for.
    users_left_out, restaurants_left_out
        Users and restaurants with ratings that take no part, by the limits in force.
    places
        float64 (columns, d), where to find the columns on a map that users are clustered on; None
        for the map of tastes, or none.
    """

    rows: csr_array
    everything: csr_array
    columns: NDArray[np.int64]
    users: NDArray[np.int64]
    users_left_out: int
    restaurants_left_out: int
    places: NDArray[np.float64] | None = None

    def part(self, chosen: NDArray[np.int64]) -> UserMatrix:
        """Return the chosen rows as a matrix."""
        return replace(
            self,
            rows=csr_array(self.rows[chosen]),
            everything=csr_array(self.everything[chosen]),
            users=self.users[chosen],
        )


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
        float64 (users,), cosine on the taste map, or 1 - distance where ratings were clustered.
    sizes
        int64 (k,), users in each cluster, none 0.
    space
        What was clustered: ``tastes``, ``factors`` or ``ratings``.
    landed
        Share of the users whom a reader finds where the training put them.
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
    everything = ratings.matrix(rating_shift(settings.rating_min))[users]
    rows = everything[:, columns]
    filled = np.flatnonzero(np.diff(rows.indptr))
    if not len(filled):
        raise DataError(
            f"no user is left to cluster: of {len(ratings.users):,} users and "
            f"{len(ratings.restaurants):,} restaurants, the CLUSTERS_MIN_* and CLUSTERS_MAX_* "
            f"settings leave {len(users):,} and {len(columns):,}, with no rating in common"
        )
    matrix = UserMatrix(
        rows=rows,
        everything=everything,
        columns=columns,
        users=users,
        users_left_out=len(ratings.users) - len(filled),
        restaurants_left_out=len(ratings.restaurants) - len(columns),
    ).part(filled)
    if matrix.users_left_out or matrix.restaurants_left_out:
        log.warning(
            "%d users and %d restaurants take no part in the clustering, by the limits in force",
            matrix.users_left_out,
            matrix.restaurants_left_out,
        )
    return matrix


def with_factors(
    matrix: UserMatrix, ratings: Ratings, preferences: Preferences | None, db: MongoDatabase
) -> UserMatrix:
    """Return the matrix with the map that ALS found: of this training, else the published one.

    Raises
    ------
    DataError
        If there is none.
    """
    if preferences is not None:
        return replace(matrix, places=preferences.factors[matrix.columns].astype(np.float64))
    published = load_factors(db)
    if published is None:
        raise DataError(
            "CLUSTERS_SPACE=factors, and no training has published factors; run als_training.py "
            "with ALS_OBJECTIVE=preference, or set CLUSTERS_SPACE=tastes"
        )
    columns = ratings.restaurants.take(pa.array(matrix.columns))
    row = positions_in(published.restaurants, columns)
    places = np.zeros((len(row), published.preferences.rank))
    places[row >= 0] = published.preferences.factors[row[row >= 0]]
    return replace(matrix, places=places)


def _columns(ratings: Ratings, settings: Settings) -> NDArray[np.int64]:
    counts = np.bincount(ratings.restaurant, minlength=len(ratings.restaurants))
    order = np.argsort(-counts, kind="stable")[: settings.clusters_max_restaurants]
    order = order[counts[order] >= settings.clusters_min_restaurant_ratings]
    ids = decode_ids(ratings.restaurants.take(order))
    most_clusters = min(settings.clusters_k, len(ratings.users))
    return order[: columns_that_fit(most_clusters, ids)]


def _most_active(ratings: Ratings, settings: Settings) -> NDArray[np.int64]:
    counts = np.bincount(ratings.user, minlength=len(ratings.users))
    order = np.argsort(-counts, kind="stable")[: settings.clusters_max_users]
    return np.sort(order[counts[order] >= settings.clusters_min_user_ratings])


def cluster(matrix: UserMatrix, settings: Settings) -> Clustering:
    """Cluster the users in the space of ``CLUSTERS_SPACE``.

    Fewer clusters than ``CLUSTERS_K`` come out where fewer users differ. The ratings themselves are
    clustered where nobody has rated two restaurants, so that there are no tastes to tell apart, and
    where enough users differ only in how high they rate the same restaurants.
    """
    found = _by_tastes(matrix, settings) if settings.clusters_space != "ratings" else None
    found = found or _by_ratings(matrix, settings)
    if len(found.centroids) < settings.clusters_k:
        log.warning(
            "CLUSTERS_K lowered from %d to %d, the number of clusters that these users make",
            settings.clusters_k,
            len(found.centroids),
        )
    return found


def _by_tastes(matrix: UserMatrix, settings: Settings) -> Clustering | None:
    trained = taste_clusters(
        matrix.rows,
        settings.clusters_k,
        directions=settings.clusters_directions,
        shortest=settings.rating_min + rating_shift(settings.rating_min),
        search=_search(settings),
        places=matrix.places,
    )
    if trained is None or not trained.centroids.any():
        log.warning("no user has rated two restaurants that tell tastes apart: clustering ratings")
        return None
    found = _as_read(matrix, trained, trained.labels, trained.closeness, settings.clusters_space)
    lacking = settings.clusters_k - len(found.centroids)
    return _with_splits(matrix, trained, found, settings) if lacking else found


def _with_splits(
    matrix: UserMatrix, trained: TasteClusters, found: Clustering, settings: Settings
) -> Clustering:
    """Split clusters until there are as many as users can make; else cluster the ratings."""
    wanted = min(settings.clusters_k, len(distinct_rows(matrix.rows).counts))
    if len(found.centroids) == wanted:
        return found
    log.info("a reader finds %d clusters of %d: splitting large ones", len(found.centroids), wanted)
    split = reseeded(matrix.rows, trained, wanted)
    found = _as_read(matrix, split, split.labels, split.closeness, settings.clusters_space)
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
    return _as_read(matrix, found, found.labels, 1 - found.distances, "ratings")


def _search(settings: Settings) -> Search:
    return Search(
        seed=settings.seed,
        max_iter=settings.clusters_max_iter,
        tolerance=settings.clusters_tolerance,
        starts=settings.clusters_starts,
    )


def _as_read(
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


def score(matrix: UserMatrix, found: Clustering, settings: Settings) -> ClusterScores:
    """Score every restaurant for every cluster; see ``recommender.scoring``."""
    return leave_one_out_scores(
        matrix.everything, found.centroids, matrix.columns, settings.clusters_shrinkage
    )


def liked_from(settings: Settings) -> float:
    """Return the least rating that is liked, shifted as the matrix has them."""
    return settings.liked + rating_shift(settings.rating_min)


def held_out_quality(matrix: UserMatrix, settings: Settings) -> dict[str, Any]:
    """Judge the clusters by users whom they were not trained on, beside one list for everybody.

    A tenth of the users is kept out, and a fifth of what each of them liked, three quarters up the
    scale or higher, is hidden; the rest finds the cluster. The shape is that of the ledger's
    ``metrics.clusters.held_out``. Its ``ratings`` are about the same users, but of a fifth of all
    their ratings: an error on ratings that were picked for being high would flatter who guesses
    high.
    """
    held = hold_out(matrix.everything, liked_from(settings), seed=settings.seed)
    rated = hold_out(matrix.everything, -np.inf, seed=settings.seed)
    part = matrix.part(held.kept)
    if settings.clusters_space == "factors":
        reason = "the factors were fitted to all users, those kept out among them"
        return {"users": 0, "ndcg": None, "reason": reason}
    found = cluster(part, settings) if rated.hidden.nnz else None
    return {
        **_list_quality(held, part, found, settings),
        "ratings": _rating_quality(rated, part, found),
    }


def _list_quality(
    held: HeldOut, part: UserMatrix, found: Clustering | None, settings: Settings
) -> dict[str, Any]:
    asked = held.seen.shape[0]
    if not asked or not found:
        return {
            "users": 0,
            "ndcg": None,
            "reason": "no user kept out has liked one restaurant of two",
        }
    scored = score(part, found, settings)
    lists = lists_of(scored.scores, scored.city, settings.clusters_top_n)
    labels, _ = found.place(held.seen[:, part.columns])
    shown = settings.als_top_n
    quality = ranking_quality(lists[labels], held.seen, held.hidden, shown)
    popular = ranking_quality(lists[np.full(asked, -1)], held.seen, held.hidden, shown)
    return {"users": asked, "shown": shown, **asdict(quality), "popular": asdict(popular)}


def _rating_quality(rated: HeldOut, part: UserMatrix, found: Clustering | None) -> dict[str, Any]:
    """Compare hidden ratings with what members of the user's cluster gave, and the whole city."""
    actual, place = rated.hidden.data, rated.hidden.indices
    if not found:
        return {**asdict(rating_error(actual, actual, 0.0)), "city_rmse": None}
    means = rating_means(part.everything, found.labels, len(found.centroids))
    users, _ = found.place(rated.seen[:, part.columns])
    labels = np.repeat(users, np.diff(rated.hidden.indptr))
    mean = float(part.everything.data.mean())
    error = rating_error(means[labels, place], actual, mean)
    city = rating_error(means[-1, place], actual, mean)
    return {**asdict(error), "city_rmse": city.rmse}


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
) -> list[Document]:
    """Return the documents of ``Metadata``: all that a reader needs to place a user."""
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
            "users": user_checks(found.centroids, columns, (high, low), rating_shift(low)),
        },
        {
            "_id": CLUSTERS_ID,
            "run_id": run.run_id,
            "distance": "cosine similarity with magnitude",
            "rating_shift": rating_shift(run.settings.rating_min),
            "sizes": found.sizes.tolist(),
            **_figures(found, matrix),
        },
    ]


def _figures(found: Clustering, matrix: UserMatrix) -> dict[str, Any]:
    placed = found.labels >= 0
    return {
        "k": len(found.centroids),
        "space": found.space,
        "users": len(matrix.users),
        "users_left_out": matrix.users_left_out,
        "users_without_overlap": int((~placed).sum()),
        "landed": found.landed,
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


def train(run: TrainingRun, ratings: Ratings, preferences: Preferences | None = None) -> None:
    """Do the whole K-Means job on ratings, up to the published ``Clusters`` and ``Metadata``.

    Parameters
    ----------
    preferences
        Those of the same ratings, to be published as well; None leaves those that are published.
    """
    settings = run.settings
    with run.phase("cluster"):
        matrix = user_matrix(ratings, settings)
        if settings.clusters_space == "factors":
            matrix = with_factors(matrix, ratings, preferences, run.db)
        found, moved = with_previous_ids(cluster(matrix, settings), ratings, matrix, run.db)
        shown = shown_restaurants(run.db, ratings.restaurants, settings)
        scored = score(matrix, found, settings).of(shown)
    with run.phase("evaluate clusters"):
        figures = {
            **_figures(found, matrix),
            "shrinkage": scored.shrinkage,
            "users_moved": moved,
        }
        placed = found.labels >= 0
        figures["silhouette"] = silhouette(
            matrix.rows[placed], found.labels[placed], seed=settings.seed
        )
        if settings.clusters_evaluate:
            figures["held_out"] = held_out_quality(matrix, settings)
        run.record(**{"metrics.clusters": figures})
        remedy = "find what in the ratings or the CLUSTERS_* settings makes them so"
        check_finite("the clusters", found.centroids, scored.scores, scored.city, remedy=remedy)
        check_clusters(run, int(found.sizes.sum()))
    with run.phase("publish clusters"):
        publish_clusters(
            run.db,
            run.run_id,
            cluster_documents(found, scored, ratings, matrix, run),
            [
                *metadata_documents(found, matrix, scored, ratings, run),
                *_factors_documents(run, ratings, preferences, shown),
            ],
            before_publishing=run.may_publish,
        )


def _factors_documents(
    run: TrainingRun, ratings: Ratings, preferences: Preferences | None, shown: NDArray[np.bool_]
) -> list[Document]:
    """Return the factors to publish beside the clusters: of this training, else the live ones.

    All that is published together is of one run; ``fitted_by`` tells whose factors they are.
    """
    if preferences is None:
        live = live_factors(run.db)
        return [{**live, "run_id": run.run_id}] if live else []
    shift = rating_shift(run.settings.rating_min)
    return [factors_document(preferences, ratings.restaurants, shown, run.run_id, shift)]


def curve(matrix: UserMatrix, ks: Iterable[int], settings: Settings) -> list[CurvePoint]:
    """Cluster into each number of clusters in turn, up to the most that the users make."""
    points = []
    for k in ks:
        began = time.perf_counter()
        found = cluster(matrix, settings.model_copy(update={"clusters_k": k}))
        seconds = time.perf_counter() - began
        placed = found.labels >= 0
        width = silhouette(matrix.rows[placed], found.labels[placed], seed=settings.seed)
        points.append(CurvePoint(len(found.centroids), found.inertia, width, seconds))
        if len(found.centroids) < k:
            break
    return points


def show_curve(ks: range, settings: Settings) -> None:
    """Print what each number of clusters gives, and draw it to ``elbow.svg`` in ``WORK_DIR``.

    Nothing is published and no lease is taken: it may run beside a training.
    """
    settings.make_folder(settings.work_dir)
    ratings = read_ratings(settings)
    matrix = user_matrix(ratings, settings.model_copy(update={"clusters_k": ks[-1]}))
    if settings.clusters_space == "factors":
        with connect(settings) as client:
            matrix = with_factors(matrix, ratings, None, database(client, settings))
    points = curve(matrix, ks, settings)
    knee = knee_of(points)
    drawing = settings.work_dir / "elbow.svg"
    drawing.write_text(svg_of(points, knee), encoding="utf-8")
    print(table_of(points, knee))
    print(f"drawn in {drawing}; {'no knee' if knee is None else f'CLUSTERS_K={knee} is its knee'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Cluster the users of the reviews in MongoDB and publish the outcome."""
    parser = script_parser("Group the users by K-Means and publish Clusters and Metadata.")
    parser.add_argument(
        "--elbow",
        type=parse_range,
        metavar="FIRST:LAST:STEP",
        help="only show what these numbers of clusters give, and publish nothing",
    )
    add_force_option(parser)
    arguments = parser.parse_args(argv)
    settings = settings_as_asked(arguments)
    configure_logging(settings)
    if arguments.elbow:
        show_curve(arguments.elbow, settings)
        return 0
    with training_run(settings) as run:
        with run.phase("read"):
            ratings = read_ratings(settings)
            run.record(**counts_of(ratings))
        train(run, ratings)
    print(summary_of(run.document))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
