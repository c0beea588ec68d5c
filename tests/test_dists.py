"""The distance and the K-Means under it, against slow and readable oracles."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.metrics import adjusted_rand_score, silhouette_score

import dists
from tests.support import real_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

reproducible = settings(derandomize=True, deadline=None, max_examples=30)
seeds = st.integers(0, 2**32 - 1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise tests of the descent by generated rows and by the files of ``--ratings``."""
    if "make" in metafunc.fixturenames:
        makes: dict[str, Any] = {"sparse": sparse_ratings, "planted": lambda seed: planted(seed)[0]}
        for text in metafunc.config.getoption("ratings"):
            rows = real_rows(text)
            makes[Path(text).name] = lambda _, rows=rows: rows
        metafunc.parametrize("make", makes.values(), ids=makes)


def seeds_of(rows: Floats, k: int, rng: np.random.Generator) -> Floats:
    """Return the rows that K-Means starts from."""
    distinct = dists.distinct_rows(rows)
    weights = distinct.counts.astype(np.float64)
    space = dists.Space(distinct.rows, weights, dists.distances, dists.assign, dists.update)
    return space.points(space.seeds(k, rng))


# Oracles


def pair_distance(x: Floats, c: Floats) -> float:
    """The contract's first form: 1 - cos(x, c) min(|x|, |c|) / max(|x|, |c|)."""
    norm_x, norm_c = math.hypot(*x), math.hypot(*c)
    if norm_x == 0 or norm_c == 0:
        return 1.0
    cosine = math.fsum(a * b for a, b in zip(x, c, strict=True)) / norm_x / norm_c
    return 1 - cosine * min(norm_x, norm_c) / max(norm_x, norm_c)


def pair_distances(rows: Floats, centroids: Floats) -> Floats:
    return np.array([[pair_distance(x, c) for c in centroids] for x in rows])


def summed(members: Floats, centroid: Floats) -> float:
    return math.fsum(pair_distance(x, centroid) for x in members)


def exhaustive_centroid(members: Floats) -> Floats:
    """The best of the closed-form centroids, one for the norm of each member."""
    candidates = []
    for s in np.linalg.norm(members, axis=1):
        pull = sum(x / max(x @ x, s * s) for x in members)
        candidates.append(s * pull / np.linalg.norm(pull))
    return min(candidates, key=lambda c: summed(members, c))


def mean_update(rows: Floats, labels: NDArray[Any], centroids: Floats) -> Floats:
    """Return the mean of each cluster's members, as plain K-Means does."""
    return np.array(
        [
            rows[labels == j].mean(axis=0) if (labels == j).any() else centroid
            for j, centroid in enumerate(centroids)
        ]
    )


def lloyd_history(
    rows: Floats, centroids: Floats, update: Callable[..., Floats], iterations: int
) -> list[float]:
    """Lloyd's iterations and nothing else."""
    history = []
    for _ in range(iterations):
        labels, nearest = dists.assign(rows, centroids)
        history.append(float(nearest.sum()))
        centroids = update(rows, labels, centroids)
    return history


# Data


