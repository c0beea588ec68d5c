"""The comparison of lifts, on lists of real fits: what it rejects, and what it does not."""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pytest

from recommender.als.bias import Bias
from recommender.als.confidence import confidence_matrix, popularity_of
from recommender.als.evaluate import evaluate_lists
from recommender.als.fold_in import preference_model
from recommender.als.model import Model, RatingModel
from recommender.als.sweeps import explicit_step, implicit_step, random_factors, sweep
from recommender.clustering.evaluate import evaluate_clusters
from recommender.clustering.user_matrix import user_matrix
from recommender.core.settings import Settings, load_settings
from recommender.data.ratings import Ratings
from recommender.demo.synthetic_city import City, populate, review_blocks
from recommender.evaluation.splitting import sample_users, split
from recommender.publishing.lift import STANDARD_ERRORS, Lift, compare_lifts, lift_of
from tests.support import ratings_of

CITY = City(users=2_000, restaurants=500, reviews=50_000, seed=3, tastes=6)
ALPHA, REG_PARAM, RANK = 4.0, 1.0, 16


@cache
def city() -> Ratings:
    blocks = list(review_blocks(populate(CITY)))
    columns = [
        np.concatenate([getattr(each, name) for each in blocks]).tolist()
        for name in ("user", "restaurant", "rating")
    ]
    return ratings_of(list(zip(*columns, strict=True)))


@dataclass
class Fitted:
    """A model of the training part, by implicit ALS from random factors, and both parts."""

    model: Model
    train: Ratings
    test: Ratings
    settings: Settings

    @property
    def lift(self) -> Lift:
        return self.lift_of(self.model)

    def lift_of(self, model: Model) -> Lift:
        lift = lift_of(evaluate_lists(model, self.train, self.test, self.settings))
        assert lift
        return lift

    def ranked_by(self, users: np.ndarray, items: np.ndarray) -> Lift:
        """Return the lift of lists that rank by these factors."""
        bias = Bias(0.0, np.zeros(len(users)), np.zeros(len(items)))
        rating = RatingModel(bias, users.astype(np.float32), items.astype(np.float32))
        return self.lift_of(Model(rating, None))


def fitted(seed: int, ratings: Ratings | None = None) -> Fitted:
    settings = load_settings(seed=seed)
    train, test = split(ratings or city(), settings.als, seed)
    confidence = confidence_matrix(train, settings.reviews)
    step = partial(implicit_step, alpha=ALPHA, reg_param=REG_PARAM)
    items = sweep(step, confidence, random_factors(confidence.shape[1], RANK, seed), 5)
    popularity = np.bincount(train.restaurant, minlength=len(items))
    unused: Any = None
    preferences = preference_model(items, popularity, alpha=ALPHA, reg_param=REG_PARAM)
    return Fitted(Model(unused, preferences), train, test, settings)


def reasons(ours: Lift | None, live: Lift | None, *, same_test: bool = True) -> list[str]:
    verdict = compare_lifts(ours, live, is_live=True, same_test=same_test)
    return [reason.split(" ")[0] for reason in verdict.reasons]


def test_retrains_on_the_same_data_pass_whatever_the_seed() -> None:
    lifts = [fitted(seed).lift for seed in range(20)]
    assert all(lift.value > STANDARD_ERRORS * lift.error for lift in lifts)
    assert not any(reasons(ours, live) for ours in lifts for live in lifts)


@pytest.mark.nightly
def test_clusters_of_the_same_data_pass_whatever_the_seed() -> None:
    ratings, seeded = city(), [load_settings(seed=seed) for seed in range(20)]
    matrix = user_matrix(ratings, seeded[0].clusters.k, seeded[0].reviews.rating_min)
    lifts = [lift_of(evaluate_clusters(ratings, matrix, each)) for each in seeded]
    assert all(lift and lift.value > STANDARD_ERRORS * lift.error for lift in lifts)
    assert not any(reasons(ours, live) for ours in lifts for live in lifts)


