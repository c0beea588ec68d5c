"""What is held out, of whom, and which users stand for all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recommender.ratings import Ratings
from recommender.settings import Settings
from recommender.splits import of_fold, some_users, split, teachers
from tests.support import ratings_of


def staircase() -> Ratings:
    """Twenty users who have rated 1 to 5 restaurants each, the same number every fifth."""
    return ratings_of([(f"u{i:02}", f"r{j}", 3) for i in range(20) for j in range(i % 5 + 1)])


def pairs(ratings: Ratings) -> set[tuple[int, int]]:
    return set(zip(ratings.user.tolist(), ratings.restaurant.tolist(), strict=True))


def test_the_split_is_seeded_and_loses_nothing(db_settings: Settings) -> None:
    ratings = staircase()
    train, held_out = split(ratings, db_settings)
    again, _ = split(ratings, db_settings)
    other, _ = split(ratings, of_fold(db_settings, 1))
    assert np.bincount(held_out.user).tolist() == [0, 1, 1, 1, 1] * 4
    assert pairs(train) | pairs(held_out) == pairs(ratings)
    assert not pairs(train) & pairs(held_out)
    assert np.array_equal(train.restaurant, again.restaurant)
    assert not np.array_equal(train.restaurant, other.restaurant)


def test_the_split_by_time_holds_the_latest_out(db_settings: Settings) -> None:
    ratings = ratings_of([("u", f"r{j}", 3) for j in range(10)])
    ratings = replace(ratings, time=np.array([5.0, 9, 1, 0, 7, 2, 3, 8, 4, 6]))
    by_time = db_settings.model_copy(update={"als_test_split": "time"})
    assert split(ratings, by_time)[1].time.tolist() == [9, 8]


def test_of_some_users_alone_is_held_out_what_would_be_of_all(db_settings: Settings) -> None:
    ratings = staircase()
    of = np.arange(20) < 7
    train, held_out = split(ratings, db_settings, of)
    everybody = split(ratings, db_settings)[1]
    assert pairs(held_out) == {(u, r) for u, r in pairs(everybody) if u < 7}
    assert pairs(train) | pairs(held_out) == pairs(ratings)


def test_the_seed_of_a_fold_stays_one(db_settings: Settings) -> None:
    last = db_settings.model_copy(update={"seed": 2**31 - 1})
    assert of_fold(last, 2).seed == 1


@pytest.mark.parametrize("most", [1, 7, 30, 59, 60, 1000])
def test_some_users_come_with_all_their_ratings(most: int, db_settings: Settings) -> None:
    ratings = staircase()
    some = some_users(ratings, most, db_settings)
    whole = {u: sum(one == u for one, _ in pairs(ratings)) for u in set(some.user.tolist())}
    assert np.bincount(some.user, minlength=20)[list(whole)].tolist() == list(whole.values())
    assert len(some) <= most or len(whole) == 1
    assert len(some) == 60 or len(some) + 5 > most  # everybody, or no other would fit


def test_teachers_are_who_has_rated_two(db_settings: Settings) -> None:
    assert teachers(staircase(), db_settings).tolist() == [False, True, True, True, True] * 4


def test_where_teachers_are_too_many_those_of_more_ratings_are_drawn_for_choice(
    db_settings: Settings,
) -> None:
    ratings = staircase()
    drawn = np.zeros(5)
    for seed in range(200):
        few = db_settings.model_copy(update={"als_preference_users": 4, "seed": seed})
        chosen = teachers(ratings, few)
        assert chosen.sum() == 4
        drawn += chosen.reshape(4, 5).sum(axis=0)
    assert drawn[0] == 0
    # Of those of 2, 3, 4 and 5 ratings; the weights 1 : 2 : 3 : 4, flattened as the best run out.
    assert drawn[1:] / drawn.sum() == pytest.approx([0.11, 0.21, 0.31, 0.37], abs=0.05)
