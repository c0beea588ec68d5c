"""Evaluation of a model on test ratings: its predictions and its lists, for the ledger."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recommender.als.confidence import confidence_matrix, popularity_of
from recommender.als.model import Model, RatingModel
from recommender.als.top_n import top_n
from recommender.core.settings import Settings
from recommender.data.ratings import Ratings
from recommender.evaluation.metrics import no_quality, quality_beside, ranking_quality, rating_error
from recommender.evaluation.splitting import relevant_items

EVALUATED_USERS = 20_000
_RANDOM_FACTORS = 16


def evaluate_ratings(
    model: RatingModel, train: Ratings, test: Ratings, settings: Settings
) -> tuple[float, dict[str, Any]]:
    """Return ALS's blend weight, fitted to the test ratings, and errors for ``metrics.als``."""
    pairs, mean = (test.user, test.restaurant), float(train.rating.mean())
    if settings.als.objective == "rating":
        blend_weight, predicted, biased = 1.0, model.predict(*pairs), None
    else:
        bias, residual = model.bias.predict(*pairs), model.residual(*pairs)
        blend_weight, blended = cross_fitted(residual, test.rating - bias, seed=settings.seed)
        predicted, biased = (np.clip(each, *model.bounds) for each in (bias + blended, bias))
    drop_cold = settings.als.cold_start_strategy == "drop"
    error = rating_error(predicted, test.rating, mean, biased, drop_cold=drop_cold)
    return blend_weight, {**error, "share": blend_weight}


def evaluate_lists(
    model: Model, train: Ratings, test: Ratings, settings: Settings
) -> dict[str, Any]:
    """Return ``metrics.lists``: lists of a model of ``train`` beside popular and random ones."""
    relevant_from, seed = settings.reviews.relevant_from, settings.seed
    users, relevant = relevant_items(test, relevant_from, EVALUATED_USERS, seed)
    if not len(users):
        return {"users": 0, **no_quality("no test rating is high enough to be relevant")}
    seen, n = confidence_matrix(train, settings.reviews)[users], settings.als.top_n
    popularity = popularity_of(train, settings.reviews).astype(np.float32)[:, None]
    rng = np.random.default_rng(seed)
    chance = [rng.standard_normal((size, _RANDOM_FACTORS), np.float32) for size in seen.shape]

    own, _ = model.best(model.user_factors(users, seen), seen, n, seen)
    popular, _ = top_n(np.ones((len(users), 1), np.float32), popularity, n, seen)
    random, _ = top_n(chance[0], chance[1], n, seen)
    return {
        "users": len(users),
        **quality_beside(own, popular, seen, relevant, n),
        "random": ranking_quality(random, seen, relevant, n),
    }


def cross_fitted(
    predictor: NDArray[np.float64], actual: NDArray[np.float64], *, seed: int
) -> tuple[float, NDArray[np.float64]]:
    """Return the blend weight of a predictor, (n,), and the predictor times its weight.

    The weight w, within [0, 1], minimises the sum of (actual - w predictor)^2, less one standard
    error. Each random half is scaled by that of the other, so that errors are out of sample.
    """
    half = np.random.default_rng(seed).random(len(actual)) < 0.5
    predicted = np.empty(len(actual))
    for fold in (half, ~half):
        predicted[fold] = _weight(predictor[~fold], actual[~fold]) * predictor[fold]
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
