"""What is learnt from and what is held out to judge by."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.evaluation import held_out_rows
from recommender.ratings import Ratings
from recommender.settings import Settings

_SEEDS = 2**31


def split(
    ratings: Ratings, settings: Settings, of: NDArray[np.bool_] | None = None
) -> tuple[Ratings, Ratings]:
    """Divide the ratings of each user into a training part and a held-out one.

    At random or, by ``ALS_TEST_SPLIT=time``, the latest are held out; who has rated once stays in
    training. The same seed and ratings give the same parts.

    Parameters
    ----------
    of
        bool (users,), whose ratings are held out; by default everybody's.
    """
    time = ratings.time if settings.als_test_split == "time" else None
    fraction, seed = settings.als_test_fraction, settings.seed
    held_out = held_out_rows(ratings.user, fraction, seed=seed, time=time)
    if of is not None:
        held_out &= of[ratings.user]
    return ratings.rows(~held_out), ratings.rows(held_out)


def of_fold(settings: Settings, fold: int) -> Settings:
    """Return the settings with the seed of a fold."""
    return settings.model_copy(update={"seed": (settings.seed + fold) % _SEEDS})


def some_users(ratings: Ratings, most: int, settings: Settings) -> Ratings:
    """Return the ratings of random users, at most so many ratings in all, or of one user."""
    counts = np.bincount(ratings.user, minlength=len(ratings.users))
    chance = np.random.default_rng(settings.seed).permutation(np.flatnonzero(counts))
    taken = chance[: max(1, np.searchsorted(counts[chance].cumsum(), most, side="right"))]
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[taken] = True
    return ratings.rows(chosen[ratings.user])


def teachers(ratings: Ratings, settings: Settings) -> NDArray[np.bool_]:
    """Return which users, (users,), teach the preference; see :func:`teachers_of`."""
    return teachers_of(np.bincount(ratings.user, minlength=len(ratings.users)), settings)


def teachers_of(counts: NDArray[np.integer[Any]], settings: Settings) -> NDArray[np.bool_]:
    """Return who teaches, by how many ratings each has: those of two ratings and more.

    If there are more than ``ALS_PREFERENCE_USERS``, those are drawn whose ratings go together with
    more others: with weight n - 1, without replacement, by exponential clocks of that rate
    (Efraimidis and Spirakis, 2006).
    """
    several = np.flatnonzero(counts >= 2)
    rings_at = np.random.default_rng(settings.seed).exponential(1 / (counts[several] - 1.0))
    first = np.argsort(rings_at, kind="stable")[: settings.als_preference_users]
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[several[first]] = True
    return chosen


def who_liked(held_out: Ratings, settings: Settings) -> tuple[NDArray[np.int32], csr_array]:
    """Return the users who liked something of what is held out, and what: (users, restaurants)."""
    liked = held_out.rows(held_out.rating >= settings.liked)
    asked = np.unique(liked.user)
    return asked, csr_array(liked.matrix(1.0)[asked])
