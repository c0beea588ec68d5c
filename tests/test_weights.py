"""The weights of the offsets: those that data was made with are found again."""

from __future__ import annotations

import numpy as np
import pytest

from recommender.ratings import Ratings
from recommender.settings import Settings
from recommender.weights import Weights, find_weights, offsets
from tests.support import ratings_of


def drawn(users: float, restaurants: float, noise: float, seed: int) -> Ratings:
    """Draw ratings of offsets and noise with these deviations; a user rates six places."""
    rng = np.random.default_rng(seed)
    of_user, of_place = rng.normal(0, users, 400), rng.normal(0, restaurants, 80)
    rows = []
    for user in range(400):
        for place in rng.choice(80, 6, replace=False):
            rating = 2.5 + of_user[user] + of_place[place] + rng.normal(0, noise)
            rows.append((f"u{user:03}", f"r{place:02}", float(np.clip(rating, 0, 5))))
    return ratings_of(rows)


@pytest.fixture
def any_scale(db_settings: Settings) -> Settings:
    return db_settings.model_copy(update={"rating_min": 0.0})


@pytest.mark.parametrize(
    ("deviations", "around"),
    [((0.5, 0.5, 0.5), (1, 1)), ((0.2, 0.5, 0.6), (9, 1.4)), ((0.7, 0.08, 0.6), (0.75, 56))],
)
def test_they_are_the_variance_of_ratings_by_that_of_offsets(
    deviations: tuple[float, float, float], around: tuple[float, float], any_scale: Settings
) -> None:
    found = find_weights(drawn(*deviations, seed=1), any_scale)
    user, restaurant = around
    assert user / 2.5 < found.user < user * 2.5
    assert restaurant / 3 < found.restaurant < restaurant * 3


def test_what_is_set_by_hand_stays(any_scale: Settings) -> None:
    ratings = drawn(0.2, 0.5, 0.6, seed=1)
    one = any_scale.model_copy(update={"als_user_weight": 100.0})
    assert find_weights(ratings, one).user == 100
    both = one.model_copy(update={"als_restaurant_weight": 7.0})
    assert find_weights(ratings, both) == Weights(100, 7)


@pytest.mark.parametrize("given", [None, 7.0])
def test_where_nothing_can_be_held_out_they_are_the_usual_ones(
    given: float | None, any_scale: Settings
) -> None:
    ratings = ratings_of([(f"u{i}", f"r{i % 3}", i % 5 + 1) for i in range(9)])
    settings = any_scale.model_copy(update={"als_restaurant_weight": given})
    assert find_weights(ratings, settings) == Weights(3, given or 20)


def test_heavier_weights_bring_offsets_nearer_to_the_mean() -> None:
    ratings = drawn(0.5, 0.5, 0.5, seed=2)
    light, heavy = (offsets(ratings, Weights(w, w)) for w in (1.0, 50.0))
    for name in ("user_offsets", "restaurant_offsets"):
        assert np.abs(getattr(heavy, name)).mean() < np.abs(getattr(light, name)).mean() / 2
