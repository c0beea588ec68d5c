"""Metrics of predicted ratings and of recommendation lists, on plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array


@dataclass(frozen=True)
class RatingError:
    """Errors of predicted test ratings, on the ratings' scale.

    Attributes
    ----------
    rmse, mae
        Root mean squared and mean absolute error; None, as the others, without a prediction.
    mean_rmse, mean_mae
        Errors of the training ratings' mean, on the same ratings.
    baseline_rmse, baseline_mae
        Errors of the user and item bias alone; None where no bias was fitted.
    rows
        Number of test ratings that were predicted.
    cold
        Number of test ratings of a user or a restaurant without a training rating.
    reason
        Why there are no errors; None where there are.
    """

    rmse: float | None
    mae: float | None
    mean_rmse: float | None
    mean_mae: float | None
    baseline_rmse: float | None
    baseline_mae: float | None
    rows: int
    cold: int
    reason: str | None = None


def rating_error(
    predicted: NDArray[np.float64],
    actual: NDArray[np.float64],
    mean: float,
    baseline: NDArray[np.float64] | None = None,
    *,
    drop_cold: bool = True,
) -> RatingError:
    """Return the errors of predicted test ratings.

    Parameters
    ----------
    predicted
        (n,), NaN where the user or the restaurant has no training rating (cold).
    actual
        (n,), the test ratings.
    mean
        Mean of the training ratings.
    baseline
        (n,), predictions of the bias alone.
    drop_cold
        Ignore cold rows; if false, one cold row means no result.
    """
    known = ~np.isnan(predicted)
    rows, cold = int(known.sum()), int((~known).sum())
    reason = _no_error_reason(rows, cold, drop_cold=drop_cold)
    if reason:
        return RatingError(None, None, None, None, None, None, rows, cold, reason)
    truth = actual[known]
    return RatingError(
        rmse=_rmse(predicted[known] - truth),
        mae=_mae(predicted[known] - truth),
        mean_rmse=_rmse(mean - truth),
        mean_mae=_mae(mean - truth),
        baseline_rmse=None if baseline is None else _rmse(baseline[known] - truth),
        baseline_mae=None if baseline is None else _mae(baseline[known] - truth),
        rows=rows,
        cold=cold,
    )


def _rmse(error: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(error**2)))


def _mae(error: NDArray[np.float64]) -> float:
    return float(np.mean(np.abs(error)))


def _no_error_reason(rows: int, cold: int, *, drop_cold: bool) -> str | None:
    if not rows and not cold:
        return "no rating was held out"
    if not rows:
        return f"all {cold} held-out ratings are of users or restaurants not in the training part"
    if cold and not drop_cold:
        return f"{cold} held-out ratings are of unseen users or restaurants, and none is dropped"
    return None


@dataclass(frozen=True)
class RankingQuality:
    """Quality of recommendation lists, as means over the test users.

    Attributes
    ----------
    ndcg
        Normalised discounted cumulative gain (Jarvelin and Kekalainen, 2002), gains 0 or 1.
    ndcg_error
        Standard error of ``ndcg`` over the users; None for one user.
    recall
        Share of the relevant items, at most the list's length, that are listed.
    hit_rate
        Share of the users with a relevant item in the list.
    map
        Mean average precision.
    coverage
        Share of all items that are in any list.
    popularity
        Share of the test users who have seen a listed item, on average.
    """

    ndcg: float
    ndcg_error: float | None
    recall: float
    hit_rate: float
    map: float
    coverage: float
    popularity: float


def no_quality(reason: str) -> dict[str, Any]:
    """Return the fields of :class:`RankingQuality` as None, and the ``reason``."""
    return {**dict.fromkeys(field.name for field in fields(RankingQuality)), "reason": reason}


def ndcg_of_each(
    lists: NDArray[np.int64], seen: csr_array, relevant: csr_array, n: int
) -> NDArray[np.float64]:
    """Return the NDCG of each user, (users,); arguments as in `ranking_quality`."""
    shown, rank = _shown(lists, seen, n)
    return _gain(shown & _contains(relevant, lists), rank, n) / _best_gain(relevant, n)


def ranking_quality(
    lists: NDArray[np.int64], seen: csr_array, relevant: csr_array, n: int
) -> RankingQuality:
    """Evaluate the first ``n`` unseen items of each user's list.

    Parameters
    ----------
    lists
        (users, length), items, best first, each once; -1 after the last.
    seen, relevant
        (users, items); each user has a relevant item.
    n
        Length of the lists shown.
    """
    shown, rank = _shown(lists, seen, n)
    hits = shown & _contains(relevant, lists)
    most_hits = np.minimum(np.diff(relevant.indptr), n)
    # Precision at each hit: the hits down to it, divided by its rank.
    precision = np.where(hits, np.cumsum(hits, axis=1) / np.maximum(rank + 1, 1), 0).sum(axis=1)
    ndcg = _gain(hits, rank, n) / _best_gain(relevant, n)
    seen_by = np.bincount(seen.indices, minlength=seen.shape[1]) / seen.shape[0]
    return RankingQuality(
        ndcg=float(ndcg.mean()),
        ndcg_error=float(ndcg.std(ddof=1) / np.sqrt(len(ndcg))) if len(ndcg) > 1 else None,
        recall=float((hits.sum(axis=1) / most_hits).mean()),
        hit_rate=float(hits.any(axis=1).mean()),
        map=float((precision / most_hits).mean()),
        coverage=len(np.unique(lists[shown])) / seen.shape[1],
        popularity=float(seen_by[lists[shown]].mean()) if shown.any() else 0.0,
    )


def _shown(
    lists: NDArray[np.int64], seen: csr_array, n: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which entries of the lists are shown, and the rank of each among them, from 0."""
    shown = (lists >= 0) & ~_contains(seen, lists)
    rank = np.cumsum(shown, axis=1) - 1
    return shown & (rank < n), rank


def _discounts(n: int) -> NDArray[np.float64]:
    return np.asarray(1 / np.log2(np.arange(2, n + 2)))


def _gain(hits: NDArray[np.bool_], rank: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Return the discounted gain of each list."""
    return np.asarray(np.where(hits, _discounts(n)[np.clip(rank, 0, n - 1)], 0).sum(axis=1))


def _best_gain(relevant: csr_array, n: int) -> NDArray[np.float64]:
    """Return the gain of each user's best possible list."""
    most_hits = np.minimum(np.diff(relevant.indptr), n)
    return np.asarray(np.cumsum(_discounts(n))[most_hits - 1])


def _contains(matrix: csr_array, lists: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which items of each row of ``lists`` are stored in the matrix' row."""
    rows, items = matrix.shape
    stored = np.repeat(np.arange(rows), np.diff(matrix.indptr)) * items + matrix.indices
    return np.isin(np.arange(rows)[:, None] * items + lists, stored) & (lists >= 0)
