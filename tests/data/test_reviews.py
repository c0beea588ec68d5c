"""Reviews are read whole, each row once, whatever their ids' types and whatever else they hold."""

from __future__ import annotations

import datetime
import os
import random
import string
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
from recommender.data.ids import decode_ids, encode_id
from recommender.data.one_user import ratings_from_request, ratings_of_user
from recommender.data.ratings import Ratings, counts_of, gather
from recommender.data.reviews import IdRange, plan, read, read_ratings

REVIEW: Document = {"user_id": "u", "gmap_id": "g", "rating": 4}


def users_read(settings: Settings, id_range: IdRange) -> list[str]:
    return [key for batch in read(settings, id_range) for key in batch["user"].to_pylist()]


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
        ranges = plan(db_settings, 8, batch_rows=10)
        assert len(ranges) > 4
        parts = [users_read(db_settings, id_range) for id_range in ranges]
        assert sorted(user for part in parts for user in part) == sorted(
            row["user_id"] for row in rows
        )
        assert all(0 < len(part) < len(rows) / 2 for part in parts)

    def test_the_least_and_the_greatest_id_are_no_cuts(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        ids = [MinKey(), 1, MaxKey()]
        db["Reviews"].insert_many([{**REVIEW, "_id": _id, "user_id": f"{_id}"} for _id in ids])
        ranges = plan(db_settings, 3, batch_rows=1)
        assert ranges == [IdRange(None, {"_id": 1}), IdRange({"_id": 1}, None)]
        found = [users_read(db_settings, id_range) for id_range in ranges]
        assert found == [["MinKey()"], ["1", "MaxKey()"]]

    def test_no_more_ranges_than_asked_for(self, db: MongoDatabase, db_settings: Settings) -> None:
        db["Reviews"].insert_many([dict(REVIEW) for _ in range(100)])
        for count in (2, 3, 5):
            assert len(plan(db_settings, count, batch_rows=1)) == count

    def test_a_range_is_not_much_smaller_than_a_batch(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        db["Reviews"].insert_many([dict(REVIEW) for _ in range(100)])
        assert len(plan(db_settings, 8, batch_rows=30)) == 3
        assert plan(db_settings, 8, batch_rows=51) == [IdRange()]

    def test_one_range_where_one_is_asked_for(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        db["Reviews"].insert_many([dict(REVIEW) for _ in range(100)])
        assert plan(db_settings, 1, batch_rows=1) == [IdRange()]

    def test_nothing_is_one_range(self, db: MongoDatabase, db_settings: Settings) -> None:
        assert plan(db_settings, 8, batch_rows=10) == [IdRange()]

    def test_a_view_is_one_range_that_is_read(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        db["Source"].insert_many([{**REVIEW, "user_id": f"u{i}"} for i in range(100)])
        db.create_collection(
            "Reviews", viewOn="Source", pipeline=[{"$match": {"user_id": {"$ne": "u7"}}}]
        )
        assert plan(db_settings, 8, batch_rows=10) == [IdRange()]
        assert len(read_ratings(db_settings)) == 99

    def test_without_mongodb_that_is_said(self, db_settings: Settings) -> None:
        uri = "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=100"
        nowhere = {"mongo_uri": SecretStr(uri)}
        settings = db_settings.with_values(nowhere)
        with pytest.raises(DatabaseUnavailableError, match="while dividing Reviews"):
            plan(settings, 2)
        with pytest.raises(DatabaseUnavailableError, match="while reading Reviews"):
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
        ranges = plan(db_settings, 6, batch_rows=10)
        parts = [b for part in ranges for b in read(db_settings, part, batch_rows=10)]
        assert len(parts) > 6
        ranged, whole = gather(pa.Table.from_batches(parts)), read_ratings(db_settings)
        assert triples(ranged) == triples(whole)
        assert ranged.report == whole.report
        assert whole.report.rows_read == 300

    def test_blocks_are_of_the_size_set_and_of_the_shared_schema(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        db["Reviews"].insert_many([dict(REVIEW) for _ in range(25)])
        blocks = list(read(db_settings, IdRange(), batch_rows=10))
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

    def test_a_filter_leaves_the_rest_unread(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        db["Reviews"].insert_many([{**REVIEW, "user_id": user} for user in "aabbc"])
        blocks = list(read(db_settings, IdRange(), {"user_id": "b"}))
        assert [block["user"].to_pylist() for block in blocks] == [["b", "b"]]

    def test_what_else_a_document_holds_or_lacks_does_not_stop_the_reading(
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
        ratings = gather(pa.Table.from_batches(read(db_settings, IdRange(), batch_rows=3)))
        assert {user for user, *_ in triples(ratings)} == {"u", "v", "w", "text"}
        assert ratings.report.rows_read == 12
        assert ratings.report.rejected == {
            "user_missing": 2,
            "restaurant_missing": 1,
            "rating_missing": 1,
            "id_unusable": 3,
            "rating_not_a_number": 1,
        }

    def test_times_in_other_notations_are_understood(
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

    def test_nothing_to_read_says_so(self, db: MongoDatabase, db_settings: Settings) -> None:
        with pytest.raises(DataError, match="Reviews holds no review") as caught:
            read_ratings(db_settings)
        assert caught.value.exit_code == 65


def broken_utf8(field: str) -> RawBSONDocument:
    """Return a review with a text that is no UTF-8, which MongoDB stores as it comes."""
    row = {"_id": ObjectId(), **REVIEW, "user_id": field, field: "BROKEN"}
    return RawBSONDocument(bson.encode(row).replace(b"BROKEN", b"\xff\xfe\xc3\x28ab"))


class TestRatingsOfUser:
    def test_they_come_from_reviews(self, db: MongoDatabase, db_settings: Settings) -> None:
        db["Reviews"].insert_many(
            [
                REVIEW | {"gmap_id": "a", "rating": 2},
                REVIEW | {"gmap_id": "b"},
                REVIEW | {"user_id": "v"},
            ]
        )
        db["Users"].insert_one({"user_id": "u", "ratings": [{"gmap_id": "c", "rating": 1}]})
        found = triples(ratings_of_user(db_settings, "u"))
        assert found == [("u", "a", 2.0), ("u", "b", 4.0)]

    def test_else_from_users_with_the_latest_of_each(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        given = [
            {"gmap_id": "a", "rating": 2, "timestamp": 20},
            {"gmap_id": "a", "rating": 5, "timestamp": 10},
            {"gmap_id": "b", "rating": "3"},
            {"gmap_id": "c", "rating": 99},
        ]
        db["Reviews"].insert_one(dict(REVIEW))
        db["Users"].insert_many(
            [{"user_id": "x", "ratings": given[:1]}, {"user_id": "v", "ratings": given}]
        )
        ratings = ratings_of_user(db_settings, "v")
        assert triples(ratings) == [("v", "a", 2.0), ("v", "b", 3.0)]
        assert ratings.report.rejected == {"rating_out_of_range": 1}

    def test_what_else_users_holds_does_not_stop_the_reading(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        given = [{"gmap_id": "g", "rating": 3, "timestamp": DatetimeMS(2**60), "text": "BROKEN"}]
        row = bson.encode({"_id": 1, "user_id": "u", "ratings": given})
        db["Users"].insert_one(RawBSONDocument(row.replace(b"BROKEN", b"\xff\xfe\xc3\x28ab")))
        assert triples(ratings_of_user(db_settings, "u")) == [("u", "g", 3.0)]

    @pytest.mark.parametrize("entry", [None, {}, {"ratings": None}, {"ratings": []}])
    def test_who_is_in_neither_is_told(
        self, db: MongoDatabase, db_settings: Settings, entry: Document | None
    ) -> None:
        if entry is not None:
            db["Users"].insert_one({"user_id": "no-one", **entry})
        with pytest.raises(DataError, match="user 'no-one' has no rating in Reviews or Users"):
            ratings_of_user(db_settings, "no-one")

    def test_a_number_too_long_to_be_one_is_no_failure(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        with pytest.raises(DataError, match="has no rating in Reviews or Users"):
            ratings_of_user(db_settings, "9" * 5000)

    @pytest.mark.parametrize(
        ("user_id", "text"),
        [
            (7, "7"),
            (-7, "-7"),
            (Int64(2**62), str(2**62)),
            (7.0, "7"),
            (ObjectId("0123456789abcdef01234567"), "0123456789abcdef01234567"),
            ("0123456789abcdef01234567", "0123456789abcdef01234567"),
            ("7", "7"),
            ("$where", "$where"),
            ("a.b\n\0", "a.b\n\0"),
        ],
    )
    @pytest.mark.parametrize("collection", ["Reviews", "Users"])
    def test_an_id_of_another_type_is_found_by_its_text(
        self, db: MongoDatabase, db_settings: Settings, user_id: Any, text: str, collection: str
    ) -> None:
        others: list[Any] = ["x", 8, ObjectId(), None]
        if collection == "Reviews":
            rows = [{**REVIEW, "user_id": other} for other in [*others, user_id]]
        else:
            ratings = [{"gmap_id": "g", "rating": 4}]
            rows = [{"user_id": other, "ratings": ratings} for other in [*others, user_id]]
        db[collection].insert_many(rows)
        found = triples(ratings_of_user(db_settings, text))
        assert [(restaurant, rating) for _, restaurant, rating in found] == [("g", 4.0)]
        if collection == "Reviews":
            assert found[0][0] == user_id

    @pytest.mark.parametrize("text", [str(2**63), "9" * 1000, "1.5", "", "zz"])
    def test_a_text_that_is_no_other_id_is_only_a_text(
        self, db: MongoDatabase, db_settings: Settings, text: str
    ) -> None:
        db["Reviews"].insert_many([{**REVIEW, "user_id": u} for u in (text, 1, "other", None)])
        assert triples(ratings_of_user(db_settings, text)) == [(text, "g", 4.0)]

    def test_the_users_field_of_reviews_is_the_settings(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        db["Reviews"].insert_many(
            [{**REVIEW, "who": "u", "user_id": "x"}, {**REVIEW, "who": "x", "user_id": "u"}]
        )
        settings = db_settings.with_values({"reviews_user_field": "who"})
        assert len(ratings_of_user(settings, "u")) == 1
        assert triples(ratings_of_user(settings, "x")) == [("x", "g", 4.0)]


class TestRatingsGiven:
    def test_they_are_cleaned_like_any_others(self, db_settings: Settings) -> None:
        ratings = ratings_from_request(
            db_settings, {"b": "4.5", "a": 1, "c": "9", "d": None}, set()
        )
        assert [(item, rating) for _, item, rating in triples(ratings)] == [("a", 1.0), ("b", 4.5)]
        assert len(ratings.users) == 1
        assert ratings.report.rejected == {"rating_missing": 1, "rating_out_of_range": 1}

    def test_none_valid_is_an_error(self, db_settings: Settings) -> None:
        with pytest.raises(DataError, match="none of the 1 reviews is valid"):
            ratings_from_request(db_settings, {"a": "tasty"}, set())


def test_a_text_stands_for_the_restaurant_whose_number_or_object_id_it_is(
    db_settings: Settings,
) -> None:
    oid = ObjectId("0123456789ab0123456789ab")
    known = {str(encode_id(i)) for i in (7, Int64(8), oid, "9")}
    given = {"7": 1, "8": 2, str(oid): 3, "9": 4, "10": 5}
    found = decode_ids(ratings_from_request(db_settings, given, known).restaurants)
    assert {(type(i), i) for i in found} == {
        (int, 7),
        (Int64, 8),
        (ObjectId, oid),
        (str, "9"),
        (str, "10"),
    }


VALID_REVIEW: dict[str, Any] = {"user_id": "u", "gmap_id": "g", "rating": 4}


@pytest.mark.parametrize("found", [5, ["x"], {"a": 1}, [None], "text"])
def test_ratings_in_users_of_another_shape_are_a_data_error(
    db: MongoDatabase, db_settings: Settings, found: object
) -> None:
    db["Users"].insert_one({"user_id": "u", "ratings": found})
    with pytest.raises(DataError):
        ratings_of_user(db_settings, "u")


def test_a_user_id_that_is_no_text_is_a_data_error(db_settings: Settings) -> None:
    with pytest.raises(DataError):
        ratings_of_user(db_settings, os.fsdecode(b"\xff"))


def test_ids_that_are_no_utf8_are_read(db: MongoDatabase, db_settings: Settings) -> None:
    rows = [bson.encode({"_id": f"AAAA{i:05}", **VALID_REVIEW}) for i in range(100)]
    db["Reviews"].insert_many(
        [RawBSONDocument(row.replace(b"AAAA", b"\xff\xfeab")) for row in rows]
    )
    settings = db_settings.with_values({"read_batch_rows": 10})
    assert sum(b.num_rows for part in plan(settings, 4) for b in read(settings, part)) == 100


def test_a_text_that_only_python_takes_for_a_number_is_only_a_text(
    db: MongoDatabase, db_settings: Settings
) -> None:
    db["Reviews"].insert_one({**VALID_REVIEW, "user_id": 1000})
    for text in ("1_000", " 1000 ", "+1000", "\u0661\u0660\u0660\u0660"):
        with pytest.raises(DataError):
            ratings_of_user(db_settings, text)


def test_the_id_of_reviews_may_be_the_users_field(db: MongoDatabase, db_settings: Settings) -> None:
    db["Reviews"].insert_one({"_id": "u", "gmap_id": "g", "rating": 4})
    settings = db_settings.with_values({"reviews_user_field": "_id"})
    assert len(read_ratings(settings)) == 1
