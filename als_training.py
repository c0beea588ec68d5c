"""Trains Spark ALS on the reviews and publishes every user's top restaurants.

The data's way: read -> split -> train -> evaluate -> refit on all -> recommend -> publish -> chain
into the clustering. Run it by hand for a retrain at once; the service runs the same file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.ml.recommendation import ALS, ALSModel
from pyspark.sql import DataFrame, SparkSession

import clustering_training
from recommender.errors import ModelRejectedError
from recommender.evaluation import RatingError, predict, rating_error
from recommender.gate import (
    add_force_option,
    check_finite,
    check_recommendations,
    settings_as_asked,
)
from recommender.mongo_source import read_reviews
from recommender.ratings import Ratings, counts_of, gather, rating_shift
from recommender.recommend import COUNTS_SCHEMA, RecommendTask, factor_block
from recommender.runs import TrainingRun, training_run
from recommender.scripts import configure_logging, run_script, script_parser
from recommender.settings import Settings
from recommender.spark import spark_session
from recommender.store import RECOMMENDATIONS, publish, staged
from recommender.summary import summary_of

_REMEDY = "raise ALS_REG_PARAM or lower ALS_RANK"


def read(spark: SparkSession, settings: Settings) -> Ratings:
    """Read and clean Reviews in Spark's executors, and number users and restaurants here.

    Only what is clean comes here, as Arrow blocks. Numbering them in one process takes a tenth of
    the time of Spark's StringIndexer, and the clustering works on the same numbers.
    """
    ranges = 2 * spark.sparkContext.defaultParallelism
    return gather(read_reviews(spark, settings, ranges).toArrow())


def split(ratings: Ratings, fraction: float, seed: int) -> tuple[Ratings, Ratings]:
    """Divide the ratings at random into a training part and a held-out one.

    Parameters
    ----------
    fraction
        Share of the ratings that is held out, rounded down to whole ratings.
    seed
        The same seed and ratings give the same parts.
    """
    held_out = np.zeros(len(ratings), dtype=bool)
    count = int(len(ratings) * fraction)
    held_out[np.random.default_rng(seed).permutation(len(ratings))[:count]] = True
    return ratings.rows(~held_out), ratings.rows(held_out)


def fit(
    spark: SparkSession, ratings: Ratings, settings: Settings, *, preference: bool = False
) -> ALSModel:
    """Fit ALS with the settings' parameters.

    Parameters
    ----------
    preference
        Fit who would go where, a rating saying how sure that is (Hu, Koren and Volinsky, 2008),
        instead of the ratings themselves.
    """
    # To a preference, 0 means never been there.
    shift = rating_shift(settings.rating_min) if preference else 0.0
    blocks = settings.als_blocks or max(2, spark.sparkContext.defaultParallelism)
    als = ALS(
        rank=settings.als_rank,
        maxIter=settings.als_max_iter,
        regParam=settings.als_reg_param,
        implicitPrefs=preference,
        alpha=settings.als_alpha,
        coldStartStrategy=settings.als_cold_start_strategy,
        checkpointInterval=settings.als_checkpoint_interval,
        numUserBlocks=blocks,
        numItemBlocks=blocks,
        seed=settings.seed,
        userCol="user",
        itemCol="restaurant",
        ratingCol="rating",
    )
    table = pa.table(
        {
            "user": ratings.user,
            "restaurant": ratings.restaurant,
            "rating": (ratings.rating + shift).astype(np.float32),
        }
    )
    return als.fit(spark.createDataFrame(table).coalesce(blocks))


def factor_matrix(factors: DataFrame, count: int, rank: int) -> NDArray[np.float32]:
    """Bring a model's factors here.

    Parameters
    ----------
    factors
        ``userFactors`` or ``itemFactors`` of a model.
    count
        Number of users or restaurants.
    rank
        Number of factors of each.

    Returns
    -------
    float32 (count, rank)
        NaN in the rows of those that the model did not see.
    """
    matrix = np.full((count, rank), np.nan, dtype=np.float32)
    for batch in factors.toArrow().to_batches():
        number, block = factor_block(batch)
        matrix[number] = block
    return matrix


def evaluate(model: ALSModel, train: Ratings, held_out: Ratings, settings: Settings) -> RatingError:
    """Return how far the predictions of a model fitted to ``train`` are from what was held out."""
    users = factor_matrix(model.userFactors, len(train.users), model.rank)
    restaurants = factor_matrix(model.itemFactors, len(train.restaurants), model.rank)
    return rating_error(
        predict(users, restaurants, held_out.user, held_out.restaurant),
        held_out.rating,
        float(train.rating.mean()),
        drop_cold=settings.als_cold_start_strategy == "drop",
    )


def recommend(
    spark: SparkSession, model: ALSModel, ratings: Ratings, run: TrainingRun, stage: str
) -> int:
    """Stage every user's top restaurants that the user has not rated.

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
        If a factor or a score is not finite, as after a fit that did not hold.
    """
    places = factor_matrix(model.itemFactors, len(ratings.restaurants), model.rank)
    check_finite("the restaurants' factors", places, remedy=_REMEDY)
    task = RecommendTask(
        settings=run.settings,
        run_id=run.run_id,
        stage=stage,
        restaurant_factors=places,
        rated=ratings.matrix(),
        users=ratings.users,
        restaurants=ratings.restaurants,
    )
    shared = spark.sparkContext.broadcast(task)
    counts = model.userFactors.mapInArrow(lambda batches: shared.value.run(batches), COUNTS_SCHEMA)
    totals = counts.groupBy().sum().toArrow().to_pylist()[0]
    if totals["sum(broken)"]:
        raise ModelRejectedError(
            f"{totals['sum(broken)']:,} users have scores that are not finite; nothing was "
            f"published; {_REMEDY}"
        )
    return int(totals["sum(users)"])


def train(run: TrainingRun) -> Ratings:
    """Do the whole ALS job, up to the published ``Recommendations``; return what it trained on."""
    settings = run.settings
    with spark_session(settings, f"als_training {run.run_id}") as spark:
        with run.phase("read"):
            ratings = read(spark, settings)
            run.record(**counts_of(ratings))
        with run.phase("train"):
            part, held_out = split(ratings, settings.als_test_fraction, settings.seed)
            model = fit(spark, part, settings)
        with run.phase("evaluate"):
            error = evaluate(model, part, held_out, settings)
            run.record(**{"metrics.als": asdict(error)})
        with run.phase("refit"):
            preference = settings.als_objective == "preference"
            model = fit(spark, ratings, settings, preference=preference)
        with staged(run.db, RECOMMENDATIONS, run.run_id, "user_id", keep_others=True) as stage:
            with run.phase("recommend"):
                users = recommend(spark, model, ratings, run, stage.name)
            with run.phase("publish recommendations"):
                stage.seal(users)
                check_recommendations(run, stage.name)
                publish(run.db, stage, before_switching=run.may_publish)
    return ratings


def main(argv: Sequence[str] | None = None) -> int:
    """Train on the reviews in MongoDB, publish, and chain into the clustering."""
    parser = script_parser("Train Spark ALS, publish Recommendations, then cluster the users.")
    parser.add_argument(
        "--no-clustering", action="store_true", help="publish Recommendations and end there"
    )
    add_force_option(parser)
    # How the service hands the lease that it has taken over to its child.
    parser.add_argument("--adopt-run", metavar="RUN_ID", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    settings = settings_as_asked(arguments)
    configure_logging(settings)
    with training_run(settings, adopted=arguments.adopt_run) as run:
        ratings = train(run)
        if not arguments.no_clustering:
            clustering_training.train(run, ratings)
    print(summary_of(run.document))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
