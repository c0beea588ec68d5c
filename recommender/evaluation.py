"""How well a model foretells what was held out, ratings or restaurants, on plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

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
    hit_rate
        Share of the users with at least one hidden place in the list.
    coverage
        Share of all places that are shown to anybody.
    """

    ndcg: float
    hit_rate: float
    coverage: float


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
    shown = (lists >= 0) & ~_holds(seen, lists)
    rank = np.cumsum(shown, axis=1) - 1
    shown &= rank < n
    hits = shown & _holds(hidden, lists)
    discounts = 1 / np.log2(np.arange(2, n + 2))
    gain = np.where(hits, discounts[np.clip(rank, 0, n - 1)], 0).sum(axis=1)
    best = np.cumsum(discounts)[np.minimum(np.diff(hidden.indptr), n) - 1]
    return RankingQuality(
        ndcg=float((gain / best).mean()),
        hit_rate=float(hits.any(axis=1).mean()),
        coverage=len(np.unique(lists[shown])) / seen.shape[1],
    )


def _holds(matrix: csr_array, lists: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of each row's places, (t, length), the matrix has an entry for."""
    rows, places = matrix.shape
    entries = np.repeat(np.arange(rows), np.diff(matrix.indptr)) * places + matrix.indices
    return np.isin(np.arange(rows)[:, None] * places + lists, entries) & (lists >= 0)
