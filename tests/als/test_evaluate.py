"""Evaluation of predictions and lists on test ratings."""

from typing import Any

import numpy as np
import pytest

from recommender.als import evaluate
from recommender.als.evaluate import cross_fitted, evaluate_lists
from recommender.als.fold_in import preference_model
from recommender.als.model import Model
from recommender.core.settings import Settings
from recommender.data.ratings import Ratings
from tests.support import ratings_of


def circles(users: int = 30, items: int = 40) -> Ratings:
    """Users who rate the restaurants that follow their own number."""
    return ratings_of(
        [
            (f"u{user:02}", f"r{(user + step) % items:02}", 5.0)
            for user in range(users)
            for step in range(6)
        ]
    )


def neighbours(ratings: Ratings) -> Model:
    """A model of circular factors: it recommends the neighbours of a user's restaurants."""
    angles = 2 * np.pi * np.arange(len(ratings.restaurants)) / len(ratings.restaurants)
    waves = [wave(k * angles) for k in range(1, 9) for wave in (np.cos, np.sin)]
    factors = np.array(waves, dtype=np.float32).T
    popularity = np.bincount(ratings.restaurant, minlength=len(factors))
    preferences = preference_model(factors, popularity, alpha=10, reg_param=0.1)
    unused: Any = None
    return Model(unused, preferences)


def split(ratings: Ratings, rating: float = 5.0) -> tuple[Ratings, Ratings]:
    """Return the third rating of each user as test ratings."""
    first = np.flatnonzero(np.diff(ratings.user, prepend=-1))
    chosen = np.zeros(len(ratings), dtype=bool)
    chosen[first + 2] = True
    test = ratings.rows(chosen)
    test.rating[:] = rating
    return ratings.rows(~chosen), test


def test_a_good_model_beats_the_popular_list_and_that_beats_random_lists(
    db_settings: Settings,
) -> None:
    ratings = circles()
    figures = evaluate_lists(neighbours(ratings), *split(ratings), db_settings)
    assert (figures["users"], figures["shown"]) == (30, 13)
    assert figures["ndcg"] > 2 * figures["popular"]["ndcg"]
    assert figures["hit_rate"] > 0.9
    assert 0 < figures["random"]["ndcg"] < 0.35
    assert figures["popular"]["coverage"] < figures["coverage"] <= 1
    assert 0 < figures["popular"]["ndcg_error"] < 0.1


def test_the_popular_list_is_the_published_one(db_settings: Settings) -> None:
    """One restaurant has more ratings, another has higher ones and comes first."""
    rows = [(f"u{user}", "a", 2.0) for user in range(11)]
    rows += [(f"u{user}", "b", 5.0) for user in range(10)]
    rows += [("_test", "c", 5.0), ("_test", "b", 5.0)]
    ratings = ratings_of(rows)
    is_test = (ratings.user == 0) & (ratings.restaurant == 1)
    one = db_settings.with_values({"als_top_n": 1})
    model = neighbours(ratings)
    figures = evaluate_lists(model, ratings.rows(~is_test), ratings.rows(is_test), one)
    assert figures["popular"]["ndcg"] == 1
    assert figures["ndcg_error"] is None


def test_a_sample_of_many_users_is_evaluated(
    db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "EVALUATED_USERS", 7)
    figures = [
        evaluate_lists(neighbours(circles()), *split(circles()), db_settings) for _ in range(2)
    ]
    assert figures[0]["users"] == 7
    assert figures[0] == figures[1]


def test_without_a_relevant_restaurant_there_is_no_figure(db_settings: Settings) -> None:
    figures = evaluate_lists(neighbours(circles()), *split(circles(), rating=2.0), db_settings)
    assert (figures["users"], figures["ndcg"], figures["map"], figures["coverage"]) == (
        0,
        *[None] * 3,
    )
    assert figures["reason"]


def test_the_blend_weight_is_fitted_to_the_other_half() -> None:
    rng = np.random.default_rng(0)
    predictor = rng.standard_normal(20_000)
    actual = 0.6 * predictor + rng.standard_normal(20_000)
    weight, predicted = cross_fitted(predictor, actual, seed=1)
    assert weight == pytest.approx(0.6, abs=0.03)
    halves = set((predicted / predictor).round(9))
    assert len(halves) == 2
    assert max(abs(half - 0.6) for half in halves) < 0.05


def test_the_blend_weight_is_in_0_to_1_and_small_for_noise() -> None:
    rng = np.random.default_rng(0)
    noise, actual = rng.standard_normal(300), rng.standard_normal(300)
    assert cross_fitted(-actual, actual, seed=1)[0] == 0
    assert cross_fitted(0.5 * actual, actual, seed=1)[0] == 1
    weight, predicted = cross_fitted(noise * 1e-3, actual, seed=1)
    assert np.mean((actual - predicted) ** 2) < 1.02 * np.mean(actual**2)
    assert cross_fitted(np.zeros(3), np.ones(3), seed=0)[0] == 0
    assert weight <= 1


def test_no_value_affects_its_own_prediction() -> None:
    rng = np.random.default_rng(2)
    predictor, actual = rng.standard_normal(50), rng.standard_normal(50) + 1
    before = cross_fitted(predictor, actual, seed=3)[1]
    actual[7] += 100
    assert cross_fitted(predictor, actual, seed=3)[1][7] == before[7]
