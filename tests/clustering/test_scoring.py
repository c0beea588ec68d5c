"""Leave-one-out scores, against a loop over ratings with the documented distance."""

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
            distances = [distance(rest[COLUMNS], centroid) for centroid in centres]
            labels.append(int(np.argmin(distances)) if min(distances) < 1 else -1)
    return labels


def test_a_rating_counts_where_the_other_ratings_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_BLOCK_VALUES", 7 * 4)
    for seed, scale in ((0, 0.1), (1, 0.1), (0, 8.0), (1, 8.0)):
        rows, centres = ratings(seed), centroids(seed, scale)
        labels = clusters_without(rows, centres, COLUMNS)
        assert labels.tolist() == slowly_without(rows, centres)
        assert -1 in labels


@pytest.mark.parametrize("lowest", [1, 0])
def test_scores_are_damped_means_of_the_ratings_that_count(lowest: int) -> None:
    values, centres = ratings(5), centroids(5, 0.1)
    # On a scale from 0, a rating of 0 counts as 1.
    parts = (values.data - (lowest == 0), values.indices, values.indptr)
    rows = csr_array(parts, shape=values.shape)
    scored = score(values, rows, centres, COLUMNS)
    labels, sums, sizes = slowly_without(rows, centres), np.zeros((4, 11)), np.zeros(4)
    assert clusters_without(rows, centres, COLUMNS).tolist() == labels
    prior, following, city = np.zeros(11), 0, np.zeros(11)
    counts = np.zeros((4, 11), dtype=np.int64)
    at = 0
    for row in values.toarray():
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
    of_all = np.tile(prior / following, (4, 1))
    by_centroid = np.zeros((4, 11))
    for cluster, centroid in enumerate(centres):
        by_centroid[cluster, COLUMNS] = centroid / centroid.sum() * of_all[0].sum()
    priors = of_all, 0.05 * of_all + 0.95 * by_centroid
    fits = [prior_weight(counts, each / each.sum(axis=1)[:, None] + 1e-15) for each in priors]
    chosen = int(fits[1][1] > fits[0][1])
    weight = fits[chosen][0]
    expected = (sums + weight * priors[chosen]) / (sizes + weight)[:, None]
    assert scored.scores == pytest.approx(expected, rel=1e-6, abs=1e-8)
    raters, mean = np.count_nonzero(values.toarray(), axis=0), city.sum() / at
    assert scored.fallback == pytest.approx(raters / at * (city + 10 * mean) / (raters + 10))
    assert scored.shrinkage == pytest.approx(weight, rel=0.01)


def test_without_a_second_rating_every_cluster_has_the_fallback_list() -> None:
    rows = csr_array(np.array([[5.0, 0, 0], [0, 3, 0], [0, 4, 0]]))
    scored = score(rows, rows, np.eye(3), np.arange(3))
    for scores in (*scored.scores, scored.fallback):
        assert best_items(scores, 3).tolist() == [1, 0, -1]


@pytest.mark.parametrize("true", [5.0, 50.0])
def test_the_weight_is_the_concentration_that_the_counts_were_drawn_with(true: float) -> None:
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.ones(30))
    counts = np.array([rng.multinomial(300, rng.dirichlet(true * share)) for _ in range(80)])
    shares = np.tile(share, (80, 1))
    weight, at_weight = prior_weight(counts, shares)
    assert weight == pytest.approx(true, rel=0.2)

    def likelihood(w: float) -> float:
        return float(dirichlet_multinomial.logpmf(counts, w * share, counts.sum(axis=1)).sum())

    assert likelihood(weight) > max(likelihood(0.9 * weight), likelihood(1.1 * weight))
    # The constant that is left out is the same for any shares.
    other, at_other = prior_weight(counts, np.full_like(shares, 1 / 30))
    of_other = dirichlet_multinomial.logpmf(counts, other * np.ones(30) / 30, counts.sum(axis=1))
    assert at_weight - at_other == pytest.approx(likelihood(weight) - of_other.sum())


def test_the_centroid_ranks_restaurants_that_no_rating_counts_for() -> None:
    """Users of two groups rate three items of their group; two items have single ratings only."""
    rng = np.random.default_rng(0)
    values = np.zeros((62, 24))
    for user, row in enumerate(values[:60]):
        row[12 * (user % 2) + rng.choice(11, 3, replace=False)] = 4
    values[60, 11] = values[61, 23] = 4
    centres = np.repeat(np.eye(2), 12, axis=1)
    rows = csr_array(values)
    scores = score(rows, rows, centres, np.arange(24)).scores
    assert scores[0, 11] > 10 * scores[0, 23] > 0
    assert scores[1, 23] > 10 * scores[1, 11] > 0


def test_without_counts_the_weight_is_one() -> None:
    assert prior_weight(np.zeros((2, 3), dtype=np.int64), np.full((2, 3), 1 / 3)) == (1, 0)


def test_the_best_items_are_positive_and_ties_go_by_position() -> None:
    one, other = np.array([0.0, 2, 3, 2, -1]), np.arange(5.0)
    assert best_items(one, 4).tolist() == [2, 1, 3, -1]
    assert best_items(one, 1).tolist() == [2]
    assert best_items(np.array([one, other]), 4).tolist() == [[2, 1, 3, -1], [4, 3, 2, 1]]


def test_distinctive_items_have_twice_the_share_of_all_users() -> None:
    counts = np.array([40, 8, 1, 12, 0, 4])
    city = np.array([0.5, 0.02, 0.001, 0.06, 0.2, 0.03])
    # Expected of 50 members: 25, 1, 0.05, 3, 10, 1.5.
    assert standing_out(counts, 50, city, 5).tolist() == [1, 3, 5]
    assert standing_out(counts, 50, city, 1).tolist() == [1]
