"""Leave-one-out scores, against a loop over ratings with the documented distance."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import dirichlet_multinomial

from dists import distance
from recommender.clustering import scoring
from recommender.clustering.scoring import (
    best_items,
    clusters_without,
    leave_one_out_scores,
    prior_weight,
    score,
    standing_out,
)

COLUMNS = np.array([4, 0, 7, 2, 9, 1])


def ratings(seed: int) -> csr_array:
    rng = np.random.default_rng(seed)
    return csr_array(rng.integers(1, 6, (60, 11)) * (rng.random((60, 11)) < 0.25) * 1.0)


def centroids(seed: int, scale: float) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return scale * rng.random((4, len(COLUMNS))) * (rng.random((4, len(COLUMNS))) < 0.6)


def slowly_without(rows: csr_array, centres: NDArray[np.float64]) -> list[int]:
    labels = []
    for row, (start, stop) in zip(rows.toarray(), pairwise(rows.indptr), strict=True):
        for item in rows.indices[start:stop]:
            rest = row.copy()
            rest[item] = 0
            far = [distance(rest[COLUMNS], centroid) for centroid in centres]
            labels.append(int(np.argmin(far)) if min(far) < 1 else -1)
    return labels


@pytest.mark.parametrize("scale", [0.1, 8.0])
def test_a_rating_counts_where_the_other_ratings_are(
    scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_BLOCK_RATINGS", 7)
    for seed in range(2):
        rows, centres = ratings(seed), centroids(seed, scale)
        labels = clusters_without(rows, centres, COLUMNS)
        assert labels.tolist() == slowly_without(rows, centres)
        assert -1 in labels


def test_scores_are_damped_means_of_the_ratings_that_count() -> None:
    rows, centres = ratings(5), centroids(5, 0.1)
    scored = score(rows, centres, COLUMNS, lowest=1)
    labels, sums, sizes = slowly_without(rows, centres), np.zeros((4, 11)), np.zeros(4)
    prior, following, city = np.zeros(11), 0, np.zeros(11)
    counts = np.zeros((4, 11), dtype=np.int64)
    at = 0
    for row in rows.toarray():
        for item in np.flatnonzero(row):
            city[item] += row[item]
            if (row > 0).sum() >= 2:
                prior[item] += row[item]
                following += 1
            if labels[at] >= 0:
                sums[labels[at], item] += row[item]
                counts[labels[at], item] += 1
                sizes[labels[at]] += 1
            at += 1
    weight = prior_weight(counts)
    expected = (sums + weight * prior / following) / (sizes + weight)[:, None]
    assert scored.scores == pytest.approx(expected, rel=1e-6, abs=1e-8)
    raters, mean = np.count_nonzero(rows.toarray(), axis=0), city.sum() / at
    assert scored.fallback == pytest.approx(raters / at * (city + 10 * mean) / (raters + 10))
    assert scored.shrinkage == weight


def test_where_the_scale_starts_at_zero_a_rating_of_zero_counts() -> None:
    values = ratings(2)
    from_zero = csr_array((values.data - 1, values.indices, values.indptr), shape=values.shape)
    centres = centroids(2, 0.1)
    labels = clusters_without(from_zero, centres, COLUMNS)
    assert labels.tolist() == slowly_without(from_zero, centres)
    scored = score(from_zero, centres, COLUMNS, lowest=0)
    expected = leave_one_out_scores(values, labels, len(centres))
    assert (scored.scores == expected.scores).all()
    assert (scored.fallback == expected.fallback).all()


def test_without_a_second_rating_every_cluster_has_the_fallback_list() -> None:
    rows = csr_array(np.array([[5.0, 0, 0], [0, 3, 0], [0, 4, 0]]))
    scored = score(rows, np.eye(3), np.arange(3), lowest=1)
    for scores in scored.scores:
        assert best_items(scores, 3).tolist() == best_items(scored.fallback, 3).tolist() == [1, 0]


@pytest.mark.parametrize("true", [5.0, 50.0])
def test_the_weight_is_the_concentration_that_the_counts_were_drawn_with(true: float) -> None:
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.ones(30))
    counts = np.array([rng.multinomial(300, rng.dirichlet(true * share)) for _ in range(80)])
    weight = prior_weight(counts)
    assert weight == pytest.approx(true, rel=0.2)
    seen = counts[:, counts.sum(axis=0) > 0]
    mean = seen.sum(axis=0) / seen.sum()

    def likelihood(w: float) -> float:
        return float(sum(dirichlet_multinomial.logpmf(row, w * mean, row.sum()) for row in seen))

    assert likelihood(weight) > max(likelihood(0.9 * weight), likelihood(1.1 * weight))


def test_without_counts_the_weight_is_one() -> None:
    assert prior_weight(np.zeros((2, 3), dtype=np.int64)) == 1


def test_the_best_items_are_positive_and_ties_go_by_position() -> None:
    assert best_items(np.array([0.0, 2, 3, 2, -1]), 4).tolist() == [2, 1, 3]
    assert best_items(np.array([0.0, 2, 3, 2, -1]), 1).tolist() == [2]


def test_distinctive_items_have_twice_the_share_of_all_users() -> None:
    counts = np.array([40, 8, 1, 12, 0, 4])
    city = np.array([0.5, 0.02, 0.001, 0.06, 0.2, 0.03])
    # Expected of 50 members: 25, 1, 0.05, 3, 10, 1.5.
    assert standing_out(counts, 50, city, 5).tolist() == [1, 3, 5]
    assert standing_out(counts, 50, city, 1).tolist() == [1]
