"""Errors of predicted ratings and the worth of lists, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.metrics import mean_absolute_error, ndcg_score, root_mean_squared_error

from recommender.evaluation import hold_out, predict, ranking_quality, rating_error


def test_a_prediction_is_the_inner_product_of_the_pair() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.random((5, 3), dtype=np.float32), rng.random((4, 3), dtype=np.float32)
    user, item = rng.integers(0, 5, 20, np.int32), rng.integers(0, 4, 20, np.int32)
    assert predict(users, items, user, item) == pytest.approx((users @ items.T)[user, item])


def test_an_unseen_user_or_item_has_no_prediction() -> None:
    users = np.array([[1.0], [np.nan]], dtype=np.float32)
    items = np.array([[2.0], [np.nan]], dtype=np.float32)
    pairs = np.array([[0, 0], [0, 1], [1, 0]], dtype=np.int32)
    predicted = predict(users, items, pairs[:, 0], pairs[:, 1])
    assert np.isnan(predicted).tolist() == [False, True, True]


def test_the_errors_are_scikit_learns_on_what_is_known() -> None:
    rng = np.random.default_rng(1)
    actual, predicted = rng.uniform(1, 5, 100), rng.uniform(1, 5, 100)
    with_cold = np.concatenate([predicted, [np.nan] * 7])
    error = rating_error(with_cold, np.concatenate([actual, [3.0] * 7]), training_mean=4.0)
    assert error.rmse == pytest.approx(root_mean_squared_error(actual, predicted))
    assert error.mae == pytest.approx(mean_absolute_error(actual, predicted))
    assert error.baseline_rmse == pytest.approx(root_mean_squared_error(actual, [4.0] * 100))
    assert (error.rows, error.cold, error.reason) == (100, 7, None)


@pytest.mark.parametrize(
    ("predicted", "drop_cold", "reason"),
    [
        ([], True, "no rating was held out"),
        ([np.nan, np.nan], True, "all 2 held-out ratings"),
        ([3.0, np.nan], False, "1 held-out ratings are of unseen"),
    ],
)
def test_without_a_figure_there_is_a_reason(
    predicted: list[float], drop_cold: bool, reason: str
) -> None:
    actual = np.full(len(predicted), 4.0)
    error = rating_error(np.array(predicted), actual, training_mean=4.0, drop_cold=drop_cold)
    assert (error.rmse, error.mae, error.baseline_rmse) == (None, None, None)
    assert error.reason is not None
    assert error.reason.startswith(reason)


def some_ratings(seed: int) -> csr_array:
    rng = np.random.default_rng(seed)
    return csr_array(rng.integers(1, 6, (200, 30)) * (rng.random((200, 30)) < 0.5) * 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_a_tenth_is_kept_out_and_a_fifth_of_its_likes_is_hidden(seed: int) -> None:
    rows = some_ratings(seed)
    held = hold_out(rows, 4, seed=seed)
    assert len(held.kept) == 180
    out = np.setdiff1d(np.arange(200), held.kept)
    asked = 0
    for user in out:
        row = rows[[user]].toarray()[0]
        likes = (row >= 4).sum()
        if (row > 0).sum() < 2 or not likes:
            continue
        seen, hidden = held.seen[[asked]].toarray()[0], held.hidden[[asked]].toarray()[0]
        assert (seen + hidden == row).all()
        assert not (seen * hidden).any()
        assert (hidden > 0).sum() == max(1, likes // 5)
        assert set(hidden) <= {0, 4, 5}
        assert seen.any()
        asked += 1
    assert held.seen.shape == held.hidden.shape == (asked, 30)


def test_who_is_kept_out_and_what_is_hidden_is_the_seeds() -> None:
    rows = some_ratings(0)
    one, same, other = (hold_out(rows, 4, seed=seed) for seed in (1, 1, 2))
    assert (one.hidden.toarray() == same.hidden.toarray()).all()
    assert one.kept.tolist() == same.kept.tolist() != other.kept.tolist()


def test_users_with_one_rating_or_no_like_are_not_asked() -> None:
    rows = csr_array(np.array([[5.0, 0, 0], [1, 2, 3], [5, 5, 0], [0, 4, 1]]))
    held = hold_out(rows, 4, seed=0, users_share=1)
    assert held.seen.shape[0] == 2
    assert np.diff(held.hidden.indptr).tolist() == np.diff(held.seen.indptr).tolist() == [1, 1]
    assert held.hidden.toarray()[1].tolist() == [0, 4, 0]
    assert not len(held.kept)


@pytest.mark.parametrize("n", [1, 3, 13])
def test_the_worth_of_lists_is_scikit_learns(n: int) -> None:
    rng = np.random.default_rng(n)
    held = hold_out(some_ratings(n), 3, seed=n, users_share=1, hidden_share=0.5)
    users = held.seen.shape[0]
    lists = np.array([rng.permutation(30)[:20] for _ in range(users)])
    lists[::3, 15:] = -1
    quality = ranking_quality(lists, held.seen, held.hidden, n)
    ndcg, hits, shown = [], [], set()
    for row, seen, hidden in zip(lists, held.seen.toarray(), held.hidden.toarray(), strict=True):
        kept = [place for place in row if place >= 0 and not seen[place]][:n]
        scores = np.zeros(30 + n)
        scores[kept] = np.arange(len(kept), 0, -1)
        # What is not shown takes no place before the n-th: fillers of no worth do.
        scores[30:] = np.linspace(0.5, 0.4, n)
        worth = np.concatenate([hidden > 0, np.zeros(n)])
        ndcg.append(ndcg_score([worth], [scores], k=n, ignore_ties=True))
        hits.append(bool((hidden[kept] > 0).any()))
        shown |= set(kept)
    assert quality.ndcg == pytest.approx(np.mean(ndcg))
    assert quality.hit_rate == pytest.approx(np.mean(hits))
    assert quality.coverage == pytest.approx(len(shown) / 30)


def test_hidden_places_in_front_are_perfect_and_seen_ones_take_no_room() -> None:
    seen, hidden = csr_array(np.array([[1.0, 0, 0, 0]])), csr_array(np.array([[0.0, 5, 0, 0]]))
    perfect = ranking_quality(np.array([[0, 1, 2]]), seen, hidden, 1)
    assert (perfect.ndcg, perfect.hit_rate, perfect.coverage) == (1, 1, 0.25)
    nothing = ranking_quality(np.array([[-1, -1]]), seen, hidden, 1)
    assert (nothing.ndcg, nothing.hit_rate, nothing.coverage) == (0, 0, 0)
