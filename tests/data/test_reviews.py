"""Reviews are read whole, each row once, with ids of any type and with malformed documents."""

import datetime
import random
import string
from collections.abc import Iterator
from typing import Any

import bson
import pyarrow as pa
import pytest
from bson import Binary, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from pydantic import SecretStr

from recommender.core.errors import DatabaseUnavailableError, DataError
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.settings import Settings
from recommender.data.cleaning import BLOCK_SCHEMA
from recommender.data.ids import decode_ids
from recommender.data.ratings import Ratings, counts_of, gather
from recommender.data.reviews import ALL_IDS, IdRange, plan, read, read_ratings

REVIEW: Document = {"user_id": "u", "gmap_id": "g", "rating": 4}


def blocks_of(settings: Settings, id_range: IdRange, **options: int) -> Iterator[pa.RecordBatch]:
    return read(settings.mongo, settings.reviews, id_range, **options)


def users_read(settings: Settings, id_range: IdRange) -> list[str]:
    return [key for batch in blocks_of(settings, id_range) for key in batch["user"].to_pylist()]


def triples(ratings: Ratings) -> list[tuple[Any, Any, float]]:
    users, restaurants = decode_ids(ratings.users), decode_ids(ratings.restaurants)
    rows = zip(ratings.user, ratings.restaurant, ratings.rating.tolist(), strict=True)
    return [(users[user], restaurants[item], rating) for user, item, rating in rows]


def mixed_ids() -> list[Any]:
    """Return ids of every BSON type that an ``_id`` may have, many of each common one."""
    chance = random.Random(5)
    letters = string.ascii_letters + "éß東"
    rare: list[Any] = [
        None,
        True,
        False,
        MinKey(),
        MaxKey(),
        Timestamp(5, 6),
        float("nan"),
        float("inf"),
        Decimal128("0.001"),
        DatetimeMS(2**60),
        "",
        Binary(b"x" * 16, 4),
        {},
        {"a.b": [1, 2]},
    ]
    return [
        *rare,
        *(ObjectId(f"{i:024x}") for i in range(60)),
        *("".join(chance.choices(letters, k=8)) for _ in range(60)),
        *(chance.uniform(-9, 9) for _ in range(30)),
        *(Int64(2**40 + i) for i in range(30)),
        *(datetime.datetime(2020, 1, 1 + i, tzinfo=datetime.UTC) for i in range(20)),
        *(bytes([i, 1]) for i in range(20)),
        *({"a": i, "b": str(i)} for i in range(30)),
    ]


