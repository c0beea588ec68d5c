"""What is learnt from and what is held out to judge by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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


def some_users(ratings: Ratings, most: int, settings: Settings, *, least: int = 1) -> Ratings:
    """Return the ratings of random users, at most so many ratings in all.

    Parameters
    ----------
    most
        Ratings to return, at most, but for those of the first user.
    least
        Least ratings of a user to be among them.
    """
    counts = np.bincount(ratings.user, minlength=len(ratings.users))
    chance = np.random.default_rng(settings.seed).permutation(len(counts))
    several = chance[counts[chance] >= least]
    taken = several[: max(1, np.searchsorted(counts[several].cumsum(), most, side="right"))]
    chosen = np.zeros(len(counts), dtype=bool)
    chosen[taken] = True
    return ratings.rows(chosen[ratings.user])
