"""How sure ratings make a preference: found on what is held out, on a real Spark."""

from __future__ import annotations

import numpy as np
import pytest
from pyspark.sql import SparkSession

from recommender.confidence import USUAL_ALPHA, Confidence, find_confidence
from recommender.ratings import Ratings
from recommender.settings import Settings
from tests.support import ratings_of


@pytest.fixture
def quick(db_settings: Settings) -> Settings:
    return db_settings.model_copy(update={"als_preference_rank": 8})


def dense(seed: int) -> Ratings:
    """Users who have been to a third of all places, those that suit their taste best."""
    rng = np.random.default_rng(seed)
    suits = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 120)) + rng.normal(size=(200, 120))
    went = np.argsort(-suits, axis=1)[:, :40]
    return ratings_of(
        [(f"u{u:03}", f"r{place:03}", 5.0) for u, places in enumerate(went) for place in places]
    )


def test_what_is_set_by_hand_stays(spark: SparkSession, quick: Settings) -> None:
    by_hand = quick.model_copy(update={"als_alpha": 5.0})
    assert find_confidence(spark, dense(1), by_hand) == Confidence(5, 1)
    both = by_hand.model_copy(update={"als_preference_reg_param": 0.3})
    assert find_confidence(spark, dense(1), both) == Confidence(5, 0.3)


def test_the_regularisation_by_hand_is_that_of_the_alpha_found(
    spark: SparkSession, quick: Settings
) -> None:
    by_hand = quick.model_copy(update={"als_preference_reg_param": 0.3})
    found = find_confidence(spark, dense(1), by_hand)
    assert found.reg_param == 0.3
    assert found.alpha == find_confidence(spark, dense(1), by_hand).alpha


def test_where_users_have_been_to_most_of_what_suits_them_alpha_is_low(
    spark: SparkSession, quick: Settings
) -> None:
    found = find_confidence(spark, dense(2), quick)
    assert found.alpha < USUAL_ALPHA
    assert found.reg_param == pytest.approx(found.alpha / 5)


@pytest.mark.parametrize(
    "rows",
    [
        [(f"u{i}", f"r{i % 3}", 5.0) for i in range(30)],  # nobody has rated two
        [(f"u{i}", f"r{j}", 1.0) for i in range(30) for j in range(3)],  # nobody likes any
    ],
)
def test_where_nothing_can_be_judged_it_is_the_usual_one(
    spark: SparkSession, quick: Settings, rows: list[tuple[str, str, float]]
) -> None:
    assert find_confidence(spark, ratings_of(rows), quick) == Confidence(USUAL_ALPHA, 4)


def chance(seed: int) -> Ratings:
    """Users who have been to any three of many places."""
    rng = np.random.default_rng(seed)
    return ratings_of(
        [
            (f"u{user}", f"r{place:03}", 5.0)
            for user in range(40)
            for place in rng.choice(300, 3, replace=False)
        ]
    )


def test_chance_seldom_moves_it(spark: SparkSession, quick: Settings) -> None:
    found = [find_confidence(spark, chance(seed), quick).alpha for seed in range(20)]
    assert found.count(USUAL_ALPHA) >= 18


@pytest.mark.parametrize("ratings", [2, 3])
def test_a_single_user_of_several_ratings_does_not_move_it(
    spark: SparkSession, quick: Settings, ratings: int
) -> None:
    rows = [("several", f"r{place}", 5.0) for place in range(ratings)]
    rows += [(f"u{user}", f"r{user % 9}", 5.0) for user in range(30)]
    assert find_confidence(spark, ratings_of(rows), quick) == Confidence(USUAL_ALPHA, 4)


def test_it_is_seeded(spark: SparkSession, quick: Settings) -> None:
    ratings = dense(4)
    assert find_confidence(spark, ratings, quick) == find_confidence(spark, ratings, quick)
