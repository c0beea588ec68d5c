"""The choice of alpha and rank by test ratings."""

from typing import Any

import numpy as np
import pytest

from recommender.als import choose_preference
from recommender.als.choose_preference import (
    DEFAULT_ALPHA,
    PreferenceParameters,
    choose_preference_parameters,
)
from recommender.core.settings import Settings
from recommender.data.ratings import Ratings
from tests.support import ratings_of

SMALL: dict[str, Any] = {"als_preference_rank": 8}


@pytest.fixture
def quick(db_settings: Settings) -> Settings:
    return db_settings.with_values(SMALL)


def dense(seed: int) -> Ratings:
    """Users who rated the third of all restaurants that suits them best."""
    rng = np.random.default_rng(seed)
    suits = rng.normal(size=(100, 3)) @ rng.normal(size=(3, 60)) + rng.normal(size=(100, 60))
    rated = np.argsort(-suits, axis=1)[:, :20]
    return ratings_of(
        [(f"u{u:03}", f"r{item:03}", 5.0) for u, items in enumerate(rated) for item in items]
    )


@pytest.mark.usefixtures("quick_choice")
def test_parameters_of_the_settings_are_kept(quick: Settings) -> None:
    by_hand = quick.with_values({"als_alpha": 5.0})
    chosen = choose_preference_parameters(dense(1), by_hand)
    assert (chosen.alpha, chosen.reg_param, chosen.rank) == (5, 1, 8)
    reg_param = quick.with_values({"als_preference_reg_param": 0.3})
    first, again = (choose_preference_parameters(dense(1), reg_param) for _ in range(2))
    assert first.reg_param == 0.3
    assert first == again


def test_alpha_is_low_where_a_missing_rating_means_something(quick: Settings) -> None:
    chosen = choose_preference_parameters(dense(2), quick)
    assert chosen.alpha < DEFAULT_ALPHA
    assert chosen.reg_param == pytest.approx(chosen.alpha / 5)


@pytest.mark.usefixtures("quick_choice")
@pytest.mark.parametrize(
    ("means", "chosen", "many_ratings"),
    [
        ({(20, 32): 0.3, (5, 32): 0.2, (60, 32): 0.1, (20, 64): 0.3}, (20, 64), False),
        ({(20, 32): 0.3, (5, 32): 0.2, (60, 32): 0.4, (60, 64): 0.3}, (60, 32), False),
        ({(20, 32): 0.3, (5, 32): 0.4, (1, 32): 0.3, (5, 64): 0.5}, (5, 64), True),
        ({(20, 32): 0.3, (5, 32): 0.4, (1, 32): 0.5, (1, 64): 0.499}, (1, 64), False),
        ({(20, 32): 0.3, (5, 32): 0.4, (1, 32): 0.5, (1, 64): 0.501}, (1, 32), True),
    ],
)
def test_the_best_mean_wins_and_another_rank_if_clearly_better(
    db_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    means: dict[tuple[float, int], float],
    chosen: tuple[int, int],
    many_ratings: bool,
) -> None:
    def ndcg(validation: Any, tried: PreferenceParameters, n: int, seed: int) -> Any:
        noise = np.random.default_rng(tried.rank).normal(0, 0.05, 30)
        behind = [weights != (0.15, 0.2) for weights in choose_preference.WEIGHTS]
        by_weights = means[tried.alpha, tried.rank] - 0.1 * np.array(behind)
        return by_weights[:, None] + noise - noise.mean()

    monkeypatch.setattr(choose_preference, "ndcg_by_weights", ndcg)
    monkeypatch.setattr(choose_preference, "_MANY_RATINGS", 0 if many_ratings else 10**6)
    best = choose_preference_parameters(dense(1), db_settings)
    assert best == PreferenceParameters(chosen[0], chosen[0] / 5, chosen[1], 0.15, 0.2)


def test_other_weights_are_taken_if_they_are_clearly_better() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (len(choose_preference.WEIGHTS), 400))
    noise -= noise.mean(axis=1, keepdims=True)
    for weights, lead, taken in ((0, 0.001, 5), (0, 0.05, 0), (7, 0.05, 7), (5, 0.05, 5)):
        by_weights = noise.copy()
        by_weights[weights] += lead
        assert choose_preference._best_weights(by_weights) == taken
        assert choose_preference._best_weights(by_weights[:, :19]) == 0


def test_the_embedding_has_a_weight_where_co_ratings_are_all_there_is(quick: Settings) -> None:
    """Two of fifteen restaurants of one of eight groups, by each of few users."""
    rng = np.random.default_rng(0)
    groups = (rng.choice(15, 3, replace=False) + 15 * (u % 8) for u in range(160))
    rows = [(f"u{u}", f"r{item}", 5.0) for u, items in enumerate(groups) for item in items]
    assert choose_preference_parameters(ratings_of(rows), quick).embedding_weight > 0


@pytest.mark.parametrize(
    "rows",
    [
        [(f"u{i}", f"r{i % 3}", 5.0) for i in range(30)],  # no user has two ratings
        [(f"u{i}", f"r{j}", 1.0) for i in range(30) for j in range(3)],  # no relevant item
        [("u1", "a", 5.0), ("u1", "b", 5.0), ("u2", "a", 5.0), ("u2", "b", 5.0)],  # all tie
    ],
)
def test_ties_and_missing_test_ratings_give_the_defaults(
    db_settings: Settings, rows: list[tuple[str, str, float]]
) -> None:
    assert choose_preference_parameters(ratings_of(rows), db_settings) == PreferenceParameters(
        DEFAULT_ALPHA, 4, 64
    )
