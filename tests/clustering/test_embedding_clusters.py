"""Clusters in the spectral embedding, and their published centroids."""

import numpy as np
import pytest
from scipy.sparse import csr_array, vstack

from dists import KMeansResult, assign
from recommender.clustering import embedding_clusters as module
from recommender.clustering.embedding_clusters import embedding_clusters, published_centroids
from tests.small_cities import planted_groups, tiny_matrix


def clustered(rows: csr_array, k: int = 5, *, dimensions: int = 12, seed: int = 0) -> KMeansResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DIMENSIONS", dimensions)
        clusters = embedding_clusters(rows, k, shortest=1.0, seed=seed)
    assert clusters
    return clusters


def test_planted_groups_are_separated_exactly() -> None:
    clusters = clustered(planted_groups(), 3, dimensions=3)
    groups = [set(part.tolist()) for part in np.split(clusters.labels, [400, 600])]
    assert sorted(groups, key=min) == [{0}, {1}, {2}]


def test_without_a_user_of_two_items_there_are_no_clusters() -> None:
    rows = csr_array(np.eye(3))
    assert embedding_clusters(rows, 2, shortest=1, seed=0) is None


def test_no_published_centroid_is_negative_or_longer_than_the_shortest_user() -> None:
    rng = np.random.default_rng(0)
    centroids = published_centroids(rng.normal(size=(7, 5)), rng.normal(size=(40, 5)), 0.3)
    lengths = np.linalg.norm(centroids, axis=1)
    assert centroids.min() >= 0
    assert lengths.max() == pytest.approx(0.3)
    assert lengths.max() < 0.3
    assert not published_centroids(-np.ones((1, 1)), np.ones((3, 1)), 1).any()


def test_a_reader_of_raw_ratings_finds_the_cluster_of_the_embedding() -> None:
    rows = tiny_matrix()
    for seed in range(2):
        clusters = clustered(rows, 8, seed=seed)
        labels, nearest = assign(rows, clusters.centroids)
        embedded = clusters.labels >= 0
        assert (labels == clusters.labels)[embedded].mean() > 0.99
        assert (nearest[embedded] < 1).mean() > 0.99


def test_a_permutation_of_the_users_permutes_the_labels() -> None:
    rows = tiny_matrix()
    order = np.random.default_rng(0).permutation(rows.shape[0])
    clusters, permuted = clustered(rows), clustered(csr_array(rows[order]))
    assert (permuted.labels == clusters.labels[order]).all()
    assert permuted.centroids == pytest.approx(clusters.centroids)
    assert permuted.distances == pytest.approx(clusters.distances[order], nan_ok=True)
    assert permuted.sizes.tolist() == np.bincount(permuted.labels + 1)[1:].tolist()


def test_the_seed_decides() -> None:
    rows = tiny_matrix()
    one, same, other = (clustered(rows, 9, seed=seed) for seed in (1, 1, 2))
    assert (one.centroids == same.centroids).all()
    assert one.labels.tolist() != other.labels.tolist()


def test_a_user_without_embedded_items_has_no_cluster() -> None:
    rows = csr_array(np.array([[5.0, 4, 0, 0], [0, 0, 1, 0], [0, 4, 0, 3], [2, 0, 0, 0]]))
    clusters = clustered(rows, 2)
    assert clusters.labels[1] == -1
    assert np.isnan(clusters.distances).tolist() == [False, True, False, False]
    assert not clusters.centroids[:, 2].any()


def test_users_without_a_common_item_are_clustered_by_co_ratings() -> None:
    """Two groups of items; users of one rating follow the few who rate two items of a group."""
    pairs = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)]
    rows = np.zeros((12, 6))
    for user, pair in enumerate(pairs):
        rows[user, pair] = 4
    rows[np.arange(6, 12), np.arange(6)] = 5
    clusters = clustered(csr_array(rows), 2)
    first, second = clusters.labels[6:9], clusters.labels[9:]
    assert len(set(first)) == len(set(second)) == 1
    assert first[0] != second[0]


def test_users_of_one_rating_hardly_move_the_centroids() -> None:
    rows = planted_groups()
    single = np.zeros((700, rows.shape[1]))
    single[:, rows.indices[0]] = 5
    alone, beside = clustered(rows, 3), clustered(csr_array(vstack([rows, csr_array(single)])), 3)
    one, other = (c.centroids[c.centroids.argmax(axis=1).argsort()] for c in (alone, beside))
    assert one == pytest.approx(other, rel=0.01, abs=1e-4)
    assert beside.sizes.sum() == 1400


def test_scaling_the_ratings_changes_no_label() -> None:
    rows = tiny_matrix()
    assert (clustered(rows).labels == clustered(rows * 1000.0).labels).all()
