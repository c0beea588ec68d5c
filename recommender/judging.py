"""How good a model is on what was held out: of its ratings and of its lists, for the ledger."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.evaluation import (
    cross_fitted,
    no_quality,
    ranking_quality,
    rating_error,
)
from recommender.models import Model, RatingModel, visits_of
from recommender.ratings import Ratings
from recommender.settings import Settings
from recommender.splits import who_liked
from recommender.topn import top_n

# From how many ratings on, in the training part, users are judged apart.
_ACTIVITIES = (1, 2, 5, 10)
_RANDOM_DIRECTIONS = 16
_OF_GROUPS = ("ndcg", "recall", "hit_rate", "map")


def judge_ratings(
    model: RatingModel, part: Ratings, held_out: Ratings, settings: Settings
) -> tuple[float, dict[str, Any]]:
    """Compare the foretold ratings with those held out, beside the mean and the baseline.

    Parameters
    ----------
    model
        Fitted to ``part``.

    Returns
    -------
    share
        How much of what ALS says is to be believed.
    figures
        The ledger's ``metrics.als``: a :class:`recommender.evaluation.RatingError`, and ``share``.
    """
    pairs, mean = (held_out.user, held_out.restaurant), float(part.rating.mean())
    drop = settings.als_cold_start_strategy == "drop"
    if settings.als_objective == "rating":
        error = rating_error(model.predict(*pairs), held_out.rating, mean, drop_cold=drop)
        return 1.0, {**asdict(error), "share": 1.0}
    base, rest = model.bias.predict(*pairs), model.residual(*pairs)
    share, explained = cross_fitted(rest, held_out.rating - base, seed=settings.seed)
    baseline, predicted = (np.clip(said, *model.bounds) for said in (base, base + explained))
    error = rating_error(predicted, held_out.rating, mean, baseline, drop_cold=drop)
    return share, {**asdict(error), "share": share}


def judge_lists(
    model: Model, part: Ratings, held_out: Ratings, settings: Settings
) -> dict[str, Any]:
    """Compare the lists of users with what they liked of what was held out.

    Liked is what is three quarters up the scale, or higher. The model's lists stand beside the
    popular list, less what each has rated, and random ones.

    Parameters
    ----------
    model
        Fitted to ``part``.

    Returns
    -------
    dict
        The ledger's ``metrics.lists``: a :class:`recommender.evaluation.RankingQuality` of the
        model, one each of ``popular`` and ``random``, and, by how many ratings users have in the
        training part, ``by_activity``. Without anything liked, figures are None for a ``reason``.
    """
    asked, hidden = who_liked(held_out, settings)
    if not len(asked):
        return {"users": 0, **no_quality("no rating held out is of a restaurant liked")}
    rng = np.random.default_rng(settings.seed)
    if len(asked) > settings.als_evaluate_users:
        drawn = np.sort(rng.choice(len(asked), settings.als_evaluate_users, replace=False))
        asked, hidden = asked[drawn], csr_array(hidden[drawn])
    seen = visits_of(part, settings)[asked]
    popularity = np.bincount(part.restaurant, minlength=len(part.restaurants))
    random_users = rng.standard_normal((len(asked), _RANDOM_DIRECTIONS), np.float32)
    random_places = rng.standard_normal((seen.shape[1], _RANDOM_DIRECTIONS), np.float32)
    n = settings.als_top_n

    def lists(users: NDArray[np.float32], places: NDArray[np.float32]) -> NDArray[np.int64]:
        return top_n(users, places, n, seen)[0].astype(np.int64)

    own = lists(model.user_factors(asked, seen), np.nan_to_num(model.restaurant_factors))
    popular = lists(np.ones((len(asked), 1), np.float32), popularity[:, None].astype(np.float32))
    chance = lists(random_users, random_places)
    return {
        "users": len(asked),
        "shown": n,
        **asdict(ranking_quality(own, seen, hidden, n)),
        "popular": asdict(ranking_quality(popular, seen, hidden, n)),
        "random": asdict(ranking_quality(chance, seen, hidden, n)),
        "by_activity": _by_activity(own, seen, hidden, n),
    }


def _by_activity(
    lists: NDArray[np.int64], seen: csr_array, hidden: csr_array, n: int
) -> list[dict[str, Any]]:
    group = np.searchsorted(_ACTIVITIES, np.diff(seen.indptr), side="right") - 1
    figures = []
    for number, least in enumerate(_ACTIVITIES):
        rows = np.flatnonzero(group == number)
        if len(rows):
            quality = asdict(ranking_quality(lists[rows], seen[rows], hidden[rows], n))
            own = {name: quality[name] for name in _OF_GROUPS}
            figures.append({"ratings_from": least, "users": len(rows), **own})
    return figures
