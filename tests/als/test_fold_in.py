"""Users folded in against the restaurants' factors, next to the ALS step written out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.als.fold_in import PreferenceModel, alternate, preference_model

ALPHA, REG = 3.0, 0.7


def a_fit(seed: int, restaurants: int = 40, rank: int = 6) -> tuple[NDArray[np.float32], csr_array]:
    """Return factors, and visits of users with 0 to all restaurants."""
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((restaurants, rank), np.float32) / np.float32(3)
    share = np.linspace(0, 1, 25)[:, None]
    visits = rng.uniform(1, 5, (25, restaurants)) * (rng.random((25, restaurants)) < share)
    return factors, csr_array(visits)


def made_ready(factors: NDArray[np.float32], visits: csr_array) -> PreferenceModel:
    counts = np.bincount(visits.indices, minlength=len(factors))
    return preference_model(factors, counts, alpha=ALPHA, reg_param=REG)


def als_step(factors: NDArray[np.float32], visits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return one user's factors by the normal equations over all restaurants."""
    v = factors.astype(np.float64)
    c = 1 + ALPHA * visits
    p = (visits > 0).astype(np.float64)
    normal = v.T @ np.diag(c) @ v + REG * p.sum() * np.eye(v.shape[1])
    return np.linalg.solve(normal, v.T @ (c * p))


@pytest.mark.parametrize("seed", range(4))
def test_a_user_gets_what_a_step_of_als_gives(seed: int) -> None:
    factors, visits = a_fit(seed)
    preferences = made_ready(factors, visits)
    scores = preferences.user_factors(visits)[:, :-1] @ preferences.factors.T
    for row, own in zip(visits.toarray(), scores, strict=True):
        expected = factors @ als_step(factors, row) if row.any() else np.zeros(len(factors))
        assert own == pytest.approx(expected, abs=2e-5)


def test_somebody_unknown_gets_the_most_popular_first() -> None:
    factors, visits = a_fit(1)
    factors[5] = np.nan
    preferences = made_ready(factors, visits)
    strangers = csr_array(([4.0], ([1], [5])), shape=(2, len(factors)))
    scores = preferences.user_factors(strangers) @ preferences.restaurant_factors.T
    popularity = np.bincount(visits.indices, minlength=len(factors))
    assert (popularity[np.argsort(-scores, kind="stable")] == np.sort(popularity)[::-1]).all()


def test_popularity_only_breaks_ties() -> None:
    factors, visits = a_fit(2)
    preferences = made_ready(factors, visits)
    users = preferences.user_factors(visits)
    own = users[:, :-1] @ preferences.factors.T
    assert users @ preferences.restaurant_factors.T == pytest.approx(own, abs=2e-6)


@pytest.mark.parametrize("seed", range(3))
def test_reasons_are_the_largest_parts_of_the_score(seed: int) -> None:
    factors, visits = a_fit(seed)
    preferences = made_ready(factors, visits)
    rng = np.random.default_rng(seed)
    items = rng.integers(0, len(factors), (visits.shape[0], 4)).astype(np.int32)
    items[:, 3] = -1
    found = preferences.reasons(visits, items, 3)
    dense = visits.toarray()
    for user, row in enumerate(dense):
        rated = np.flatnonzero(row)
        if not len(rated):
            assert (found[user] == -1).all()
            continue
        v, c = factors.astype(np.float64), 1 + ALPHA * row
        normal = v.T @ np.diag(c) @ v + REG * len(rated) * np.eye(v.shape[1])
        parts = v @ np.linalg.solve(normal, v[rated].T) * c[rated]
        assert parts.sum(axis=1) == pytest.approx(v @ als_step(factors, row), abs=1e-6)
        for place, item in enumerate(items[user, :3]):
            best = rated[np.argsort(-parts[item], kind="stable")[:3]]
            speaking = [r for r in best if parts[item][rated == r] > 0]
            assert [r for r in found[user, place] if r >= 0] == speaking
        assert (found[user, 3] == -1).all()


def test_a_user_who_rated_everything_needs_no_square_of_the_city() -> None:
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((20_000, 8)).astype(np.float32)
    everything = csr_array(np.full((1, 20_000), 4.0))
    found = made_ready(factors, everything).user_factors(everything)
    assert np.isfinite(found).all()


def cost_of(restaurants: NDArray[np.float64], visits: csr_array) -> float:
    """Return what ALS minimises, each user's factors being the best for the restaurants'."""
    dense = visits.toarray()
    users = np.array([als_step(restaurants.astype(np.float32), row) for row in dense])
    error = ((1 + ALPHA * dense) * ((dense > 0) - users @ restaurants.T) ** 2).sum()
    users_held = ((dense > 0).sum(axis=1) * (users**2).sum(axis=1)).sum()
    restaurants_held = ((dense > 0).sum(axis=0) * (restaurants**2).sum(axis=1)).sum()
    return float(error + REG * (users_held + restaurants_held))


def fitted(visits: csr_array, iterations: int, seed: int = 1) -> NDArray[np.float32]:
    return alternate(visits, 6, alpha=ALPHA, reg_param=REG, iterations=iterations, seed=seed)


def test_half_steps_in_turn_lower_what_als_minimises() -> None:
    _, visits = a_fit(1)
    costs = [cost_of(fitted(visits, n).astype(np.float64), visits) for n in (1, 2, 3, 5, 10)]
    assert (np.diff(costs) < 1e-3 * costs[0]).all()
    assert costs[-1] < 0.9 * costs[0]


def test_half_steps_in_turn_settle_where_a_step_leads_to_the_same() -> None:
    _, visits = a_fit(2)
    places = fitted(visits, 200).astype(np.float64)
    users = np.array([als_step(places.astype(np.float32), row) for row in visits.toarray()])
    again = np.array([als_step(users.astype(np.float32), row) for row in visits.T.toarray()])
    assert users @ again.T == pytest.approx(users @ places.T, abs=2e-3)


def test_a_restaurant_that_nobody_has_rated_has_no_factors() -> None:
    _, visits = a_fit(3)
    wider = csr_array((visits.data, visits.indices, visits.indptr), shape=(25, 41))
    places = fitted(wider, 3)
    assert not places[40].any()
    assert np.isfinite(places[:40]).all()
    assert np.array_equal(places, fitted(wider, 3), equal_nan=True)


def test_where_nobody_has_rated_nothing_has_factors() -> None:
    assert not fitted(csr_array((0, 5)), 2).any()