class TestPlan:
    def test_every_id_of_every_type_is_in_one_range(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        ids = mixed_ids()
        random.Random(1).shuffle(ids)
        rows = [{**REVIEW, "_id": _id, "user_id": f"user {n}"} for n, _id in enumerate(ids)]
        db["Reviews"].insert_many([RawBSONDocument(bson.encode(row)) for row in rows])
        ranges = plan(db_settings.mongo, 8, batch_rows=10)
        assert len(ranges) > 4
        parts = [users_read(db_settings, id_range) for id_range in ranges]
        assert sorted(user for part in parts for user in part) == sorted(
            row["user_id"] for row in rows
        )
        assert all(0 < len(part) < len(rows) / 2 for part in parts)

    def test_the_smallest_and_the_largest_id_are_not_bounds(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        ids = [MinKey(), 1, MaxKey()]
        db["Reviews"].insert_many([{**REVIEW, "_id": _id, "user_id": f"{_id}"} for _id in ids])
        ranges = plan(db_settings.mongo, 3, batch_rows=1)
        assert ranges == [(None, {"_id": 1}), ({"_id": 1}, None)]
        parts = [users_read(db_settings, id_range) for id_range in ranges]
        assert parts == [["MinKey()"], ["1", "MaxKey()"]]

    def test_no_more_ranges_than_requested(self, db: MongoDatabase, db_settings: Settings) -> None:
        db["Reviews"].insert_many([dict(REVIEW) for _ in range(100)])
        for count in (1, 2, 3, 5):
            assert len(plan(db_settings.mongo, count, batch_rows=1)) == count

    def test_a_range_is_not_much_smaller_than_a_batch(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        db["Reviews"].insert_many([dict(REVIEW) for _ in range(100)])
        assert len(plan(db_settings.mongo, 8, batch_rows=30)) == 3
        assert plan(db_settings.mongo, 8, batch_rows=51) == [ALL_IDS]

    def test_an_empty_collection_is_one_range(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        assert plan(db_settings.mongo, 8, batch_rows=10) == [ALL_IDS]

    def test_a_view_is_one_range_that_is_read(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        db["Source"].insert_many([{**REVIEW, "user_id": f"u{i}"} for i in range(100)])
        db.create_collection(
            "Reviews", viewOn="Source", pipeline=[{"$match": {"user_id": {"$ne": "u7"}}}]
        )
        assert plan(db_settings.mongo, 8, batch_rows=10) == [ALL_IDS]
        assert len(read_ratings(db_settings)) == 99

    def test_an_unreachable_mongodb_is_an_error(self, db_settings: Settings) -> None:
        uri = SecretStr("mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=100")
        settings = db_settings.with_values({"mongo_uri": uri})
        with pytest.raises(DatabaseUnavailableError):
            plan(settings.mongo, 2)
        with pytest.raises(DatabaseUnavailableError):
            read_ratings(settings)


class TestRead:
    def test_reading_in_ranges_is_reading_all(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        chance = random.Random(2)
        rows: list[Document] = [
            {
                "user_id": chance.choice(["a", "b", 3, None]),
                "gmap_id": f"g{chance.randrange(9)}",
                "rating": chance.choice([1, 2.5, "4", 9, "x"]),
                "time": chance.choice([None, 5, 6]),
            }
            for _ in range(300)
        ]
        db["Reviews"].insert_many(rows)
        ranges = plan(db_settings.mongo, 6, batch_rows=10)
        parts = [b for part in ranges for b in blocks_of(db_settings, part, batch_rows=10)]
        assert len(parts) > 6
        ranged, whole = gather(pa.Table.from_batches(parts)), read_ratings(db_settings)
        assert triples(ranged) == triples(whole)
        assert ranged.report == whole.report
        assert whole.report.rows_read == 300

    def test_blocks_have_the_batch_size_and_the_schema(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        db["Reviews"].insert_many([dict(REVIEW) for _ in range(25)])
        blocks = list(blocks_of(db_settings, ALL_IDS, batch_rows=10))
        assert [block.num_rows for block in blocks] == [10, 10, 5]
        assert all(block.schema == BLOCK_SCHEMA for block in blocks)

    def test_the_fields_are_the_settings(self, db: MongoDatabase, db_settings: Settings) -> None:
        fields = {
            "reviews_user_field": "who",
            "reviews_restaurant_field": "business_id",
            "reviews_rating_field": "stars",
            "reviews_time_field": "when",
        }
        rows = [
            {"who": "u", "business_id": "g", "stars": 4, "when": 2, "user_id": "x", "rating": 1},
            {"who": "u", "business_id": "g", "stars": 2, "when": 9, "gmap_id": "x", "time": 1},
        ]
        db["Reviews"].insert_many(rows)
        ratings = read_ratings(db_settings.with_values(fields))
        assert triples(ratings) == [("u", "g", 2.0)]
        assert ratings.time.tolist() == [9.0]

    def test_the_scale_is_the_settings(self, db: MongoDatabase, db_settings: Settings) -> None:
        db["Reviews"].insert_many(
            [{**REVIEW, "user_id": f"u{rating}", "rating": rating} for rating in (0, 1, 5, 9, 10)]
        )
        settings = db_settings.with_values({"rating_min": 0.0, "rating_max": 9.0})
        assert [rating for *_, rating in triples(read_ratings(settings))] == [0, 1, 5, 9]

    def test_malformed_documents_do_not_stop_the_reading(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        deep: Document = {}
        for _ in range(80):
            deep = {"a": deep}
        odd = [
            {"text": "x" * 2**20, **REVIEW},
            {"at": DatetimeMS(2**62), **REVIEW, "user_id": "v"},
            {"user_id": "w", "gmap_id": "g", "rating": 4, "time": DatetimeMS(-(2**62))},
            {},
            {"user_id": "u"},
            {"user_id": "u", "gmap_id": "g"},
            {"user_id": None, "gmap_id": "g", "rating": 1},
            {"user_id": "u", "gmap_id": "g", "rating": deep},
            {"user_id": ["u"], "gmap_id": "g", "rating": 1},
            {"user_id": "u", "gmap_id": Regex("g"), "rating": 1},
        ]
        raw = [RawBSONDocument(bson.encode({"_id": ObjectId(), **row})) for row in odd]
        db["Reviews"].insert_many([*raw, broken_utf8("user_id"), broken_utf8("text")])
        ratings = gather(pa.Table.from_batches(blocks_of(db_settings, ALL_IDS, batch_rows=3)))
        assert {user for user, *_ in triples(ratings)} == {"u", "v", "w", "text"}
        assert ratings.report.rows_read == 12
        assert ratings.report.rows_rejected == {
            "user_missing": 2,
            "restaurant_missing": 1,
            "rating_missing": 1,
            "id_unusable": 3,
            "rating_not_a_number": 1,
        }

    def test_times_in_other_notations_are_parsed(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        times = ["2020-01-01T00:00:00Z", 1577836800, DatetimeMS(1577836800000), "soon", 5, None]
        db["Reviews"].insert_many(
            [{**REVIEW, "gmap_id": str(i), "time": t} for i, t in enumerate(times)]
        )
        ratings = read_ratings(db_settings)
        assert ratings.time[:3].tolist() == [1577836800000] * 3
        assert ratings.time[4] == 5
        assert counts_of(ratings)["times_unknown"] == 3

    def test_an_empty_collection_is_an_error(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        with pytest.raises(DataError):
            read_ratings(db_settings)


def broken_utf8(field: str) -> RawBSONDocument:
    """Return a review with a text that is not UTF-8, which MongoDB stores unchanged."""
    row = {"_id": ObjectId(), **REVIEW, "user_id": field, field: "BROKEN"}
    return RawBSONDocument(bson.encode(row).replace(b"BROKEN", b"\xff\xfe\xc3\x28ab"))


def test_ids_that_are_not_utf8_are_read(db: MongoDatabase, db_settings: Settings) -> None:
    rows = [bson.encode({"_id": f"AAAA{i:05}", **REVIEW}) for i in range(100)]
    db["Reviews"].insert_many(
        [RawBSONDocument(row.replace(b"AAAA", b"\xff\xfeab")) for row in rows]
    )
    ranges = plan(db_settings.mongo, 4, batch_rows=10)
    assert sum(b.num_rows for id_range in ranges for b in blocks_of(db_settings, id_range)) == 100


def test_the_user_field_can_be_the_id_of_reviews(db: MongoDatabase, db_settings: Settings) -> None:
    db["Reviews"].insert_one({"_id": "u", "gmap_id": "g", "rating": 4})
    settings = db_settings.with_values({"reviews_user_field": "_id"})
    assert len(read_ratings(settings)) == 1
