"""What is fitted: how much a user would like a restaurant, and where a user would go."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession

from recommender.baseline import Weights, find_weights, fit_bias, no_baseline
from recommender.confidence import Confidence, find_confidence
from recommender.foldin import Preferences, preferences_of
from recommender.gate import check_finite
from recommender.models import Model, RatingModel, popularity_of, visits_of
from recommender.ratings import Ratings
from recommender.settings import Settings
from recommender.splits import teachers

REMEDY = "raise ALS_REG_PARAM or lower ALS_RANK"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """What a training chooses by the ratings before it fits to them.

    Attributes
    ----------
    weights
        Those of the rating's offsets.
    confidence
        That of the preference.
    """

    weights: Weights
    confidence: Confidence


def choose(spark: SparkSession, ratings: Ratings, settings: Settings) -> Chosen | None:
    """Find how much ratings weigh; None where ``ALS_OBJECTIVE=rating`` lets them be as they are."""
    if settings.als_objective == "rating":
        return None
    return Chosen(find_weights(ratings, settings), find_confidence(spark, ratings, settings))


def fit(spark: SparkSession, ratings: Ratings, settings: Settings, chosen: Chosen | None) -> Model:
    """Fit ratings and, unless nothing was chosen, preferences."""
    if chosen is None:
        return Model(fit_rating(spark, ratings, settings, None), preferences=None)
    rating = fit_rating(spark, ratings, settings, chosen.weights)
    return Model(rating, fit_preferences(spark, ratings, settings, chosen.confidence))


def fit_rating(
    spark: SparkSession, ratings: Ratings, settings: Settings, weights: Weights | None
) -> RatingModel:
    """Fit how much a user would like a restaurant.

    A regularised baseline is taken out first, and ALS explains the rest; without weights, ALS is
    fitted to the ratings as they are.
    """
    shape = len(ratings.users), len(ratings.restaurants)
    if weights is None:
        baseline, bounds = no_baseline(shape), (-np.inf, np.inf)
    else:
        baseline, bounds = fit_bias(ratings, weights), (settings.rating_min, settings.rating_max)
    table = _table(ratings, ratings.rating - baseline.predict(ratings.user, ratings.restaurant))
    als = _als(spark, settings).setRank(settings.als_rank).setRegParam(settings.als_reg_param)
    als = als.setMaxIter(settings.als_max_iter)
    model = als.fit(_frame(spark, table, als))
    return RatingModel(
        baseline,
        factor_matrix(model.userFactors, shape[0], model.rank),
        factor_matrix(model.itemFactors, shape[1], model.rank),
        bounds,
    )


def offsets_alone(ratings: Ratings, settings: Settings, weights: Weights) -> RatingModel:
    """Return the rating's fit without ALS, which foretells the same pairs."""
    user, restaurant = (
        np.where(np.bincount(of, minlength=len(ids)) > 0, 0, np.nan).astype(np.float32)[:, None]
        for of, ids in ((ratings.user, ratings.users), (ratings.restaurant, ratings.restaurants))
    )
    bounds = settings.rating_min, settings.rating_max
    return RatingModel(fit_bias(ratings, weights), user, restaurant, bounds)


def fit_preferences(
    spark: SparkSession, ratings: Ratings, settings: Settings, confidence: Confidence
) -> Preferences:
    """Fit who would go where, a rating saying how sure that is.

    Only restaurants are fitted, by the users who have rated two or more: one rating says nothing
    of what goes together, and of who has given it there are so many that it drowns what does. Any
    user's factors follow from those of the restaurants, so that not all users need take part.
    """
    visits = visits_of(ratings, settings)
    alpha, reg_param = confidence.alpha_of(visits), confidence.reg_param
    factors = np.full((len(ratings.restaurants), settings.als_preference_rank), np.nan, np.float32)
    rows = teachers(ratings, settings)[ratings.user]
    if rows.any():
        als = _als(spark, settings).setRank(settings.als_preference_rank).setRegParam(reg_param)
        als = als.setImplicitPrefs(True).setAlpha(alpha).setMaxIter(settings.als_max_iter)
        table = _table(ratings, visits.data).filter(pa.array(rows))
        model = als.fit(_frame(spark, table, als))
        factors = factor_matrix(model.itemFactors, len(ratings.restaurants), model.rank)
    else:
        log.warning("nobody has rated two restaurants: the most popular ones are recommended")
    popularity = popularity_of(ratings, settings)
    return preferences_of(factors, popularity, alpha=alpha, reg_param=reg_param)


def _als(spark: SparkSession, settings: Settings) -> ALS:
    blocks = settings.als_blocks or max(2, spark.sparkContext.defaultParallelism)
    return ALS(
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
        check_finite("ALS's factors", flat, remedy=REMEDY)
        matrix[batch["id"].to_numpy()] = flat.reshape(batch.num_rows, rank)
    return matrix
