"""The fits of a training, by MLlib, then exact sweeps; ModelRejectedError if not finite."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession
from scipy.sparse import csr_array

from recommender.als.bias import Bias, BiasDamping, fit_bias
from recommender.als.choose_preference import PreferenceParameters, preference_embedding
from recommender.als.confidence import confidence_matrix, mllib_users, popularity_of
from recommender.als.fold_in import PreferenceModel, preference_model, with_embedding
from recommender.als.item_item import item_item_weights
from recommender.als.model import Model, RatingModel
from recommender.als.reuse import ChosenParameters
from recommender.als.sweeps import Factors, explicit_step, implicit_step, sweep
from recommender.als.top_n import Mask
from recommender.core.errors import ModelRejectedError
from recommender.core.settings import AlsSettings, ReviewsSettings, Settings
from recommender.data.ratings import Ratings
from recommender.publishing.gate import check_finite

REMEDY = "raise ALS_REG_PARAM or lower ALS_RANK"
_MLLIB_ITERATIONS = 3  # of ALS_MAX_ITER; half-steps over all users do the others
_SWEPT_RATINGS = 15_000_000

log = logging.getLogger(__name__)


def refit(
    model: Model, ratings: Ratings, settings: Settings, chosen: ChosenParameters | None
) -> Model:
    """Continue a fit on more ratings of the same users and restaurants, by sweeps alone."""
    if chosen:
        bias_model = fit_bias_only(ratings, settings.reviews, chosen.damping)
    else:
        bias_model = without_bias(ratings)
    items, sweeps = model.rating.restaurant_factors, _most_sweeps(len(ratings), settings.als)
    residuals = _residuals(bias_model, ratings)
    rating = _sweep_rating(bias_model, items, residuals, settings.als, sweeps)
    if chosen is None or model.preferences is None:
        return Model(rating, preferences=None)
    items = model.preferences.factors[:, : chosen.preference.rank]  # those of ALS
    return Model(rating, _sweep_preferences(items, ratings, settings, chosen.preference))


def fit_rating(
    spark: SparkSession, ratings: Ratings, settings: Settings, damping: BiasDamping
) -> RatingModel:
    """Fit the bias, and ALS to its residuals: MLlib on `mllib_users`, then sweeps over all."""
    als, seed = settings.als, settings.seed
    bias_model = fit_bias_only(ratings, settings.reviews, damping)
    residuals = _residuals(bias_model, ratings)
    users = mllib_users(ratings, als.preference_users, seed)
    iterations = min(als.max_iter, _MLLIB_ITERATIONS)
    mllib = ALS(rank=als.rank, regParam=als.reg_param, maxIter=iterations, seed=seed)
    items = _mllib_items(spark, mllib, residuals, users)
    return _sweep_rating(bias_model, items, residuals, als, _most_sweeps(len(ratings), als))


def fit_rating_alone(
    spark: SparkSession, ratings: Ratings, als: AlsSettings, seed: int
) -> RatingModel:
    """Fit explicit ALS to the ratings of all users as they are, by MLlib alone."""
    mllib = ALS(rank=als.rank, regParam=als.reg_param, maxIter=als.max_iter, seed=seed)
    matrix, users = ratings.matrix(), np.ones(len(ratings.users), dtype=bool)
    items = _mllib_items(spark, mllib, matrix, users)
    return _sweep_rating(without_bias(ratings), items, matrix, als, sweeps=0)


def fit_bias_only(ratings: Ratings, reviews: ReviewsSettings, damping: BiasDamping) -> RatingModel:
    """Return the rating model of the bias alone: factors of 0, NaN without a rating."""
    bias, bounds = fit_bias(ratings.matrix(), damping), (reviews.rating_min, reviews.rating_max)
    return replace(without_bias(ratings), bias=bias, bounds=bounds)


def without_bias(ratings: Ratings) -> RatingModel:
    """Return the rating model that predicts 0: factors of 0, NaN without a rating."""
    users, items = (
        np.where(np.bincount(of, minlength=len(ids)) > 0, 0, np.nan).astype(np.float32)[:, None]
        for of, ids in ((ratings.user, ratings.users), (ratings.restaurant, ratings.restaurants))
    )
    return RatingModel(Bias(0.0, np.zeros(len(users)), np.zeros(len(items))), users, items)


def _residuals(model: RatingModel, ratings: Ratings) -> csr_array:
    """Return the ratings minus their bias, (users, restaurants)."""
    residuals = ratings.matrix()
    residuals.data -= model.bias.predict(ratings.user, ratings.restaurant)
    return residuals


def _sweep_rating(
    bias_model: RatingModel, items: Factors, residuals: csr_array, als: AlsSettings, sweeps: int
) -> RatingModel:
    """Return the bias with the factors of all users and items, swept from these item factors."""
    step = partial(explicit_step, reg_param=als.reg_param)
    least = als.max_iter - _MLLIB_ITERATIONS
    with _singular_rejected():
        items = sweep(step, residuals, items, sweeps, least=least)
        users = step(residuals, items)
    check_finite("ALS's factors", users, items, remedy=REMEDY)
    # The factors of the bias alone are 0, or NaN without a rating: NaN stays.
    users, items = users + bias_model.user_factors, items + bias_model.restaurant_factors
    return replace(bias_model, user_factors=users, restaurant_factors=items)


def fit_preferences(
    spark: SparkSession, ratings: Ratings, settings: Settings, parameters: PreferenceParameters
) -> PreferenceModel:
    """Fit which restaurants a user goes to: MLlib on `mllib_users`, then sweeps."""
    als, seed = settings.als, settings.seed
    confidence = confidence_matrix(ratings, settings.reviews)
    users = mllib_users(ratings, als.preference_users, seed)
    alpha = parameters.alpha / float(confidence.data.mean())
    iterations = min(als.max_iter, _MLLIB_ITERATIONS)
    mllib = ALS(rank=parameters.rank, regParam=parameters.reg_param, maxIter=iterations)
    mllib = mllib.setImplicitPrefs(True).setAlpha(alpha).setSeed(seed)
    items = _mllib_items(spark, mllib, confidence, users)
    return _sweep_preferences(items, ratings, settings, parameters)


def _sweep_preferences(
    items: Factors, ratings: Ratings, settings: Settings, parameters: PreferenceParameters
) -> PreferenceModel:
    """Sweep from these item factors over users of two ratings or more, which relate two items."""
    confidence = confidence_matrix(ratings, settings.reviews)
    popularity = popularity_of(ratings, settings.reviews)
    alpha, reg_param = parameters.alpha / float(confidence.data.mean()), parameters.reg_param
    rows = csr_array(confidence[np.diff(confidence.indptr) >= 2])
    if not rows.nnz:
        log.warning("no user has two ratings: the most popular restaurants are recommended")
    step = partial(implicit_step, alpha=alpha, reg_param=reg_param)
    least = settings.als.max_iter - _MLLIB_ITERATIONS
    with _singular_rejected():
        items = sweep(step, rows, items, _most_sweeps(rows.nnz, settings.als), least=least)
    check_finite("ALS's factors", items, remedy=REMEDY)
    model = preference_model(items, popularity, alpha=alpha, reg_param=reg_param)
    if parameters.embedding_weight:
        embedding = preference_embedding(rows, settings.seed)
        model = with_embedding(model, embedding, parameters.embedding_weight)
    if weight := parameters.item_item_weight:
        model = replace(model, item_item=item_item_weights(rows), item_item_weight=weight)
    return model


def _most_sweeps(ratings: int, als: AlsSettings) -> int:
    """Return the sweeps that time allows: 15, or ``ALS_MAX_ITER``'s; 3 from 4 million ratings."""
    return int(np.clip(_SWEPT_RATINGS // max(ratings, 1), 3, max(15, als.max_iter)))


@contextmanager
def _singular_rejected() -> Iterator[None]:
    """Reject a fit whose equations have no solution."""
    try:
        yield
    except np.linalg.LinAlgError as error:
        raise ModelRejectedError(f"ALS's equations have no solution ({error}); {REMEDY}") from None


def _mllib_items(spark: SparkSession, als: ALS, matrix: csr_array, users: Mask) -> Factors:
    """Fit MLlib's ALS to the rows of some users; return the item factors, NaN where unseen."""
    rows = csr_array(matrix[users])
    if not rows.nnz:
        return np.full((matrix.shape[1], als.getRank()), np.nan, np.float32)
    blocks = max(2, spark.sparkContext.defaultParallelism)
    user = np.repeat(np.flatnonzero(users).astype(np.int32), np.diff(rows.indptr))
    columns = [user, rows.indices.astype(np.int32), rows.data.astype(np.float32)]
    table = pa.table(columns, names=["user", "item", "rating"])
    model = als.setNumBlocks(blocks).fit(spark.createDataFrame(table).coalesce(blocks))
    return factor_matrix(model.itemFactors, matrix.shape[1], model.rank)


def factor_matrix(factors: DataFrame, count: int, rank: int) -> Factors:
    """Collect ALS's factors from Spark: (count, rank), finite, or NaN where unseen."""
    matrix = np.full((count, rank), np.nan, dtype=np.float32)
    for batch in factors.toArrow().to_batches():
        flat = batch["features"].flatten().to_numpy(zero_copy_only=False)
        check_finite("ALS's factors", flat, remedy=REMEDY)
        matrix[batch["id"].to_numpy()] = flat.reshape(batch.num_rows, rank)
    return matrix
