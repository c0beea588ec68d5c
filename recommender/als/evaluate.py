"""Evaluation of a model on held-out ratings: its predictions and its lists, for the ledger."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.als.model import Model, RatingModel, confidence_matrix, popularity_of
from recommender.als.top_n import top_n
from recommender.core.settings import Settings
from recommender.data.ratings import Ratings
from recommender.evaluation.metrics import ndcg_of_each, no_quality, ranking_quality, rating_error
from recommender.evaluation.splitting import relevant_items

EVALUATED_USERS = 20_000

# Lower bounds, in training ratings, of the groups of users that are evaluated apart.
_ACTIVITIES = (1, 2, 5, 10)
_RANDOM_FACTORS = 16
_OF_GROUPS = ("ndcg", "ndcg_error", "recall", "hit_rate", "map")


def evaluate_ratings(
    model: RatingModel, part: Ratings, held_out: Ratings, settings: Settings
) -> tuple[float, dict[str, Any]]:
    """Compare predictions with the held-out ratings, beside the mean and the baseline.

    Parameters
    ----------
    model
        Fitted to ``part``.

    Returns
    -------
    share
        The blend weight of ALS.
    figures
        The ledger's ``metrics.als``: a :class:`.RatingError`, and ``share``.
    """
    pairs, mean = (held_out.user, held_out.restaurant), float(part.rating.mean())
    drop = settings.als.cold_start_strategy == "drop"
    if settings.als.objective == "rating":
        error = rating_error(model.predict(*pairs), held_out.rating, mean, drop_cold=drop)
        return 1.0, {**asdict(error), "share": 1.0}
    base, rest = model.bias.predict(*pairs), model.residual(*pairs)
    share, explained = cross_fitted(rest, held_out.rating - base, seed=settings.seed)
    baseline, predicted = (np.clip(each, *model.bounds) for each in (base, base + explained))
    error = rating_error(predicted, held_out.rating, mean, baseline, drop_cold=drop)
    return share, {**asdict(error), "share": share}


def evaluate_lists(
    model: Model, part: Ratings, held_out: Ratings, settings: Settings
) -> dict[str, Any]:
    """Compare the lists of test users with the held-out restaurants that they liked.

    A restaurant is liked from three quarters up the scale on. The model's lists stand beside the
    popular list, which is what is served to unknown users, and random ones.

    Parameters
    ----------
    model
        Fitted to ``part``.

    Returns
    -------
    dict
        The ledger's ``metrics.lists``: a :class:`.RankingQuality` of the
        model, with its ``ndcg_error``, one each of ``popular`` and ``random``, and, by how many
        ratings users have in the training part, ``by_activity``. Without a relevant restaurant,
        figures are None and ``reason`` says why.
    """
    users, relevant = relevant_items(held_out, settings)
    if not len(users):
        return {"users": 0, **no_quality("no held-out rating is of a restaurant liked")}
    rng = np.random.default_rng(settings.seed)
    if len(users) > EVALUATED_USERS:
        drawn = np.sort(rng.choice(len(users), EVALUATED_USERS, replace=False))
        users, relevant = users[drawn], csr_array(relevant[drawn])
    seen, n = confidence_matrix(part, settings)[users], settings.als.top_n
    popularity = popularity_of(part, settings).astype(np.float32)
    random_users = rng.standard_normal((len(users), _RANDOM_FACTORS), np.float32)
    random_items = rng.standard_normal((seen.shape[1], _RANDOM_FACTORS), np.float32)

    def lists(users: NDArray[np.float32], items: NDArray[np.float32]) -> NDArray[np.int64]:
        return top_n(users, items, n, seen)[0].astype(np.int64)

    own = lists(model.user_factors(users, seen), np.nan_to_num(model.restaurant_factors))
    popular = lists(np.ones((len(users), 1), np.float32), popularity[:, None])
    chance = lists(random_users, random_items)
    return {
        "users": len(users),
        "shown": n,
        **_figures(own, seen, relevant, n),
        "popular": _figures(popular, seen, relevant, n),
        "random": _figures(chance, seen, relevant, n),
        "by_activity": _by_activity(own, seen, relevant, n),
    }


def _figures(
    lists: NDArray[np.int64], seen: csr_array, relevant: csr_array, n: int
) -> dict[str, float | None]:
    """Return the quality of lists, and the standard error of its NDCG, None of a single user."""
    each = ndcg_of_each(lists, seen, relevant, n)
    error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else None
    return {**asdict(ranking_quality(lists, seen, relevant, n)), "ndcg_error": error}


def _by_activity(
    lists: NDArray[np.int64], seen: csr_array, relevant: csr_array, n: int
) -> list[dict[str, Any]]:
    group = np.searchsorted(_ACTIVITIES, np.diff(seen.indptr), side="right") - 1
    figures = []
    for number, least in enumerate(_ACTIVITIES):
        rows = np.flatnonzero(group == number)
        if len(rows):
            quality = _figures(lists[rows], seen[rows], relevant[rows], n)
            own = {name: quality[name] for name in _OF_GROUPS}
            figures.append({"ratings_from": least, "users": len(rows), **own})
    return figures


def cross_fitted(
    predictor: NDArray[np.float64], actual: NDArray[np.float64], *, seed: int
) -> tuple[float, NDArray[np.float64]]:
    """Scale a predictor by the blend weight that minimises the squared error out of sample.

    The weight w minimises the sum of (actual - w predictor)^2, less one standard error and clipped
    to [0, 1]. Each random half is predicted with the weight of the other half.

    Parameters
    ----------
    predictor, actual
        (n,) each; rows with NaN in ``predictor`` are ignored.

    Returns
    -------
    weight
        Fitted to both halves together; 0 without data.
    predicted
        float64 (n,), the scaled predictor.
    """
    half = np.random.default_rng(seed).random(len(actual)) < 0.5
    predicted = np.empty(len(actual))
    for part in (half, ~half):
        predicted[part] = _weight(predictor[~part], actual[~part]) * predictor[part]
    return _weight(predictor, actual), predicted


def _weight(predictor: NDArray[np.float64], actual: NDArray[np.float64]) -> float:
    known = ~np.isnan(predictor)
    x, y = predictor[known], actual[known]
    squared = float(x @ x)
    if not squared:
        return 0.0
    weight = float(x @ y) / squared
    standard_error = float(np.std(y - weight * x) / np.sqrt(squared))
    return min(max(weight - standard_error, 0.0), 1.0)
