"""The fits, on a real Spark."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.ml.recommendation import ALS
from pyspark.sql import SparkSession
from sklearn.metrics import roc_auc_score

from recommender import fitting
from recommender.baseline import Weights
from recommender.confidence import Confidence
from recommender.errors import ModelRejectedError
from recommender.judging import judge_lists, judge_ratings
from recommender.models import visits_of
from recommender.ratings import Ratings
from recommender.settings import Settings
from recommender.splits import split
from tests.support import ratings_of, scores_of

CONFIDENCE = Confidence(alpha=20.0, reg_param=4.0)
USUAL = fitting.Chosen(Weights(), CONFIDENCE)


def checkerboard() -> Ratings:
    """Users rate what is of their colour 5 and the rest 1."""
    return ratings_of(
        [(f"u{i}", f"r{j}", 5.0 if (i + j) % 2 else 1.0) for i in range(30) for j in range(20)]
    )


@pytest.mark.parametrize("objective", ["rating", "preference"])
def test_als_finds_a_checkerboard(
    spark: SparkSession, db_settings: Settings, objective: str
) -> None:
    settings = db_settings.model_copy(update={"als_objective": objective})
    train, held_out = split(checkerboard(), settings)
    model = fitting.fit_rating(spark, train, settings, None if objective == "rating" else Weights())
    share, error = judge_ratings(model, train, held_out, settings)
    assert error["rows"] == 120
    assert error["rmse"] < 0.3
    assert error["mean_rmse"] == pytest.approx(2.0, abs=0.1)
    assert share > 0.9


@pytest.mark.parametrize(("low", "high", "step"), [(0, 2, 1), (1, 10, 1), (0.5, 5, 0.5)])
def test_on_any_scale_both_fits_find_what_there_is_to_find(
    spark: SparkSession, db_settings: Settings, low: float, high: float, step: float
) -> None:
    """Users go to places of their colour, and like those of their quarter."""
    bounds = {"rating_min": low, "rating_max": high}
    settings = db_settings.model_copy(update=bounds)
    visits = [(i, j) for i in range(40) for j in range(32) if (i + j) % 2 and (i + 3 * j) % 5]
    rows = [(f"u{i:02}", f"r{j:02}", high if (i + j) % 4 == 1 else low + step) for i, j in visits]
    ratings = ratings_of(rows, **bounds)
    assert (ratings.rating.min(), ratings.rating.max()) == (low + step, high)
    train, held_out = split(ratings, settings)
    model = fitting.fit(spark, train, settings, USUAL)
    share, error = judge_ratings(model.rating, train, held_out, settings)
    assert error["rmse"] < error["mean_rmse"] / 2
    pairs = np.arange(40, dtype=np.int32)[:, None], np.arange(32, dtype=np.int32)
    foretold = model.believing(share).rating.predict(*pairs)
    assert low <= np.nanmin(foretold) < np.nanmax(foretold) <= high
    lists = judge_lists(model, train, held_out, settings)
    assert lists["ndcg"] > 2 * lists["popular"]["ndcg"]


def test_all_ratings_equal_are_foretold_without_als(
    spark: SparkSession, quick_settings: Settings
) -> None:
    ratings = ratings_of([(f"u{i}", f"r{j}", 4.0) for i in range(9) for j in range(i % 4 + 1)])
    train, held_out = split(ratings, quick_settings)
    model = fitting.fit(spark, train, quick_settings, USUAL)
    share, error = judge_ratings(model.rating, train, held_out, quick_settings)
    assert (share, error["rmse"]) == (0, pytest.approx(0))
    assert judge_lists(model, train, held_out, quick_settings)["ndcg"] > 0


def test_a_held_out_part_of_strangers_has_no_rmse(
    spark: SparkSession, quick_settings: Settings
) -> None:
    ratings = ratings_of([("u1", "r1", 4), ("u2", "r2", 3), ("u3", "r3", 5)])
    train, held_out = ratings.rows(ratings.user < 2), ratings.rows(ratings.user == 2)
    model = fitting.fit_rating(spark, train, quick_settings, Weights())
    _, error = judge_ratings(model, train, held_out, quick_settings)
    assert (error["rmse"], error["cold"]) == (None, 1)
    assert error["reason"] is not None


def test_a_preference_is_for_where_one_goes_not_for_what_one_rates_highly(
    spark: SparkSession, db_settings: Settings
) -> None:
    """Users go to places of their colour, and rate them with 1 to 5 as it comes."""
    visits = [(i, j) for i in range(30) for j in range(20) if (i + j) % 2 and (i + 3 * j) % 5]
    ratings = ratings_of([(f"u{i:02}", f"r{j:02}", 1 + (i + j) % 5) for i, j in visits])
    model = fitting.fit(spark, ratings, db_settings, USUAL)
    own_colour = np.add.outer(np.arange(30), np.arange(20)) % 2 == 1
    scores = scores_of(model, ratings, db_settings)
    assert roc_auc_score(own_colour.ravel(), scores.ravel()) > 0.95


def test_users_who_are_folded_in_get_what_spark_gives_them(
    spark: SparkSession, city: Ratings, quick_settings: Settings
) -> None:
    several = city.rows(np.bincount(city.user)[city.user] >= 2)
    visits = visits_of(city, quick_settings)
    preferences = fitting.fit_preferences(spark, city, quick_settings, CONFIDENCE)
    als = ALS(
        rank=quick_settings.als_preference_rank,
        maxIter=quick_settings.als_max_iter,
        regParam=CONFIDENCE.reg_param,
        alpha=CONFIDENCE.alpha / visits.data.mean(),
        implicitPrefs=True,
        seed=quick_settings.seed,
        userCol="user",
        itemCol="restaurant",
        numUserBlocks=2,
        numItemBlocks=2,
    )
    columns = [several.user, several.restaurant, several.rating.astype(np.float32)]
    table = pa.table(columns, names=["user", "restaurant", "rating"])
    theirs = als.fit(spark.createDataFrame(table).coalesce(2))
    users = fitting.factor_matrix(theirs.userFactors, len(city.users), theirs.rank)
    places = fitting.factor_matrix(theirs.itemFactors, len(city.restaurants), theirs.rank)
    expected = users @ np.nan_to_num(places).T
    known = np.unique(several.user)
    ours = preferences.user_factors(visits)[known, :-1] @ preferences.factors.T
    assert ours == pytest.approx(expected[known], abs=2e-4)


def test_only_so_many_users_teach_the_preference(
    spark: SparkSession, city: Ratings, quick_settings: Settings
) -> None:
    few = quick_settings.model_copy(update={"als_preference_users": 2})
    factors = fitting.fit_preferences(spark, city, few, CONFIDENCE).factors
    taught = np.flatnonzero(factors.any(axis=1))
    rated = [set(city.restaurant[city.user == user]) for user in range(len(city.users))]
    pairs = [
        (a, b) for a in range(len(rated)) for b in range(a) if len(rated[a]) > 1 < len(rated[b])
    ]
    assert set(taught) in [rated[a] | rated[b] for a, b in pairs]


def test_where_nobody_has_rated_two_the_popular_ones_are_recommended(
    spark: SparkSession, quick_settings: Settings
) -> None:
    ratings = ratings_of([(f"u{i}", f"r{i % 7 * (i % 2)}", 4) for i in range(50)])
    model = fitting.fit(spark, ratings, quick_settings, USUAL)
    popularity = np.bincount(ratings.restaurant)
    assert (scores_of(model, ratings, quick_settings).argmax(axis=1) == popularity.argmax()).all()


@pytest.mark.parametrize(("iterations", "interval", "cut"), [(11, 10, True), (25, 100, False)])
def test_long_lineages_are_cut_and_where_not_do_not_kill_the_jvm(
    spark: SparkSession, db_settings: Settings, iterations: int, interval: int, cut: bool
) -> None:
    pairs = [(i, (i + step) % 7) for i in range(50) for step in range(2)]
    ratings = ratings_of([(f"u{i}", f"r{j}", i % 5 + 1) for i, j in pairs])
    many = db_settings.model_copy(
        update={"als_max_iter": iterations, "als_checkpoint_interval": interval}
    )
    folder = spark.sparkContext.getCheckpointDir()
    assert folder
    written = Path(folder.removeprefix("file:"))
    rating = fitting.fit_rating(spark, ratings, many, Weights())
    assert np.isfinite(rating.user_factors).all()
    before = set(written.iterdir())
    preferences = fitting.fit_preferences(spark, ratings, many, CONFIDENCE)
    assert np.isfinite(preferences.factors).all()
    assert bool(set(written.iterdir()) - before) == cut


def test_a_fit_that_did_not_hold_is_not_used(spark: SparkSession) -> None:
    rows = [(0, [1.0, 2.0]), (3, [0.5, float("inf")])]
    factors = spark.createDataFrame(rows, "id int, features array<float>")
    with pytest.raises(ModelRejectedError, match="ALS's factors are not finite"):
        fitting.factor_matrix(factors, 4, 2)
