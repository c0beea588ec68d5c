"""Users folded in with the item factors, compared with the normal equations of ALS."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import block_diag
from scipy.sparse import csr_array

from recommender.als.fold_in import (
    PreferenceModel,
    popularity_scores,
    preference_model,
    with_embedding,
)

ALPHA, REG = 3.0, 0.7


def a_fit(seed: int, items: int = 40, rank: int = 6) -> tuple[NDArray[np.float32], csr_array]:
    """Return item factors, and the confidence matrix of users who rated 0 to all items."""
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((items, rank), np.float32) / np.float32(3)
    share = np.linspace(0, 1, 25)[:, None]
    confidence = rng.uniform(1, 5, (25, items)) * (rng.random((25, items)) < share)
    return factors, csr_array(confidence)


def model_of(factors: NDArray[np.float32], confidence: csr_array) -> PreferenceModel:
    counts = np.bincount(confidence.indices, minlength=len(factors))
    return preference_model(factors, counts, alpha=ALPHA, reg_param=REG)


def normal_equations(
    factors: NDArray[np.float32], confidence: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the matrix and the right-hand side of one user's half-step over all items."""
    v, rated = factors.astype(np.float64), confidence > 0
    c = 1 + ALPHA * confidence
    return v.T @ np.diag(c) @ v + REG * rated.sum() * np.eye(v.shape[1]), v.T @ (c * rated)


def test_user_factors_solve_the_normal_equations() -> None:
    for seed in range(4):
        factors, confidence = a_fit(seed)
        model = model_of(factors, confidence)
        scores = model.user_factors(confidence)[:, :-1] @ model.factors.T
        for row, own in zip(confidence.toarray(), scores, strict=True):
            user = np.linalg.solve(*normal_equations(factors, row)) if row.any() else np.zeros(6)
            assert own == pytest.approx(factors @ user, abs=2e-5)


def test_an_embedding_adds_factors_that_are_regularised_apart() -> None:
    """Compare scores and the largest term of each with the equations of the original factors."""
    for seed, weight in enumerate((0.1, 1.0, 4.0)):
        v, confidence = a_fit(seed)
        e = np.random.default_rng(seed).standard_normal((len(v), 3)) * 100
        e[7] = 0
        model = with_embedding(model_of(v, confidence), e, weight)
        e *= np.sqrt(weight * (v**2).sum() / (e**2).sum())
        both, gram = np.hstack([v, e]), v.T @ v
        prior = block_diag(gram, np.trace(gram) / 6 * np.eye(3))
        every = np.arange(len(v), dtype=np.int32)
        scores = model.user_factors(confidence)[:, :-1] @ model.factors.T
        for user, row in enumerate(confidence.toarray()):
            rated = np.flatnonzero(row)
            own = both[rated]
            normal = prior + own.T @ (ALPHA * row[rated, None] * own)
            normal += REG * len(rated) * np.eye(9)
            terms = both @ np.linalg.solve(normal, own.T) * (1 + ALPHA * row[rated])
            assert scores[user] == pytest.approx(terms.sum(axis=1), abs=2e-5)
            if len(rated):
                reasons = model.reasons(confidence[[user]], every, 1)[:, 0]
                first = np.where(terms.max(axis=1) > 0, rated[terms.argmax(axis=1)], -1)
                assert reasons.tolist() == first.tolist()


def test_an_embedding_without_weight_or_spread_changes_nothing() -> None:
    v, confidence = a_fit(0)
    model, nothing = model_of(v, confidence), model_of(np.zeros_like(v), confidence)
    e = np.ones((len(v), 3))
    assert with_embedding(model, e, 0.0) is model
    assert with_embedding(model, np.zeros_like(e), 0.5) is model
    assert with_embedding(nothing, e, 0.5) is nothing


def test_users_without_known_ratings_get_the_most_popular_first() -> None:
    factors, confidence = a_fit(1)
    factors[5] = np.nan
    model = model_of(factors, confidence)
    unknown = csr_array(([4.0], ([1], [5])), shape=(2, len(factors)))
    scores = model.user_factors(unknown) @ model.item_factors.T
    popularity = np.bincount(confidence.indices, minlength=len(factors))
    assert (popularity[np.argsort(-scores, kind="stable")] == np.sort(popularity)[::-1]).all()


def test_popularity_only_breaks_ties() -> None:
    factors, confidence = a_fit(2)
    model = model_of(factors, confidence)
    users = model.user_factors(confidence)
    own = users[:, :-1] @ model.factors.T
    assert users @ model.item_factors.T == pytest.approx(own, abs=2e-6)


def test_reasons_are_the_largest_terms_of_the_score() -> None:
    for seed in range(3):
        factors, confidence = a_fit(seed)
        model, v = model_of(factors, confidence), factors.astype(np.float64)
        items = np.random.default_rng(seed).integers(0, len(factors), 4).astype(np.int32)
        for user, row in enumerate(confidence.toarray()):
            rated = np.flatnonzero(row)
            matrix, side = normal_equations(factors, row)
            reasons = model.reasons(confidence[[user]], items, 3)
            if not len(rated):
                assert (reasons == -1).all()
                continue
            terms = v @ np.linalg.solve(matrix, v[rated].T) * (1 + ALPHA * row[rated])
            assert terms.sum(axis=1) == pytest.approx(v @ np.linalg.solve(matrix, side), abs=1e-6)
            for item, own in zip(items, reasons, strict=True):
                best = rated[np.argsort(-terms[item], kind="stable")[:3]]
                expected = [r for r in best if terms[item][rated == r] > 0]
                assert own.tolist() == [*expected, -1, -1, -1][:3]


def test_a_user_who_rated_everything_needs_no_matrix_of_all_pairs_of_items() -> None:
    factors = np.random.default_rng(0).standard_normal((20_000, 8)).astype(np.float32)
    everything = csr_array(np.full((1, 20_000), 4.0))
    assert np.isfinite(model_of(factors, everything).user_factors(everything)).all()


def test_popular_items_with_high_ratings_come_first() -> None:
    item = np.repeat([0, 1, 2, 3], [100, 100, 1, 99])
    rating = np.repeat([3.0, 5.0, 5.0, 5.0], [100, 100, 1, 99])
    scores = popularity_scores(item, rating, 5)
    assert np.argsort(-scores).tolist() == [1, 3, 0, 2, 4]
    assert scores[4] == 0
    assert scores[2] == pytest.approx((5 + 10 * rating.mean()) / 11 / 300)
