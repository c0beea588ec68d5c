"""The fits, on a real Spark."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.ml.recommendation import ALS
from pyspark.sql import SparkSession
from scipy.sparse import csr_array
from sklearn.metrics import roc_auc_score

from recommender.als import fit as fitting
from recommender.als.bias import BiasDamping
from recommender.als.choose_preference import PreferenceParameters
from recommender.als.confidence import confidence_matrix
from recommender.als.evaluate import evaluate_lists, evaluate_ratings
from recommender.als.reuse import ChosenParameters
from recommender.als.sweeps import Factors, HalfStep, implicit_step, random_factors, sweep
from recommender.core.errors import ModelRejectedError
from recommender.core.settings import Settings
from recommender.data.ratings import Ratings
from recommender.evaluation.splitting import split
from recommender.runs.ledger import now
from tests.als.fits import fit_model
from tests.support import ratings_of, scores_of

PARAMETERS = PreferenceParameters(
    alpha=20.0, reg_param=4.0, rank=16, embedding_weight=0.5, item_item_weight=0.2
)
CHOSEN = ChosenParameters(BiasDamping(), PARAMETERS, at=now(), ratings=1)


def checkerboard() -> Ratings:
    """Users rate what is of their colour 5 and the rest 1."""
    return ratings_of(
        [(f"u{i}", f"r{j}", 5.0 if (i + j) % 2 else 1.0) for i in range(30) for j in range(20)]
    )


@pytest.mark.parametrize("objective", ["rating", "preference"])
def test_als_learns_a_checkerboard(
    spark: SparkSession, quick_settings: Settings, objective: str
) -> None:
    settings = quick_settings.with_values({"als_objective": objective})
    train, test = split(checkerboard(), settings.als, settings.seed)
    model = fit_model(spark, train, settings, CHOSEN if objective == "preference" else None)
    blend_weight, error = evaluate_ratings(model.rating, train, test, settings)
    assert error["rows"] == 120
    assert error["rmse"] < 0.3
    assert error["mean_rmse"] == pytest.approx(2.0, abs=0.1)
    assert blend_weight > 0.9


@pytest.mark.parametrize(("low", "high", "step"), [(0, 2, 1), (0.5, 10, 0.5)])
def test_both_fits_learn_on_any_scale(
    spark: SparkSession, quick_settings: Settings, low: float, high: float, step: float
) -> None:
    """Users rate restaurants of their colour, and rate those of their quarter highly."""
    bounds = {"rating_min": low, "rating_max": high}
    settings = quick_settings.with_values(bounds)
    pairs = [(i, j) for i in range(40) for j in range(32) if (i + j) % 2 and (i + 3 * j) % 5]
    rows = [(f"u{i:02}", f"r{j:02}", high if (i + j) % 4 == 1 else low + step) for i, j in pairs]
    ratings = ratings_of(rows, **bounds)
    assert (ratings.rating.min(), ratings.rating.max()) == (low + step, high)
    train, test = split(ratings, settings.als, settings.seed)
    model = fit_model(spark, train, settings, CHOSEN)
    blend_weight, error = evaluate_ratings(model.rating, train, test, settings)
    assert error["rmse"] < error["mean_rmse"] / 2
    every = np.arange(40, dtype=np.int32)[:, None], np.arange(32, dtype=np.int32)
    predicted = model.with_blend_weight(blend_weight).rating.predict(*every)
    assert low <= np.nanmin(predicted) < np.nanmax(predicted) <= high
    lists = evaluate_lists(model, train, test, settings)
    assert lists["ndcg"] > 2 * lists["popular"]["ndcg"]


def test_all_ratings_equal_are_predicted_without_als(
    spark: SparkSession, quick_settings: Settings
) -> None:
    ratings = ratings_of([(f"u{i}", f"r{j}", 4.0) for i in range(9) for j in range(i % 4 + 1)])
    train, test = split(ratings, quick_settings.als, quick_settings.seed)
    model = fit_model(spark, train, quick_settings, CHOSEN)
    blend_weight, error = evaluate_ratings(model.rating, train, test, quick_settings)
    assert (blend_weight, error["rmse"]) == (0, pytest.approx(0))
    assert evaluate_lists(model, train, test, quick_settings)["ndcg"] > 0


def test_ratings_of_unknown_users_are_cold(spark: SparkSession, quick_settings: Settings) -> None:
    ratings = ratings_of([("u1", "r1", 4), ("u2", "r2", 3), ("u3", "r3", 5)])
    train, test = ratings.rows(ratings.user < 2), ratings.rows(ratings.user == 2)
    model = fitting.fit_rating(spark, train, quick_settings, BiasDamping())
    _, error = evaluate_ratings(model, train, test, quick_settings)
    assert (error["rmse"], error["cold"]) == (None, 1)
    assert error["reason"] is not None


def test_preferences_do_not_depend_on_the_height_of_ratings(
    spark: SparkSession, quick_settings: Settings
) -> None:
    """Users rate restaurants of their colour, with 1 to 5 in turn."""
    pairs = [(i, j) for i in range(30) for j in range(20) if (i + j) % 2 and (i + 3 * j) % 5]
    ratings = ratings_of([(f"u{i:02}", f"r{j:02}", 1 + (i + j) % 5) for i, j in pairs])
    model = fit_model(spark, ratings, quick_settings, CHOSEN)
    own_colour = np.add.outer(np.arange(30), np.arange(20)) % 2 == 1
    scores = scores_of(model, ratings, quick_settings)
    assert roc_auc_score(own_colour.ravel(), scores.ravel()) > 0.95


def test_sweeps_continue_the_fit_of_mllib(
    spark: SparkSession, city: Ratings, quick_settings: Settings
) -> None:
    """A sweep is an iteration of MLlib's ALS, on the same ratings."""
    several = city.rows(np.bincount(city.user)[city.user] >= 2)
    confidence = confidence_matrix(city, quick_settings.reviews)
    alpha = PARAMETERS.alpha / float(confidence.data.mean())
    als = ALS(
        rank=PARAMETERS.rank,
        regParam=PARAMETERS.reg_param,
        alpha=alpha,
        implicitPrefs=True,
        seed=quick_settings.seed,
        userCol="user",
        itemCol="restaurant",
        numUserBlocks=2,
        numItemBlocks=2,
    )
    columns = [several.user, several.restaurant, several.rating.astype(np.float32)]
    table = pa.table(columns, names=["user", "restaurant", "rating"])
    frame = spark.createDataFrame(table).coalesce(2)
    two, three = (als.setMaxIter(iterations).fit(frame) for iterations in (2, 3))
    start = fitting.factor_matrix(two.itemFactors, len(city.restaurants), two.rank)
    step = partial(implicit_step, alpha=alpha, reg_param=PARAMETERS.reg_param)
    items = sweep(step, several.matrix(), start, 1)
    users = fitting.factor_matrix(three.userFactors, len(city.users), three.rank)
    items_after = fitting.factor_matrix(three.itemFactors, len(city.restaurants), three.rank)
    # MLlib ends with the users: theirs come from the item factors of the same iteration.
    expected = np.nan_to_num(users) @ np.nan_to_num(items_after).T
    assert step(several.matrix(), items) @ items.T == pytest.approx(expected, abs=2e-4)


