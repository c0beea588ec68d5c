"""Recommendations encoded straight to BSON, against the bson package."""

import datetime
from typing import Any

import bson
import numpy as np
import pytest
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.als.bson_encoder import RecommendationEncoder
from recommender.core.mongo import MongoDatabase
from recommender.core.mongo_collections import RECOMMENDATIONS
from recommender.publishing.publish import publish
from recommender.publishing.staging import staged
from recommender.runs.lease import Lease

ids = (
    st.text(max_size=30)
    | st.integers(-(2**63), 2**63 - 1)
    | st.builds(Int64, st.integers(-(2**63), 2**63 - 1))
    | st.floats(allow_nan=False)
    | st.binary(max_size=12)
    | st.builds(ObjectId, st.binary(min_size=12, max_size=12))
    | st.builds(Decimal128, st.decimals(allow_nan=False, places=3, min_value=-9, max_value=9))
    | st.datetimes(timezones=st.just(datetime.UTC)).map(lambda d: d.replace(microsecond=0))
)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[list[Any], list[Any], list[list[tuple[int, float]]]]:
    """Draw ids of restaurants, ids of users, and each user's (restaurant, score) entries."""
    restaurants = draw(st.lists(ids, min_size=1, max_size=5))
    entry = st.tuples(
        st.integers(0, len(restaurants) - 1), st.floats(width=32, allow_subnormal=False)
    )
    users = draw(st.lists(ids, max_size=4))
    entries = st.lists(entry, max_size=12)
    return restaurants, users, draw(st.lists(entries, min_size=len(users), max_size=len(users)))


class TestRecommendationEncoder:
    @given(blocks(), st.integers(0, 2**31 - 10), st.integers(0, 2), st.booleans())
    @settings(derandomize=True, deadline=None, max_examples=80)
    def test_the_bytes_are_those_of_the_document(
        self,
        block: tuple[list[Any], list[Any], list[list[tuple[int, float]]]],
        first: int,
        padding: int,
        with_ratings: bool,
    ) -> None:
        restaurants, users, entries = block
        width = max((len(row) for row in entries), default=0) + padding
        items = np.full((len(users), width), -1, dtype=np.int32)
        scores = np.full((len(users), width), -np.inf, dtype=np.float32)
        for row, row_entries in enumerate(entries):
            for rank, (item, score) in enumerate(row_entries):
                items[row, rank], scores[row, rank] = item, score

        numbers = np.arange(first, first + len(users), dtype=np.int32)
        ratings = scores.astype(np.float64) / 3 if with_ratings else None
        encoder = RecommendationEncoder(restaurants, "run-ü", with_ratings=with_ratings)
        encoded = list(encoder.encode(numbers, users, items, scores, ratings))
        assert len(encoded) == len(users)
        for document, user_id, row_entries in zip(encoded, users, entries, strict=True):
            expected = {
                "_id": bson.decode(document.raw)["_id"],
                "user_id": user_id,
                "run_id": "run-ü",
                "recommendations": [
                    {"gmap_id": restaurants[item], "score": score}
                    | ({"rating": score / 3} if with_ratings else {})
                    for item, score in row_entries
                ],
            }
            assert document.raw == bson.encode(expected)

    def test_the_id_is_a_function_of_the_run_and_the_user(self) -> None:
        def object_ids(run_id: str, users: list[int]) -> list[Any]:
            items = np.empty((len(users), 0), dtype=np.int32)
            encoder = RecommendationEncoder(["g"], run_id, with_ratings=False)
            documents = encoder.encode(
                np.array(users, dtype=np.int32), users, items, items.astype(np.float32)
            )
            return [bson.decode(document.raw)["_id"] for document in documents]

        users = [0, 1, 255, 256, 65_536, 2**31 - 1]
        first = object_ids("r1", users)
        assert all(isinstance(i, ObjectId) for i in first)
        assert first == object_ids("r1", users)
        assert first == [object_ids("r1", [user])[0] for user in users]
        assert len({*first, *object_ids("r2", users)}) == 2 * len(users)

    def test_a_block_staged_twice_is_published_once(self, db: MongoDatabase) -> None:
        encoder = RecommendationEncoder(["a", "b"], "r1", with_ratings=False)
        user = np.arange(3, dtype=np.int32)
        items = np.array([[0, 1], [1, -1], [-1, -1]], dtype=np.int32)
        scores = np.array([[2, 1], [0.5, 0], [0, 0]], dtype=np.float32)
        with staged(db, RECOMMENDATIONS, "r1") as stage:
            for _ in range(2):
                stage.insert(encoder.encode(user, ["x", 7, "z"], items, scores))
            stage.seal(3)
            lease = Lease(db, 60)
            lease.acquire("r1")
            publish(db, stage, lease=lease)
        lists = {d["user_id"]: d["recommendations"] for d in db[RECOMMENDATIONS].find()}
        assert lists == {
            "x": [{"gmap_id": "a", "score": 2.0}, {"gmap_id": "b", "score": 1.0}],
            7: [{"gmap_id": "b", "score": 0.5}],
            "z": [],
        }


def test_ratings_must_match_with_ratings() -> None:
    items, scores = np.zeros((1, 1), np.int32), np.ones((1, 1), np.float32)
    for with_ratings, ratings in ((True, None), (False, np.ones((1, 1)))):
        encoder = RecommendationEncoder(["a"], "r1", with_ratings=with_ratings)
        with pytest.raises(ValueError, match="with_ratings"):
            next(encoder.encode(np.zeros(1, np.int32), ["u"], items, scores, ratings))
