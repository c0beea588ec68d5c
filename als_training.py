"""Trains Spark ALS on the reviews and publishes every user's top restaurants.

The steps: read -> split -> choose -> fit and sweep -> evaluate -> sweep over all ratings ->
recommend -> publish -> chain into the clustering. MLlib fits once. Run it by hand for a retrain at
once; the service runs the same file. ``--tune`` searches for better parameters instead, with the
same fits on the same kind of split.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa
from pyspark.sql import SparkSession

import clustering_training
from recommender.als.evaluate import evaluate_lists, evaluate_ratings
from recommender.als.fit import REMEDY, choose, fit, refit
from recommender.als.fold_in import PreferenceModel
from recommender.als.model import Model, confidence_matrix, popularity_of
from recommender.als.recommend import RecommendTask, user_blocks
from recommender.als.reuse import reused_choice
from recommender.als.tuning.cli import add_tuning_options, run_tuning, tuning_axes
from recommender.core.errors import ModelRejectedError
from recommender.core.logs import configure_logging
from recommender.core.mongo_collections import RECOMMENDATIONS
from recommender.core.script import TRAINING_CODES, run_script, script_parser
from recommender.data.ratings import Ratings, counts_of
from recommender.data.restaurants import shown_restaurants
from recommender.data.users import read_users, stacked, structure
from recommender.evaluation.splitting import split
from recommender.publishing.gate import add_force_option, check_recommendations, settings_with_force
from recommender.publishing.publish import publish
from recommender.publishing.staging import others_before, staged
from recommender.runs.run import TrainingRun, training_run
from recommender.runs.summary import summary_of
from recommender.spark.reviews_source import read_ratings
from recommender.spark.session import spark_session


def recommend(
    spark: SparkSession, model: Model, ratings: Ratings, run: TrainingRun, stage: str
) -> int:
    """Stage every user's top restaurants that the user has not rated, by Reviews or ``Users``.

    Users without a review whom ``Users`` knows get theirs, too: where ratings alone rank, the most
    popular ones.

    Spark's own ``recommendForAllUsers`` takes many times as long and leaves in what is rated.

    Parameters
    ----------
    stage
        Name of the collection to write to.

    Returns
    -------
    int
        Count of the users.

    Raises
    ------
    ModelRejectedError
        If a score is not finite, as after a fit that did not hold.
    """
    in_users = read_users(run.db, ratings, run.settings)
    newcomers = in_users.newcomers
    run.record(newcomers=len(newcomers))
    popularity = popularity_of(ratings, run.settings)
    users = pa.concat_arrays([ratings.users, newcomers])
    visits = stacked(confidence_matrix(ratings, run.settings), in_users.newcomer_ratings)
    also_rated = stacked(in_users.also_rated, structure(in_users.newcomer_ratings))
    model = model.with_newcomers(len(newcomers), popularity)
    blocks = list(user_blocks(model, users, visits, structure(visits) + also_rated))
    task = RecommendTask(
        settings=run.settings,
        run_id=run.run_id,
        stage=stage,
        model=model.with_users(model.rating.bias.users[:0], model.rating.user_factors[:0]),
        shown=shown_restaurants(run.db, ratings.restaurants, run.settings),
        restaurants=ratings.restaurants,
        top_n=run.settings.als.top_n,
    )
    shared = spark.sparkContext.broadcast(task)
    tasks = spark.sparkContext.parallelize(blocks, len(blocks))
    counts = tasks.map(lambda block: shared.value.run(block)).collect()
    staged_users, broken = (sum(column) for column in zip(*counts, strict=True))
    if broken:
        raise ModelRejectedError(
            f"{broken:,} users have scores that are not finite; nothing was published; {REMEDY}"
        )
    return int(staged_users)


def train(run: TrainingRun) -> tuple[Ratings, PreferenceModel | None]:
    """Do the whole ALS job, up to the published ``Recommendations``.

    Returns
    -------
    ratings
        The ratings.
    preferences
        Its preferences, if they rank.
    """
    settings = run.settings
    old = others_before(run.db, RECOMMENDATIONS)
    with spark_session(settings, f"als_training {run.run_id}") as spark:
        with run.phase("read"):
            ratings = read_ratings(spark, settings)
            run.record(**counts_of(ratings))
        with run.phase("choose"):
            part, held_out = split(ratings, settings)
            chosen = reused_choice(run, len(ratings)) or choose(part, settings)
            run.record(chosen=asdict(chosen) if chosen else None)
        with run.phase("train"):
            model = fit(spark, part, settings, chosen)
        with run.phase("evaluate"):
            share, rating_figures = evaluate_ratings(model.rating, part, held_out, settings)
            run.record(**{"metrics.als": rating_figures})
            run.record(**{"metrics.lists": evaluate_lists(model, part, held_out, settings)})
        with run.phase("refit"):
            model = refit(model, ratings, settings, chosen).with_blend_weight(share)
        with staged(
            run.db, RECOMMENDATIONS, run.run_id, "user_id", keep_others=True, old=old
        ) as stage:
            with run.phase("recommend"):
                users = recommend(spark, model, ratings, run, stage.name)
            with run.phase("publish recommendations"):
                stage.seal(users)
                check_recommendations(run, stage.name)
                publish(run.db, stage, lease=run.lease)
    return ratings, model.preferences


def main(argv: Sequence[str] | None = None) -> int:
    """Train on the reviews in MongoDB, publish, and chain into the clustering."""
    parser = script_parser(
        "Train Spark ALS, publish Recommendations, then cluster the users.", *TRAINING_CODES
    )
    parser.add_argument(
        "--no-clustering", action="store_true", help="publish Recommendations and end there"
    )
    add_force_option(parser)
    add_tuning_options(parser)
    # The service has acquired the lease and opened the ledger for this run.
    parser.add_argument("--run-id", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    settings = settings_with_force(arguments)
    axes = tuning_axes(parser, arguments, settings)
    configure_logging(settings)
    if arguments.tune:
        for line in run_tuning(settings, arguments, axes):
            print(line)
        return 0
    with training_run(settings, run_id=arguments.run_id) as run:
        ratings, preferences = train(run)
        if not arguments.no_clustering:
            clustering_training.train(run, ratings, preferences)
    print(summary_of(run.document))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
