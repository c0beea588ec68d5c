"""The split of ratings, and the choice of users."""

from dataclasses import replace

import numpy as np
import pytest

from recommender.core.settings import Settings
from recommender.data.ratings import Ratings
from recommender.evaluation.splitting import (
    choose_test_rows,
    choose_test_users,
    fold_seed,
    sample_users,
    split,
)
from tests.support import ratings_of


def staircase() -> Ratings:
    """Twenty users who have rated 1 to 5 restaurants each, the same number every fifth."""
    return ratings_of([(f"u{i:02}", f"r{j}", 3) for i in range(20) for j in range(i % 5 + 1)])


def pairs(ratings: Ratings) -> set[tuple[int, int]]:
    return set(zip(ratings.user.tolist(), ratings.restaurant.tolist(), strict=True))


def test_a_fifth_of_each_users_ratings_is_test_and_at_least_one_of_two() -> None:
    counts = np.array([1, 2, 4, 5, 9, 10, 15, 0, 30])
    user = np.repeat(np.arange(9), counts).astype(np.int32)
    is_test = choose_test_rows(user, 0.2, seed=1)
    assert np.bincount(user[is_test], minlength=9).tolist() == [0, 1, 1, 1, 1, 2, 3, 0, 6]


def test_the_test_rows_are_seeded() -> None:
    user = np.repeat(np.arange(40), 10).astype(np.int32)
    is_test = choose_test_rows(user, 0.2, seed=0)
    assert (is_test == choose_test_rows(user, 0.2, seed=0)).all()
    assert (is_test != choose_test_rows(user, 0.2, seed=1)).any()
    assert len(set(np.flatnonzero(is_test) % 10)) == 10


def test_the_latest_ratings_are_test_and_unknown_times_come_last() -> None:
    user = np.repeat(np.arange(50), 5).astype(np.int32)
    time = np.tile([3.0, np.nan, 9.0, -7.0, 8.0], 50)
    is_test = choose_test_rows(user, 0.4, seed=0, time=time)
    assert is_test.reshape(50, 5).tolist() == [[False, False, True, False, True]] * 50
    same = choose_test_rows(user, 0.4, seed=0, time=np.full(250, np.nan))
    assert set(np.flatnonzero(same) % 5) == set(range(5))


def test_the_split_is_seeded_and_complete(db_settings: Settings) -> None:
    ratings = staircase()
    train, test = split(ratings, db_settings.als, seed=0)
    again, _ = split(ratings, db_settings.als, seed=0)
    other, _ = split(ratings, db_settings.als, seed=1)
    assert np.bincount(test.user).tolist() == [0, 1, 1, 1, 1] * 4
    assert pairs(train) | pairs(test) == pairs(ratings)
    assert not pairs(train) & pairs(test)
    assert np.array_equal(train.restaurant, again.restaurant)
    assert not np.array_equal(train.restaurant, other.restaurant)


def test_the_split_by_time_tests_the_latest_ratings(db_settings: Settings) -> None:
    ratings = ratings_of([("u", f"r{j}", 3) for j in range(10)])
    ratings = replace(ratings, time=np.array([5.0, 9, 1, 0, 7, 2, 3, 8, 4, 6]))
    by_time = db_settings.with_values({"als_test_split": "time"})
    assert split(ratings, by_time.als, seed=0)[1].time.tolist() == [9, 8]


@pytest.mark.parametrize("order", ["random", "time"])
def test_a_split_of_some_users_is_that_of_all_users(db_settings: Settings, order: str) -> None:
    ratings = staircase()
    ratings = replace(ratings, time=np.random.default_rng(0).random(len(ratings)))
    settings = db_settings.with_values({"als_test_split": order})
    of = np.arange(20) % 3 == 1
    train, test = split(ratings, settings.als, 0, of)
    of_all = split(ratings, settings.als, 0)[1]
    assert pairs(test) == {(u, r) for u, r in pairs(of_all) if u % 3 == 1}
    assert pairs(train) | pairs(test) == pairs(ratings)


def test_the_seed_of_a_fold_stays_one() -> None:
    assert fold_seed(2**31 - 1, 2) == 1


def test_sampled_users_keep_all_their_ratings() -> None:
    ratings = staircase()
    for most in (1, 7, 30, 59, 60, 1000):
        sample = sample_users(ratings, most, seed=3)
        counts = np.bincount(sample.user, minlength=20)
        users = np.flatnonzero(counts)
        assert counts[users].tolist() == np.bincount(ratings.user)[users].tolist()
        assert len(sample) <= most or len(users) == 1
        assert len(sample) == 60 or len(sample) + 5 > most  # all users, or no other fits


def test_test_users_are_a_seeded_share_of_all() -> None:
    one, same, other = (choose_test_users(205, 0.1, seed) for seed in (1, 1, 2))
    assert one.sum() == other.sum() == 20
    assert (one == same).all()
    assert (one != other).any()
    assert not choose_test_users(9, 0.1, 0).any()
