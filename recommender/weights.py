"""How many ratings of the mean weigh in on the baseline's offsets: found on held-out ratings.

The best weights are a trait of the data: the variance of a rating about its offsets, divided by
that of the offsets. Where tastes differ little or ratings are noisy, they are high.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from recommender.baseline import Baseline, fit_baseline
from recommender.ratings import Ratings
from recommender.settings import Settings
from recommender.splits import of_fold, some_users, split

_OF_USERS = (0.75, 1.5, 3.0, 6.0, 12.0)
_OF_RESTAURANTS = (2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
_MOST_RATINGS = 500_000
_ENOUGH_HELD_OUT = 10_000
_MOST_FOLDS = 5


@dataclass(frozen=True)
class Weights:
    """How many ratings of the mean weigh in on an offset.

    Attributes
    ----------
    user, restaurant
        Above 0; those of ``recommender.baseline.fit_baseline``.
    """

    user: float = 3.0
    restaurant: float = 20.0


def offsets(ratings: Ratings, weights: Weights) -> Baseline:
    """Fit how high each user rates, and how high each restaurant is rated."""
    return fit_baseline(
        ratings.user,
        ratings.restaurant,
        ratings.rating,
        (len(ratings.users), len(ratings.restaurants)),
        user_weight=weights.user,
        restaurant_weight=weights.restaurant,
    )


def find_weights(ratings: Ratings, settings: Settings) -> Weights:
    """Return the weights of the settings; of what is unset, those that foretell ratings best.

    Each combination is fitted without a part of the ratings and judged by that: at most
    half a million ratings of random users, which tell as much as all.
    """
    given = settings.als_user_weight, settings.als_restaurant_weight
    users, restaurants = (
        (one,) if one is not None else ladder
        for one, ladder in zip(given, (_OF_USERS, _OF_RESTAURANTS), strict=True)
    )
    tried = [Weights(*pair) for pair in product(users, restaurants)]
    if len(tried) == 1:
        return tried[0]
    parts = list(_parts(some_users(ratings, _MOST_RATINGS, settings), settings))
    if not parts:
        usual = zip(given, (Weights.user, Weights.restaurant), strict=True)
        return Weights(*(default if one is None else one for one, default in usual))
    return min(tried, key=lambda weights: sum(_error(weights, *part, settings) for part in parts))


def _parts(ratings: Ratings, settings: Settings) -> Iterator[tuple[Ratings, Ratings]]:
    """Yield what is fitted to and what is held out, as often as makes the outcome sure."""
    enough = 0
    for fold in range(1 if settings.als_test_split == "time" else _MOST_FOLDS):
        part, held_out = split(ratings, of_fold(settings, fold))
        known = held_out.rows(np.isin(held_out.restaurant, part.restaurant))
        enough += len(known)
        if len(known):
            yield part, known
        if enough >= _ENOUGH_HELD_OUT:
            return


def _error(weights: Weights, part: Ratings, held_out: Ratings, settings: Settings) -> float:
    foretold = offsets(part, weights).predict(held_out.user, held_out.restaurant)
    bounded = np.clip(foretold, settings.rating_min, settings.rating_max)
    return float(((bounded - held_out.rating) ** 2).sum())
