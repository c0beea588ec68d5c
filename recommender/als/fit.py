"""The fits of a training: MLlib's ALS once, on some users, then exact sweeps over all ratings."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession
from scipy.sparse import csr_array

from recommender.als.bias import Bias, BiasDamping, choose_damping, fit_bias, zero_bias
from recommender.als.choose_alpha import Confidence, choose_preference_parameters
from recommender.als.fold_in import PreferenceModel, preference_model
from recommender.als.model import (
    Model,
    RatingModel,
    confidence_matrix,
    popularity_of,
    training_users,
)
from recommender.als.sweeps import cores, explicit_step, implicit_step, sweep
from recommender.core.errors import ModelRejectedError
from recommender.core.settings import Settings
from recommender.data.ratings import Ratings
from recommender.publishing.gate import check_finite
from recommender.runs.ledger import now

REMEDY = "raise ALS_REG_PARAM or lower ALS_RANK"

_CHECKPOINT_INTERVAL = 10  # iterations between two checkpoints that cut the lineage
_SWEPT_RATINGS = 15_000_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """The parameters that a training chooses on held-out ratings before it fits.

    Attributes
    ----------
    weights
        Damping of the rating's user and item bias.
    confidence
        Parameters of the preference's fit.
    at
        When they were chosen.
    from_run
        The earlier run that chose them; None if this one did.
    """

    weights: BiasDamping
    confidence: Confidence
    at: datetime.datetime | None = None
    from_run: str | None = None


def choose(ratings: Ratings, settings: Settings) -> Chosen | None:
    """Choose the parameters of both fits; None if ``ALS_OBJECTIVE=rating``, which needs none."""
    if settings.als.objective == "rating":
        return None
    return Chosen(choose_damping(ratings, settings), choose_preference_parameters(ratings, settings), at=now())


def fit(spark: SparkSession, ratings: Ratings, settings: Settings, chosen: Chosen | None) -> Model:
    """Fit ratings and, unless nothing was chosen, preferences."""
    if chosen is None:
        return Model(fit_rating(spark, ratings, settings, None), preferences=None)
    rating = fit_rating(spark, ratings, settings, chosen.weights)
    return Model(rating, fit_preferences(spark, ratings, settings, chosen.confidence))


def refit(model: Model, ratings: Ratings, settings: Settings, chosen: Chosen | None) -> Model:
    """Continue a fit on more ratings of the same users and restaurants, by sweeps alone."""
    items = model.rating.restaurant_factors
    weights, most = chosen.weights if chosen else None, _most_sweeps(len(ratings))
    rating = _sweep_rating(items, ratings, settings, weights, most)
    if chosen is None or model.preferences is None:
        return Model(rating, preferences=None)
    items = model.preferences.factors
    return Model(rating, _sweep_preferences(items, ratings, settings, chosen.confidence))


def fit_rating(
    spark: SparkSession, ratings: Ratings, settings: Settings, weights: BiasDamping | None
) -> RatingModel:
    """Fit how much a user would like a restaurant.

    A regularised baseline is taken out first, and ALS explains the rest. MLlib fits it to the
    training users, and sweeps extend it to all. Without weights, ALS is fitted to the ratings as
    they are, by MLlib alone.
    """
    rest, _, _ = _rest(ratings, settings, weights)
    everybody = np.ones(len(ratings.users), dtype=bool)
    users = everybody if weights is None else training_users(ratings, settings)
    als = _als(spark, settings).setRank(settings.als.rank).setRegParam(settings.als.reg_param)
    als = als.setMaxIter(settings.als.max_iter)
    items = _mllib_items(spark, als, ratings, rest.data, users)
    most = 0 if weights is None else _most_sweeps(len(ratings))
    return _sweep_rating(items, ratings, settings, weights, most)


def _sweep_rating(
    items: NDArray[np.float32],
    ratings: Ratings,
    settings: Settings,
    weights: BiasDamping | None,
    most: int,
) -> RatingModel:
    """Sweep over all ratings from these item factors; NaN for users and items without ratings."""
    rest, baseline, bounds = _rest(ratings, settings, weights)
    step = partial(explicit_step, reg_param=settings.als.reg_param, threads=cores())
    with _singular_rejected():
        items = sweep(step, rest, items, most)
        users = step(rest, items)
    check_finite("ALS's factors", users, items, remedy=REMEDY)
    items[np.bincount(ratings.restaurant, minlength=len(items)) == 0] = np.nan
    users[np.bincount(ratings.user, minlength=len(users)) == 0] = np.nan
    return RatingModel(baseline, users, items, bounds)


def _rest(
    ratings: Ratings, settings: Settings, weights: BiasDamping | None
) -> tuple[csr_array, Bias, tuple[float, float]]:
    """Return what the baseline leaves of each rating, the baseline, and the predictions' bounds."""
    rest = ratings.matrix()
    if weights is None:
        return rest, zero_bias(rest.shape), (-np.inf, np.inf)
    baseline = fit_bias(ratings, weights)
    rest.data -= baseline.predict(ratings.user, ratings.restaurant)
    return rest, baseline, (settings.reviews.rating_min, settings.reviews.rating_max)


