"""Users whom the backend knows and Reviews does not, from a real MongoDB."""

from __future__ import annotations

import numpy as np
from bson.int64 import Int64
from scipy.sparse import csr_array

from recommender.mongo import MongoDatabase
from recommender.newcomers import find_newcomers, stacked
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
