"""The taste map and its clusters, against dense linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dists import Search, assign
from recommender.city import populate, review_blocks
from recommender.tastes import TasteClusters, published_centroids, taste_clusters, taste_map
from tests.support import TINY_CITY


def city() -> csr_array:
    blocks = list(review_blocks(populate(TINY_CITY)))
    user, place, rating = (
        np.concatenate([getattr(block, name) for block in blocks])
        for name in ("user", "restaurant", "rating")
    )
    shape = (TINY_CITY.users, TINY_CITY.restaurants)
    rows = csr_array((rating.astype(np.float64), (user, place)), shape=shape)
    rows.sum_duplicates()
    return csr_array(rows[np.diff(rows.indptr) > 0])


def clustered(rows: csr_array, k: int = 5, *, directions: int = 12, seed: int = 0) -> TasteClusters:
    found = taste_clusters(rows, k, directions=directions, shortest=1.0, search=Search(seed))
    assert found
    return found


def dense_map(rows: csr_array, directions: int) -> NDArray[np.float64]:
    """The map's definition, with the graph built pair by pair."""
    visited = rows.toarray() > 0
    graph = np.zeros((rows.shape[1], rows.shape[1]))
    for places in visited[visited.sum(axis=1) >= 2]:
        graph += np.outer(places, places) / np.sqrt(places.sum() - 1)
    np.fill_diagonal(graph, 0)
    degree = graph.sum(axis=1)
    scale = np.where(degree > 0, np.maximum(degree, 1e-300) ** -0.25, 0)
    values, vectors = np.linalg.eigh(scale[:, None] * graph * scale)
    values, vectors = values[::-1][:directions], vectors[:, ::-1][:, :directions]
    shares = np.sqrt(np.maximum(values, 0) / values[0])
    return np.asarray(scale[:, None] * vectors * shares)


def planted() -> csr_array:
    """Three groups of forty places, of different popularity, and users true to one of them."""
    rng = np.random.default_rng(0)
    rows = np.zeros((700, 120))
    for user, row in enumerate(rows):
        group = 0 if user < 400 else 1 if user < 600 else 2
        row[40 * group + rng.choice(40, 5, replace=False)] = rng.integers(1, 6, 5)
    return csr_array(rows)


@pytest.mark.parametrize(("rows", "directions"), [(city(), 60), (planted(), 3), (planted(), 200)])
def test_the_map_is_that_of_the_whole_graphs_eigenvectors(rows: csr_array, directions: int) -> None:
    found = taste_map(rows, weights=np.ones(rows.shape[0]), directions=directions, seed=0)
    assert found is not None
    dense = dense_map(rows, directions)
    near = dense @ dense.T
    assert found @ found.T == pytest.approx(near, rel=0, abs=1e-4 * near.max())


def test_planted_groups_are_found_exactly() -> None:
    found = clustered(planted(), 3, directions=3)
    groups = [set(found.labels[group].tolist()) for group in np.split(np.arange(700), [400, 600])]
    assert sorted(groups, key=min) == [{0}, {1}, {2}]


def test_a_weight_stands_for_so_many_users_and_values_do_not_matter() -> None:
    rows = csr_array(np.array([[5.0, 4, 0, 0], [0, 1, 1, 0], [0, 0, 0, 3]]))
    twice = csr_array(rows[[0, 0, 1, 2, 2]])
    twice.data[:] = 1
    one = taste_map(rows, weights=np.array([2.0, 1, 2]), directions=3, seed=0)
    other = taste_map(twice, weights=np.ones(5), directions=3, seed=0)
    assert one is not None
    assert other is not None
    assert one @ one.T == pytest.approx(other @ other.T)
    assert not one[3].any()


def test_nobody_with_two_places_is_no_map() -> None:
    rows = csr_array(np.eye(3))
    assert taste_map(rows, weights=np.ones(3), directions=2, seed=0) is None
    assert taste_clusters(rows, 2, directions=2, shortest=1, search=Search()) is None


def test_no_published_centroid_is_negative_or_longer_than_the_shortest_user() -> None:
    rng = np.random.default_rng(0)
    centroids = published_centroids(rng.normal(size=(7, 5)), rng.normal(size=(40, 5)), 0.3)
    lengths = np.linalg.norm(centroids, axis=1)
    assert centroids.min() >= 0
    assert lengths.max() == pytest.approx(0.3)
    assert lengths.max() < 0.3
    assert not published_centroids(-np.ones((1, 1)), np.ones((3, 1)), 1).any()


@pytest.mark.parametrize("seed", range(3))
def test_the_reader_of_raw_ratings_lands_where_the_map_put_the_user(seed: int) -> None:
    rows = city()
    found = clustered(rows, 8, seed=seed)
    labels, nearest = assign(rows, found.centroids)
    on_map = found.labels >= 0
    assert (labels == found.labels)[on_map].mean() > 0.99
    assert (nearest[on_map] < 1).mean() > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_a_permutation_of_the_users_permutes_the_labels(seed: int) -> None:
    rows = city()
    order = np.random.default_rng(seed).permutation(rows.shape[0])
    found, permuted = clustered(rows), clustered(csr_array(rows[order]))
    assert (permuted.labels == found.labels[order]).all()
    assert permuted.centroids == pytest.approx(found.centroids)
    assert permuted.closeness == pytest.approx(found.closeness[order], nan_ok=True)


def test_the_seed_decides() -> None:
    rows = city()
    one, same, other = (clustered(rows, 9, seed=seed) for seed in (1, 1, 2))
    assert (one.centroids == same.centroids).all()
    assert one.labels.tolist() != other.labels.tolist()


def test_a_user_off_the_map_has_no_cluster() -> None:
    rows = csr_array(np.array([[5.0, 4, 0, 0], [0, 0, 1, 0], [0, 4, 0, 3], [2, 0, 0, 0]]))
    found = clustered(rows, 2)
    assert found.labels[1] == -1
    assert np.isnan(found.closeness).tolist() == [False, True, False, False]
    assert not found.centroids[:, 2].any()


def test_tastes_are_found_among_users_who_share_no_place() -> None:
    """Two groups of places; single ratings follow the few who have been to two of a group."""
    pairs = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)]
    rows = np.zeros((12, 6))
    for user, pair in enumerate(pairs):
        rows[user, pair] = 4
    rows[np.arange(6, 12), np.arange(6)] = 5
    found = clustered(csr_array(rows), 2)
    first, second = found.labels[6:9], found.labels[9:]
    assert len(set(first)) == len(set(second)) == 1
    assert first[0] != second[0]


def test_scaling_the_ratings_changes_no_label() -> None:
    rows = city()
    assert (clustered(rows).labels == clustered(rows * 1000.0).labels).all()