def test_sweeps_reach_what_mllib_did_not_see_and_a_refit_what_is_in_test_ratings_only(
    spark: SparkSession, city: Ratings, quick_settings: Settings
) -> None:
    few = quick_settings.with_values({"als_preference_users": 2})
    train = city.rows((city.restaurant != 7) & (city.user != 3))
    model = fit_model(spark, train, few, CHOSEN)
    assert model.preferences
    several = train.rows(np.bincount(train.user)[train.user] >= 2)
    rated = np.unique(several.restaurant)
    assert np.array_equal(np.flatnonzero(model.preferences.factors.any(axis=1)), rated)
    assert np.isnan(model.rating.restaurant_factors[7]).all()
    unknown = np.isnan(model.rating.user_factors).any(axis=1)
    assert np.flatnonzero(unknown).tolist() == [3]
    again = fitting.refit(model, city, few, CHOSEN)
    assert again.preferences
    parts = np.split(again.preferences.factors, [PARAMETERS.rank], axis=1)
    assert all(part[7].any() for part in parts)
    assert len(again.preferences.spectrum) == len(model.preferences.spectrum) > PARAMETERS.rank
    assert np.isfinite(again.rating.restaurant_factors).all()
    assert np.isfinite(again.rating.user_factors).all()


def test_two_users_are_enough_to_fit(spark: SparkSession, quick_settings: Settings) -> None:
    ratings = ratings_of([("u1", "a", 5), ("u1", "b", 5), ("u2", "b", 4), ("u2", "c", 3)])
    model = fit_model(spark, ratings, quick_settings, CHOSEN)
    assert np.isfinite(scores_of(model, ratings, quick_settings)).all()


