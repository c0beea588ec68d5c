"""The spectral embedding and its clusters, against dense linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dists import KMeansResult, assign
from recommender.clustering.spectral import (
    embedding_clusters,
    published_centroids,
    spectral_embedding,
)
from recommender.demo.synthetic_city import populate, review_blocks
from tests.support import TINY_CITY


def city() -> csr_array:
    blocks = list(review_blocks(populate(TINY_CITY)))
    user, item, rating = (
        np.concatenate([getattr(block, name) for block in blocks])
        for name in ("user", "restaurant", "rating")
    )
    shape = (TINY_CITY.users, TINY_CITY.restaurants)
    rows = csr_array((rating.astype(np.float64), (user, item)), shape=shape)
    rows.sum_duplicates()
    return csr_array(rows[np.diff(rows.indptr) > 0])


def clustered(rows: csr_array, k: int = 5, *, dimensions: int = 12, seed: int = 0) -> KMeansResult:
    clusters = embedding_clusters(rows, k, dimensions=dimensions, shortest=1.0, seed=seed)
    assert clusters
    return clusters


def dense_embedding(rows: csr_array, dimensions: int) -> NDArray[np.float64]:
    """The definition, with the graph built user by user."""
    rated = rows.toarray() > 0
    graph = np.zeros((rows.shape[1], rows.shape[1]))
    for items in rated[rated.sum(axis=1) >= 2]:
        graph += np.outer(items, items) / np.sqrt(items.sum() - 1)
    np.fill_diagonal(graph, 0)
    degree = graph.sum(axis=1)
    scale = np.where(degree > 0, np.maximum(degree, 1e-300) ** -0.25, 0)
    values, vectors = np.linalg.eigh(scale[:, None] * graph * scale)
    values, vectors = values[::-1][:dimensions], vectors[:, ::-1][:, :dimensions]
    shares = np.sqrt(np.maximum(values, 0) / values[0])
    return np.asarray(scale[:, None] * vectors * shares)


def planted() -> csr_array:
    """Three groups of forty items, of different popularity, and users who rate one group only."""
    rng = np.random.default_rng(0)
    rows = np.zeros((700, 120))
    for user, row in enumerate(rows):
        group = 0 if user < 400 else 1 if user < 600 else 2
        row[40 * group + rng.choice(40, 5, replace=False)] = rng.integers(1, 6, 5)
    return csr_array(rows)


def test_the_embedding_is_that_of_the_dense_graph() -> None:
    for rows, dimensions in ((city(), 60), (planted(), 3), (planted(), 200)):
        weights = np.ones(rows.shape[0])
        embedding = spectral_embedding(rows, weights=weights, dimensions=dimensions, seed=0)
        dense = dense_embedding(rows, dimensions)
        near = dense @ dense.T
        assert embedding @ embedding.T == pytest.approx(near, rel=0, abs=1e-4 * near.max())


def test_planted_groups_are_separated_exactly() -> None:
    clusters = clustered(planted(), 3, dimensions=3)
    groups = [set(part.tolist()) for part in np.split(clusters.labels, [400, 600])]
    assert sorted(groups, key=min) == [{0}, {1}, {2}]


def test_a_weight_is_a_number_of_users_and_values_are_not_used() -> None:
    rows = csr_array(np.array([[5.0, 4, 0, 0], [0, 1, 1, 0], [0, 0, 0, 3]]))
    twice = csr_array(rows[[0, 0, 1, 2, 2]])
    twice.data[:] = 1
    one = spectral_embedding(rows, weights=np.array([2.0, 1, 2]), dimensions=3, seed=0)
    other = spectral_embedding(twice, weights=np.ones(5), dimensions=3, seed=0)
    assert one @ one.T == pytest.approx(other @ other.T)
    assert not one[3].any()


def test_without_a_user_of_two_items_there_is_no_embedding() -> None:
    rows = csr_array(np.eye(3))
    assert not spectral_embedding(rows, weights=np.ones(3), dimensions=2, seed=0).any()
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
    rows = city()
    for seed in range(2):
        clusters = clustered(rows, 8, seed=seed)
        labels, nearest = assign(rows, clusters.centroids)
        embedded = clusters.labels >= 0
        assert (labels == clusters.labels)[embedded].mean() > 0.99
        assert (nearest[embedded] < 1).mean() > 0.99


def test_a_permutation_of_the_users_permutes_the_labels() -> None:
    rows = city()
    order = np.random.default_rng(0).permutation(rows.shape[0])
    clusters, permuted = clustered(rows), clustered(csr_array(rows[order]))
    assert (permuted.labels == clusters.labels[order]).all()
    assert permuted.centroids == pytest.approx(clusters.centroids)
    assert permuted.distances == pytest.approx(clusters.distances[order], nan_ok=True)
    assert permuted.sizes.tolist() == np.bincount(permuted.labels + 1)[1:].tolist()


def test_the_seed_decides() -> None:
    rows = city()
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


def test_scaling_the_ratings_changes_no_label() -> None:
    rows = city()
    assert (clustered(rows).labels == clustered(rows * 1000.0).labels).all()
