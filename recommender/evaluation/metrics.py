"""Metrics of predicted ratings and of recommendation lists, on plain arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Floats = NDArray[np.float64]
Lists = NDArray[np.integer[Any]]

RANKING = ("ndcg", "ndcg_error", "recall", "hit_rate", "map", "coverage", "popularity")
_ERRORS = ("rmse", "rmse_error", "mae", "mean_rmse", "mean_mae", "baseline_rmse", "baseline_mae")


def rating_error(
    predicted: Floats,
    actual: Floats,
    mean: float,
    baseline: Floats | None = None,
    *,
    drop_cold: bool = True,
) -> dict[str, Any]:
    """Return the errors of predicted test ratings, (n,), on their scale; None for no result.

    ``mean_*`` are the errors of the training ratings' mean, ``baseline_*`` those of the bias alone,
    None without one; ``rmse_error`` is the standard error of ``rmse``. ``cold`` test ratings, of a
    user or restaurant without a training rating, are predicted as NaN: they are dropped or, without
    ``drop_cold``, mean no result. Where there is no result, there is a ``reason``.
    """
    known = ~np.isnan(predicted)
    rows, cold, reason = int(known.sum()), int((~known).sum()), None
    if not rows and not cold:
        reason = "the test set is empty"
    elif not rows:
        reason = f"all {cold} test ratings are of users or restaurants not in the train set"
    elif cold and not drop_cold:
        reason = f"{cold} test ratings are of unseen users or restaurants, and none is dropped"
    counts = {"rows": rows, "cold": cold, "reason": reason}
    if reason:
        return {**dict.fromkeys(_ERRORS), **counts}
    truth = actual[known]
    rmse, mae = _rmse_mae(error := predicted[known] - truth)
    # That of the mean square, over the derivative of the square (delta method).
    rmse_error = float(np.std(error**2) / np.sqrt(rows) / (2 * rmse)) if rmse else 0.0
    bias = (None, None) if baseline is None else _rmse_mae(baseline[known] - truth)
    errors = (rmse, rmse_error, mae, *_rmse_mae(mean - truth), *bias)
    return {**dict(zip(_ERRORS, errors, strict=True)), **counts}


def _rmse_mae(error: Floats) -> tuple[float, float]:
    return float(np.sqrt(np.mean(error**2))), float(np.mean(np.abs(error)))


def no_quality(reason: str) -> dict[str, Any]:
    """Return the figures of `ranking_quality` as None, and the ``reason``."""
    return {**dict.fromkeys(RANKING), "reason": reason}


def ndcg_of_each(lists: Lists, seen: csr_array, relevant: csr_array, n: int) -> Floats:
    """Return the NDCG of each user, (users,); arguments as in `ranking_quality`."""
    _, hits, rank = _shown(lists, seen, relevant, n)
    discounts = 1 / np.log2(np.arange(2, n + 2))
    gain = np.where(hits, discounts[np.clip(rank, 0, n - 1)], 0).sum(axis=1)
    most_hits = np.minimum(np.diff(relevant.indptr), n)
    return np.asarray(gain / np.cumsum(discounts)[most_hits - 1])


def quality_beside(
    lists: Lists, popular: Lists, seen: csr_array, relevant: csr_array, n: int
) -> dict[str, Any]:
    """Return the `ranking_quality` of lists and of the ``popular`` list, and the ``lift``.

    The lift is the mean difference of their NDCG, with a standard error for two users or more.
    """
    truth = (seen, relevant, n)
    lift, error = _mean_and_error(ndcg_of_each(lists, *truth) - ndcg_of_each(popular, *truth))
    own, baseline = (ranking_quality(each, *truth) for each in (lists, popular))
    return {"shown": n, **own, "lift": lift, "lift_error": error, "popular": baseline}


def _mean_and_error(values: Floats) -> tuple[float, float | None]:
    """Return the mean of values, (n,), and its standard error, None for one value."""
    n = len(values)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else None


def ranking_quality(lists: Lists, seen: csr_array, relevant: csr_array, n: int) -> dict[str, Any]:
    """Evaluate the first ``n`` unseen items of each user's list, by means over the users.

    ``lists``, (users, length), hold items, the best first, each once, and -1 after the last.
    ``seen`` and ``relevant`` are (users, items); each user has a relevant item.
    """
    shown, hits, rank = _shown(lists, seen, relevant, n)
    most_hits = np.minimum(np.diff(relevant.indptr), n)
    # Precision at each hit: the number of hits down to it, divided by its rank.
    precision = np.where(hits, np.cumsum(hits, axis=1) / np.maximum(rank + 1, 1), 0).sum(axis=1)
    ndcg, ndcg_error = _mean_and_error(ndcg_of_each(lists, seen, relevant, n))
    seen_by = np.bincount(seen.indices, minlength=seen.shape[1]) / seen.shape[0]
    return {
        "ndcg": ndcg,  # with gains of 0 or 1 (Jarvelin and Kekalainen, 2002)
        "ndcg_error": ndcg_error,  # its standard error, None for one user
        "recall": float((hits.sum(axis=1) / most_hits).mean()),  # of n relevant items at most
        "hit_rate": float(hits.any(axis=1).mean()),  # share of users with a hit
        "map": float((precision / most_hits).mean()),  # mean average precision
        "coverage": len(np.unique(lists[shown])) / seen.shape[1],  # share of items in any list
        # Share of test users who have seen a listed item.
        "popularity": float(seen_by[lists[shown]].mean()) if shown.any() else 0.0,
    }


def hits(lists: Lists, seen: csr_array, relevant: csr_array, n: int) -> int:
    """Return how many relevant items the lists show; arguments are as in `ranking_quality`."""
    return int(_shown(lists, seen, relevant, n)[1].sum())


def _shown(
    lists: Lists, seen: csr_array, relevant: csr_array, n: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
    """Return which entries of the lists are shown, which of these hit, and their rank from 0."""
    unseen = (lists >= 0) & ~_contains(seen, lists)
    rank = np.cumsum(unseen, axis=1) - 1
    shown = unseen & (rank < n)
    return shown, shown & _contains(relevant, lists), rank


def _contains(matrix: csr_array, lists: Lists) -> NDArray[np.bool_]:
    """Return which items of each row of ``lists`` are stored in the matrix' row."""
    rows, items = matrix.shape
    stored = np.repeat(np.arange(rows), np.diff(matrix.indptr)) * items + matrix.indices
    return np.isin(np.arange(rows)[:, None] * items + lists, stored) & (lists >= 0)
