"""Clusters the users and publishes each cluster's restaurants and the model that finds it.

``als_training.py`` calls `train` on the ratings that it has read.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from recommender.als.fold_in import PreferenceModel
from recommender.als.published_factors import factors_document, read_factors_document, with_shown
from recommender.clustering.documents import cluster_documents, figures_of, metadata_documents
from recommender.clustering.elbow import parse_range, run_elbow
from recommender.clustering.evaluate import evaluate_clusters, silhouette_of, training_users
from recommender.clustering.fit import Clustering, cluster
from recommender.clustering.member_preferences import score_clusters
from recommender.clustering.published_model import previous_labels
from recommender.clustering.stable_ids import matched_ids, users_moved
from recommender.clustering.user_matrix import UserMatrix, user_matrix
from recommender.core.logs import configure_logging
from recommender.core.mongo import Document
from recommender.core.mongo_collections import CLUSTERS, METADATA
from recommender.core.script import TRAINING_CODES, run_script, script_parser
from recommender.core.settings import Settings
from recommender.core.threads import one_blas_thread
from recommender.data.ratings import Ratings, counts_of, rating_shift
from recommender.data.restaurants import shown_restaurants
from recommender.data.reviews import read_ratings
from recommender.publishing import gate
from recommender.publishing.publish import publish_clusters
from recommender.publishing.targets import check_targets
from recommender.runs.run import TrainingRun, training_run
from recommender.runs.summary import print_summary

_REMEDY = "check the ratings and the CLUSTERS_* settings"


def train(
    run: TrainingRun,
    ratings: Ratings,
    preferences: PreferenceModel | None = None,
    evaluated: PreferenceModel | None = None,
) -> None:
    """Cluster the users of the ratings and publish ``Clusters`` and ``Metadata``.

    The item factors of ``preferences`` are published as well, and the clusters' lists are made with
    them; None keeps the published ones, and makes the lists by the ratings alone. ``evaluated`` is
    the same model before it has seen the test ratings: with it, the lists are evaluated.
    """
    settings = run.settings
    with run.phase("cluster"):
        matrix = user_matrix(ratings, settings.clusters.k, settings.reviews.rating_min)
        clustering, of_training_users = _cluster(matrix, settings)
        previous, moved = previous_labels(run.db, ratings), None
        if previous is not None:
            ids = matched_ids(clustering.labels, previous, len(clustering.centroids))
            clustering = clustering.renumbered(ids)
            moved = users_moved(clustering.labels, previous)
        shown = shown_restaurants(run.db, ratings.restaurants, settings.reviews.restaurants_exclude)
        scored = score_clusters(clustering, matrix, preferences, settings.seed)
        scored = replace(scored, scores=scored.scores * shown, fallback=scored.fallback * shown)
    with run.phase("evaluate clusters"):
        figures = figures_of(clustering, matrix)
        measured = {
            "shrinkage": scored.shrinkage,
            "users_moved": moved,
            "silhouette": silhouette_of(clustering, matrix, settings.seed),
            "clustered_once": of_training_users is not None,
            "held_out": evaluate_clusters(ratings, matrix, settings, of_training_users, evaluated),
        }
        run.record(**{"metrics.clusters": {**figures, **measured}})
        arrays = (clustering.centroids, scored.scores, scored.fallback)
        gate.check_finite("the clusters", *arrays, remedy=_REMEDY)
        gate.check_clusters(run, int(clustering.sizes.sum()))
    with run.phase("publish clusters"):
        model = (clustering, scored, matrix)
        bounds = settings.reviews.rating_min, settings.reviews.rating_max
        clusters = list(cluster_documents(*model, settings.clusters.top_n, run.run_id))
        metadata = metadata_documents(*model, figures, bounds, settings.clusters.top_n, run.run_id)
        factors = _factors_documents(run, ratings, preferences, shown)
        if run.kind != "dry_run":
            publish_clusters(run.db, run.run_id, clusters, [*metadata, *factors], lease=run.lease)


def _cluster(matrix: UserMatrix, settings: Settings) -> tuple[Clustering, Clustering | None]:
    """Cluster all users; the second are the clusters of `training_users`, where those lead."""
    users = training_users(matrix, settings.seed)
    if users is None:
        return cluster(matrix, settings.clusters, settings.seed), None
    of_training_users = cluster(matrix.subset(users), settings.clusters, settings.seed)
    return of_training_users.extended(matrix.rows, users), of_training_users


def _factors_documents(
    run: TrainingRun, ratings: Ratings, preferences: PreferenceModel | None, shown: NDArray[Any]
) -> list[Document]:
    """Return the item factors of this training, or the published ones under this run's id."""
    if preferences is None:
        live = read_factors_document(run.db)
        factors = live and with_shown(live, ratings.restaurants, shown, run.run_id)
        return [factors] if factors else []
    shift = rating_shift(run.settings.reviews.rating_min)
    return [factors_document(preferences, ratings.restaurants, shown, run.run_id, shift)]


@one_blas_thread()
def main(argv: Sequence[str] | None = None) -> int:
    """Cluster the users of the reviews in MongoDB and publish the clusters."""
    parser = script_parser("Cluster the users and publish Clusters and Metadata.", *TRAINING_CODES)
    elbow_help = "compare these numbers of clusters; publish nothing"
    parser.add_argument("--elbow", type=parse_range, metavar="FIRST:LAST:STEP", help=elbow_help)
    gate.add_force_option(parser)
    arguments = parser.parse_args(argv)
    settings = gate.settings_with_force(arguments)
    configure_logging(settings)
    if arguments.elbow:
        run_elbow(arguments.elbow, settings, as_json=arguments.json)
        return 0
    with training_run(settings) as run:
        check_targets(run, (CLUSTERS, METADATA))
        with run.phase("read"):
            ratings = read_ratings(settings)
            run.record(**counts_of(ratings))
        train(run, ratings)
    print_summary(run, as_json=arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
