"""The item-item regression against its equations, and the lists that it refines."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from recommender.als import item_item
from recommender.als.fold_in import preference_model
from recommender.als.item_item import item_item_weights, predicted, refined
from recommender.als.model import Model


def some_rows(seed: int, users: int = 60, items: int = 12) -> csr_array:
    """Return ratings, (users, items); the last item has none."""
    rng = np.random.default_rng(seed)
    rated = rng.random((users, items)) < np.linspace(0.6, 0.1, items)
    rated[:, -1] = False
    return csr_array(rated * rng.integers(1, 6, (users, items)))


@pytest.mark.parametrize("neighbours", [3, 50])
@pytest.mark.parametrize("most_items", [7, 8_000])
def test_each_column_solves_its_ridge_regression(
    monkeypatch: pytest.MonkeyPatch, neighbours: int, most_items: int
) -> None:
    monkeypatch.setattr(item_item, "_NEIGHBOURS", neighbours)
    monkeypatch.setattr(item_item, "_MOST_ITEMS", most_items)
    monkeypatch.setattr(item_item, "_BLOCK_ITEMS", 4)
    for seed in range(2):
        rows = some_rows(seed)
        rated = (rows.toarray() > 0).astype(float)
        both = rated.T @ rated
        often = np.argsort(-np.diag(both), kind="stable")[: min(most_items, 11)]
        weights = item_item_weights(rows).toarray()
        assert weights.shape == both.shape
        for item in range(len(both)):
            own = np.flatnonzero(weights[:, item])
            if item not in often:
                assert not len(own)
                continue
            cosines = both[item] / np.sqrt(both[item, item] * np.maximum(np.diag(both), 1))
            others = [i for i in often if i != item]
            near = sorted(others, key=lambda i: -cosines[i])[:neighbours]
            assert {*own} <= {*near}
            normal = both[np.ix_(near, near)] + 10 * np.eye(len(near))
            expected = np.linalg.solve(normal, both[near, item])
            assert weights[near, item] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("ratings", [[], [[0, 0]], [[0, 2], [1, 2]]])
def test_fewer_than_two_rated_items_predict_nothing(ratings: list[list[int]]) -> None:
    rows = np.zeros((2, 3))
    rows[tuple(np.array(ratings, dtype=int).reshape(-1, 2).T)] = 4
    assert item_item_weights(csr_array(rows)).toarray().tolist() == np.zeros((3, 3)).tolist()


def test_the_largest_predicted_score_is_a_share_of_the_largest_score() -> None:
    weights = np.zeros((4, 4), np.float32)
    weights[0, 2], weights[:2, 3] = 0.4, 0.1
    rated = csr_array(np.array([[3.0, 5, 0, 0], [0, 0, 4, 0], [0, 5, 0, 0]]))
    items = np.array([[3, 2, -1], [1, 3, 0], [3, 0, 2]], np.int32)
    scores = np.array([[0.8, 0.7, -np.inf], [0.6, 0.5, 0.4], [-0.1, -0.2, -0.3]], np.float32)
    # Of the first user, item 2 is predicted by .4 and item 3 by .1 + .1; of the second, none; the
    # third one has no score above 0.
    expected = [[0.8 + 0.5 * 0.8 / 2, 0.7 + 0.5 * 0.8, -np.inf], *scores[1:].tolist()]
    own = refined(items, scores, predicted(rated, csr_array(weights)), 0.5)
    assert own.dtype == np.float32
    assert own == pytest.approx(np.array(expected), rel=1e-6)


def a_model(rows: csr_array, weight: float) -> Model:
    factors = np.random.default_rng(3).standard_normal((rows.shape[1], 4), np.float32)
    counts = np.bincount(rows.indices, minlength=len(factors))
    plain = preference_model(factors, counts, alpha=5.0, reg_param=1.0)
    regression = item_item_weights(rows)
    refining = replace(plain, item_item=regression, item_item_weight=weight)
    rating: Any = None  # it ranks nothing
    return Model(rating, refining)


def test_lists_are_refined_among_the_best_by_the_factors() -> None:
    rows, n = some_rows(5, items=30), 4
    model = a_model(rows, weight=0.7)
    users = model.user_factors(np.arange(rows.shape[0], dtype=np.int32), rows)
    shown = np.arange(30) != 2
    items, scores = model.best(users, rows, n, rows, shown)
    changed = 0
    for user, row in enumerate(rows.toarray()):
        by_factors = users[user] @ model.restaurant_factors.T
        by_factors[(row > 0) | ~shown] = -np.inf
        candidates = np.argsort(-by_factors, kind="stable")[: 3 * n]
        added = ((row > 0) @ item_item_weights(rows).toarray())[candidates]
        total = by_factors[candidates] + 0.7 * max(by_factors.max(), 0) * added / abs(added).max()
        order = np.argsort(-total, kind="stable")[:n]
        assert items[user].tolist() == candidates[order].tolist()
        assert scores[user] == pytest.approx(total[order], rel=1e-4, abs=1e-5)
        changed += items[user].tolist() != candidates[:n].tolist()
    assert changed > 10


def test_a_list_ends_where_no_restaurant_is_left() -> None:
    rows = csr_array(np.array([[5.0, 4, 3, 0], [0, 5, 4, 3]]))
    model = a_model(rows, weight=0.2)
    users = model.user_factors(np.arange(2, dtype=np.int32), rows)
    items, scores = model.best(users, rows, 3, rows)
    assert items.tolist() == [[3, -1, -1], [0, -1, -1]]
    assert np.isneginf(scores[:, 1:]).all()
