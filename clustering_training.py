"""Groups the users by K-Means and publishes each cluster's restaurants and the model to find it.

The data's way: read -> matrix -> cluster -> score -> publish. Run it by hand to cluster again at
once; ``als_training.py`` chains into it with the ratings that it has already read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dists import silhouette
from recommender.cluster_documents import (
    cluster_documents,
    factors_documents,
    figures_of,
    metadata_documents,
)
from recommender.clusters import Clustering, cluster, with_previous_ids
from recommender.elbow import parse_range, run_elbow
from recommender.evaluation import HeldOut, hold_out, no_quality, ranking_quality, rating_error
from recommender.foldin import Preferences
from recommender.gate import add_force_option, check_clusters, check_finite, settings_as_asked
from recommender.ratings import Ratings, counts_of, rating_shift, reader_shift
from recommender.restaurants import shown_restaurants
from recommender.reviews import read_ratings
from recommender.runs import TrainingRun, training_run
from recommender.scoring import (
    ClusterScores,
    clusters_without,
    leave_one_out_scores,
    lists_of,
    rating_means,
)
from recommender.scripts import configure_logging, run_script, script_parser
from recommender.settings import Settings
from recommender.store import publish_clusters
from recommender.summary import summary_of
from recommender.user_matrix import (
    UserMatrix,
    user_matrix,
    with_factors,
    with_factors_of_its_own,
)


def score(matrix: UserMatrix, found: Clustering, settings: Settings) -> ClusterScores:
    """Score every restaurant for every cluster; see ``recommender.scoring``."""
    read = matrix.unshifted(matrix.everything)
    without = clusters_without(read, found.centroids, matrix.columns)
    return leave_one_out_scores(
        matrix.everything, without, len(found.centroids), settings.clusters_shrinkage
    )


def liked_from(settings: Settings) -> float:
    """Return the least rating that is liked, shifted as in the matrix of everything."""
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
    part = with_factors_of_its_own(matrix.part(held.kept), settings)
    found = cluster(part, settings) if rated.hidden.nnz and part.rows.nnz else None
    return {
        **list_quality(held, part, found, settings),
        "ratings": _rating_quality(rated, part, found),
    }


def list_quality(
    held: HeldOut, part: UserMatrix, found: Clustering | None, settings: Settings
) -> dict[str, Any]:
    """Judge the lists of clusters, and the city's one list, by what users kept out went to next.

    Parameters
    ----------
    held
        Those users: what finds their cluster, and what was hidden.
    part, found
        The others, and their clusters; None where there are none.
    """
    asked = held.seen.shape[0]
    if not asked:
        return {"users": 0, **no_quality("no user kept out has liked one restaurant of two")}
    if not found:
        return {"users": 0, **no_quality("the users who are left gave nothing but 0")}
    scored = score(part, found, settings)
    lists = lists_of(scored.scores, scored.city, settings.clusters_top_n)
    labels, _ = found.place(part.unshifted(held.seen)[:, part.columns])
    shown = settings.als_top_n
    quality = ranking_quality(lists[labels], held.seen, held.hidden, shown)
    popular = ranking_quality(lists[np.full(asked, -1)], held.seen, held.hidden, shown)
    return {"users": asked, "shown": shown, **asdict(quality), "popular": asdict(popular)}


def _rating_quality(rated: HeldOut, part: UserMatrix, found: Clustering | None) -> dict[str, Any]:
    """Compare hidden ratings with what members of the user's cluster gave, and the whole city."""
    actual, place = rated.hidden.data, rated.hidden.indices
    if not found:
        return {**asdict(rating_error(actual[:0], actual[:0], 0.0)), "city_rmse": None}
    means = rating_means(part.everything, found.labels, len(found.centroids))
    users, _ = found.place(part.unshifted(rated.seen)[:, part.columns])
    labels = np.repeat(users, np.diff(rated.hidden.indptr))
    mean = float(part.everything.data.mean())
    error = rating_error(means[labels, place], actual, mean)
    city = rating_error(means[-1, place], actual, mean)
    return {**asdict(error), "city_rmse": city.rmse}


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
        published = figures_of(found, matrix, reader_shift(settings.rating_min))
        figures = {
            **published,
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
                *metadata_documents(found, matrix, scored, ratings, run, published),
                *factors_documents(run, ratings, preferences, shown),
            ],
            lease=run.lease,
        )


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
        print(run_elbow(arguments.elbow, settings))
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
