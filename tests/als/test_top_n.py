"""The top-N kernel against a full sort."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.als.top_n import top_n


def full_sort(
    users: NDArray[np.float32], items: NDArray[np.float32], n: int, rated: csr_array
) -> list[list[float]]:
    """Return each user's best scores by a sort of all scores."""
    best = []
    for user, factors in enumerate(users):
        seen = set(rated[[user]].indices.tolist())
        scores = [float(factors @ item) for i, item in enumerate(items) if i not in seen]
        best.append(sorted(scores, reverse=True)[:n])
    return best


def random_case(
    users: int, items: int, rank: int, density: float, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], csr_array]:
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((users, rank), dtype=np.float32),
        rng.standard_normal((items, rank), dtype=np.float32),
        csr_array((rng.random((users, items)) < density).astype(np.float64)),
    )


@given(
    users=st.integers(1, 150),
    items=st.integers(1, 400),
    n=st.integers(1, 60),
    density=st.sampled_from([0.0, 0.05, 0.5, 0.97, 1.0]),
    seed=st.integers(0, 1000),
)
@settings(derandomize=True, deadline=None, max_examples=40)
def test_the_scores_are_those_of_a_full_sort(
    users: int, items: int, n: int, density: float, seed: int
) -> None:
    user_factors, item_factors, rated = random_case(users, items, 3, density, seed)
    best, scores = top_n(user_factors, item_factors, n, rated)
    expected = full_sort(user_factors, item_factors, n, rated)
    for user in range(users):
        kept = best[user] >= 0
        assert scores[user, kept] == pytest.approx(expected[user], rel=1e-5, abs=1e-6)
        assert np.isneginf(scores[user, ~kept]).all()
        own = item_factors[best[user, kept]] @ user_factors[user]
        assert own == pytest.approx(scores[user, kept], rel=1e-4, abs=1e-5)
        assert len(set(best[user, kept])) == kept.sum()
        assert not set(best[user, kept]) & set(rated[[user]].indices)


@pytest.mark.parametrize("skew", [0.0, 2.0])
def test_items_are_left_unscored_only_if_they_cannot_be_among_the_best(skew: float) -> None:
    """Items of equal norms are all scored; of very different norms, the first ones are."""
    user_factors, item_factors, rated = random_case(70, 5000, 8, 0.01, seed=1)
    item_factors /= np.linalg.norm(item_factors, axis=1, keepdims=True)
    item_factors *= np.random.default_rng(2).lognormal(0, skew, (5000, 1)).astype(np.float32)
    user_factors *= np.logspace(-9, 9, 8, dtype=np.float32)  # columns of one size once more
    item_factors /= np.logspace(-9, 9, 8, dtype=np.float32)
    _, scores = top_n(user_factors, item_factors, 13, rated)
    expected = full_sort(user_factors, item_factors, 13, rated)
    assert scores == pytest.approx(np.array(expected), rel=1e-4, abs=1e-5)


def test_users_whose_factors_are_0_get_any_items() -> None:
    users, items = np.zeros((2, 2), np.float32), random_case(1, 5000, 2, 0, seed=1)[1]
    best, scores = top_n(users, items, 3, csr_array((2, 5000)))
    assert (best >= 0).all()
    assert (scores == 0).all()


def test_the_best_items_may_all_lie_in_one_group() -> None:
    items = np.zeros((1280, 1), dtype=np.float32)
    items[::20] = np.arange(64, 0, -1, dtype=np.float32)[:, None]  # 20 groups; all in group 0
    best, _ = top_n(np.ones((1, 1), np.float32), items, 13, csr_array((1, 1280)))
    assert best[0].tolist() == list(range(0, 13 * 20, 20))


def test_negative_scores_rank_above_the_padding() -> None:
    items = -np.arange(1, 71, dtype=np.float32)[:, None]
    best, scores = top_n(np.ones((1, 1), np.float32), items, 3, csr_array((1, 70)))
    assert best.tolist() == [[0, 1, 2]]
    assert scores.tolist() == [[-1, -2, -3]]


def test_a_user_who_rated_everything_gets_an_empty_list() -> None:
    rated = csr_array(np.ones((2, 3)))
    best, scores = top_n(np.ones((2, 1), np.float32), np.ones((3, 1), np.float32), 13, rated)
    assert (best == -1).all()
    assert np.isneginf(scores).all()


def test_a_stored_zero_counts_as_rated() -> None:
    rated = csr_array((np.zeros(1), (np.zeros(1, int), np.zeros(1, int))), shape=(1, 2))
    best, _ = top_n(np.ones((1, 1), np.float32), np.ones((2, 1), np.float32), 2, rated)
    assert best.tolist() == [[1, -1]]


def test_only_shown_items_are_recommended() -> None:
    users, items = np.ones((3, 1), np.float32), np.arange(4, dtype=np.float32)[:, None]
    shown = np.array([True, False, True, False])
    assert top_n(users, items, 5, csr_array((3, 4)), shown)[0].tolist() == [[2, 0, -1, -1]] * 3
    best, scores = top_n(users, items, 5, csr_array((3, 4)), np.zeros(4, dtype=bool))
    assert (best == -1).all()
    assert np.isneginf(scores).all()
