"""What the backend's Users knows and Reviews does not, from a real MongoDB."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from bson.int64 import Int64
from scipy.sparse import csr_array

from recommender.mongo import MongoDatabase
from recommender.newcomers import (
    also_rated,
    find_newcomers,
    more_rated,
    stacked,
    structure,
)
from recommender.ratings import Ratings, decode_ids
from recommender.settings import Settings
from tests.support import ratings_of


def reviews() -> Ratings:
    return ratings_of([("ann", "a", 5), ("bob", "b", 3), (7, "a", 4)])


def test_those_without_a_review_are_found_with_what_users_keeps_of_them(
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
    found = find_newcomers(db, reviews(), db_settings)
    ids = decode_ids(found.users)
    assert sorted(map(str, ids)) == ["8", "cid", "dot", "eve", "fay"]
    visits = dict(zip(map(str, ids), found.visits.toarray().tolist(), strict=True))
    none = [0, 0]
    assert visits == {"cid": [0, 4], "dot": none, "eve": none, "fay": none, "8": [2.5, 0]}


def test_what_the_backend_has_written_for_somebody_stays(
    db: MongoDatabase, db_settings: Settings
) -> None:
    db["Users"].insert_many([{"user_id": "own"}, {"user_id": "ours"}])
    db["Recommendations"].insert_many([{"user_id": "own"}, {"user_id": "ours", "run_id": "r0"}])
    assert decode_ids(find_newcomers(db, reviews(), db_settings).users) == ["ours"]


def test_without_users_there_are_no_newcomers(db: MongoDatabase, db_settings: Settings) -> None:
    found = find_newcomers(db, reviews(), db_settings)
    assert (len(found.users), found.visits.shape) == (0, (0, 2))


def test_more_users_than_are_asked_for_at_a_time_are_found(
    db: MongoDatabase, db_settings: Settings
) -> None:
    rated = {"gmap_id": "a", "rating": 5}
    db["Users"].insert_many([{"user_id": f"n{i}", "ratings": [rated]} for i in range(2_345)])
    found = find_newcomers(db, reviews(), db_settings)
    assert (len(found.users), found.visits.nnz) == (2_345, 2_345)


def test_rows_are_put_below_rows() -> None:
    above, below = csr_array(np.array([[1.0, 0, 2], [0, 0, 0]])), csr_array(np.array([[0.0, 3, 0]]))
    assert stacked(above, below).toarray().tolist() == [[1, 0, 2], [0, 0, 0], [0, 3, 0]]
    assert stacked(above, csr_array((0, 3))).toarray().tolist() == [[1, 0, 2], [0, 0, 0]]


def test_what_users_says_that_known_users_have_rated_is_found(
    db: MongoDatabase, db_settings: Settings
) -> None:
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
    found = also_rated(db, reviews(), db_settings)
    users = decode_ids(reviews().users)
    assert dict(zip(users, (found.toarray() > 0).tolist(), strict=True)) == {
        "ann": [False, True],
        "bob": [False, False],
        7: [False, True],
    }


def test_without_users_nothing_more_is_rated(db: MongoDatabase, db_settings: Settings) -> None:
    found = also_rated(db, reviews(), db_settings)
    assert (found.nnz, found.shape) == (0, (3, 2))


def test_more_users_than_are_read_at_a_time_have_rated_more(
    db: MongoDatabase, db_settings: Settings
) -> None:
    many = ratings_of([("v", "b", 5), *((f"u{i}", "a", 5) for i in range(12_000))])
    rated = [{"gmap_id": "b"}]
    db["Users"].insert_many([{"user_id": f"u{i}", "ratings": rated} for i in range(12_000)])
    assert also_rated(db, many, db_settings).sum(axis=0).tolist() == [0, 12_000]


def test_the_structure_of_a_matrix_is_true_where_it_stores_something() -> None:
    stored = csr_array((np.array([2.5, 0.0]), np.array([1, 0]), np.array([0, 1, 2])), shape=(2, 2))
    other = csr_array(np.array([[0, 3.0], [0, 0]]))
    both = structure(stored) + structure(other)
    assert both.dtype == np.bool_
    assert both.toarray().tolist() == [[False, True], [True, False]]


def test_a_collation_of_users_makes_nobody_somebody_else(
    db: MongoDatabase, db_settings: Settings
) -> None:
    db.create_collection("Users", collation={"locale": "en", "strength": 2})
    rated = {"u": "mine", "U": "another's"}
    db["Users"].insert_many(
        {"user_id": user, "ratings": [{"gmap_id": gmap_id}]} for user, gmap_id in rated.items()
    )
    assert more_rated(db, pa.array(["u"]), db_settings).to_pylist() == ["mine"]
    assert more_rated(db, pa.array(["v"]), db_settings).to_pylist() == []
