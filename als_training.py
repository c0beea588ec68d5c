"""Trains Spark ALS on the reviews and publishes every user's top restaurants.

The steps: read -> choose parameters -> fit on the train set -> evaluate on the test set -> refit on
all ratings -> recommend -> publish -> chain into the clustering. The service runs it, too.
"""

import argparse
from collections.abc import Sequence

import pyarrow as pa
from pyspark.sql import SparkSession
from scipy.sparse import vstack

import clustering_training
from recommender.als.choose_damping import choose_damping
from recommender.als.confidence import confidence_matrix, popularity_of
from recommender.als.evaluate import evaluate_lists, evaluate_ratings
from recommender.als.fit import REMEDY, fit_preferences, fit_rating, fit_rating_alone, refit
from recommender.als.fold_in import PreferenceModel
from recommender.als.hindsight import record_hindsight
from recommender.als.model import Model
from recommender.als.recommend import RecommendTask, user_blocks
from recommender.als.reuse import ChosenParameters, choose_parameters, reused_parameters
from recommender.als.top_n import Mask
from recommender.als.tuning.cli import add_tuning_options, run_tuning, tuning_axes
from recommender.core.errors import ModelRejectedError
from recommender.core.logs import configure_logging
from recommender.core.mongo_collections import PUBLISHED, RECOMMENDATIONS
from recommender.core.script import TRAINING_CODES, run_script, script_parser
from recommender.core.threads import one_blas_thread
from recommender.data.ratings import Ratings, counts_of
from recommender.data.restaurants import shown_restaurants
from recommender.data.users import read_users
from recommender.evaluation.splitting import split
from recommender.publishing.gate import add_force_option, check_recommendations, settings_with_force
from recommender.publishing.publish import publish
from recommender.publishing.rollback import rollback
from recommender.publishing.staging import others_before, staged
from recommender.publishing.targets import check_targets
from recommender.runs.run import TrainingRun, training_run
from recommender.runs.summary import print_summary
from recommender.spark.reviews_source import count_reviews, read_reviews
from recommender.spark.session import SparkThread, spark_session

_PARTITIONS_A_CORE = 4  # so that no core waits long for the last one
_BRIEF_REVIEWS = 100_000  # MLlib fits all ratings of these in seconds
_FEW_BLOCKS = 4  # take no longer here than Python workers take to start
_MODES = {
    "--dry-run": "train and evaluate, report the gate's verdict, publish nothing; then exit 0",
    "--rollback": "publish what the latest run has replaced; no training",
    "--tune": "search for better parameters, or continue a search; publish nothing",
}


def train(
    run: TrainingRun, *, anew: bool
) -> tuple[Ratings, PreferenceModel | None, PreferenceModel | None]:
    """Train, and publish ``Recommendations``; choose the parameters ``anew`` or as by `fit`.

    Returns the ratings, and what ranks restaurants: the published model, and the evaluated one,
    which was fitted without the test ratings.
    """
    settings, db = run.settings, run.db
    old = others_before(db, RECOMMENDATIONS)  # what the backend wrote by itself
    count = count_reviews(db)
    brief = settings.als.objective == "preference" or count <= _BRIEF_REVIEWS
    with spark_session(settings, f"als_training {run.run_id}", brief=brief) as spark:
        with run.phase("read"):
            ratings = read_reviews(spark, settings, count)
            run.record(**counts_of(ratings))
            record_hindsight(run, ratings)
            train_set, test_set = split(ratings, settings.als, settings.seed)
            shown = shown_restaurants(db, ratings.restaurants, settings.reviews.restaurants_exclude)
        model, chosen = fit(run, spark, train_set, len(ratings), anew=anew)
        with run.phase("evaluate"):
            blend_weight, errors = evaluate_ratings(model.rating, train_set, test_set, settings)
            run.record(**{"metrics.als": errors})
            run.record(**{"metrics.lists": evaluate_lists(model, train_set, test_set, settings)})
        with run.phase("refit"):
            # The blend weight needs test ratings, and the refit has none: it is kept.
            evaluated = model.preferences
            model = refit(model, ratings, settings, chosen).with_blend_weight(blend_weight)
        with staged(db, RECOMMENDATIONS, run.run_id, old=old) as stage:
            with run.phase("recommend"):
                users = recommend(spark.session(), model, ratings, shown, run, stage.name)
            with run.phase("publish recommendations"):
                stage.seal(users)
                check_recommendations(run, stage.name)
                if run.kind != "dry_run":
                    publish(db, stage, lease=run.lease)
    return ratings, model.preferences, evaluated


