"""The regularised baseline, against a dense least-squares solution."""

from __future__ import annotations

import numpy as np
import pytest

from recommender.baseline import fit_baseline, no_baseline


@pytest.mark.parametrize("seed", range(3))
def test_the_offsets_are_those_of_ridge_regression(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, users, restaurants = 200, 20, 12
    user, restaurant = (
        rng.integers(0, users, n, np.int32),
        rng.integers(0, restaurants, n, np.int32),
    )
    rating = rng.integers(1, 6, n).astype(np.float64)
    found = fit_baseline(
        user, restaurant, rating, (users, restaurants), user_weight=3, restaurant_weight=7
    )
    design = np.zeros((n, users + restaurants))
    design[np.arange(n), user] = design[np.arange(n), users + restaurant] = 1
    ridge = np.diag([3.0] * users + [7.0] * restaurants)
    exact = np.linalg.solve(design.T @ design + ridge, design.T @ (rating - rating.mean()))
    assert found.user_offsets == pytest.approx(exact[:users], abs=1e-4)
    assert found.restaurant_offsets == pytest.approx(exact[users:], abs=1e-4)
    expected = rating.mean() + exact[user] + exact[users + restaurant]
    assert found.predict(user, restaurant) == pytest.approx(expected, abs=1e-4)


def test_who_has_no_rating_lies_at_the_mean() -> None:
    user, restaurant = np.array([0, 0], np.int32), np.array([1, 2], np.int32)
    rating = np.array([2.0, 5.0])
    found = fit_baseline(user, restaurant, rating, (2, 4), user_weight=1, restaurant_weight=1)
    assert found.mean == 3.5
    assert found.user_offsets[1] == found.restaurant_offsets[0] == found.restaurant_offsets[3] == 0


def test_without_a_baseline_all_is_zero() -> None:
    pair = np.array([0], np.int32), np.array([2], np.int32)
    assert no_baseline((1, 3)).predict(*pair).tolist() == [0]
