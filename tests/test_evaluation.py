"""Errors of predicted ratings and the worth of lists, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.metrics import mean_absolute_error, ndcg_score, root_mean_squared_error

from recommender.evaluation import (
    cross_fitted,
    held_out_rows,
    hold_out,
    ranking_quality,
    rating_error,
)


def test_a_fifth_of_each_users_ratings_is_held_out_and_at_least_one_of_two() -> None:
    counts = np.array([1, 2, 4, 5, 9, 10, 15, 0, 30])
    user = np.repeat(np.arange(9), counts).astype(np.int32)
    held = held_out_rows(user, 0.2, seed=1)
    assert np.bincount(user[held], minlength=9).tolist() == [0, 1, 1, 1, 1, 2, 3, 0, 6]


@pytest.mark.parametrize("seed", range(3))
def test_which_ratings_are_held_out_is_the_seeds(seed: int) -> None:
    user = np.repeat(np.arange(40), 10).astype(np.int32)
    held = held_out_rows(user, 0.2, seed=seed)
    assert (held == held_out_rows(user, 0.2, seed=seed)).all()
    assert (held != held_out_rows(user, 0.2, seed=seed + 1)).any()
    places = np.flatnonzero(held) % 10
    assert len(set(places)) == 10


def test_the_latest_are_held_out_and_those_of_unknown_time_last() -> None:
    user = np.repeat(np.arange(50), 5).astype(np.int32)
    time = np.tile([3.0, np.nan, 9.0, -7.0, 8.0], 50)
    held = held_out_rows(user, 0.4, seed=0, time=time)
    assert held.reshape(50, 5).tolist() == [[False, False, True, False, True]] * 50
    same = held_out_rows(user, 0.4, seed=0, time=np.full(250, np.nan))
    assert set(np.flatnonzero(same) % 5) == set(range(5))


def test_an_explanation_is_believed_as_far_as_it_holds_elsewhere() -> None:
    rng = np.random.default_rng(0)
    explained = rng.standard_normal(20_000)
    actual = 0.6 * explained + rng.standard_normal(20_000)
    weight, predicted = cross_fitted(explained, actual, seed=1)
    assert weight == pytest.approx(0.6, abs=0.03)
    halves = set((predicted / explained).round(9))
    assert len(halves) == 2
    assert max(abs(half - 0.6) for half in halves) < 0.05


def test_noise_is_not_believed_and_no_more_than_all_of_it_is() -> None:
    rng = np.random.default_rng(0)
    noise, actual = rng.standard_normal(300), rng.standard_normal(300)
    assert cross_fitted(-actual, actual, seed=1)[0] == 0
    assert cross_fitted(0.5 * actual, actual, seed=1)[0] == 1
    weight, predicted = cross_fitted(noise * 1e-3, actual, seed=1)
    assert np.mean((actual - predicted) ** 2) < 1.02 * np.mean(actual**2)
    assert cross_fitted(np.zeros(3), np.ones(3), seed=0)[0] == 0
    assert weight <= 1


def test_no_value_has_a_say_in_its_own_prediction() -> None:
    rng = np.random.default_rng(2)
    explained, actual = rng.standard_normal(50), rng.standard_normal(50) + 1
    before = cross_fitted(explained, actual, seed=3)[1]
    actual[7] += 100
    assert cross_fitted(explained, actual, seed=3)[1][7] == before[7]


def test_the_errors_are_scikit_learns_on_what_is_known() -> None:
    rng = np.random.default_rng(1)
    actual, predicted = rng.uniform(1, 5, 100), rng.uniform(1, 5, 100)
    with_cold = np.concatenate([predicted, [np.nan] * 7])
    offsets = rng.uniform(1, 5, 107)
    error = rating_error(with_cold, np.concatenate([actual, [3.0] * 7]), 4.0, offsets)
    assert error.rmse == pytest.approx(root_mean_squared_error(actual, predicted))
    assert error.mae == pytest.approx(mean_absolute_error(actual, predicted))
    assert error.mean_rmse == pytest.approx(root_mean_squared_error(actual, [4.0] * 100))
    assert error.mean_mae == pytest.approx(mean_absolute_error(actual, [4.0] * 100))
    assert error.baseline_rmse == pytest.approx(root_mean_squared_error(actual, offsets[:100]))
    assert error.baseline_mae == pytest.approx(mean_absolute_error(actual, offsets[:100]))
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
    error = rating_error(np.array(predicted), actual, 4.0, drop_cold=drop_cold)
    assert (error.rmse, error.mae, error.mean_rmse) == (None, None, None)
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
    ndcg, hits, shown, recall, precision, visits = [], [], set(), [], [], []
    for row, seen, hidden in zip(lists, held.seen.toarray(), held.hidden.toarray(), strict=True):
        kept = [place for place in row if place >= 0 and not seen[place]][:n]
        scores = np.zeros(30 + n)
        scores[kept] = np.arange(len(kept), 0, -1)
        # What is not shown takes no place before the n-th: fillers of no worth do.
        scores[30:] = np.linspace(0.5, 0.4, n)
        worth = np.concatenate([hidden > 0, np.zeros(n)])
        ndcg.append(ndcg_score([worth], [scores], k=n, ignore_ties=True))
        relevant = [bool(hidden[place] > 0) for place in kept]
        most = min(n, int((hidden > 0).sum()))
        hits.append(any(relevant))
        recall.append(sum(relevant) / most)
        down_to = [sum(relevant[: i + 1]) / (i + 1) for i in range(len(kept)) if relevant[i]]
        precision.append(sum(down_to) / most)
        visits += [(held.seen.toarray()[:, place] > 0).mean() for place in kept]
        shown |= set(kept)
    assert quality.ndcg == pytest.approx(np.mean(ndcg))
    assert quality.hit_rate == pytest.approx(np.mean(hits))
    assert quality.recall == pytest.approx(np.mean(recall))
    assert quality.map == pytest.approx(np.mean(precision))
    assert quality.popularity == pytest.approx(np.mean(visits))
    assert quality.coverage == pytest.approx(len(shown) / 30)


def test_hidden_places_in_front_are_perfect_and_seen_ones_take_no_room() -> None:
    seen, hidden = csr_array(np.array([[1.0, 0, 0, 0]])), csr_array(np.array([[0.0, 5, 0, 0]]))
    perfect = ranking_quality(np.array([[0, 1, 2]]), seen, hidden, 1)
    assert (perfect.ndcg, perfect.hit_rate, perfect.coverage) == (1, 1, 0.25)
    nothing = ranking_quality(np.array([[-1, -1]]), seen, hidden, 1)
    assert (nothing.ndcg, nothing.hit_rate, nothing.coverage) == (0, 0, 0)
