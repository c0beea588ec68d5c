"""Which ratings are for training and which for testing, and which users stand for all."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.core.settings import AlsSettings
from recommender.data.ratings import Ratings

_SEEDS = 2**31


def split(
    ratings: Ratings, als: AlsSettings, seed: int, of: NDArray[np.bool_] | None = None
) -> tuple[Ratings, Ratings]:
    """Return training and test ratings, by `choose_test_rows`; only users ``of`` have test ones."""
    time = ratings.time if als.test_split == "time" else None
    is_test = choose_test_rows(ratings.user, als.test_fraction, seed, time, of)
    return ratings.rows(~is_test), ratings.rows(is_test)


def fold_seed(seed: int, fold: int) -> int:
    """Return the seed of a fold, which is a valid one, too."""
    return (seed + fold) % _SEEDS


def sample_users(ratings: Ratings, max_ratings: int, seed: int) -> Ratings:
    """Return all ratings of random users, one or more, up to ``max_ratings`` in total."""
    counts = np.bincount(ratings.user, minlength=len(ratings.users))
    order = np.random.default_rng(seed).permutation(np.flatnonzero(counts))
    fit = np.searchsorted(counts[order].cumsum(), max_ratings, side="right")
    return ratings.rows(np.isin(ratings.user, order[: max(1, fit)]))


def relevant_items(
    test: Ratings, relevant_from: float, most: int | None = None, seed: int = 0
) -> tuple[NDArray[np.int32], csr_array]:
    """Return the users, at random ``most``, with relevant test items: (users, restaurants)."""
    relevant = test.rows(test.rating >= relevant_from)
    users = np.unique(relevant.user)
    if most is not None and len(users) > most:
        users = np.sort(np.random.default_rng(seed).choice(users, most, replace=False))
    return users, csr_array(relevant.matrix(1.0)[users])


def choose_test_rows(
    user: NDArray[np.int32],
    fraction: float,
    seed: int,
    time: NDArray[np.float64] | None = None,
    of: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Choose the test ratings of each user, bool (n,), at random or by ``time`` the latest.

    ``fraction`` of each user's ratings is rounded down, but at least one of two or more; the only
    rating of a user is never chosen. Unknown times, NaN, count as the oldest; ties are random. Of
    users not in ``of``, bool (users,), none is chosen; the choice for the others stays the same.
    """
    chance = np.random.default_rng(seed).random(len(user))
    chosen = np.zeros(len(user), dtype=bool)
    rows = np.arange(len(user)) if of is None else np.flatnonzero(of[user])
    user, chance = user[rows], chance[rows]
    age = np.zeros(len(rows)) if time is None else -np.where(np.isnan(time), -np.inf, time)[rows]
    totals = np.bincount(user)
    quota = np.where(totals >= 2, np.maximum(1, (totals * fraction).astype(np.int64)), 0)
    # Each user's rows are ranked, the latest first, and chosen up to the quota.
    order = np.lexsort((chance, age, user))
    rank = np.arange(len(user)) - (np.cumsum(totals) - totals)[user[order]]
    chosen[rows[order]] = rank < quota[user[order]]
    return chosen


def choose_test_users(count: int, share: float, seed: int) -> NDArray[np.bool_]:
    """Choose this share of the users at random, rounded down: bool (``count``,)."""
    test_users = np.random.default_rng(seed).permutation(count)[: int(count * share)]
    return np.isin(np.arange(count), test_users)
