"""How well a model predicts held-out ratings, on plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLOCK_ROWS = 262_144


@dataclass(frozen=True)
class RatingError:
    """How far predictions are from held-out ratings.

    Attributes
    ----------
    rmse, mae
        Root mean squared and mean absolute error, on the ratings' scale; None if there is none.
    baseline_rmse
        RMSE of predicting the training ratings' mean for the same ratings: what must be beaten.
    rows
        Held-out ratings that were predicted.
    cold
        Held-out ratings of a user or a restaurant that training did not see.
    reason
        Why there is no figure, where there is none.
    """

    rmse: float | None
    mae: float | None
    baseline_rmse: float | None
    rows: int
    cold: int
    reason: str | None = None


def predict(
    user_factors: NDArray[np.float32],
    item_factors: NDArray[np.float32],
    user: NDArray[np.int32],
    item: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Return the predicted rating of each pair: the inner product of their factors.

    Parameters
    ----------
    user_factors, item_factors
        (users, rank) and (items, rank); NaN in the rows of those that training did not see.
    user, item
        (n,), positions in them.

    Returns
    -------
    float64 (n,)
        NaN for a pair that holds an unseen user or item.
    """
    predicted = np.empty(len(user), dtype=np.float64)
    for start in range(0, len(user), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        left = user_factors[user[rows]].astype(np.float64)
        predicted[rows] = np.einsum("ij,ij->i", left, item_factors[item[rows]])
    return predicted


def rating_error(
    predicted: NDArray[np.float64],
    actual: NDArray[np.float64],
    training_mean: float,
    *,
    drop_cold: bool = True,
) -> RatingError:
    """Compare predictions with held-out ratings.

    Parameters
    ----------
    predicted
        (n,), NaN where training did not see the user or the restaurant.
    actual
        (n,), the held-out ratings.
    training_mean
        Mean of the ratings that were trained on.
    drop_cold
        Leave the unseen out; else a single one leaves no figure.
    """
    known = ~np.isnan(predicted)
    rows, cold = int(known.sum()), int((~known).sum())
    reason = _why_no_figure(rows, cold, drop_cold=drop_cold)
    if reason:
        return RatingError(None, None, None, rows, cold, reason)
    error = predicted[known] - actual[known]
    return RatingError(
        rmse=float(np.sqrt(np.mean(error**2))),
        mae=float(np.mean(np.abs(error))),
        baseline_rmse=float(np.sqrt(np.mean((training_mean - actual[known]) ** 2))),
        rows=rows,
        cold=cold,
    )


def _why_no_figure(rows: int, cold: int, *, drop_cold: bool) -> str | None:
    if not rows and not cold:
        return "no rating was held out"
    if not rows:
        return f"all {cold} held-out ratings are of users or restaurants not in the training part"
    if cold and not drop_cold:
        return f"{cold} held-out ratings are of unseen users or restaurants, and none is dropped"
    return None
