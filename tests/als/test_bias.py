"""The bias against a dense least-squares solution."""

import numpy as np
import pytest

from recommender.als.bias import BiasDamping, fit_bias
from tests.als.test_choose_damping import drawn
from tests.support import ratings_of


def test_the_bias_is_that_of_ridge_regression() -> None:
    ratings = drawn(0.5, 0.5, 0.5, seed=0)
    users, items = len(ratings.users), len(ratings.restaurants)
    user, item = ratings.user, ratings.restaurant
    bias = fit_bias(ratings.matrix(), BiasDamping(3, 7))
    rows = np.arange(len(ratings))
    design = np.zeros((len(ratings), users + items))
    design[rows, user] = design[rows, users + item] = 1
    ridge = np.diag([3.0] * users + [7.0] * items)
    mean = ratings.rating.mean()
    exact = np.linalg.solve(design.T @ design + ridge, design.T @ (ratings.rating - mean))
    assert bias.users == pytest.approx(exact[:users], abs=1e-4)
    assert bias.items == pytest.approx(exact[users:], abs=1e-4)
    expected = mean + exact[user] + exact[users + item]
    assert bias.predict(user, item) == pytest.approx(expected, abs=1e-4)


def test_the_bias_is_0_without_a_rating() -> None:
    ratings = ratings_of([("a", "q", 1.0), ("b", "r", 2.0), ("b", "s", 5.0)]).rows(np.arange(3) > 0)
    bias = fit_bias(ratings.matrix(), BiasDamping(1, 1))
    assert bias.mean == 3.5
    assert bias.users[0] == bias.items[0] == 0
