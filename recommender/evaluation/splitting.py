"""Which ratings are for training and which for testing, and which users stand for all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.core.settings import Settings
from recommender.data.ratings import Ratings

_SEEDS = 2**31


def split(
    ratings: Ratings, settings: Settings, of: NDArray[np.bool_] | None = None
) -> tuple[Ratings, Ratings]:
    """Divide the ratings of each user into a training part and a test part.

    The test part is random or, with ``ALS_TEST_SPLIT=time``, the latest ratings; the only rating of
    a user stays in training. The same seed and ratings give the same parts.

    Parameters
    ----------
    of
        bool (users,), whose ratings are divided; all users' by default.
    """
    time = ratings.time if settings.als.test_split == "time" else None
    fraction, seed = settings.als.test_fraction, settings.seed
    is_test = choose_test_rows(ratings.user, fraction, seed=seed, time=time)
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


def relevant_items(test: Ratings, settings: Settings) -> tuple[NDArray[np.int32], csr_array]:
    """Return the users with relevant test items, and these items: (users, restaurants)."""
    relevant = test.rows(test.rating >= settings.reviews.relevant_from)
    users = np.unique(relevant.user)
    return users, csr_array(relevant.matrix(1.0)[users])


def choose_test_rows(
    user: NDArray[np.int32],
    fraction: float,
    *,
    seed: int,
    time: NDArray[np.float64] | None = None,
) -> NDArray[np.bool_]:
    """Choose the test ratings of each user, bool (n,).

    Parameters
    ----------
    user
        (n,), the user of each rating.
    fraction
        Share of each user's ratings, rounded down, but at least one of two or more. The only rating
        of a user is never chosen.
    seed
        Of the random choice.
    time
        (n,): choose the latest ratings; ratings of unknown time, NaN, come last. Ties are random.
    """
    chance = np.random.default_rng(seed).random(len(user))
    age = np.zeros(len(user)) if time is None else -np.where(np.isnan(time), -np.inf, time)
    # Order each user's ratings, and choose the first ones up to the user's quota.
    order = np.lexsort((chance, age, user))
    totals = np.bincount(user)
    quota = np.where(totals >= 2, np.maximum(1, (totals * fraction).astype(np.int64)), 0)
    starts = np.cumsum(totals) - totals
    chosen = np.zeros(len(user), dtype=bool)
    chosen[order] = np.arange(len(user)) - starts[user[order]] < quota[user[order]]
    return chosen


@dataclass(frozen=True, eq=False)
class UserSplit:
    """Users held out of the training, with their seen and their relevant items.

    Attributes
    ----------
    train_users
        int64, the training users.
    seen
        (test users, items), the ratings a model may use.
    relevant
        (test users, items), relevant items missing from ``seen``, one or more of each user.
    """

    train_users: NDArray[np.int64]
    seen: csr_array
    relevant: csr_array


def split_users(
    rows: csr_array,
    liked: float,
    *,
    seed: int,
    users_share: float = 0.1,
    relevant_share: float = 0.2,
) -> UserSplit:
    """Hold users out of the training, and for each of them a share of the relevant items.

    Held-out users with one rating or without a relevant item are not test users.

    Parameters
    ----------
    rows
        (users, items), ratings.
    liked
        Lowest rating of a relevant item.
    seed
        Of both choices.
    users_share
        Share of the users to hold out, rounded down.
    relevant_share
        Share of their relevant items, rounded down, but at least one.
    """
    rng = np.random.default_rng(seed)
    out = np.sort(rng.permutation(rows.shape[0])[: int(rows.shape[0] * users_share)])
    train_users = np.setdiff1d(np.arange(rows.shape[0]), out)
    test = csr_array(rows[out])
    degrees = np.diff(test.indptr)
    user = np.repeat(np.arange(len(out)), degrees)
    relevant = np.bincount(user[test.data >= liked], minlength=len(out))
    quota = np.where(degrees >= 2, np.clip(relevant * relevant_share, 1, relevant), 0)
    # Each user's relevant items come first, in random order: hide the first ones up to the quota.
    order = np.lexsort((rng.random(len(user)), test.data < liked, user))
    rank = np.arange(len(user)) - test.indptr[user]
    is_test = np.zeros(len(user), dtype=bool)
    is_test[order] = rank < quota.astype(np.int64)[user]
    test_users = np.flatnonzero(quota >= 1)

    def part(of: NDArray[np.bool_]) -> csr_array:
        triplets = (test.data[of], (user[of], test.indices[of]))
        return csr_array(csr_array(triplets, shape=test.shape)[test_users])

    return UserSplit(train_users=train_users, seen=part(~is_test), relevant=part(is_test))
