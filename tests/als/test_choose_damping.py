"""The choice of the bias damping."""

import numpy as np
import pytest

from recommender.als.bias import BiasDamping
from recommender.als.choose_damping import choose_damping
from recommender.core.settings import Settings
from recommender.data.ratings import Ratings
from tests.support import ratings_of


def drawn(users: float, restaurants: float, noise: float, seed: int) -> Ratings:
    """Draw ratings with these deviations of biases and noise: 400 users, six ratings each."""
    rng = np.random.default_rng(seed)
    b_u, b_i = rng.normal(0, users, 400), rng.normal(0, restaurants, 80)
    rows = []
    for user in range(400):
        for item in rng.choice(80, 6, replace=False):
            rating = 2.5 + b_u[user] + b_i[item] + rng.normal(0, noise)
            rows.append((f"u{user:03}", f"r{item:02}", float(np.clip(rating, 0, 5))))
    return ratings_of(rows)


@pytest.fixture
def any_scale(db_settings: Settings) -> Settings:
    return db_settings.with_values({"rating_min": 0.0})


def test_the_damping_is_the_variance_of_ratings_by_that_of_the_biases(any_scale: Settings) -> None:
    for deviations, user, restaurant in [
        ((0.5, 0.5, 0.5), 1, 1),
        ((0.2, 0.5, 0.6), 9, 1.4),
        ((0.7, 0.08, 0.6), 0.75, 56),
    ]:
        damping = choose_damping(drawn(*deviations, seed=1), any_scale)
        assert user / 2.5 < damping.user < user * 2.5
        assert restaurant / 3 < damping.restaurant < restaurant * 3


def test_damping_set_by_hand_is_kept(any_scale: Settings) -> None:
    ratings = drawn(0.2, 0.5, 0.6, seed=1)
    one = any_scale.with_values({"als_user_weight": 100.0})
    assert choose_damping(ratings, one).user == 100
    both = one.with_values({"als_restaurant_weight": 7.0})
    assert choose_damping(ratings, both) == BiasDamping(100, 7)


def test_without_a_test_rating_the_damping_is_the_default(any_scale: Settings) -> None:
    ratings = ratings_of([(f"u{i}", f"r{i % 3}", i % 5 + 1) for i in range(9)])
    for fixed in (None, 7.0):
        settings = any_scale.with_values({"als_restaurant_weight": fixed})
        assert choose_damping(ratings, settings) == BiasDamping(3, fixed or 20)
