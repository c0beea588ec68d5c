"""K-Means of directions, against its own promises."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import dists
from dists import Search
from recommender.spherical import _Directions, spherical_kmeans


def directions(n: int, d: int, seed: int) -> NDArray[np.float64]:
    points = np.random.default_rng(seed).normal(size=(n, d)) + 0.5
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True))


@pytest.mark.parametrize("seed", range(5))
def test_spherical_inertia_never_rises_and_the_labels_are_of_the_centroids(seed: int) -> None:
    rows = directions(400, 6, seed)
    weights = np.random.default_rng(seed).integers(1, 9, 400).astype(float)
    found = spherical_kmeans(rows, 12, weights=weights, search=Search(seed, tolerance=0))
    assert np.diff(found.history).max() <= 1e-9
    assert found.converged
    gaps = 1 - rows @ found.centroids.T
    assert (gaps.argmin(axis=1) == found.labels).all()
    assert found.distances == pytest.approx(gaps.min(axis=1))
    assert found.inertia == pytest.approx(weights @ gaps.min(axis=1)) == found.history[-1]
    assert np.linalg.norm(found.centroids, axis=1) == pytest.approx(1)
    assert found.sizes.tolist() == np.bincount(found.labels).tolist()
    assert found.sizes.min() > 0


def test_spherical_centroids_are_the_best_of_their_members() -> None:
    rows, rng = directions(50, 4, 0), np.random.default_rng(1)
    found = spherical_kmeans(rows, 3, search=Search(tolerance=0))
    for cluster, centroid in enumerate(found.centroids):
        members = rows[found.labels == cluster]
        best = (1 - members @ centroid).sum()
        for near in centroid + 0.05 * rng.normal(size=(50, 4)):
            assert (1 - members @ (near / np.linalg.norm(near))).sum() >= best


def test_spherical_weights_are_repetitions_and_more_starts_are_no_worse() -> None:
    rows = directions(30, 3, 2)
    counts = np.arange(1, 31)
    weights, search = counts.astype(float), Search(starts=8, tolerance=0)
    one = spherical_kmeans(rows, 4, weights=weights, search=search)
    repeated = spherical_kmeans(np.repeat(rows, counts, axis=0), 4, search=search)
    assert one.inertia == pytest.approx(repeated.inertia, rel=0.02)
    single = spherical_kmeans(rows, 4, weights=weights, search=Search(tolerance=0))
    assert one.inertia <= single.inertia


@pytest.mark.parametrize("k", [3, 4, 9])
def test_spherical_clusters_are_as_many_as_directions(k: int) -> None:
    rows = np.repeat(np.eye(3), 4, axis=0)
    found = spherical_kmeans(rows, k)
    assert len(found.centroids) == 3
    assert found.sizes.tolist() == [4, 4, 4]
    assert found.inertia == 0


def test_spherical_clusters_that_died_are_filled_or_left_out() -> None:
    rows = np.eye(3)[[0, 0, 1, 2]]
    state = dists._settled(_Directions(rows, np.ones(4)), np.eye(3)[[0, 0, 0]])
    assert sorted(state.labels.tolist()) == [0, 0, 1, 2]
    state = dists._settled(_Directions(rows[:2], np.ones(2)), np.eye(3)[[1, 0]])
    assert state.centroids.tolist() == [[1, 0, 0]]
    assert state.labels.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("rows", "k"), [(np.eye(2), 0), (np.ones((2, 2)), 1), (np.zeros((1, 2)), 1), (np.eye(2)[:0], 1)]
)
def test_spherical_kmeans_refuses_what_it_cannot_cluster(rows: NDArray[np.float64], k: int) -> None:
    with pytest.raises(ValueError, match="expected at least"):
        spherical_kmeans(rows, k)
