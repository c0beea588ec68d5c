"""Spherical K-Means, against its definition."""

import numpy as np
import pytest
from numpy.typing import NDArray

import dists
from recommender.clustering import spherical_kmeans as module
from recommender.clustering.spherical_kmeans import spherical_kmeans


def unit_vectors(n: int, d: int, seed: int) -> NDArray[np.float64]:
    points = np.random.default_rng(seed).normal(size=(n, d)) + 0.5
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True))


@pytest.fixture
def to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Iterate until the inertia stays the same."""
    monkeypatch.setattr(dists, "TOLERANCE", 0)


@pytest.mark.usefixtures("to_the_end")
@pytest.mark.parametrize("seed", range(2))
def test_spherical_inertia_never_rises_and_the_labels_are_of_the_centroids(seed: int) -> None:
    rows = unit_vectors(400, 6, seed)
    weights = np.random.default_rng(seed).integers(1, 9, 400).astype(float)
    clusters = spherical_kmeans(rows, 12, weights, seed=seed)
    assert np.diff(clusters.history).max() <= 1e-9
    assert clusters.converged
    gaps = 1 - rows @ clusters.centroids.T
    assert (gaps.argmin(axis=1) == clusters.labels).all()
    assert clusters.distances == pytest.approx(gaps.min(axis=1))
    assert clusters.inertia == pytest.approx(weights @ gaps.min(axis=1)) == clusters.history[-1]
    assert np.linalg.norm(clusters.centroids, axis=1) == pytest.approx(1)
    assert clusters.sizes.tolist() == np.bincount(clusters.labels).tolist()
    assert clusters.sizes.min() > 0


@pytest.mark.usefixtures("to_the_end")
def test_spherical_centroids_are_the_best_of_their_members() -> None:
    rows, rng = unit_vectors(50, 4, 0), np.random.default_rng(1)
    clusters = spherical_kmeans(rows, 3, np.ones(50))
    for cluster, centroid in enumerate(clusters.centroids):
        members = rows[clusters.labels == cluster]
        best = (1 - members @ centroid).sum()
        for near in centroid + 0.05 * rng.normal(size=(50, 4)):
            assert (1 - members @ (near / np.linalg.norm(near))).sum() >= best


@pytest.mark.usefixtures("to_the_end")
def test_spherical_weights_are_repetitions() -> None:
    rows = unit_vectors(30, 3, 2)
    counts = np.arange(1, 31)
    one = spherical_kmeans(rows, 1, counts.astype(float))
    rows = np.repeat(rows, counts, axis=0)
    repeated = spherical_kmeans(rows, 1, np.ones(len(rows)))
    assert one.inertia == pytest.approx(repeated.inertia)
    assert one.centroids == pytest.approx(repeated.centroids)


def test_seeds_from_a_sample_find_the_groups_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SEEDING_ROWS", 10)
    groups = np.repeat(np.arange(30), 20)
    rows = np.eye(30)[groups] + 0.01 * unit_vectors(600, 30, 0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    clusters = spherical_kmeans(rows, 30, np.ones(600))
    assert len({*zip(groups, clusters.labels, strict=True)}) == 30


def test_a_sample_has_the_heavy_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SEEDING_ROWS", 10)
    rows = np.vstack([np.eye(20), unit_vectors(1_000, 20, 0)])
    weights = np.repeat([100, 1e-6], [20, 1_000])
    assert spherical_kmeans(rows, 20, weights).inertia < 1


def test_groups_that_a_sample_lacks_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SEEDING_ROWS", 1)
    rows = np.repeat(np.eye(5), [10_000, 1, 1, 1, 1], axis=0)
    clusters = spherical_kmeans(rows, 5, np.ones(len(rows)))
    assert (len(clusters.centroids), clusters.inertia) == (5, 0)


def test_spherical_clusters_are_no_more_than_distinct_rows() -> None:
    rows = np.repeat(np.eye(3), 4, axis=0)
    for k in (3, 4, 9):
        clusters = spherical_kmeans(rows, k, np.ones(len(rows)))
        assert clusters.sizes.tolist() == [4, 4, 4]
        assert clusters.inertia == 0


def test_empty_spherical_clusters_are_filled_or_dropped() -> None:
    rows = np.eye(3)[[0, 0, 1, 2]]
    functions = module._distances, module._nearest, module._update
    state = dists._settled(dists.Space(rows, np.ones(4), *functions), np.eye(3)[[0, 0, 0]])
    assert sorted(state.labels.tolist()) == [0, 0, 1, 2]
    state = dists._settled(dists.Space(rows[:2], np.ones(2), *functions), np.eye(3)[[1, 0]])
    assert state.centroids.tolist() == [[1, 0, 0]]
    assert state.labels.tolist() == [0, 0]


def test_the_distance_of_opposite_vectors_is_two_and_a_zero_sum_moves_no_centroid() -> None:
    clusters = spherical_kmeans(np.array([[1.0, 0], [-1, 0]]), 1, np.ones(2))
    assert sorted(clusters.distances) == [0, 2]
    assert np.abs(clusters.centroids).tolist() == [[1, 0]]
