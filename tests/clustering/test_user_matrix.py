"""The matrix of users and restaurants, on every kind of rating scale."""

import numpy as np
import pytest

from recommender.clustering.user_matrix import user_matrix
from recommender.core.errors import DataError
from recommender.data.ids import decode_ids
from recommender.publishing import bson_size
from tests.small_cities import few_ratings
from tests.support import ratings_of


def test_all_users_take_part_and_the_most_rated_columns_come_first() -> None:
    ratings = few_ratings()
    matrix = user_matrix(ratings, k=50, rating_min=1)
    assert decode_ids(ratings.restaurants.take(matrix.columns)) == ["a", "b", "c", "d"]
    assert matrix.rows.toarray().tolist() == [
        [5, 5, 5, 5],
        [4, 4, 4, 0],
        [3, 3, 0, 0],
        [2, 0, 0, 0],
        [0, 1, 0, 0],
    ]
    assert matrix.restaurants_left_out == 0


def test_columns_beyond_the_document_limit_are_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bson_size, "MAX_DOCUMENT_BYTES", 4096 + 230)
    matrix = user_matrix(few_ratings(), k=1000, rating_min=1)  # five users fill five clusters
    assert matrix.columns.tolist() == [0, 1, 2]
    assert matrix.restaurants_left_out == 1
    assert matrix.ratings.shape == (5, 4)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_subset_has_the_rows_of_its_users() -> None:
    matrix = user_matrix(few_ratings(), k=50, rating_min=1)
    part = matrix.subset(np.array([1, 4]))
    assert part.rows.toarray().tolist() == [[4, 4, 4, 0], [0, 1, 0, 0]]
    assert part.ratings.toarray().tolist() == [[4, 4, 4, 0], [0, 1, 0, 0]]


def test_on_a_scale_from_zero_a_zero_is_a_rating_but_not_in_a_row() -> None:
    ratings = ratings_of([("u", "a", 0), ("u", "b", 2), ("v", "b", 1e-300)])
    matrix = user_matrix(ratings, k=50, rating_min=0)
    assert [decode_ids(ratings.restaurants)[column] for column in matrix.columns] == ["b", "a"]
    assert (matrix.rows.toarray().tolist(), matrix.rows.nnz) == ([[2, 0], [0, 0]], 1)
    assert (matrix.ratings.toarray().tolist(), matrix.ratings.nnz) == ([[0, 2], [0, 1e-300]], 3)
    assert (matrix.shift, matrix.lowest) == (0, 0)


def test_a_scale_below_zero_is_shifted() -> None:
    ratings = ratings_of([("u", "a", -1), ("u", "b", 1)], rating_min=-1, rating_max=1)
    matrix = user_matrix(ratings, k=50, rating_min=-1)
    assert matrix.rows.toarray().tolist() == matrix.ratings.toarray().tolist() == [[1, 3]]
    assert (matrix.shift, matrix.lowest) == (2, 1)


def test_without_a_rating_above_zero_in_the_columns_there_is_no_matrix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(DataError):
        user_matrix(ratings_of([("u", "a", 0), ("v", "b", 0)]), k=50, rating_min=0)
    monkeypatch.setattr(bson_size, "MAX_DOCUMENT_BYTES", 4096)
    with pytest.raises(DataError):
        user_matrix(few_ratings(), k=50, rating_min=1)
