"""How well a model foretells what was held out, ratings or restaurants, on plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array


@dataclass(frozen=True)
class RatingError:
    """How far predictions are from held-out ratings, on the ratings' scale.

    Attributes
    ----------
    rmse, mae
        Root mean squared and mean absolute error; None, as the others, if there is none.
    mean_rmse, mean_mae
        Those of always guessing the training ratings' mean, for the same ratings.
    baseline_rmse, baseline_mae
        Those of the users' and restaurants' offsets alone; None where none were fitted.
    rows
        Held-out ratings that were predicted.
    cold
        Held-out ratings of a user or a restaurant that training did not see.
    reason
        Why there is no figure, where there is none.
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


def held_out_rows(
    user: NDArray[np.int32],
    fraction: float,
    *,
    seed: int,
    time: NDArray[np.float64] | None = None,
) -> NDArray[np.bool_]:
    """Choose which ratings of each user are held out.

    Parameters
    ----------
    user
        (n,), whose each rating is.
    fraction
        Share of each user's ratings, rounded down, but at least one of who has two or more; who
        has one keeps it.
    seed
        Of the choice.
    time
        (n,): hold out the latest; those without a time, NaN, last, and equal ones by the seed.
    """
    chance = np.random.default_rng(seed).random(len(user))
    age = np.zeros(len(user)) if time is None else -np.where(np.isnan(time), -np.inf, time)
    order = np.lexsort((chance, age, user))
    totals = np.bincount(user)
    quota = np.where(totals >= 2, np.maximum(1, (totals * fraction).astype(np.int64)), 0)
    starts = np.cumsum(totals) - totals
    chosen = np.zeros(len(user), dtype=bool)
    chosen[order] = np.arange(len(user)) - starts[user[order]] < quota[user[order]]
    return chosen


def cross_fitted(
    explained: NDArray[np.float64], actual: NDArray[np.float64], *, seed: int
) -> tuple[float, NDArray[np.float64]]:
    """Weigh an explanation by how well it holds on data that it was not fitted to.

    The weight w of least (actual - w explained)^2, less its standard error and within [0, 1], is
    found on each random half and used on the other, so that no value has a say in its own
    prediction.

    Parameters
    ----------
    explained, actual
        (n,) each; NaN in ``explained`` is left out.

    Returns
    -------
    weight
        That of both halves together; 0 without data.
    predicted
        float64 (n,), the weighed explanation.
    """
    half = np.random.default_rng(seed).random(len(actual)) < 0.5
    predicted = np.empty(len(actual))
    for of in (half, ~half):
        predicted[of] = _weight(explained[~of], actual[~of]) * explained[of]
    return _weight(explained, actual), predicted


def _weight(explained: NDArray[np.float64], actual: NDArray[np.float64]) -> float:
    known = ~np.isnan(explained)
    x, y = explained[known], actual[known]
    squared = float(x @ x)
    if not squared:
        return 0.0
    weight = float(x @ y) / squared
    standard_error = float(np.std(y - weight * x) / np.sqrt(squared))
    return min(max(weight - standard_error, 0.0), 1.0)


