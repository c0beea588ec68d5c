"""What a rating is before taste: the mean, and how far each user and restaurant lies off it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SWEEPS = 10


@dataclass(frozen=True, eq=False)
class Baseline:
    """The regularised baseline b_ui = mu + b_u + b_i.

    Attributes
    ----------
    mean
        The mu, on the ratings' scale.
    user_offsets
        float64 (users,), the b_u; 0 without a rating.
    restaurant_offsets
        float64 (restaurants,), the b_i; 0 without a rating.
    """

    mean: float
    user_offsets: NDArray[np.float64]
    restaurant_offsets: NDArray[np.float64]

    def predict(
        self, user: NDArray[np.int32], restaurant: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """Return the baseline of each pair; ``user`` and ``restaurant`` broadcast together."""
        return self.mean + self.user_offsets[user] + self.restaurant_offsets[restaurant]


def no_baseline(shape: tuple[int, int]) -> Baseline:
    """Return the baseline that is 0 for so many users and restaurants."""
    users, restaurants = shape
    return Baseline(0.0, np.zeros(users), np.zeros(restaurants))


def fit_baseline(
    user: NDArray[np.int32],
    restaurant: NDArray[np.int32],
    rating: NDArray[np.float64],
    shape: tuple[int, int],
    *,
    user_weight: float,
    restaurant_weight: float,
) -> Baseline:
    """Fit the offsets by turns, so that neither takes what the other explains.

    They minimise the squared error plus ``user_weight`` times the squared user offsets plus
    ``restaurant_weight`` times the squared restaurant offsets (Koren, 2010), by coordinate descent:
    each is the mean of what is left over, with as many zeros weighing in.

    Parameters
    ----------
    user, restaurant
        (n,), positions.
    rating
        (n,), one or more.
    shape
        Numbers of users and of restaurants.
    user_weight, restaurant_weight
        Above 0; in ratings.
    """
    users, restaurants = shape
    mean = float(rating.mean())
    centred = rating - mean
    user_total = np.bincount(user, minlength=users) + user_weight
    restaurant_total = np.bincount(restaurant, minlength=restaurants) + restaurant_weight
    user_offsets = np.zeros(users)
    restaurant_offsets = np.zeros(restaurants)
    for _ in range(_SWEEPS):
        left = centred - user_offsets[user]
        restaurant_offsets = np.bincount(restaurant, left, restaurants) / restaurant_total
        left = centred - restaurant_offsets[restaurant]
        user_offsets = np.bincount(user, left, users) / user_total
    return Baseline(mean, user_offsets, restaurant_offsets)