def fit(
    run: TrainingRun, spark: SparkThread, train_set: Ratings, count: int, *, anew: bool
) -> tuple[Model, ChosenParameters | None]:
    """Choose parameters, ``anew`` or reuse those that suit ``count`` ratings, and fit."""
    settings = run.settings
    if settings.als.objective == "rating":  # there is nothing to choose
        with run.phase("train"):
            rating = fit_rating_alone(spark.session(), train_set, settings.als, settings.seed)
            return Model(rating, preferences=None), None
    with run.phase("choose"):
        reused = None if anew else reused_parameters(run, count)
        damping = reused.damping if reused else choose_damping(train_set, settings)
        # Ratings are fitted beside the choice, most of which is on one core.
        fitting = spark.submit(lambda session: fit_rating(session, train_set, settings, damping))
        chosen = reused or choose_parameters(train_set, settings, damping, count)
        run.record(chosen=chosen.document())
    with run.phase("train"):
        preferences = fit_preferences(spark.session(), train_set, settings, chosen.preference)
        return Model(fitting.result(), preferences), chosen


def recommend(
    spark: SparkSession, model: Model, ratings: Ratings, shown: Mask, run: TrainingRun, stage: str
) -> int:
    """Stage the best unrated ``shown`` ones for users of Reviews and ``Users``; return how many."""
    reviews = run.settings.reviews
    in_users = read_users(run.db, ratings, reviews)
    newcomers, of_newcomers = in_users.newcomers, in_users.newcomer_ratings
    run.record(newcomers=len(newcomers))
    users = pa.concat_arrays([ratings.users, newcomers])
    confidence = vstack([confidence_matrix(ratings, reviews), of_newcomers], format="csr")
    also_rated = vstack([in_users.also_rated, of_newcomers.astype(bool)], format="csr")
    model = model.with_newcomers(len(newcomers), popularity_of(ratings, reviews))
    blocks = list(user_blocks(model, users, confidence, confidence.astype(bool) + also_rated))
    task = RecommendTask(
        mongo=run.settings.mongo,
        top_n=run.settings.als.top_n,
        run_id=run.run_id,
        stage_name=stage,
        # The blocks carry their users' factors: none are broadcast.
        model=model.with_users(model.rating.bias.users[:0], model.rating.user_factors[:0]),
        shown=shown,
        restaurants=ratings.restaurants,
    )
    if len(blocks) <= _FEW_BLOCKS:
        counts = list(task.run(blocks))
    else:
        shared = spark.sparkContext.broadcast(task)
        partitions = min(len(blocks), _PARTITIONS_A_CORE * spark.sparkContext.defaultParallelism)
        tasks = spark.sparkContext.parallelize(blocks, partitions)
        counts = tasks.mapPartitions(lambda blocks: shared.value.run(blocks)).collect()
    staged_users, not_finite = (sum(column) for column in zip(*counts, strict=True))
    if not_finite:
        raise ModelRejectedError(
            f"{not_finite:,} users have scores that are not finite; nothing was published; {REMEDY}"
        )
    return int(staged_users)


@one_blas_thread()
def main(argv: Sequence[str] | None = None) -> int:
    """Train on the reviews in MongoDB, publish, and chain into the clustering."""
    purpose = "Train ALS, publish Recommendations, cluster users."
    parser = script_parser(purpose, 66, *TRAINING_CODES)
    parser.add_argument("--no-clustering", action="store_true", help="end after Recommendations")
    mode = parser.add_mutually_exclusive_group()
    for option, meaning in _MODES.items():
        kind = option.removeprefix("--").replace("-", "_")
        mode.add_argument(option, action="store_const", const=kind, dest="kind", help=meaning)
    parser.set_defaults(kind="training")
    add_force_option(parser)
    add_tuning_options(parser)
    # The service has acquired the lease and opened the ledger for this run.
    parser.add_argument("--run-id", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.kind == "tune" and arguments.run_id:
        parser.error("--tune takes no --run-id, which is for the service's trainings")
    settings = settings_with_force(arguments)
    axes = tuning_axes(parser, arguments, settings)
    configure_logging(settings)
    if arguments.kind == "tune":
        run_tuning(settings, arguments, axes)
        return 0
    with training_run(settings, arguments.run_id, arguments.kind) as run:
        if run.kind == "rollback":
            rollback(run)
        else:
            check_targets(run, [RECOMMENDATIONS] if arguments.no_clustering else PUBLISHED)
            trained = train(run, anew=arguments.force)
            if not arguments.no_clustering:
                clustering_training.train(run, *trained)
    print_summary(run, as_json=arguments.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
