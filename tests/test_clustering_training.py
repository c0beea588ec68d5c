"""The K-Means job: its matrix, its scores, its documents, and the whole of it by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import clustering_training
from clustering_training import cluster, score, user_matrix
from recommender import store
from recommender.city import populate, review_blocks
from recommender.errors import DataError
from recommender.mongo import MongoDatabase
from recommender.ratings import Ratings, decode_ids
from recommender.settings import Settings, load_settings
from tests.support import TINY_CITY, ContractReader, ratings_of, run_script, write_tiny_city


@pytest.fixture
def ratings() -> Ratings:
    """Eleven ratings: "a" is rated by 4 users, "b" by 4, "c" by 2, "d" by 1."""
    return ratings_of(
        [
            *(("u1", r, 5) for r in "abcd"),
            *(("u2", r, 4) for r in "abc"),
            *(("u3", r, 3) for r in "ab"),
            ("u4", "a", 2),
            ("u5", "b", 1),
        ]
    )


def settings_with(**overrides: Any) -> Settings:
    return load_settings(**overrides)


@pytest.fixture(autouse=True)
def _clean(clean_environment: object) -> None:
    """No setting of the developer's counts."""


def test_all_users_and_restaurants_take_part_by_default(ratings: Ratings) -> None:
    matrix = user_matrix(ratings, settings_with())
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
    ratings: Ratings, limits: dict[str, int], users: list[int], columns: list[int]
) -> None:
    matrix = user_matrix(ratings, settings_with(**limits))
    assert matrix.users.tolist() == users
    assert matrix.columns.tolist() == columns
    assert matrix.users_left_out == 5 - len(users)
    assert matrix.restaurants_left_out == 4 - len(columns)


def test_limits_that_leave_nothing_say_so(ratings: Ratings) -> None:
    with pytest.raises(DataError, match="no user is left to cluster"):
        user_matrix(ratings, settings_with(clusters_min_restaurant_ratings=9))


def test_columns_beyond_the_document_limit_are_left_out(
    ratings: Ratings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_with(clusters_k=1000)
    monkeypatch.setattr(store, "MAX_DOCUMENT_BYTES", 60_000)
    matrix = user_matrix(ratings, settings)
    assert matrix.columns.tolist() == [0, 1, 2]
    assert matrix.restaurants_left_out == 1
    assert "1 restaurants take no part" in caplog.text


def test_a_scale_from_zero_is_shifted() -> None:
    ratings = ratings_of([("u", "a", 0), ("u", "b", 2)])
    matrix = user_matrix(ratings, settings_with(rating_min=0, rating_max=2))
    assert matrix.rows.toarray().tolist() == [[1, 3]]


def test_k_above_the_distinct_users_is_lowered_and_said(
    ratings: Ratings, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_with(clusters_k=50)
    found = cluster(user_matrix(ratings, settings), settings)
    assert len(found.centroids) == 5
    assert "CLUSTERS_K lowered from 50 to 5" in caplog.text


def test_the_planted_tastes_of_active_users_are_found() -> None:
    population = populate(TINY_CITY)
    blocks = list(review_blocks(population))
    user = np.concatenate([block.user for block in blocks])
    restaurant = np.concatenate([block.restaurant for block in blocks])
    rating = np.concatenate([block.rating for block in blocks])
    active = np.flatnonzero(np.bincount(user) >= 15)
    rows = [
        (int(u), int(i), float(r))
        for u, i, r in zip(user, restaurant, rating, strict=True)
        if u in set(active.tolist())
    ]
    ratings = ratings_of(rows)
    settings = settings_with(clusters_k=TINY_CITY.tastes, clusters_starts=5)
    matrix = user_matrix(ratings, settings)
    found = cluster(matrix, settings)
    tastes = population.users.taste[[decode_ids(ratings.users)[u] for u in matrix.users]]
    assert adjusted_rand_score(tastes, found.labels) > 0.6


def test_scores_are_means_with_unrated_as_zero_shrunk_towards_the_city() -> None:
    ratings = ratings_of([("u1", "a", 5), ("u2", "a", 3), ("u2", "b", 4), ("u3", "b", 2)])
    settings = settings_with(clusters_shrinkage=2)
    matrix = user_matrix(ratings, settings)
    scored = score(ratings, matrix, np.array([0, 0, 1], dtype=np.int32), 2, settings)
    city = {"a": (5 + 3) / 3, "b": (4 + 2) / 3}
    assert scored.city == pytest.approx(list(city.values()))
    assert scored.scores[0] == pytest.approx(
        [(5 + 3 + 2 * city["a"]) / (2 + 2), (4 + 2 * city["b"]) / (2 + 2)]
    )
    assert scored.scores[1] == pytest.approx(
        [(0 + 2 * city["a"]) / (1 + 2), (2 + 2 * city["b"]) / (1 + 2)]
    )
    assert scored.ratings.tolist() == [3, 1]
    assert scored.mean_rating == pytest.approx([4, 2])


def test_by_hand_it_publishes_what_a_contract_reader_can_use(
    db: MongoDatabase, db_settings: Settings
) -> None:
    write_tiny_city(db, db_settings)
    foreign = {"_id": "of the backend", "value": 1}
    db["Metadata"].insert_one(foreign)
    done = run_script("clustering_training.py", settings=db_settings, CLUSTERS_K="7")
    assert done.returncode == 0, done.stderr
    run = db["TrainingRuns"].find_one() or {}
    assert run["state"] == "succeeded"
    assert -1 <= run["metrics"]["clusters"]["silhouette"] <= 1
    reader = ContractReader(db)
    assert reader.run_ids == {run["run_id"]}
    assert sorted(reader.clusters) == list(range(7))
    assert sum(reader.sizes) == TINY_CITY.users
    for document in reader.clusters.values():
        scores = [entry["score"] for entry in document["recommendations"]]
        assert len(scores) == 40
        assert scores == sorted(scores, reverse=True)
        assert document["size"] == reader.sizes[document["cluster_id"]]
    assert db["Metadata"].find_one({"_id": "of the backend"}) == foreign


def test_an_unfit_database_ends_with_65_and_leaves_the_old_model(
    db: MongoDatabase, db_settings: Settings
) -> None:
    db["Clusters"].insert_one({"cluster_id": 0, "run_id": "old"})
    db["Reviews"].insert_one({"user_id": "u", "gmap_id": "r", "rating": "NaN"})
    done = run_script("clustering_training.py", settings=db_settings)
    assert done.returncode == 65
    assert "none of the 1 reviews is valid (1 rating_not_a_number)" in done.stderr
    assert db["Clusters"].count_documents({"run_id": "old"}) == 1


def test_the_module_does_not_need_spark() -> None:
    assert "pyspark" not in vars(clustering_training)
