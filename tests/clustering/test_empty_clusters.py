"""Empty-cluster repair, by the clusters that a reader finds."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dists import KMeansResult, assign, distinct_rows
from recommender.clustering.empty_clusters import repair_empty_clusters


def users(seed: int, n: int = 200, items: int = 25) -> csr_array:
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, 6, (n, items)) * (rng.random((n, items)) < 0.12)
    return csr_array(rows[rows.any(axis=1)] * 1.0)


def labels_of(rows: csr_array, centroids: NDArray[np.float64]) -> NDArray[np.int32]:
    labels, distances = assign(rows, centroids)
    return np.where(distances < 1, labels, np.int32(-1))


def clusters_of(
    centroids: NDArray[np.float64], labels: NDArray[np.int32], distance: float
) -> KMeansResult:
    return KMeansResult(centroids, labels, np.full(len(labels), distance), 1.0)


def trained(seed: int, rows: csr_array, k: int) -> KMeansResult:
    """Clusters whose centroids are no longer than a user, the last of which is empty."""
    rng, shape = np.random.default_rng(seed), (k, rows.shape[1])
    centroids = rng.random(shape) * (rng.random(shape) < 0.6)
    centroids /= np.linalg.norm(centroids, axis=1).max() * (1 + 1e-9)
    centroids[-1] = 0
    return clusters_of(centroids, labels_of(rows, centroids), np.nan)


@pytest.mark.parametrize("k", [3, 12, 60])
@pytest.mark.parametrize("seed", range(2))
def test_a_reader_finds_users_in_every_cluster(seed: int, k: int) -> None:
    rows = users(seed)
    before = trained(seed, rows, 3)
    after = repair_empty_clusters(rows, before, k)
    labels = labels_of(rows, after.centroids)
    assert len(after.centroids) == k
    assert (np.bincount(labels[labels >= 0], minlength=k) > 0).all()
    assert (after.labels == labels).all()
    assert np.linalg.norm(after.centroids, axis=1).max() <= 1
    assert after.sizes.tolist() == np.bincount(labels[labels >= 0]).tolist()
    moved = ~np.isnan(after.distances)
    assert (after.centroids[:2] == before.centroids[:2]).all()
    assert (before.labels == after.labels)[~moved].all()
    dense, units = rows.toarray(), after.centroids[labels]
    cosines = (dense * units).sum(axis=1) / np.linalg.norm(dense, axis=1)
    cosines /= np.linalg.norm(units, axis=1)
    assert 1 - after.distances[moved] == pytest.approx(cosines[moved])


def test_the_largest_cluster_is_halved() -> None:
    rows = users(0)
    before = trained(0, rows, 3)
    after = repair_empty_clusters(rows, before, 3)
    sizes = [np.bincount(clusters.labels + 1, minlength=4) for clusters in (before, after)]
    largest = sizes[0].max()
    assert sizes[0][3] == 0
    assert 0.25 * largest < sizes[1][3] < 0.75 * largest


def test_enough_clusters_stay_as_they_are() -> None:
    rows = users(1)
    before = trained(1, rows, 3)
    after = repair_empty_clusters(rows, before, 2)
    assert (after.centroids == before.centroids).all()
    assert (after.labels == before.labels).all()


def test_the_order_of_users_is_immaterial() -> None:
    rows = users(2)
    order = np.random.default_rng(0).permutation(rows.shape[0])
    shuffled = csr_array(rows[order])
    one = repair_empty_clusters(rows, trained(2, rows, 3), 9)
    other = repair_empty_clusters(shuffled, trained(2, shuffled, 3), 9)
    assert (one.centroids == other.centroids).all()
    assert (one.labels[order] == other.labels).all()


def test_users_of_one_direction_stay_together() -> None:
    rows = csr_array(np.outer(np.arange(1, 9), [3.0, 4, 0]))
    before = clusters_of(np.array([[0.1, 0.1, 0]]), np.zeros(8, np.int32), 0)
    assert len(distinct_rows(rows).counts) == 8
    assert repair_empty_clusters(rows, before, 3).centroids.tolist() == before.centroids.tolist()


def test_users_without_a_cluster_get_the_last_ones() -> None:
    loners = np.hstack([np.zeros((9, 4)), 3 * np.eye(9)])
    friends = np.hstack([np.array([[4.0, 4, 0, 0], [0, 4, 4, 0], [0, 0, 4, 4]]), np.zeros((3, 9))])
    rows = csr_array(np.vstack([loners, friends]))
    centroids = np.full((1, 13), 0.1)
    centroids[:, 4:] = 0
    labels = np.repeat(np.array([-1, 0], np.int32), [9, 3])
    before = clusters_of(centroids, labels, 0)
    for k in (3, 5, 12):
        after = repair_empty_clusters(rows, before, k)
        assert (after.labels[:9] >= 0).sum() == k - 3
        assert len(set(after.labels[9:])) == 3
