"""The backend's Users, read from a real MongoDB."""

import logging

import pyarrow as pa
import pytest
from bson.int64 import Int64

from recommender.core.mongo import Document, MongoDatabase
from recommender.core.settings import Settings
from recommender.data.ids import decode_ids
from recommender.data.ratings import Ratings
from recommender.data.users import listed_entries, rated_in_users, read_users
from tests.support import ratings_of


def reviews() -> Ratings:
    return ratings_of([("ann", "a", 5), ("bob", "b", 3), (7, "a", 4)])


def test_newcomers_have_their_ratings_of_known_restaurants(
    db: MongoDatabase, db_settings: Settings
) -> None:
    db["Users"].insert_many(
        [
            {"user_id": "ann", "ratings": [{"gmap_id": "b", "rating": 1}]},
            {"user_id": "cid", "ratings": [{"gmap_id": "b", "rating": 4, "timestamp": 1}]},
            {"user_id": "dot"},
            {"user_id": "eve", "ratings": "none"},
            {"user_id": "fay", "ratings": [{"gmap_id": "z", "rating": 5}, 3, {"rating": 9}]},
            {"user_id": 7.0, "ratings": []},
            {"user_id": Int64(8), "ratings": [{"gmap_id": "a", "rating": "2.5"}]},
            {"user_id": None},
            {"ratings": []},
            {"user_id": ["no", "id"]},
            {"user_id": "dot", "ratings": []},
        ]
    )
    read = read_users(db, reviews(), db_settings.reviews)
    ids = decode_ids(read.newcomers)
    assert sorted(map(str, ids)) == ["8", "cid", "dot", "eve", "fay"]
    ratings = dict(zip(map(str, ids), read.newcomer_ratings.toarray().tolist(), strict=True))
    none = [0, 0]
    assert ratings == {"cid": [0, 4], "dot": none, "eve": none, "fay": none, "8": [2.5, 0]}


def test_users_with_recommendations_of_the_backend_are_left_out(
    db: MongoDatabase, db_settings: Settings
) -> None:
    db["Users"].insert_many([{"user_id": "own"}, {"user_id": "ours"}])
    db["Recommendations"].insert_many([{"user_id": "own"}, {"user_id": "ours", "run_id": "r0"}])
    assert decode_ids(read_users(db, reviews(), db_settings.reviews).newcomers) == ["ours"]


def test_many_newcomers_are_read_in_one_pass(db: MongoDatabase, db_settings: Settings) -> None:
    rated = {"gmap_id": "a", "rating": 5}
    twice = [{"user_id": f"n{i % 2_345}", "ratings": [rated]} for i in range(6_000)]
    db["Users"].insert_many(twice)
    db.command("profile", 2)
    read = read_users(db, reviews(), db_settings.reviews)
    db.command("profile", 0)
    assert (len(read.newcomers), read.newcomer_ratings.nnz) == (2_345, 2_345)
    queries = {"ns": f"{db.name}.Users", "op": "query"}
    assert db["system.profile"].count_documents(queries) == 1


def test_ratings_of_known_users_are_read(db: MongoDatabase, db_settings: Settings) -> None:
    rated_b = [{"gmap_id": "b", "rating": 1}]
    db["Users"].insert_many(
        [
            {"user_id": "ann", "ratings": [*rated_b, {"gmap_id": "z"}, 3, {"rating": 4}]},
            {"user_id": "ann", "ratings": [{"gmap_id": ["a"]}, {"gmap_id": "b", "rating": None}]},
            {"user_id": "bob", "ratings": "none"},
            {"user_id": "bob", "ratings": {"gmap_id": "a"}},
            {"user_id": "new", "ratings": rated_b},
            {"user_id": Int64(7), "ratings": rated_b},
            {"user_id": None, "ratings": rated_b},
            {"user_id": "bob"},
            {"ratings": rated_b},
        ]
    )
    read = read_users(db, reviews(), db_settings.reviews).also_rated
    users = decode_ids(reviews().users)
    assert dict(zip(users, read.toarray().tolist(), strict=True)) == {
        "ann": [False, True],
        "bob": [False, False],
        7: [False, True],
    }


def test_a_rating_that_is_listed_twice_is_kept_once(
    db: MongoDatabase, db_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [{"gmap_id": name, "rating": 1} for name in "ab" * 1_000]
    db["Users"].insert_one({"user_id": "ann", "ratings": entries})
    with caplog.at_level(logging.INFO):
        assert read_users(db, reviews(), db_settings.reviews).also_rated.nnz == 2
    assert (0, 2) in [record.args for record in caplog.records]


def test_an_empty_collection_adds_nothing(db: MongoDatabase, db_settings: Settings) -> None:
    read = read_users(db, reviews(), db_settings.reviews)
    assert (len(read.newcomers), read.newcomer_ratings.shape) == (0, (0, 2))
    assert (read.also_rated.nnz, read.also_rated.shape) == (0, (3, 2))


def test_several_blocks_of_known_users_are_read(db: MongoDatabase, db_settings: Settings) -> None:
    many = ratings_of([("v", "b", 5), *((f"u{i}", "a", 5) for i in range(12_000))])
    rated = [{"gmap_id": "b"}]
    db["Users"].insert_many([{"user_id": f"u{i}", "ratings": rated} for i in range(12_000)])
    assert read_users(db, many, db_settings.reviews).also_rated.sum(axis=0).tolist() == [0, 12_000]


def test_a_collation_of_users_does_not_mix_users(db: MongoDatabase, db_settings: Settings) -> None:
    db.create_collection("Users", collation={"locale": "en", "strength": 2})
    rated = {"u": "mine", "U": "another's"}
    db["Users"].insert_many(
        {"user_id": user, "ratings": [{"gmap_id": gmap_id}]} for user, gmap_id in rated.items()
    )
    assert rated_in_users(db, pa.array(["u"])).to_pylist() == ["mine"]
    assert rated_in_users(db, pa.array(["v"])).to_pylist() == []


def test_the_valid_entries_of_a_list_have_an_id_and_finite_figures() -> None:
    valid: list[Document] = [
        {"gmap_id": "a", "score": 1, "rating": 4.5},
        {"gmap_id": 7, "score": 0.5, "rating": None},
        {"gmap_id": "b", "score": 0.2},
    ]
    invalid: list[object] = [
        None,
        "a",
        {"score": 1},
        {"gmap_id": "a"},
        {"gmap_id": "a", "score": "7"},
    ]
    invalid += [{"gmap_id": ["a"], "score": 1}, {"gmap_id": "a", "score": float("nan")}]
    invalid += [{"gmap_id": "a", "score": 1, "rating": float("inf")}]
    assert listed_entries({"recommendations": [*valid, *invalid]}) == valid
    assert listed_entries({"recommendations": [valid[0] | {"other": 1}]}) == valid[:1]
    for malformed in ({}, {"recommendations": None}, {"recommendations": {"gmap_id": "a"}}):
        assert listed_entries(malformed) == []
