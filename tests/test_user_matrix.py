"""The matrix of those who are clustered: who and what takes part, and the map beside it."""

from __future__ import annotations

import numpy as np
import pytest

from recommender.publishing import bson_size
from recommender.errors import DataError
from recommender.factors import factors_document
from recommender.mongo import MongoDatabase
from recommender.ratings import decode_ids
from recommender.settings import load_settings
from recommender.user_matrix import user_matrix, with_factors
from tests.small_cities import few_ratings, tiny_ratings, two_camps
from tests.support import ratings_of


@pytest.fixture(autouse=True)
def _clean(clean_environment: object) -> None:
    """No setting of the developer's counts."""


def test_all_users_and_restaurants_take_part_by_default() -> None:
    ratings = few_ratings()
    matrix = user_matrix(ratings, load_settings())
    assert decode_ids(ratings.restaurants.take(matrix.columns)) == ["a", "b", "c", "d"]
    assert matrix.rows.toarray().tolist() == [
        [5, 5, 5, 5],
        [4, 4, 4, 0],
        [3, 3, 0, 0],
        [2, 0, 0, 0],
        [0, 1, 0, 0],
    ]
    assert (matrix.users_left_out, matrix.restaurants_left_out) == (0, 0)


@pytest.mark.parametrize(
    ("limits", "users", "columns"),
    [
        ({"clusters_min_restaurant_ratings": 2}, [0, 1, 2, 3, 4], [0, 1, 2]),
        ({"clusters_max_restaurants": 1}, [0, 1, 2, 3], [0]),
        ({"clusters_min_user_ratings": 2}, [0, 1, 2], [0, 1, 2, 3]),
        ({"clusters_max_users": 1}, [0], [0, 1, 2, 3]),
    ],
)
def test_limits_keep_the_most_rated_and_the_most_active(
    limits: dict[str, int], users: list[int], columns: list[int]
) -> None:
    ratings = few_ratings()
    matrix = user_matrix(ratings, load_settings(**limits))
    assert matrix.users.tolist() == users
    assert matrix.columns.tolist() == columns
    assert matrix.users_left_out == 5 - len(users)
    assert matrix.restaurants_left_out == 4 - len(columns)


def test_limits_that_leave_nothing_say_so() -> None:
    ratings = few_ratings()
    with pytest.raises(DataError, match="no user is left to cluster"):
        user_matrix(ratings, load_settings(clusters_min_restaurant_ratings=9))


def test_columns_beyond_the_document_limit_are_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ratings = few_ratings()
    settings = load_settings(clusters_k=1000)  # but there are five users
    monkeypatch.setattr(bson_size, "MAX_DOCUMENT_BYTES", 4096 + 230)
    matrix = user_matrix(ratings, settings)
    assert matrix.columns.tolist() == [0, 1, 2]
    assert matrix.restaurants_left_out == 1
    assert "1 restaurants take no part" in caplog.text


def test_on_a_scale_from_zero_a_reader_sees_what_is_above_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    ratings = ratings_of([("u", "a", 0), ("u", "b", 2), ("v", "b", 1e-300)])
    matrix = user_matrix(ratings, load_settings(rating_min=0, rating_max=2))
    assert [decode_ids(ratings.restaurants)[column] for column in matrix.columns] == ["b", "a"]
    assert (matrix.rows.toarray().tolist(), matrix.rows.nnz) == ([[2, 0], [0, 0]], 1)
    assert matrix.everything.toarray().tolist() == [[1, 3], [0, 1]]
    read = matrix.unshifted(matrix.everything)
    assert (read.toarray().tolist(), read.nnz) == ([[0, 2], [0, 0]], 3)
    assert "1 users gave nothing but 0" in caplog.text


def test_a_scale_below_zero_is_shifted() -> None:
    ratings = ratings_of([("u", "a", -1), ("u", "b", 1)], rating_min=-1, rating_max=1)
    matrix = user_matrix(ratings, load_settings(rating_min=-1, rating_max=1))
    assert matrix.rows.toarray().tolist() == matrix.everything.toarray().tolist() == [[1, 3]]
    assert matrix.unshifted(matrix.everything).toarray().tolist() == [[1, 3]]


def test_ratings_of_nothing_but_zero_say_so() -> None:
    ratings = ratings_of([("u", "a", 0), ("v", "b", 0)])
    with pytest.raises(DataError, match="every rating left to cluster is 0, which a reader"):
        user_matrix(ratings, load_settings(rating_min=0, rating_max=2))


def test_published_factors_are_the_map_of_a_clustering_alone(db: MongoDatabase) -> None:
    ratings = tiny_ratings()
    settings = load_settings(clusters_k=2, clusters_space="factors")
    matrix = user_matrix(ratings, settings)
    with pytest.raises(DataError, match="no training has published factors"):
        with_factors(matrix, ratings, None, db)
    preferences, shown = two_camps(ratings), np.ones(len(ratings.restaurants), dtype=bool)
    document = factors_document(preferences, ratings.restaurants, shown, "r1", 0.0)
    db["Metadata"].insert_one(document)
    assert matrix.places is None
    own = with_factors(matrix, ratings, preferences, db).places
    read = with_factors(matrix, ratings, None, db).places
    assert own is not None
    assert own == pytest.approx(preferences.factors[matrix.columns])
    assert read == pytest.approx(own)
