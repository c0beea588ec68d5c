"""Which ratings are for training and which for testing, and which users stand for all."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.core.settings import Settings
from recommender.data.ratings import Ratings

_SEEDS = 2**31
_RELEVANT_SHARE = 0.2  # of a test user's relevant items


def split(
    ratings: Ratings, settings: Settings, of: NDArray[np.bool_] | None = None
) -> tuple[Ratings, Ratings]:
    """Return training and test ratings, by `choose_test_rows`; only users ``of`` have test ones."""
    time = ratings.time if settings.als.test_split == "time" else None
    is_test = choose_test_rows(ratings.user, settings.als.test_fraction, settings.seed, time)
    if of is not None:
        is_test &= of[ratings.user]
    return ratings.rows(~is_test), ratings.rows(is_test)


def with_fold_seed(settings: Settings, fold: int) -> Settings:
    """Return the settings with the seed of a fold."""
    return settings.with_values({"seed": (settings.seed + fold) % _SEEDS})


def sample_users(ratings: Ratings, max_ratings: int, seed: int) -> Ratings:
    """Return all ratings of random users, one or more, up to ``max_ratings`` in total."""
    counts = np.bincount(ratings.user, minlength=len(ratings.users))
    order = np.random.default_rng(seed).permutation(np.flatnonzero(counts))
    fit = np.searchsorted(counts[order].cumsum(), max_ratings, side="right")
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[order[: max(1, fit)]] = True
    return ratings.rows(chosen[ratings.user])


def relevant_items(
    test: Ratings, settings: Settings, most: int | None = None
) -> tuple[NDArray[np.int32], csr_array]:
    """Return the users, at random ``most``, with relevant test items: (users, restaurants)."""
    relevant = test.rows(test.rating >= settings.reviews.relevant_from)
    users = np.unique(relevant.user)
    if most is not None and len(users) > most:
        users = np.sort(np.random.default_rng(settings.seed).choice(users, most, replace=False))
    return users, csr_array(relevant.matrix(1.0)[users])


def choose_test_rows(
    user: NDArray[np.int32], fraction: float, seed: int, time: NDArray[np.float64] | None = None
) -> NDArray[np.bool_]:
    """Choose the test ratings of each user, bool (n,), at random or by ``time`` the latest.

    ``fraction`` of each user's ratings is rounded down, but at least one of two or more; the only
    rating of a user is never chosen. Unknown times, NaN, count as the oldest; ties are random.
    """
    chance = np.random.default_rng(seed).random(len(user))
    age = np.zeros(len(user)) if time is None else -np.where(np.isnan(time), -np.inf, time)
    totals = np.bincount(user)
    quota = np.where(totals >= 2, np.maximum(1, (totals * fraction).astype(np.int64)), 0)
    return _first_of_each(user, np.lexsort((chance, age, user)), quota)


def _first_of_each(
    user: NDArray[np.integer[Any]], order: NDArray[np.intp], quota: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Choose the first rows of each user in an order by user, up to the user's quota."""
    totals = np.bincount(user, minlength=len(quota))
    rank = np.arange(len(user)) - (np.cumsum(totals) - totals)[user[order]]
    chosen = np.zeros(len(user), dtype=bool)
    chosen[order] = rank < quota[user[order]]
    return chosen


@dataclass(frozen=True, eq=False)
class UserSplit:
    """Training users, and the test users' ratings, split in two: (test users, items)."""

    train_users: NDArray[np.int64]
    seen: csr_array  # those that a model may use
    relevant: csr_array  # relevant items not among them, one or more of each user


def split_users(
    rows: csr_array, relevant_from: float, *, seed: int, users_share: float = 0.1
) -> UserSplit:
    """Choose test users of the ratings, (users, items), and a share of their relevant items.

    The shares are rounded down, but at least one relevant item is chosen. Users with one rating, or
    with none of ``relevant_from`` or more, are left out.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(rows.shape[0])[: int(rows.shape[0] * users_share)])
    test = csr_array(rows[chosen])
    degrees = np.diff(test.indptr)
    user = np.repeat(np.arange(len(chosen)), degrees)
    relevant = np.bincount(user[test.data >= relevant_from], minlength=len(chosen))
    quota = np.where(degrees >= 2, np.clip(relevant * _RELEVANT_SHARE, 1, relevant), 0)
    # Each user's relevant items come first, in random order.
    order = np.lexsort((rng.random(len(user)), test.data < relevant_from, user))
    is_test = _first_of_each(user, order, quota.astype(np.int64))
    test_users = np.flatnonzero(quota >= 1)

    def rows_of(of: NDArray[np.bool_]) -> csr_array:
        triplets = (test.data[of], (user[of], test.indices[of]))
        return csr_array(csr_array(triplets, shape=test.shape)[test_users])

    train_users = np.setdiff1d(np.arange(rows.shape[0]), chosen)
    return UserSplit(train_users, seen=rows_of(~is_test), relevant=rows_of(is_test))
