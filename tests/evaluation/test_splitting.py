"""The split of ratings, and the choice of users."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from recommender.als.model import mllib_users
from recommender.core.settings import Settings
from recommender.data.ratings import Ratings
from recommender.evaluation.splitting import (
    choose_test_rows,
    sample_users,
    split,
    split_users,
    with_fold_seed,
)
from tests.support import ratings_of


def staircase() -> Ratings:
    """Twenty users who have rated 1 to 5 restaurants each, the same number every fifth."""
    return ratings_of([(f"u{i:02}", f"r{j}", 3) for i in range(20) for j in range(i % 5 + 1)])


def some_ratings(seed: int) -> csr_array:
    rng = np.random.default_rng(seed)
    return csr_array(rng.integers(1, 6, (200, 30)) * (rng.random((200, 30)) < 0.5) * 1.0)


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
    train, test = split(ratings, db_settings)
    again, _ = split(ratings, db_settings)
    other, _ = split(ratings, with_fold_seed(db_settings, 1))
    assert np.bincount(test.user).tolist() == [0, 1, 1, 1, 1] * 4
    assert pairs(train) | pairs(test) == pairs(ratings)
    assert not pairs(train) & pairs(test)
    assert np.array_equal(train.restaurant, again.restaurant)
    assert not np.array_equal(train.restaurant, other.restaurant)


def test_the_split_by_time_tests_the_latest_ratings(db_settings: Settings) -> None:
    ratings = ratings_of([("u", f"r{j}", 3) for j in range(10)])
    ratings = replace(ratings, time=np.array([5.0, 9, 1, 0, 7, 2, 3, 8, 4, 6]))
    by_time = db_settings.with_values({"als_test_split": "time"})
    assert split(ratings, by_time)[1].time.tolist() == [9, 8]


def test_a_split_of_some_users_is_that_of_all_users(db_settings: Settings) -> None:
    ratings = staircase()
    of = np.arange(20) < 7
    train, test = split(ratings, db_settings, of)
    of_all = split(ratings, db_settings)[1]
    assert pairs(test) == {(u, r) for u, r in pairs(of_all) if u < 7}
    assert pairs(train) | pairs(test) == pairs(ratings)


def test_the_seed_of_a_fold_stays_one(db_settings: Settings) -> None:
    last = db_settings.with_values({"seed": 2**31 - 1})
    assert with_fold_seed(last, 2).seed == 1


def test_sampled_users_keep_all_their_ratings() -> None:
    ratings = staircase()
    for most in (1, 7, 30, 59, 60, 1000):
        sample = sample_users(ratings, most, seed=3)
        counts = np.bincount(sample.user, minlength=20)
        users = np.flatnonzero(counts)
        assert counts[users].tolist() == np.bincount(ratings.user)[users].tolist()
        assert len(sample) <= most or len(users) == 1
        assert len(sample) == 60 or len(sample) + 5 > most  # all users, or no other fits


def test_training_users_have_two_ratings_or_more() -> None:
    assert mllib_users(staircase(), 20, seed=0).tolist() == [False, True, True, True, True] * 4


def test_training_users_are_drawn_by_their_number_of_ratings() -> None:
    ratings = staircase()
    drawn = np.zeros(5)
    for seed in range(200):
        chosen = mllib_users(ratings, 4, seed)
        assert chosen.sum() == 4
        drawn += chosen.reshape(4, 5).sum(axis=0)
    assert drawn[0] == 0
    # Users of 2 to 5 ratings have weights 1 : 2 : 3 : 4, flattened as the heavy ones run out.
    assert drawn[1:] / drawn.sum() == pytest.approx([0.11, 0.21, 0.31, 0.37], abs=0.05)


def test_a_tenth_of_the_users_and_a_fifth_of_their_relevant_items_are_test() -> None:
    rows = some_ratings(0)
    test = split_users(rows, 4, seed=0)
    assert len(test.train_users) == 180
    out = np.setdiff1d(np.arange(200), test.train_users)
    test_user = 0
    for user in out:
        row = rows[[user]].toarray()[0]
        relevant = (row >= 4).sum()
        if (row > 0).sum() < 2 or not relevant:
            continue
        seen, relevant_items = (
            test.seen[[test_user]].toarray()[0],
            test.relevant[[test_user]].toarray()[0],
        )
        assert (seen + relevant_items == row).all()
        assert not (seen * relevant_items).any()
        assert (relevant_items > 0).sum() == max(1, relevant // 5)
        assert set(relevant_items) <= {0, 4, 5}
        assert seen.any()
        test_user += 1
    assert test.seen.shape == test.relevant.shape == (test_user, 30)


def test_the_test_users_and_items_are_seeded() -> None:
    rows = some_ratings(0)
    one, same, other = (split_users(rows, 4, seed=seed) for seed in (1, 1, 2))
    assert (one.relevant.toarray() == same.relevant.toarray()).all()
    assert one.train_users.tolist() == same.train_users.tolist() != other.train_users.tolist()


def test_users_of_one_rating_or_no_relevant_item_are_not_test_users() -> None:
    rows = csr_array(np.array([[5.0, 0, 0], [1, 2, 3], [5, 5, 0], [0, 4, 1]]))
    test = split_users(rows, 4, seed=0, users_share=1)
    assert test.seen.shape[0] == 2
    assert np.diff(test.relevant.indptr).tolist() == np.diff(test.seen.indptr).tolist() == [1, 1]
    assert test.relevant.toarray()[1].tolist() == [0, 4, 0]
    assert not len(test.train_users)
