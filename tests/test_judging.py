"""How good lists are on what was held out, on plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recommender.baseline import Weights, fit_bias
from recommender.foldin import preferences_of
from recommender.judging import judge_lists
from recommender.models import Model
from recommender.ratings import Ratings
from recommender.settings import Settings
from tests.support import ratings_of


def circles(users: int = 30, places: int = 40, own: int = 6) -> Ratings:
    """Users who like the places next to their own number, one after another."""
    return ratings_of(
        [
            (f"u{user:02}", f"r{(user + step) % places:02}", 5.0)
            for user in range(users)
            for step in range(own)
        ]
    )


def next_ones(ratings: Ratings) -> Model:
    """A model that sends whoever likes a place to its neighbours: they have like factors."""
    angles = 2 * np.pi * np.arange(len(ratings.restaurants)) / len(ratings.restaurants)
    waves = [wave(k * angles) for k in range(1, 9) for wave in (np.cos, np.sin)]
    factors = np.array(waves, dtype=np.float32).T
    popularity = np.bincount(ratings.restaurant, minlength=len(factors))
    preferences = preferences_of(factors, popularity, alpha=10, reg_param=0.1)
    return Model(offsets_as_rating(ratings), preferences)


def offsets_as_rating(ratings: Ratings) -> Any:
    return fit_bias(ratings, Weights())  # judge_lists asks nothing of it


def held_out(ratings: Ratings, rating: float = 5.0) -> tuple[Ratings, Ratings]:
    """Hold the third rating of each user out."""
    first = np.flatnonzero(np.diff(ratings.user, prepend=-1))
    chosen = np.zeros(len(ratings), dtype=bool)
    chosen[first + 2] = True
    out = ratings.rows(chosen)
    out.rating[:] = rating
    return ratings.rows(~chosen), out


def test_a_model_that_knows_is_above_the_popular_list_and_that_above_chance(
    db_settings: Settings,
) -> None:
    ratings = circles()
    found = judge_lists(next_ones(ratings), *held_out(ratings), db_settings)
    assert (found["users"], found["shown"]) == (30, 13)
    assert found["ndcg"] > 2 * found["popular"]["ndcg"]
    assert found["hit_rate"] > 0.9
    assert 0 < found["random"]["ndcg"] < 0.35
    assert found["popular"]["coverage"] < found["coverage"] <= 1


def test_users_are_judged_apart_by_how_active_they_are(db_settings: Settings) -> None:
    found = judge_lists(next_ones(circles()), *held_out(circles()), db_settings)
    assert [(g["ratings_from"], g["users"]) for g in found["by_activity"]] == [(5, 30)]
    assert found["by_activity"][0]["ndcg"] == pytest.approx(found["ndcg"])
    few = circles(own=4)
    found = judge_lists(next_ones(few), *held_out(few), db_settings)
    assert [(g["ratings_from"], g["users"]) for g in found["by_activity"]] == [(2, 30)]


def test_no_more_users_are_asked_than_the_setting_says(db_settings: Settings) -> None:
    some = db_settings.model_copy(update={"als_evaluate_users": 7})
    found = judge_lists(next_ones(circles()), *held_out(circles()), some)
    assert found["users"] == 7
    again = judge_lists(next_ones(circles()), *held_out(circles()), some)
    assert again == found


def test_where_nothing_held_out_is_liked_there_is_no_figure_but_a_reason(
    db_settings: Settings,
) -> None:
    found = judge_lists(next_ones(circles()), *held_out(circles(), rating=2.0), db_settings)
    assert (found["users"], found["ndcg"], found["map"], found["coverage"]) == (0, *[None] * 3)
    assert found["reason"] == "no rating held out is of a restaurant liked"
