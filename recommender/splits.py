"""Which ratings are for training and which for testing, and which users stand for all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.core.settings import Settings
from recommender.data.ratings import Ratings
from recommender.evaluation import choose_test_rows

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
    time = ratings.time if settings.als_test_split == "time" else None
    fraction, seed = settings.als_test_fraction, settings.seed
    is_test = choose_test_rows(ratings.user, fraction, seed=seed, time=time)
    if of is not None:
        is_test &= of[ratings.user]
    return ratings.rows(~is_test), ratings.rows(is_test)


def with_fold_seed(settings: Settings, fold: int) -> Settings:
    """Return the settings with the seed of a fold."""
    return settings.model_copy(update={"seed": (settings.seed + fold) % _SEEDS})


def sample_users(ratings: Ratings, max_ratings: int, seed: int) -> Ratings:
    """Return all ratings of random users, one or more, up to ``max_ratings`` in total."""
    counts = np.bincount(ratings.user, minlength=len(ratings.users))
    order = np.random.default_rng(seed).permutation(np.flatnonzero(counts))
    fit = np.searchsorted(counts[order].cumsum(), max_ratings, side="right")
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[order[: max(1, fit)]] = True
    return ratings.rows(chosen[ratings.user])


def training_users(ratings: Ratings, settings: Settings) -> NDArray[np.bool_]:
    """Return which users, (users,), the preference is fitted to; see :func:`draw_training_users`."""
    return draw_training_users(np.bincount(ratings.user, minlength=len(ratings.users)), settings)


def draw_training_users(counts: NDArray[np.integer[Any]], settings: Settings) -> NDArray[np.bool_]:
    """Return the training users, bool (users,), by the number of ratings of each user.

    These are the users with two or more ratings. Of more than ``ALS_PREFERENCE_USERS``, as many are
    drawn without replacement with weight n - 1, so that users with many co-rated restaurants come
    first. Each user's exponential clock of rate n - 1 gives such a draw (Efraimidis and Spirakis,
    2006).
    """
    several = np.flatnonzero(counts >= 2)
    clock = np.random.default_rng(settings.seed).exponential(1 / (counts[several] - 1.0))
    first = np.argsort(clock, kind="stable")[: settings.als_preference_users]
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[several[first]] = True
    return chosen


def relevant_items(test: Ratings, settings: Settings) -> tuple[NDArray[np.int32], csr_array]:
    """Return the users with relevant test items, and these items: (users, restaurants)."""
    relevant = test.rows(test.rating >= settings.liked)
    users = np.unique(relevant.user)
    return users, csr_array(relevant.matrix(1.0)[users])
