"""Leave-one-out scores, against a loop over ratings that calls the documented distance."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import dirichlet_multinomial

from dists import distance
from recommender import scoring
from recommender.scoring import (
    best_places,
    city_weight,
    clusters_without,
    leave_one_out_scores,
    rating_means,
    standing_out,
)

COLUMNS = np.array([4, 0, 7, 2, 9, 1])


def ratings(seed: int) -> csr_array:
    rng = np.random.default_rng(seed)
    return csr_array(rng.integers(1, 6, (60, 11)) * (rng.random((60, 11)) < 0.25) * 1.0)


def centroids(seed: int, scale: float) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return scale * rng.random((4, len(COLUMNS))) * (rng.random((4, len(COLUMNS))) < 0.6)


def slowly_without(rows: csr_array, found: NDArray[np.float64]) -> list[int]:
    labels = []
    for row in rows.toarray():
        for place in np.flatnonzero(row):
            rest = row.copy()
            rest[place] = 0
            far = [distance(rest[COLUMNS], centroid) for centroid in found]
            labels.append(int(np.argmin(far)) if min(far) < 1 else -1)
    return labels


@pytest.mark.parametrize("scale", [0.1, 8.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_rating_is_placed_by_the_users_other_ratings(
    seed: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_BLOCK_RATINGS", 7)
    rows, found = ratings(seed), centroids(seed, scale)
    labels = clusters_without(rows, found, COLUMNS)
    assert labels.tolist() == slowly_without(rows, found)
    assert -1 in labels


@pytest.mark.parametrize("weight", [0.5, 20.0])
def test_scores_are_means_of_what_was_left_out_shrunk_towards_the_city(weight: float) -> None:
    rows, found = ratings(5), centroids(5, 0.1)
    without = clusters_without(rows, found, COLUMNS)
    scored = leave_one_out_scores(rows, without, len(found), weight)
    labels, sums, sizes = slowly_without(rows, found), np.zeros((4, 11)), np.zeros(4)
    prior, following, city = np.zeros(11), 0, np.zeros(11)
    at = 0
    for row in rows.toarray():
        for place in np.flatnonzero(row):
            city[place] += row[place]
            if (row > 0).sum() >= 2:
                prior[place] += row[place]
                following += 1
            if labels[at] >= 0:
                sums[labels[at], place] += row[place]
                sizes[labels[at]] += 1
            at += 1
    expected = (sums + weight * prior / following) / (sizes + weight)[:, None]
    assert scored.scores == pytest.approx(expected, rel=1e-6, abs=1e-8)
    visits, mean = np.count_nonzero(rows.toarray(), axis=0), city.sum() / at
    assert scored.city == pytest.approx(visits / at * (city + 10 * mean) / (visits + 10))
    assert scored.shrinkage == weight


def test_without_a_second_rating_every_cluster_has_the_citys_list() -> None:
    rows = csr_array(np.array([[5.0, 0, 0], [0, 3, 0], [0, 4, 0]]))
    without = clusters_without(rows, np.eye(3), np.arange(3))
    for weight in (None, 10.0):
        scored = leave_one_out_scores(rows, without, 3, weight)
        for scores in scored.scores:
            assert best_places(scores, 3).tolist() == best_places(scored.city, 3).tolist() == [1, 0]


def test_no_weight_and_nothing_counted_is_no_score() -> None:
    rows = csr_array(np.array([[5.0, 1.0]]))
    without = clusters_without(rows, np.zeros((1, 2)), np.arange(2))
    scored = leave_one_out_scores(rows, without, 1, 0.0)
    assert scored.scores.tolist() == [[0, 0]]


@pytest.mark.parametrize("true", [5.0, 50.0])
def test_the_weight_is_the_concentration_that_the_counts_were_drawn_with(true: float) -> None:
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.ones(30))
    counts = np.array([rng.multinomial(300, rng.dirichlet(true * share)) for _ in range(80)])
    weight = city_weight(counts)
    assert weight == pytest.approx(true, rel=0.2)
    seen = counts[:, counts.sum(axis=0) > 0]
    mean = seen.sum(axis=0) / seen.sum()

    def likelihood(w: float) -> float:
        return float(sum(dirichlet_multinomial.logpmf(row, w * mean, row.sum()) for row in seen))

    assert likelihood(weight) > max(likelihood(0.9 * weight), likelihood(1.1 * weight))


def test_without_counts_the_weight_is_one() -> None:
    assert city_weight(np.zeros((2, 3), dtype=np.int64)) == 1


def test_the_best_places_are_positive_and_the_first_of_equals() -> None:
    assert best_places(np.array([0.0, 2, 3, 2, -1]), 4).tolist() == [2, 1, 3]
    assert best_places(np.array([0.0, 2, 3, 2, -1]), 1).tolist() == [2]


def test_what_sets_a_cluster_apart_is_rated_twice_as_often_as_in_the_city() -> None:
    counts = np.array([40, 8, 1, 12, 0, 4])
    city = np.array([0.5, 0.02, 0.001, 0.06, 0.2, 0.03])
    # Expected of 50 members: 25, 1, 0.05, 3, 10, 1.5.
    assert standing_out(counts, 50, city, 5).tolist() == [1, 3, 5]
    assert standing_out(counts, 50, city, 1).tolist() == [1]


def slow_means(rows: csr_array, labels: list[int], k: int) -> NDArray[np.float64]:
    """The definition, rating by rating, the weights from a grid."""
    rated = [
        (u, i, r) for u, row in enumerate(rows.toarray().tolist()) for i, r in enumerate(row) if r
    ]
    mean = np.mean([r for _, _, r in rated])
    grid = np.exp(np.linspace(-14, 14, 400))

    def average(others: list[float], prior: float, w: float) -> float:
        return float((sum(others) + w * prior) / (len(others) + w))

    def of_place(i: int, without: int | None = None) -> list[float]:
        return [r for v, j, r in rated if j == i and v != without]

    def of_cluster(c: int, i: int, without: int | None = None) -> list[float]:
        return [r for v, j, r in rated if (labels[v], j) == (c, i) and v != without]

    def errors(w: float, priors: list[float], others: list[list[float]], on: list[float]) -> float:
        found = zip(others, priors, on, strict=True)
        return sum((r - average(rest, prior, w)) ** 2 for rest, prior, r in found)

    rest = [of_place(i, u) for u, i, _ in rated]
    on = [r for _, _, r in rated]
    v = min(grid, key=lambda w: errors(w, [mean] * len(on), rest, on))
    within = [(u, i, r, others) for (u, i, r), others in zip(rated, rest, strict=True)]
    within = [entry for entry in within if labels[entry[0]] >= 0]
    priors = [average(others, mean, v) for _, _, _, others in within]
    rest = [of_cluster(labels[u], i, u) for u, i, _, _ in within]
    on = [r for _, _, r, _ in within]
    w = min(grid, key=lambda w: errors(w, priors, rest, on))
    city = [average(of_place(i), mean, v) for i in range(rows.shape[1])]
    means = [
        [average(of_cluster(c, i), city[i], w) for i in range(rows.shape[1])] for c in range(k)
    ]
    return np.array([*means, city])


def opinionated(seed: int) -> tuple[csr_array, NDArray[np.int32]]:
    """Two clusters that like different places, and some users without one."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 2, 60).astype(np.int32)
    liked = np.where(labels[:, None] == np.arange(10) % 2, 4.5, 1.5)
    ratings = np.clip(np.round(liked + 0.7 * rng.normal(size=(60, 10))), 1, 5)
    return csr_array(ratings * (rng.random((60, 10)) < 0.3)), labels


@pytest.mark.parametrize("seed", range(2))
def test_mean_ratings_lean_as_much_as_foretells_them_best(seed: int) -> None:
    rows, labels = opinionated(seed)
    found = rating_means(rows, labels, 2)
    assert found == pytest.approx(slow_means(rows, labels.tolist(), 2), abs=0.01)
    assert found[0, 0] > 3.5 > 2.5 > found[0, 1]


def test_where_clusters_agree_they_rate_as_the_city() -> None:
    rng = np.random.default_rng(0)
    quality = rng.uniform(1, 5, 12)
    rows = csr_array((quality + 0.5 * rng.normal(size=(400, 12))) * (rng.random((400, 12)) < 0.4))
    found = rating_means(rows, rng.integers(0, 4, 400).astype(np.int32), 4)
    assert found[-1] == pytest.approx(quality, abs=0.15)
    assert np.abs(found[:-1] - found[-1]).max() < 0.1


def test_a_place_that_nobody_rated_has_no_mean_and_one_rating_is_every_cluster_s() -> None:
    found = rating_means(csr_array(np.array([[0, 4.0]])), np.array([-1], np.int32), 2)
    assert np.isnan(found[:, 0]).all()
    assert found[:, 1] == pytest.approx(4)
