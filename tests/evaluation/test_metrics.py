"""Metrics of ratings and lists against scikit-learn."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.metrics import mean_absolute_error, ndcg_score, root_mean_squared_error

from recommender.evaluation.metrics import RANKING, ndcg_of_each, ranking_quality, rating_error


def test_the_errors_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    actual, predicted = rng.uniform(1, 5, 100), rng.uniform(1, 5, 100)
    with_cold = np.concatenate([predicted, [np.nan] * 7])
    bias = rng.uniform(1, 5, 107)
    error = rating_error(with_cold, np.concatenate([actual, [3.0] * 7]), 4.0, bias)
    assert error["rmse"] == pytest.approx(root_mean_squared_error(actual, predicted))
    assert error["mae"] == pytest.approx(mean_absolute_error(actual, predicted))
    assert error["mean_rmse"] == pytest.approx(root_mean_squared_error(actual, [4.0] * 100))
    assert error["mean_mae"] == pytest.approx(mean_absolute_error(actual, [4.0] * 100))
    assert error["baseline_rmse"] == pytest.approx(root_mean_squared_error(actual, bias[:100]))
    assert error["baseline_mae"] == pytest.approx(mean_absolute_error(actual, bias[:100]))
    assert (error["rows"], error["cold"], error["reason"]) == (100, 7, None)


def test_the_standard_error_of_the_rmse_is_that_of_many_draws() -> None:
    rng = np.random.default_rng(3)
    errors = [rating_error(rng.standard_normal(200), np.zeros(200), 0.0) for _ in range(2_000)]
    spread = np.std([error["rmse"] for error in errors])
    assert np.mean([error["rmse_error"] for error in errors]) == pytest.approx(spread, rel=0.1)


def test_without_errors_there_is_a_reason() -> None:
    reasons = set()
    for predicted, drop_cold in [([], True), ([np.nan, np.nan], True), ([3.0, np.nan], False)]:
        actual = np.full(len(predicted), 4.0)
        error = rating_error(np.array(predicted), actual, 4.0, drop_cold=drop_cold)
        assert error["rmse"] is error["rmse_error"] is error["mean_rmse"] is None
        reasons.add(error["reason"])
    assert len(reasons - {None}) == 3


@pytest.mark.parametrize("n", [1, 3, 13])
def test_the_ndcg_is_scikit_learns(n: int) -> None:
    rng = np.random.default_rng(n)
    # A third of the items is seen, a fifth relevant, one of them for every user.
    users, drawn = 150, rng.random((150, 30))
    drawn[np.arange(users), rng.integers(0, 30, users)] = 1
    all_seen, all_relevant = csr_array((drawn < 0.3) * 1.0), csr_array((drawn > 0.8) * 1.0)
    lists = np.array([rng.permutation(30)[:20] for _ in range(users)])
    lists[::3, 15:] = -1
    quality = ranking_quality(lists, all_seen, all_relevant, n)
    assert tuple(quality) == RANKING
    ndcg, hits, shown, recall, precision, seen_by = [], [], set(), [], [], []
    for row, seen, relevant_items in zip(
        lists, all_seen.toarray(), all_relevant.toarray(), strict=True
    ):
        kept = [item for item in row if item >= 0 and not seen[item]][:n]
        scores = np.zeros(30 + n)
        scores[kept] = np.arange(len(kept), 0, -1)
        # Irrelevant fillers stand behind the shown items, up to the n-th.
        scores[30:] = np.linspace(0.5, 0.4, n)
        gains = np.concatenate([relevant_items > 0, np.zeros(n)])
        ndcg.append(ndcg_score([gains], [scores], k=n, ignore_ties=True))
        relevant = [bool(relevant_items[item] > 0) for item in kept]
        most = min(n, int((relevant_items > 0).sum()))
        hits.append(any(relevant))
        recall.append(sum(relevant) / most)
        down_to = [sum(relevant[: i + 1]) / (i + 1) for i in range(len(kept)) if relevant[i]]
        precision.append(sum(down_to) / most)
        seen_by += [(all_seen.toarray()[:, item] > 0).mean() for item in kept]
        shown |= set(kept)
    assert quality["ndcg"] == pytest.approx(np.mean(ndcg))
    assert ndcg_of_each(lists, all_seen, all_relevant, n) == pytest.approx(np.array(ndcg))
    assert quality["ndcg_error"] == pytest.approx(np.std(ndcg, ddof=1) / np.sqrt(users))
    assert quality["hit_rate"] == pytest.approx(np.mean(hits))
    assert quality["recall"] == pytest.approx(np.mean(recall))
    assert quality["map"] == pytest.approx(np.mean(precision))
    assert quality["popularity"] == pytest.approx(np.mean(seen_by))
    assert quality["coverage"] == pytest.approx(len(shown) / 30)


def test_seen_items_take_no_rank_in_a_list() -> None:
    seen, relevant_items = (
        csr_array(np.array([[1.0, 0, 0, 0]])),
        csr_array(np.array([[0.0, 5, 0, 0]])),
    )
    perfect = ranking_quality(np.array([[0, 1, 2]]), seen, relevant_items, 1)
    assert [perfect[name] for name in ("ndcg", "hit_rate", "coverage")] == [1, 1, 0.25]
    assert perfect["ndcg_error"] is None
    nothing = ranking_quality(np.array([[-1, -1]]), seen, relevant_items, 1)
    assert [nothing[name] for name in ("ndcg", "hit_rate", "coverage")] == [0, 0, 0]
