"""Choice of the bias damping by cross-validation."""

from collections.abc import Iterator
from itertools import product

import numpy as np
from scipy.sparse import csr_array

from recommender.als.bias import BiasDamping, fit_bias
from recommender.core.settings import Settings
from recommender.data.ratings import Ratings
from recommender.evaluation.splitting import fold_seed, sample_users, split

_USER_DAMPINGS = (0.75, 1.5, 3.0, 6.0, 12.0)
_ITEM_DAMPINGS = (2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
_MAX_RATINGS = 500_000  # more do not change the choice
_ENOUGH_TEST_RATINGS = 10_000
_MAX_FOLDS = 5


def choose_damping(ratings: Ratings, settings: Settings) -> BiasDamping:
    """Return the damping of the settings, else of the least test error, else the default."""
    user, restaurant = settings.als.user_weight, settings.als.restaurant_weight
    folds = [] if user and restaurant else list(_folds(ratings, settings))
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


def _folds(ratings: Ratings, settings: Settings) -> Iterator[tuple[csr_array, Ratings]]:
    """Yield train sets, (users, restaurants), and test sets until these have enough ratings."""
    ratings, test_ratings = sample_users(ratings, _MAX_RATINGS, settings.seed), 0
    for fold in range(1 if settings.als.test_split == "time" else _MAX_FOLDS):
        train, test = split(ratings, settings.als, fold_seed(settings.seed, fold))
        known = test.rows(np.isin(test.restaurant, train.restaurant))
        test_ratings += len(known)
        if len(known):
            yield train.matrix(), known
        if test_ratings >= _ENOUGH_TEST_RATINGS:
            return
