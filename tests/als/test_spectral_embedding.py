"""The spectral embedding, against dense linear algebra."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.als import spectral_embedding as module
from recommender.als.spectral_embedding import spectral_embedding
from tests.small_cities import planted_groups, tiny_matrix


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


@pytest.mark.parametrize("block_rows", [7, 1_000])
def test_the_embedding_is_that_of_the_dense_graph(
    block_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK_ROWS", block_rows)
    for rows, dimensions in ((tiny_matrix(), 60), (planted_groups(), 3), (planted_groups(), 200)):
        weights = np.ones(rows.shape[0])
        embedding = spectral_embedding(rows, weights=weights, dimensions=dimensions, seed=0)
        dense = dense_embedding(rows, dimensions)
        near = dense @ dense.T
        assert embedding @ embedding.T == pytest.approx(near, rel=0, abs=1e-4 * near.max())


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
