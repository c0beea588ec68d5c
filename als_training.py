"""Trains Spark ALS on the reviews and publishes every user's top restaurants.

The data's way: read -> split -> train -> evaluate -> refit on all -> recommend -> publish -> chain
into the clustering. Run it by hand for a retrain at once; the service runs the same file.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession

import clustering_training
from recommender.baseline import fit_baseline, no_baseline
from recommender.errors import ModelRejectedError
from recommender.evaluation import held_out_rows
from recommender.foldin import Preferences, preferences_of
from recommender.gate import (
    add_force_option,
    check_finite,
    check_recommendations,
    settings_as_asked,
)
from recommender.judging import judge_lists, judge_ratings
from recommender.models import Model, RatingModel, visits_of
from recommender.mongo_source import read_reviews
from recommender.newcomers import find_newcomers, stacked
from recommender.ratings import Ratings, counts_of, gather
from recommender.recommend import COUNTS_SCHEMA, RecommendTask
from recommender.restaurants import shown_restaurants
from recommender.runs import TrainingRun, training_run
from recommender.scripts import configure_logging, run_script, script_parser
from recommender.settings import Settings
from recommender.spark import spark_session
from recommender.store import RECOMMENDATIONS, publish, staged
from recommender.summary import summary_of

_SEVERAL = 2
# A few, so that no core waits long for the last.
_PARTS_A_CORE = 4
_REMEDY = "raise ALS_REG_PARAM or lower ALS_RANK"

log = logging.getLogger("als_training")


def read(spark: SparkSession, settings: Settings) -> Ratings:
    """Read and clean Reviews in Spark's executors, and number users and restaurants here.

    Only what is clean comes here, as Arrow blocks. Numbering them in one process takes a tenth of
    the time of Spark's StringIndexer, and the clustering works on the same numbers.
    """
    ranges = 2 * spark.sparkContext.defaultParallelism
    return gather(read_reviews(spark, settings, ranges).toArrow())


def split(ratings: Ratings, settings: Settings) -> tuple[Ratings, Ratings]:
    """Divide the ratings of each user into a training part and a held-out one.

    At random or, by ``ALS_TEST_SPLIT=time``, the latest are held out; who has rated once stays in
    training. The same seed and ratings give the same parts.
    """
    time = ratings.time if settings.als_test_split == "time" else None
    fraction, seed = settings.als_test_fraction, settings.seed
    held_out = held_out_rows(ratings.user, fraction, seed=seed, time=time)
    return ratings.rows(~held_out), ratings.rows(held_out)


def fit(spark: SparkSession, ratings: Ratings, settings: Settings) -> Model:
    """Fit what the settings ask for: ratings, and preferences unless ``ALS_OBJECTIVE=rating``."""
    rating = fit_rating(spark, ratings, settings)
    if settings.als_objective == "rating":
        return Model(rating, preferences=None)
    return Model(rating, fit_preferences(spark, ratings, settings))


def fit_rating(spark: SparkSession, ratings: Ratings, settings: Settings) -> RatingModel:
    """Fit how much a user would like a restaurant.

    A regularised baseline is taken out first, and ALS explains the rest; if the foretold rating is
    what ranks, ALS is fitted to the ratings as they are.
    """
    shape = len(ratings.users), len(ratings.restaurants)
    if settings.als_objective == "rating":
        baseline, bounds = no_baseline(shape), (-np.inf, np.inf)
    else:
        bounds = settings.rating_min, settings.rating_max
        baseline = fit_baseline(
            ratings.user,
            ratings.restaurant,
            ratings.rating,
            shape,
            user_weight=settings.als_user_weight,
            restaurant_weight=settings.als_restaurant_weight,
        )
    table = _table(ratings, ratings.rating - baseline.predict(ratings.user, ratings.restaurant))
    als = _als(spark, settings).setRank(settings.als_rank).setRegParam(settings.als_reg_param)
    model = als.fit(_frame(spark, table, als))
    return RatingModel(
        baseline,
        factor_matrix(model.userFactors, shape[0], model.rank),
        factor_matrix(model.itemFactors, shape[1], model.rank),
        bounds,
    )


def fit_preferences(spark: SparkSession, ratings: Ratings, settings: Settings) -> Preferences:
    """Fit who would go where, a rating saying how sure that is.

    Only restaurants are fitted, by the users who have rated two or more: one rating says nothing
    of what goes together, and of who has given it there are so many that it drowns what does. Any
    user's factors follow from those of the restaurants, so that not all users need take part.
    """
    visits = visits_of(ratings, settings)
    alpha = settings.als_alpha / float(visits.data.mean())
    reg_param = settings.als_preference_reg_param
    factors = np.full((len(ratings.restaurants), settings.als_preference_rank), np.nan, np.float32)
    rows = _teachers(np.diff(visits.indptr), settings)[ratings.user]
    if rows.any():
        als = _als(spark, settings).setRank(settings.als_preference_rank).setRegParam(reg_param)
        als = als.setImplicitPrefs(True).setAlpha(alpha)
        table = _table(ratings, visits.data).filter(pa.array(rows))
        model = als.fit(_frame(spark, table, als))
        factors = factor_matrix(model.itemFactors, len(ratings.restaurants), model.rank)
    else:
        log.warning("nobody has rated two restaurants: the most popular ones are recommended")
    popularity = np.bincount(ratings.restaurant, minlength=len(ratings.restaurants))
    return preferences_of(factors, popularity, alpha=alpha, reg_param=reg_param)


def _teachers(counts: NDArray[np.int64], settings: Settings) -> NDArray[np.bool_]:
    """Return which users teach the preference, by their counts of ratings."""
    several = np.flatnonzero(counts >= _SEVERAL)
    rng = np.random.default_rng(settings.seed)
    most = min(len(several), settings.als_preference_users)
    teachers = np.zeros(len(counts), dtype=bool)
    teachers[rng.choice(several, most, replace=False)] = True
    return teachers


def _als(spark: SparkSession, settings: Settings) -> ALS:
    blocks = settings.als_blocks or max(2, spark.sparkContext.defaultParallelism)
    return ALS(
        maxIter=settings.als_max_iter,
        coldStartStrategy=settings.als_cold_start_strategy,
        checkpointInterval=settings.als_checkpoint_interval,
        numUserBlocks=blocks,
        numItemBlocks=blocks,
        seed=settings.seed,
        userCol="user",
        itemCol="restaurant",
        ratingCol="rating",
    )


def _table(ratings: Ratings, values: NDArray[np.float64]) -> pa.Table:
    columns = [ratings.user, ratings.restaurant, values.astype(np.float32)]
    return pa.table(columns, names=["user", "restaurant", "rating"])


def _frame(spark: SparkSession, table: pa.Table, als: ALS) -> DataFrame:
    return spark.createDataFrame(table).coalesce(als.getNumUserBlocks())


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

    Raises
    ------
    ModelRejectedError
        If a factor is not finite, as after a fit that did not hold.
    """
    matrix = np.full((count, rank), np.nan, dtype=np.float32)
    for batch in factors.toArrow().to_batches():
        flat = batch["features"].flatten().to_numpy(zero_copy_only=False)
        check_finite("ALS's factors", flat, remedy=_REMEDY)
        matrix[batch["id"].to_numpy()] = flat.reshape(batch.num_rows, rank)
    return matrix