def matrices(least_rows: int = 1, zero_rows: bool = False) -> st.SearchStrategy[Floats]:
    """Small matrices, of ratings with many ties or of any magnitudes within four decades."""
    shapes = st.tuples(st.integers(least_rows, 12), st.integers(1, 6))
    ratings = st.sampled_from([0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    magnitudes = st.one_of(st.just(0.0), st.floats(0.01, 100))
    rows = arrays(float, shapes, elements=ratings) | arrays(float, shapes, elements=magnitudes)
    return rows if zero_rows else rows.map(without_zero_rows)


def without_zero_rows(rows: Floats) -> Floats:
    rows = rows.copy()
    rows[~rows.any(axis=1), 0] = 1.0
    return rows


def sparse_ratings(seed: int, n: int = 400, m: int = 60, mean_length: float = 1.5) -> Floats:
    """Most users with one or two ratings, a few with many."""
    rng = np.random.default_rng(seed)
    share = np.minimum((rng.pareto(1.2, n) + 1) * mean_length / m, 0.9)
    rated = rng.random((n, m)) < share[:, None]
    return without_zero_rows(rated * rng.integers(1, 6, (n, m)).astype(float))


def one_timers(seed: int, n: int = 2000, m: int = 60) -> Floats:
    """One rating each, a second from every fourth user, more of them for popular items."""
    rng = np.random.default_rng(seed)
    popularity = np.arange(1, m + 1) ** -0.8
    rows = np.zeros((n, m))
    for users in (np.arange(n), np.arange(0, n, 4)):
        items = rng.choice(m, len(users), p=popularity / popularity.sum())
        rows[users, items] = rng.integers(3, 6, len(users))
    return rows


def planted(seed: int, k: int = 6, each: int = 60) -> tuple[Floats, NDArray[Any]]:
    """Users of k groups: each group has eight items of its own, all share four others."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(k), each))
    own = np.arange(8 * k) // 8 == truth[:, None]
    chance = np.hstack([np.where(own, 0.7, 0.02), np.full((len(truth), 4), 0.2)])
    rated = rng.random(chance.shape) < chance
    return without_zero_rows(rated * rng.integers(3, 6, chance.shape).astype(float)), truth


def distinct_count(rows: Floats) -> int:
    return len(np.unique(rows, axis=0))


# The distance


def test_distance_of_known_vectors() -> None:
    known: list[tuple[list[float], list[float], float]] = [
        ([3, 4], [3, 4], 0.0),
        ([5, 0], [0, 5], 1.0),
        ([5, 0], [2.5, 0], 0.5),
        ([2.5, 0], [5, 0], 0.5),
        ([5, 5], [5, 0], 0.5),
        ([1, 2, 2], [2, 2, 1], 1 / 9),
        ([0, 0], [1, 2], 1.0),
        ([1, 2], [0, 0], 1.0),
        ([0, 0], [0, 0], 1.0),
    ]
    for x, c, expected in known:
        assert dists.distance(x, c) == pytest.approx(expected, abs=1e-15)


@reproducible
@given(matrices(least_rows=2, zero_rows=True))
def test_distance_is_the_contracts(rows: Floats) -> None:
    x, c = rows[:2]
    distance = dists.distance(x, c)
    assert distance == pytest.approx(pair_distance(x, c), abs=1e-12)
    assert distance == dists.distance(c, x) == dists.distance(x * 1024, c * 1024)
    assert 0 <= distance <= 1


@reproducible
@given(matrices(zero_rows=True))
def test_distance_to_itself_is_exactly_zero_unless_zero(rows: Floats) -> None:
    expected = np.where(rows.any(axis=1), 0.0, 1.0)
    assert [dists.distance(x, np.repeat(x, 2)[::2]) for x in rows] == expected.tolist()


@reproducible
@given(matrices(zero_rows=True), seeds)
def test_block_distances_are_those_of_the_pairs(rows: Floats, seed: int) -> None:
    rng = np.random.default_rng(seed)
    centroids = np.vstack([rows[::2], np.zeros((1, rows.shape[1])), rng.random((2, rows.shape[1]))])
    distances = dists.distances(rows, centroids)
    assert distances.dtype == np.float64
    assert ((distances >= 0) & (distances <= 1)).all()
    assert_allclose(distances, pair_distances(rows, centroids), atol=1e-12)
    assert_allclose(np.diag(distances[::2]), np.where(rows[::2].any(axis=1), 0, 1), atol=1e-15)


def test_any_real_matrix_gives_the_same_distances() -> None:
    rows = sparse_ratings(0, n=50)
    centroids = np.random.default_rng(1).random((4, rows.shape[1]))
    expected = dists.distances(rows, centroids)
    conversions: list[Any] = [
        sparse.csr_array(rows),
        sparse.csr_matrix(rows),
        sparse.csc_array(rows),
        sparse.csr_array(rows.astype(np.float32)),
        sparse.csr_array(rows.astype(np.int64)),
        rows.astype(np.int8),
    ]
    for converted in conversions:
        assert_array_equal(dists.distances(converted, centroids), expected)
        assert_array_equal(dists.assign(converted, centroids)[1], expected.min(axis=1))


def test_unsorted_and_repeated_entries_are_summed_and_left_alone() -> None:
    parts = (np.array([1.0, 4.0, 2.0]), np.array([2, 0, 2]), np.array([0, 3]))
    rows = sparse.csr_array(parts, shape=(1, 3))
    assert dists.distances(rows, np.array([[2.0, 0, 1.5]]))[0, 0] == 0.5
    assert dists.distinct_rows(rows).rows.toarray().tolist() == [[4, 0, 3]]
    assert rows.nnz == 3


# Assignment


@reproducible
@given(matrices(zero_rows=True), st.integers(1, 14), seeds)
def test_assign_takes_the_nearest_and_of_ties_the_lowest(
    rows: Floats, block_rows: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    centroids = np.vstack([rng.random((2, rows.shape[1])), rows, rows])
    labels, nearest = dists.assign(rows, centroids, block_rows=block_rows)
    every = dists.distances(rows, centroids)
    assert labels.dtype == np.int32
    assert_array_equal(labels, every.argmin(axis=1))
    assert_array_equal(nearest, every.min(axis=1))
    assert (labels < 2 + len(rows)).all()


def test_disjoint_rows_have_distance_one_and_label_zero() -> None:
    labels, nearest = dists.assign(np.array([[0.0, 0, 1], [0, 0, 0]]), np.eye(3)[:2])
    assert labels.tolist() == [0, 0]
    assert nearest.tolist() == [1, 1]


def bounded_kmeans(
    rows: dists.Rows,
    k: int,
    *,
    seed: int = 0,
    tolerance: float = dists.TOLERANCE,
    max_iter: int = dists.MAX_ITER,
) -> dists.KMeansResult:
    """Cluster with other bounds of the iterations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dists, "TOLERANCE", tolerance)
        patch.setattr(dists, "MAX_ITER", max_iter)
        return dists.kmeans(rows, k, seed=seed)


def test_rows_too_wide_to_be_dense_are_clustered() -> None:
    n, m = 30_000, 400_000
    rng = np.random.default_rng(0)
    columns = rng.integers(0, 50, 2 * n) * 7919
    parts = (rng.integers(1, 6, 2 * n), columns, np.arange(0, 2 * n + 1, 2))
    rows = sparse.csr_matrix(parts, shape=(n, m))
    fit = bounded_kmeans(rows, 3, max_iter=2)
    assert fit.sizes.sum() == n


# The update


@reproducible
@given(matrices())
def test_update_reaches_the_exhaustive_optimum(members: Floats) -> None:
    start = members[:1]
    moved = dists.update(members, np.zeros(len(members), dtype=int), start)[0]
    best = summed(members, exhaustive_centroid(members))
    assert summed(members, moved) == pytest.approx(best, abs=1e-9)
    assert summed(members, moved) <= summed(members, start[0]) + 1e-9


@reproducible
@given(matrices(), seeds)
def test_no_other_point_is_better_than_the_exhaustive_optimum(members: Floats, seed: int) -> None:
    rng = np.random.default_rng(seed)
    best = exhaustive_centroid(members)
    bound = summed(members, best) - 1e-9
    near = np.abs(best * (1 + 0.1 * rng.normal(size=(30, len(best)))))
    far = rng.random((30, len(best))) * members.max() * rng.random((30, 1))
    assert min(summed(members, c) for c in np.vstack([near, far, members])) >= bound


@reproducible
@given(matrices(least_rows=2), st.integers(1, 4), seeds)
def test_update_of_many_clusters_is_that_of_each(rows: Floats, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, len(rows))
    centroids = rng.random((k, rows.shape[1]))
    moved = dists.update(sparse.csr_array(rows), labels, centroids)
    for j in range(k):
        members = rows[labels == j]
        if len(members):
            best = summed(members, exhaustive_centroid(members))
            assert summed(members, moved[j]) == pytest.approx(best, abs=1e-9)
        else:
            assert_array_equal(moved[j], centroids[j])


@reproducible
@given(matrices(), seeds)
def test_weights_count_as_repetitions_in_the_update(rows: Floats, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, counts = rng.integers(0, 2, len(rows)), rng.integers(0, 4, len(rows))
    start = rng.random((2, rows.shape[1]))
    weighted = dists.update(rows, labels, start, weights=counts.astype(float))
    repeated = dists.update(np.repeat(rows, counts, axis=0), np.repeat(labels, counts), start)
    for j in range(2):
        members = np.repeat(rows, counts * (labels == j), axis=0)
        expected = summed(members, repeated[j])
        assert summed(members, weighted[j]) == pytest.approx(expected, abs=1e-9)


def test_zero_rows_have_no_effect_on_the_update() -> None:
    rows, labels = np.array([[0.0, 0], [3, 4], [0, 0]]), np.array([0, 0, 1])
    moved = dists.update(rows, labels, np.array([[1.0, 1], [2, 2]]))
    assert_allclose(moved, [[3, 4], [2, 2]])


@pytest.mark.parametrize("seed", range(2))
def test_plain_means_rise_where_the_update_descends(seed: int) -> None:
    rows = sparse_ratings(seed)
    start = seeds_of(rows, 8, np.random.default_rng(seed))
    means = lloyd_history(rows, start, mean_update, 12)
    exact = lloyd_history(rows, start, dists.update, 12)
    assert max(np.diff(means)) > 1
    assert max(np.diff(exact)) <= 1e-9
    assert exact[-1] < min(means)


# Distinct rows


@reproducible
@given(matrices(zero_rows=True), seeds)
def test_distinct_rows_are_those_of_numpy(rows: Floats, seed: int) -> None:
    rows = np.vstack([rows, rows[::2], rows[:1]])
    distinct = dists.distinct_rows(rows)
    unique, counts = np.unique(rows, axis=0, return_counts=True)
    order = np.lexsort(distinct.rows.toarray().T[::-1])
    assert_array_equal(distinct.rows.toarray()[order], unique)
    assert_array_equal(distinct.counts[order], counts)
    assert_array_equal(distinct.rows.toarray()[distinct.inverse], rows)
    shuffled = dists.distinct_rows(np.random.default_rng(seed).permutation(rows))
    assert_array_equal(shuffled.rows.toarray(), distinct.rows.toarray())


def test_stored_zeros_do_not_distinguish_rows() -> None:
    parts = (np.array([1.0, 0, 1]), np.array([0, 1, 0]), np.array([0, 2, 3]))
    rows = sparse.csr_array(parts, shape=(2, 2))
    assert dists.distinct_rows(rows).counts.tolist() == [2]
    assert rows.nnz == 3


# Seeding


@reproducible
@given(matrices(), st.data(), seeds)
def test_seeding_takes_distinct_rows(rows: Floats, data: st.DataObject, seed: int) -> None:
    rows = np.vstack([rows, rows])
    k = data.draw(st.integers(1, distinct_count(rows)))
    chosen = seeds_of(rows, k, np.random.default_rng(seed))
    again = seeds_of(rows[::-1], k, np.random.default_rng(seed))
    assert_array_equal(chosen, again)
    assert {tuple(c) for c in chosen} <= {tuple(x) for x in rows}
    assert distinct_count(chosen) == k


@pytest.mark.parametrize("seed", range(2))
def test_seeding_takes_a_row_of_every_far_group(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(5), [200, 3, 3, 3, 3])
    rows = np.eye(5)[groups] * rng.uniform(4.9, 5.1, (len(groups), 1))
    chosen = seeds_of(rows, 5, rng)
    assert sorted(chosen.argmax(axis=1)) == [0, 1, 2, 3, 4]


def test_seeding_keeps_the_best_of_its_trials() -> None:
    rows, rng = planted(0)[0], np.random.default_rng(0)
    seeded = [seeds_of(rows, 6, rng) for _ in range(20)]
    uniform = [rows[rng.choice(len(rows), 6, replace=False)] for _ in range(20)]
    cost, chance = (
        np.mean([dists.assign(rows, centroids)[1].mean() for centroids in chosen])
        for chosen in (seeded, uniform)
    )
    assert cost < 0.87 * chance


def test_seeding_prefers_heavy_rows() -> None:
    rows = np.vstack([np.eye(4), np.tile(np.eye(4)[1], (10_000, 1))])
    assert_array_equal(seeds_of(rows, 1, np.random.default_rng(0)), np.eye(4)[1:2])


# K-Means


def test_rows_that_are_close_fill_clusters() -> None:
    rows = np.array([[1.0, 0], [1, 1e-7], [1, 2e-7], [3, 1]])
    assert len(dists.kmeans(rows, 4).centroids) == 4


@reproducible
@given(matrices(), st.data(), seeds)
def test_kmeans_results_are_consistent(rows: Floats, data: st.DataObject, seed: int) -> None:
    k = data.draw(st.integers(1, distinct_count(rows)))
    fit = bounded_kmeans(rows, k, seed=seed, tolerance=0)
    assert fit.centroids.shape == (k, rows.shape[1])
    assert max(np.diff(fit.history), default=0) <= 1e-9
    assert fit.inertia == min(fit.history) == pytest.approx(fit.distances.sum())
    assert fit.iterations == len(fit.history) - 1
    assert fit.converged
    assert (fit.sizes > 0).all()
    assert_array_equal(fit.sizes, np.bincount(fit.labels, minlength=k))
    labels, nearest = dists.assign(rows, fit.centroids)
    assert_array_equal(fit.labels, labels)
    assert_allclose(fit.distances, nearest, atol=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_inertia_never_rises(make: Callable[[int], Any], seed: int) -> None:
    rows = make(seed)
    for k in (2, 7, 30):
        fit = bounded_kmeans(rows, k, seed=seed, tolerance=0, max_iter=1000)
        assert fit.iterations > 1
        assert max(np.diff(fit.history)) <= 1e-11 * fit.history[0]
        assert fit.converged
        assert (fit.sizes > 0).all()


@reproducible
@given(matrices(), st.data(), seeds)
def test_order_of_the_rows_is_immaterial(rows: Floats, data: st.DataObject, seed: int) -> None:
    rows = np.vstack([rows, rows[::2]])
    k = data.draw(st.integers(1, distinct_count(rows)))
    order = np.random.default_rng(seed).permutation(len(rows))
    fit, permuted = dists.kmeans(rows, k, seed=seed), dists.kmeans(rows[order], k, seed=seed)
    assert_array_equal(permuted.centroids, fit.centroids)
    assert_array_equal(permuted.labels, fit.labels[order])


@reproducible
@given(matrices(), st.data())
def test_equal_rows_have_equal_labels(rows: Floats, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, distinct_count(rows)))
    fit = dists.kmeans(np.vstack([rows, rows]), k)
    assert_array_equal(fit.labels[: len(rows)], fit.labels[len(rows) :])


@pytest.mark.parametrize("seed", range(2))
def test_duplicates_count_as_weights(seed: int) -> None:
    rows = sparse_ratings(seed)
    fit, tripled = (
        dists.kmeans(rows, 9, seed=seed),
        dists.kmeans(np.tile(rows, (3, 1)), 9, seed=seed),
    )
    assert_allclose(tripled.centroids, fit.centroids, atol=1e-12)
    assert tripled.inertia == pytest.approx(3 * fit.inertia)
    heavy = dists.kmeans(np.vstack([np.eye(3), np.tile([[1.0, 1, 0]], (1000, 1))]), 1)
    assert_allclose(heavy.centroids, [[1, 1, 0]], atol=0.01)


@reproducible
@given(matrices())
def test_one_cluster_has_the_best_centroid_of_all(rows: Floats) -> None:
    fit = dists.kmeans(rows, 1)
    assert fit.inertia == pytest.approx(summed(rows, exhaustive_centroid(rows)), abs=1e-9)


@reproducible
@given(matrices())
def test_as_many_clusters_as_distinct_rows_cost_nothing(rows: Floats) -> None:
    k = distinct_count(rows)
    fit = dists.kmeans(rows, k)
    assert fit.inertia == pytest.approx(0, abs=1e-9)
    assert len(set(fit.labels)) == k


@pytest.mark.parametrize("seed", range(2))
def test_planted_groups_are_found(seed: int) -> None:
    rows, truth = planted(seed)
    fits = (dists.kmeans(sparse.csr_array(rows), 6, seed=4 * seed + i) for i in range(4))
    fit = min(fits, key=lambda fit: fit.inertia)
    assert adjusted_rand_score(truth, fit.labels) > 0.95


@pytest.mark.parametrize("seed", range(2))
def test_strays_do_not_drag_a_centroid_off(seed: int) -> None:
    rows = one_timers(seed)
    start = seeds_of(rows, 10, np.random.default_rng([seed, 0]))
    naive = lloyd_history(rows, start, dists.update, 15)
    fit = dists.kmeans(rows, 10, seed=seed)
    assert fit.history[0] == pytest.approx(naive[0])
    assert fit.inertia < 0.98 * naive[-1]
    assert max(np.diff(fit.history)) <= 1e-9


def test_the_seed_decides() -> None:
    rows = sparse_ratings(3)
    one, same, other = (dists.kmeans(rows, 9, seed=seed) for seed in (1, 1, 2))
    assert_array_equal(one.labels, same.labels)
    assert_array_equal(one.centroids, same.centroids)
    assert not np.array_equal(one.labels, other.labels)


def test_tolerance_and_cap_end_the_iterations() -> None:
    rows = sparse_ratings(0)
    capped = bounded_kmeans(rows, 9, max_iter=1)
    assert (capped.iterations, capped.converged) == (1, False)
    loose, exact = bounded_kmeans(rows, 9, tolerance=0.5), bounded_kmeans(rows, 9, tolerance=0)
    assert loose.converged
    assert exact.converged
    assert loose.iterations < exact.iterations


def rating_space(rows: sparse.csr_array) -> dists.Space:
    weights = np.ones(rows.shape[0])
    return dists.Space(rows, weights, dists.distances, dists.assign, dists.update)


def test_empty_clusters_move_to_rows_that_cost_most() -> None:
    rows = sparse.csr_array(sparse_ratings(0))
    centroids = np.repeat(rows[:1].toarray(), 5, axis=0)
    before = dists.assign(rows, centroids)[1].sum()
    state = dists._settled(rating_space(rows), centroids)
    assert len(set(state.labels)) == 5
    assert state.inertia < before - 4
    assert_array_equal(centroids[1:], centroids[:-1])


def test_rows_within_rounding_of_a_centroid_start_no_cluster() -> None:
    rows = sparse.csr_array(np.array([[1.0, 0], [1, 1e-7]]))
    state = dists._settled(rating_space(rows), np.array([[1.0, 0], [1, 0]]))
    assert_array_equal(state.centroids, [[1, 0]])
    assert_array_equal(state.labels, [0, 0])


@pytest.mark.filterwarnings("error")
def test_magnitude_is_immaterial() -> None:
    rows = sparse_ratings(1)
    fit = dists.kmeans(rows, 9)
    for magnitude in (2.0**-1000, 2.0**-7, 2.0**1000):
        scaled = dists.kmeans(rows * magnitude, 9)
        assert_array_equal(scaled.labels, fit.labels)
        assert_array_equal(scaled.centroids, fit.centroids * magnitude)
        assert scaled.history == fit.history


@pytest.mark.filterwarnings("error")
def test_mixed_magnitudes_are_separated() -> None:
    rows = np.array([[1e-100, 0], [1.1e-100, 0], [1, 0], [1.1, 0], [1e40, 0], [1.1e40, 0]])
    fits = (dists.kmeans(rows, 3, seed=seed) for seed in range(5))
    fit = min(fits, key=lambda fit: fit.inertia)
    assert fit.labels[::2].tolist() == fit.labels[1::2].tolist()
    assert len(set(fit.labels)) == 3


def test_float32_rows_get_the_same_labels() -> None:
    rows = sparse_ratings(2)
    fit, single = dists.kmeans(rows, 9), dists.kmeans(rows.astype(np.float32), 9)
    assert_array_equal(single.labels, fit.labels)
    assert single.centroids.dtype == np.float64
    assert_array_equal(single.centroids, fit.centroids)


# Bad input


@pytest.mark.filterwarnings("error")
def test_invalid_rows_and_k_are_rejected() -> None:
    one = np.array([[1.0, 1.0]])
    for rows, k, message in (
        (np.eye(3), 4, "k=4: .*1 to 3"),
        (np.ones((5, 2)), 2, "k=2: .*1 to 1"),
        (np.eye(3), 0, "k=0: .*1 to 3"),
        (one * [1, np.nan], 1, "NaN"),
        (one * [1, np.inf], 1, "NaN"),
        (one * [-np.inf, np.inf], 1, "NaN"),
        (one * [1, -0.5], 1, "-0.5"),
        (np.array([[1.0, 1], [0, 0], [0, 0]]), 1, "2 of 3"),
        (np.array([[1e200], [1e-200]]), 1, "1 of 2"),
        (np.zeros((0, 3)), 1, r"\(0, 3\)"),
        (np.zeros((3, 0)), 1, r"\(3, 0\)"),
        (np.ones(3), 1, r"\(3,\)"),
        (np.array([[1, 0], [1, 1e-9]]), 2, "k=2: 1 "),
    ):
        for layout in (rows, sparse.csr_matrix(rows))[: rows.ndim]:
            with pytest.raises(ValueError, match=message):
                dists.kmeans(layout, k)


# Silhouette


@reproducible
@given(matrices(least_rows=3, zero_rows=True), seeds)
def test_silhouette_is_that_of_the_pairs(rows: Floats, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 3, len(rows))
    between = np.maximum(pair_distances(rows, rows), 0)
    np.fill_diagonal(between, 0)
    width = dists.silhouette(sparse.csr_array(rows), labels)
    if 2 <= len(set(labels)) < len(rows):
        expected = silhouette_score(between, labels, metric="precomputed")
        assert width == pytest.approx(expected, abs=1e-6)
    else:
        assert width is None


def test_silhouette_of_a_sample_is_seeded_and_near() -> None:
    rows, truth = planted(0)
    whole = dists.silhouette(rows, truth)
    sampled, again = (dists.silhouette(rows, truth, sample_size=150, seed=1) for _ in range(2))
    other = dists.silhouette(rows, truth, sample_size=150, seed=2)
    assert whole is not None
    assert whole > 0.2
    assert sampled == again != other
    assert sampled == pytest.approx(whole, abs=0.05)
    assert dists.silhouette(rows, truth, sample_size=len(rows)) == whole


def test_silhouette_of_one_cluster_is_undefined() -> None:
    assert dists.silhouette(np.eye(3), np.zeros(3, dtype=int)) is None