def fit_bias_only(ratings: Ratings, settings: Settings, weights: BiasDamping) -> RatingModel:
    """Return the rating's fit without ALS, which predicts the same pairs."""
    user, restaurant = (
        np.where(np.bincount(of, minlength=len(ids)) > 0, 0, np.nan).astype(np.float32)[:, None]
        for of, ids in ((ratings.user, ratings.users), (ratings.restaurant, ratings.restaurants))
    )
    bounds = settings.reviews.rating_min, settings.reviews.rating_max
    return RatingModel(fit_bias(ratings, weights), user, restaurant, bounds)


def fit_preferences(
    spark: SparkSession, ratings: Ratings, settings: Settings, confidence: Confidence
) -> PreferenceModel:
    """Fit which restaurants a user goes to; a rating sets the confidence of a visit.

    MLlib fits the item factors to the training users, and sweeps extend them to all users of two
    ratings and more. Single ratings are left out: they relate no two restaurants, and there are
    so many of them that they drown those that do.
    """
    visits = confidence_matrix(ratings, settings)
    als = _als(spark, settings).setRank(confidence.rank).setRegParam(confidence.reg_param)
    als = als.setImplicitPrefs(True).setAlpha(confidence.alpha_of(visits))
    als = als.setMaxIter(settings.als.max_iter)
    items = _mllib_items(spark, als, ratings, visits.data, training_users(ratings, settings))
    return _sweep_preferences(items, ratings, settings, confidence)


def _sweep_preferences(
    items: NDArray[np.float32], ratings: Ratings, settings: Settings, confidence: Confidence
) -> PreferenceModel:
    """Sweep over all users of two ratings and more from these item factors."""
    visits = confidence_matrix(ratings, settings)
    several = csr_array(visits[np.diff(visits.indptr) >= 2])
    alpha, reg_param = confidence.alpha_of(visits), confidence.reg_param
    step = partial(implicit_step, alpha=alpha, reg_param=reg_param, threads=cores())
    with _singular_rejected():
        items = sweep(step, several, items, _most_sweeps(several.nnz))
    check_finite("ALS's factors", items, remedy=REMEDY)
    if not several.nnz:
        log.warning("nobody has rated two restaurants: the most popular ones are recommended")
    popularity = popularity_of(ratings, settings)
    return preference_model(items, popularity, alpha=alpha, reg_param=reg_param)


def _most_sweeps(ratings: int) -> int:
    """Return how many sweeps the time for them allows: 15 on small data, 3 from 5 million on."""
    return int(np.clip(_SWEPT_RATINGS // max(ratings, 1), 3, 15))


@contextmanager
def _singular_rejected() -> Iterator[None]:
    """Reject a fit whose equations have no solution."""
    try:
        yield
    except np.linalg.LinAlgError as error:
        raise ModelRejectedError(f"ALS's equations have no solution ({error}); {REMEDY}") from None


def _als(spark: SparkSession, settings: Settings) -> ALS:
    blocks = max(2, spark.sparkContext.defaultParallelism)
    return ALS(
        coldStartStrategy=settings.als.cold_start_strategy,
        checkpointInterval=_CHECKPOINT_INTERVAL,
        numUserBlocks=blocks,
        numItemBlocks=blocks,
        seed=settings.seed,
        userCol="user",
        itemCol="restaurant",
        ratingCol="rating",
    )


def _mllib_items(
    spark: SparkSession,
    als: ALS,
    ratings: Ratings,
    values: NDArray[np.float64],
    users: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Fit MLlib's ALS to the ratings of some users; return the item factors, NaN where unseen."""
    rows = users[ratings.user]
    if not rows.any():
        return np.full((len(ratings.restaurants), als.getRank()), np.nan, np.float32)
    columns = [ratings.user[rows], ratings.restaurant[rows], values[rows].astype(np.float32)]
    table = pa.table(columns, names=["user", "restaurant", "rating"])
    model = als.fit(spark.createDataFrame(table).coalesce(als.getNumUserBlocks()))
    return factor_matrix(model.itemFactors, len(ratings.restaurants), model.rank)


def factor_matrix(factors: DataFrame, count: int, rank: int) -> NDArray[np.float32]:
    """Collect a model's factors from Spark.

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
        If a factor is not finite.
    """
    matrix = np.full((count, rank), np.nan, dtype=np.float32)
    for batch in factors.toArrow().to_batches():
        flat = batch["features"].flatten().to_numpy(zero_copy_only=False)
        check_finite("ALS's factors", flat, remedy=REMEDY)
        matrix[batch["id"].to_numpy()] = flat.reshape(batch.num_rows, rank)
    return matrix