def rating_error(
    predicted: NDArray[np.float64],
    actual: NDArray[np.float64],
    mean: float,
    baseline: NDArray[np.float64] | None = None,
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
    mean
        Mean of the ratings that were trained on.
    baseline
        (n,), what the offsets alone predict.
    drop_cold
        Leave the unseen out; else a single one leaves no figure.
    """
    known = ~np.isnan(predicted)
    rows, cold = int(known.sum()), int((~known).sum())
    reason = _why_no_figure(rows, cold, drop_cold=drop_cold)
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


def _why_no_figure(rows: int, cold: int, *, drop_cold: bool) -> str | None:
    if not rows and not cold:
        return "no rating was held out"
    if not rows:
        return f"all {cold} held-out ratings are of users or restaurants not in the training part"
    if cold and not drop_cold:
        return f"{cold} held-out ratings are of unseen users or restaurants, and none is dropped"
    return None


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Users who were kept out of the training, and what they are to be recommended.

    Attributes
    ----------
    kept
        int64, the users left to train on.
    seen
        (t, places), what finds the cluster of each user kept out.
    hidden
        (t, places), liked places that were taken away from the same users, one or more of each.
    """

    kept: NDArray[np.int64]
    seen: csr_array
    hidden: csr_array


@dataclass(frozen=True)
class RankingQuality:
    """How well lists foretell what was hidden, as means over users.

    Attributes
    ----------
    ndcg
        Normalised discounted cumulative gain (Jarvelin and Kekalainen, 2002), gains 0 or 1.
    recall
        Share of what is hidden, or of a whole list where more is hidden, that is in the list.
    hit_rate
        Share of the users with at least one hidden place in the list.
    map
        Mean average precision: of a hidden place, the share of hidden ones down to it.
    coverage
        Share of all places that are shown to anybody.
    popularity
        How many of these users, as a share, have seen a place that is shown, on average.
    """

    ndcg: float
    recall: float
    hit_rate: float
    map: float
    coverage: float
    popularity: float


def no_quality(reason: str) -> dict[str, Any]:
    """Return what a :class:`RankingQuality` has, without a figure for a reason."""
    return {**dict.fromkeys(field.name for field in fields(RankingQuality)), "reason": reason}


def hold_out(
    rows: csr_array,
    liked: float,
    *,
    seed: int,
    users_share: float = 0.1,
    hidden_share: float = 0.2,
) -> HeldOut:
    """Keep users out, and hide a share of what each of them liked, at least one place.

    Users with one rating, or who liked nothing, are kept out like the others and then not asked.

    Parameters
    ----------
    rows
        (users, places), ratings.
    liked
        The least rating of a place that is liked.
    seed
        Of both choices.
    users_share, hidden_share
        Share of the users to keep out, and of their liked places to hide, both rounded down.
    """
    rng = np.random.default_rng(seed)
    out = np.sort(rng.permutation(rows.shape[0])[: int(rows.shape[0] * users_share)])
    kept = np.setdiff1d(np.arange(rows.shape[0]), out)
    asked = csr_array(rows[out])
    degrees = np.diff(asked.indptr)
    user = np.repeat(np.arange(len(out)), degrees)
    likes = np.bincount(user[asked.data >= liked], minlength=len(out))
    quota = np.where(degrees >= 2, np.minimum(np.maximum(1, likes * hidden_share), likes), 0)
    order = np.lexsort((rng.random(len(user)), asked.data < liked, user))
    place_in_user = np.arange(len(user)) - asked.indptr[user]  # users stay together in order
    is_hidden = np.zeros(len(user), dtype=bool)
    is_hidden[order] = place_in_user < quota.astype(np.int64)[user]
    chosen = np.flatnonzero(quota >= 1)

    def part(of: NDArray[np.bool_]) -> csr_array:
        triplets = (asked.data[of], (user[of], asked.indices[of]))
        return csr_array(csr_array(triplets, shape=asked.shape)[chosen])

    return HeldOut(kept=kept, seen=part(~is_hidden), hidden=part(is_hidden))


def ndcg_of_each(
    lists: NDArray[np.int64], seen: csr_array, hidden: csr_array, n: int
) -> NDArray[np.float64]:
    """Return the NDCG of each user, (t,); arguments as in `ranking_quality`."""
    shown, rank = _shown(lists, seen, n)
    return np.asarray(_gain(shown & _holds(hidden, lists), rank, n) / _most_gain(hidden, n))


def ranking_quality(
    lists: NDArray[np.int64], seen: csr_array, hidden: csr_array, n: int
) -> RankingQuality:
    """Judge the first ``n`` places of each user's list that the user has not seen.

    Parameters
    ----------
    lists
        (t, length), places, best first, each once; -1 after the last.
    seen, hidden
        (t, places), of the same users; each has something hidden.
    n
        Places shown.
    """
    shown, rank = _shown(lists, seen, n)
    hits = shown & _holds(hidden, lists)
    most = np.minimum(np.diff(hidden.indptr), n)
    precision = np.where(hits, np.cumsum(hits, axis=1) / np.maximum(rank + 1, 1), 0).sum(axis=1)
    visits = np.bincount(seen.indices, minlength=seen.shape[1]) / seen.shape[0]
    return RankingQuality(
        ndcg=float((_gain(hits, rank, n) / _most_gain(hidden, n)).mean()),
        recall=float((hits.sum(axis=1) / most).mean()),
        hit_rate=float(hits.any(axis=1).mean()),
        map=float((precision / most).mean()),
        coverage=len(np.unique(lists[shown])) / seen.shape[1],
        popularity=float(visits[lists[shown]].mean()) if shown.any() else 0.0,
    )


def _shown(
    lists: NDArray[np.int64], seen: csr_array, n: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which entries of the lists are shown, and the rank of each among them, from 0."""
    shown = (lists >= 0) & ~_holds(seen, lists)
    rank = np.cumsum(shown, axis=1) - 1
    return shown & (rank < n), rank


def _discounts(n: int) -> NDArray[np.float64]:
    return np.asarray(1 / np.log2(np.arange(2, n + 2)))


def _gain(hits: NDArray[np.bool_], rank: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Return the discounted gain of each list."""
    return np.asarray(np.where(hits, _discounts(n)[np.clip(rank, 0, n - 1)], 0).sum(axis=1))


def _most_gain(hidden: csr_array, n: int) -> NDArray[np.float64]:
    """Return the gain of each user's best list."""
    most = np.minimum(np.diff(hidden.indptr), n)
    return np.asarray(np.cumsum(_discounts(n))[most - 1])


def _holds(matrix: csr_array, lists: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of each row's places, (t, length), the matrix has an entry for."""
    rows, places = matrix.shape
    entries = np.repeat(np.arange(rows), np.diff(matrix.indptr)) * places + matrix.indices
    return np.isin(np.arange(rows)[:, None] * places + lists, entries) & (lists >= 0)