def recommend(
    spark: SparkSession, model: Model, ratings: Ratings, run: TrainingRun, stage: str
) -> int:
    """Stage every user's top restaurants that the user has not rated.

    Users without a review whom ``Users`` knows get theirs, too, unless ratings alone rank.

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
    visits, users = visits_of(ratings, run.settings), ratings.users
    if model.preferences is not None:
        newcomers = find_newcomers(run.db, ratings, run.settings)
        run.record(newcomers=len(newcomers.users))
        model = model.with_newcomers(len(newcomers.users))
        visits = stacked(visits, newcomers.visits)
        users = pa.concat_arrays([users, newcomers.users])
    task = RecommendTask(
        settings=run.settings,
        run_id=run.run_id,
        stage=stage,
        model=model,
        visits=visits,
        shown=shown_restaurants(run.db, ratings.restaurants, run.settings),
        users=users,
        restaurants=ratings.restaurants,
    )
    shared = spark.sparkContext.broadcast(task)
    parts = _PARTS_A_CORE * spark.sparkContext.defaultParallelism
    numbers = spark.range(0, len(users), numPartitions=parts)
    counts = numbers.mapInArrow(lambda batches: shared.value.run(batches), COUNTS_SCHEMA)
    totals = counts.groupBy().sum().toArrow().to_pylist()[0]
    if totals["sum(broken)"]:
        raise ModelRejectedError(
            f"{totals['sum(broken)']:,} users have scores that are not finite; nothing was "
            f"published; {_REMEDY}"
        )
    return int(totals["sum(users)"])


def train(run: TrainingRun) -> tuple[Ratings, Preferences | None]:
    """Do the whole ALS job, up to the published ``Recommendations``.

    Returns
    -------
    ratings
        What it trained on.
    preferences
        What it found of them, if that is what ranks.
    """
    settings = run.settings
    with spark_session(settings, f"als_training {run.run_id}") as spark:
        with run.phase("read"):
            ratings = read(spark, settings)
            run.record(**counts_of(ratings))
        with run.phase("train"):
            part, held_out = split(ratings, settings)
            model = fit(spark, part, settings)
        with run.phase("evaluate"):
            share, rating_figures = judge_ratings(model.rating, part, held_out, settings)
            run.record(**{"metrics.als": rating_figures})
            run.record(**{"metrics.lists": judge_lists(model, part, held_out, settings)})
        with run.phase("refit"):
            model = fit(spark, ratings, settings).believing(share)
        with staged(run.db, RECOMMENDATIONS, run.run_id, "user_id", keep_others=True) as stage:
            with run.phase("recommend"):
                users = recommend(spark, model, ratings, run, stage.name)
            with run.phase("publish recommendations"):
                stage.seal(users)
                check_recommendations(run, stage.name)
                publish(run.db, stage, before_switching=run.may_publish)
    return ratings, model.preferences


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
        ratings, preferences = train(run)
        if not arguments.no_clustering:
            clustering_training.train(run, ratings, preferences)
    print(summary_of(run.document))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
