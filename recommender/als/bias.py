"""The user and item bias of ratings, and the choice of its damping by cross-validation."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from recommender.core.settings import Settings
from recommender.data.ratings import Ratings
from recommender.evaluation.splitting import sample_users, split, with_fold_seed

_SWEEPS = 10
_USER_DAMPINGS = (0.75, 1.5, 3.0, 6.0, 12.0)
_ITEM_DAMPINGS = (2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
_MAX_RATINGS = 500_000  # more do not change the choice
_ENOUGH_TEST_RATINGS = 10_000
_MAX_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Bias:
    """The damped user and item bias b_ui = mu + b_u + b_i; b_u and b_i are 0 without a rating."""

    mean: float
    users: NDArray[np.float64]
    items: NDArray[np.float64]

    def predict(self, user: NDArray[np.int32], item: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return b_ui of each pair; ``user`` and ``item`` broadcast together."""
        return self.mean + self.users[user] + self.items[item]


@dataclass(frozen=True)
class BiasDamping:
    """Damping above 0: how many ratings of the mean are added to each user and restaurant."""

    user: float = 3.0
    restaurant: float = 20.0


def fit_bias(ratings: Ratings, damping: BiasDamping) -> Bias:
    """Fit the bias to one or more ratings by coordinate descent (Koren, 2010).

    Minimises the squared errors + ``damping.user`` |b_u|^2 + ``damping.restaurant`` |b_i|^2.
    """
    user, item = ratings.user, ratings.restaurant
    users, items = len(ratings.users), len(ratings.restaurants)
    mean = float(ratings.rating.mean())
    centred = ratings.rating - mean
    user_total = np.bincount(user, minlength=users) + damping.user
    item_total = np.bincount(item, minlength=items) + damping.restaurant
    b_u, b_i = np.zeros(users), np.zeros(items)
    for _ in range(_SWEEPS):
        # Each bias is the damped mean of the other one's residuals.
        b_i = np.bincount(item, centred - b_u[user], items) / item_total
        b_u = np.bincount(user, centred - b_i[item], users) / user_total
    return Bias(mean, b_u, b_i)


def choose_damping(ratings: Ratings, settings: Settings) -> BiasDamping:
    """Return the damping of the settings, else of the least test error, else the default."""
    user, restaurant = settings.als.user_weight, settings.als.restaurant_weight
    if user and restaurant:
        return BiasDamping(user, restaurant)
    folds = list(_folds(sample_users(ratings, _MAX_RATINGS, settings.seed), settings))
    if not folds:
        return BiasDamping(user or BiasDamping.user, restaurant or BiasDamping.restaurant)
    grids = (user,) if user else _USER_DAMPINGS, (restaurant,) if restaurant else _ITEM_DAMPINGS
    bounds = settings.reviews.rating_min, settings.reviews.rating_max

    def squared_error(damping: BiasDamping) -> float:
        error = 0.0
        for train, test in folds:
            predicted = fit_bias(train, damping).predict(test.user, test.restaurant)
            error += float(((np.clip(predicted, *bounds) - test.rating) ** 2).sum())
        return error

    return min((BiasDamping(*pair) for pair in product(*grids)), key=squared_error)


def _folds(ratings: Ratings, settings: Settings) -> Iterator[tuple[Ratings, Ratings]]:
    """Yield training and test parts until there are enough test ratings."""
    test_ratings = 0
    for fold in range(1 if settings.als.test_split == "time" else _MAX_FOLDS):
        train, test = split(ratings, with_fold_seed(settings, fold))
        known = test.rows(np.isin(test.restaurant, train.restaurant))
        test_ratings += len(known)
        if len(known):
            yield train, known
        if test_ratings >= _ENOUGH_TEST_RATINGS:
            return
