"""Errors of predicted ratings, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from recommender.evaluation import predict, rating_error


def test_a_prediction_is_the_inner_product_of_the_pair() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.random((5, 3), dtype=np.float32), rng.random((4, 3), dtype=np.float32)
    user, item = rng.integers(0, 5, 20, np.int32), rng.integers(0, 4, 20, np.int32)
    assert predict(users, items, user, item) == pytest.approx((users @ items.T)[user, item])


def test_an_unseen_user_or_item_has_no_prediction() -> None:
    users = np.array([[1.0], [np.nan]], dtype=np.float32)
    items = np.array([[2.0], [np.nan]], dtype=np.float32)
    pairs = np.array([[0, 0], [0, 1], [1, 0]], dtype=np.int32)
    predicted = predict(users, items, pairs[:, 0], pairs[:, 1])
    assert np.isnan(predicted).tolist() == [False, True, True]


def test_the_errors_are_scikit_learns_on_what_is_known() -> None:
    rng = np.random.default_rng(1)
    actual, predicted = rng.uniform(1, 5, 100), rng.uniform(1, 5, 100)
    with_cold = np.concatenate([predicted, [np.nan] * 7])
    error = rating_error(with_cold, np.concatenate([actual, [3.0] * 7]), training_mean=4.0)
    assert error.rmse == pytest.approx(root_mean_squared_error(actual, predicted))
    assert error.mae == pytest.approx(mean_absolute_error(actual, predicted))
    assert error.baseline_rmse == pytest.approx(root_mean_squared_error(actual, [4.0] * 100))
    assert (error.rows, error.cold, error.reason) == (100, 7, None)


@pytest.mark.parametrize(
    ("predicted", "drop_cold", "reason"),
    [
        ([], True, "no rating was held out"),
        ([np.nan, np.nan], True, "all 2 held-out ratings"),
        ([3.0, np.nan], False, "1 held-out ratings are of unseen"),
    ],
)
def test_without_a_figure_there_is_a_reason(
    predicted: list[float], drop_cold: bool, reason: str
) -> None:
    actual = np.full(len(predicted), 4.0)
    error = rating_error(np.array(predicted), actual, training_mean=4.0, drop_cold=drop_cold)
    assert (error.rmse, error.mae, error.baseline_rmse) == (None, None, None)
    assert error.reason is not None
    assert error.reason.startswith(reason)