def test_an_equally_good_model_of_half_the_users_passes() -> None:
    half = sample_users(city(), len(city()) // 2, seed=1)
    assert reasons(fitted(1, half).lift, fitted(0).lift) == []


def test_models_made_worse_are_rejected() -> None:
    live = fitted(0)
    confidence = confidence_matrix(live.train, live.settings.reviews)
    assert live.model.preferences
    users = live.model.preferences.user_factors(confidence)
    items = live.model.restaurant_factors
    assert live.ranked_by(users, items) == live.lift  # undamaged

    shuffled = live.ranked_by(users, np.random.default_rng(0).permutation(items))
    assert reasons(shuffled, live.lift) == ["a", "lists"]

    popularity = popularity_of(live.train, live.settings.reviews)[:, None]
    own = np.arange(len(users))[:, None] % 2
    half_popular = live.ranked_by(np.hstack([users * own, 1 - own]), np.hstack([items, popularity]))
    assert reasons(half_popular, live.lift) == ["a"]

    step = partial(explicit_step, reg_param=REG_PARAM)
    of_ratings = sweep(step, confidence, random_factors(len(items), RANK, 0), 5)
    assert reasons(live.ranked_by(step(confidence, of_ratings), of_ratings), live.lift)


GOOD, AT_CHANCE = Lift(0.16, 0.004), Lift(-0.037, 0.002)


@pytest.mark.parametrize(
    ("ours", "live", "same_test", "rejected", "warnings"),
    [
        (GOOD, None, True, 0, 1),  # the live run's figures are gone
        (None, GOOD, True, 0, 1),
        (GOOD, GOOD, True, 0, 0),
        (GOOD, AT_CHANCE, True, 0, 0),
        (AT_CHANCE, AT_CHANCE, True, 0, 1),
        (AT_CHANCE, GOOD, True, 2, 0),
        (AT_CHANCE, None, True, 0, 2),
        (Lift(0.12, 0.004), GOOD, True, 0, 0),  # 0.16 less a fifth and 2 * 0.0057
        (Lift(0.116, 0.004), GOOD, True, 1, 0),
        (Lift(0.01, 0.1), GOOD, True, 0, 0),  # within chance
        (Lift(0.01, 0.001), GOOD, False, 0, 1),
        (AT_CHANCE, GOOD, False, 1, 1),
        (Lift(-0.001, 0.01), Lift(0.01, 0.01), True, 0, 1),  # the live lists only may beat it
    ],
)
def test_verdicts(
    ours: Lift | None, live: Lift | None, same_test: bool, rejected: int, warnings: int
) -> None:
    verdict = compare_lifts(ours, live, is_live=True, same_test=same_test)
    assert (len(verdict.reasons), len(verdict.warnings)) == (rejected, warnings)


def test_the_first_lists_pass_with_a_warning_if_they_do_not_beat_the_popular_list() -> None:
    for ours, warnings in ((None, 0), (GOOD, 0), (AT_CHANCE, 1)):
        verdict = compare_lifts(ours, None, is_live=False, same_test=False)
        assert (verdict.reasons, len(verdict.warnings)) == ([], warnings)


def test_lists_without_a_test_user_do_not_replace_those_that_beat_the_popular_list() -> None:
    for live, rejected, warnings in ((GOOD, 1, 0), (AT_CHANCE, 0, 1), (None, 0, 1)):
        verdict = compare_lifts(None, live, is_live=True, same_test=True, tested=False)
        assert (len(verdict.reasons), len(verdict.warnings)) == (rejected, warnings)


def test_there_is_no_lift_of_too_few_test_users() -> None:
    figures = {"lift": 0.1, "lift_error": 0.01}
    assert lift_of({"users": 100, **figures}) == Lift(0.1, 0.01)
    for too_little in ({}, {"users": 29, **figures}, {"users": 100, "lift_error": None}):
        assert lift_of(too_little) is None