def test_without_a_user_of_two_ratings_the_popular_ones_are_recommended(
    spark: SparkSession, quick_settings: Settings
) -> None:
    ratings = ratings_of([(f"u{i}", f"r{i % 7 * (i % 2)}", 4) for i in range(50)])
    model = fit_model(spark, ratings, quick_settings, CHOSEN)
    popularity = np.bincount(ratings.restaurant)
    assert (scores_of(model, ratings, quick_settings).argmax(axis=1) == popularity.argmax()).all()


def test_a_refit_learns_from_users_of_one_training_rating(
    spark: SparkSession, quick_settings: Settings
) -> None:
    """Each user has two ratings of one colour, one of them for testing: training relates none."""
    pairs = [(i, item) for i in range(300) for item in (i % 10, (i + 2 + i // 10 % 4 * 2) % 10)]
    ratings = ratings_of([(f"u{i:03}", f"r{item}", 5.0) for i, item in pairs])
    train, _ = split(ratings, quick_settings.als, quick_settings.seed)
    model = fit_model(spark, train, quick_settings, CHOSEN)
    assert model.preferences
    assert not model.preferences.factors.any()
    again = fitting.refit(model, ratings, quick_settings, CHOSEN)
    own_colour = np.add.outer(np.arange(300), np.arange(10)) % 2 == 0
    scores = scores_of(again, ratings, quick_settings)
    assert roc_auc_score(own_colour.ravel(), scores.ravel()) > 0.95


def test_long_lineages_are_cut(spark: SparkSession, db_settings: Settings) -> None:
    """Without, 25 iterations overflow the stack of the JVM."""
    pairs = [(i, (i + step) % 7) for i in range(50) for step in range(2)]
    ratings = ratings_of([(f"u{i}", f"r{j}", i % 5 + 1) for i, j in pairs])
    many = db_settings.with_values({"als_max_iter": 25})
    folder = spark.sparkContext.getCheckpointDir()
    assert folder
    before = set(Path(folder.removeprefix("file:")).iterdir())
    model = fitting.fit_rating_alone(spark, ratings, many.als, many.seed)
    assert np.isfinite(model.user_factors).all()
    assert set(Path(folder.removeprefix("file:")).iterdir()) - before


@pytest.mark.parametrize("iterations", [9, 40])
@pytest.mark.parametrize("alone", [False, True])
def test_half_steps_do_the_iterations_after_mllibs(
    spark: SparkSession,
    quick_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    alone: bool,
    iterations: int,
) -> None:
    done = []

    def mllib(_: SparkSession, als: ALS, matrix: csr_array, users: object) -> Factors:
        done.append(als.getMaxIter())
        return random_factors(matrix.shape[1], als.getRank(), 0)

    def swept(step: HalfStep, rows: csr_array, items: Factors, most: int, *, least: int) -> Factors:
        done.append(min(most, least))
        return sweep(step, rows, items, most, least=least)

    monkeypatch.setattr(fitting, "_mllib_items", mllib)
    monkeypatch.setattr(fitting, "sweep", swept)
    settings = quick_settings.with_values({"als_max_iter": iterations})
    if alone:
        fitting.fit_rating_alone(spark, checkerboard(), settings.als, settings.seed)
    else:
        fitting.fit_rating(spark, checkerboard(), settings, BiasDamping())
    by_mllib = iterations if alone else 3
    assert done == [by_mllib, iterations - by_mllib]


def test_factors_that_are_not_finite_are_rejected(spark: SparkSession) -> None:
    rows = [(0, [1.0, 2.0]), (3, [0.5, float("inf")])]
    factors = spark.createDataFrame(rows, "id int, features array<float>")
    with pytest.raises(ModelRejectedError):
        fitting.factor_matrix(factors, 4, 2)
