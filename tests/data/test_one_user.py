"""Ratings of one user, read from a real MongoDB or taken from a request."""

from typing import Any

import bson
import pytest
from bson import Int64, ObjectId
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument

from recommender.core.errors import DatabaseUnavailableError, DataError
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.settings import Settings
from recommender.data.ids import KeyIndex, decode_ids, keys_of
from recommender.data.one_user import (
    ratings_by_id,
    ratings_from_request,
    spelled_ids,
    split_rated,
)
from recommender.data.ratings import Ratings

REVIEW: Document = {"user_id": "u", "gmap_id": "g", "rating": 4}


def triples(ratings: Ratings) -> list[tuple[Any, Any, float]]:
    users, restaurants = decode_ids(ratings.users), decode_ids(ratings.restaurants)
    rows = zip(ratings.user, ratings.restaurant, ratings.rating.tolist(), strict=True)
    return [(users[user], restaurants[item], rating) for user, item, rating in rows]


def ratings_of_user(db: MongoDatabase, settings: Settings, user: str) -> Ratings:
    return ratings_by_id(db, settings.reviews, {"$in": spelled_ids(user)})


class TestRatingsById:
    def test_ratings_of_reviews_win(self, db: MongoDatabase, db_settings: Settings) -> None:
        rows: list[Document] = [{"gmap_id": "a", "rating": 2}, {"gmap_id": "b"}, {"user_id": "v"}]
        db["Reviews"].insert_many([{**REVIEW, **row} for row in rows])
        db["Users"].insert_one({"user_id": "u", "ratings": [{"gmap_id": "c", "rating": 1}]})
        assert triples(ratings_of_user(db, db_settings, "u")) == [
            ("u", "a", 2.0),
            ("u", "b", 4.0),
        ]

    def test_else_those_of_users_with_the_latest_of_each(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        entries = [
            {"gmap_id": "a", "rating": 2, "timestamp": 20},
            {"gmap_id": "a", "rating": 5, "timestamp": 10},
            {"gmap_id": "b", "rating": "3"},
            {"gmap_id": "c", "rating": 99},
        ]
        db["Reviews"].insert_one(dict(REVIEW))
        db["Users"].insert_many(
            [{"user_id": "x", "ratings": entries[:1]}, {"user_id": "v", "ratings": entries}]
        )
        ratings = ratings_of_user(db, db_settings, "v")
        assert triples(ratings) == [("v", "a", 2.0), ("v", "b", 3.0)]
        assert ratings.report.rows_rejected == {"rating_out_of_range": 1}

    def test_malformed_values_in_users_do_not_stop_the_reading(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        entries = [{"gmap_id": "g", "rating": 3, "timestamp": DatetimeMS(2**60), "text": "BROKEN"}]
        row = bson.encode({"_id": 1, "user_id": "u", "ratings": entries})
        db["Users"].insert_one(RawBSONDocument(row.replace(b"BROKEN", b"\xff\xfe\xc3\x28ab")))
        assert triples(ratings_of_user(db, db_settings, "u")) == [("u", "g", 3.0)]

    @pytest.mark.parametrize("name", ["Reviews", "Users"])
    def test_a_collation_does_not_mix_users(
        self, db: MongoDatabase, db_settings: Settings, name: str
    ) -> None:
        db.create_collection(name, collation={"locale": "en", "strength": 1})
        for user, rated in (("U", "a"), ("u", "b")):
            review = REVIEW | {"user_id": user, "gmap_id": rated}
            user_of = {"user_id": user, "ratings": [{"gmap_id": rated, "rating": 4}]}
            db[name].insert_one(review if name == "Reviews" else user_of)
        assert triples(ratings_of_user(db, db_settings, "u")) == [("u", "b", 4.0)]

    def test_both_collections_are_read_within_a_time(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        db["Users"].insert_many([{"user_id": f"v{i}"} for i in range(100_000)])
        with pytest.raises(DatabaseUnavailableError):
            ratings_by_id(db, db_settings.reviews, "u", milliseconds=1)

    def test_a_user_without_valid_ratings_is_an_error(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        with pytest.raises(DataError):
            ratings_of_user(db, db_settings, "no-one")
        for ratings in (None, [], 5, ["x"], {"a": 1}, [None], "text"):
            db["Users"].replace_one({}, {"user_id": "no-one", "ratings": ratings}, upsert=True)
            with pytest.raises(DataError):
                ratings_of_user(db, db_settings, "no-one")

    @pytest.mark.parametrize("collection", ["Reviews", "Users"])
    def test_a_text_matches_the_ids_of_other_types_that_it_spells(
        self, db: MongoDatabase, db_settings: Settings, collection: str
    ) -> None:
        object_id = ObjectId("0123456789abcdef01234567")
        ids = [7, -7, Int64(2**62), 7.0, object_id, str(object_id), "7", "$where", "a.b\n\0"]
        others: list[Any] = ["x", 8, ObjectId(), None]
        for user_id in ids:
            entry = {"gmap_id": "g", "rating": 4}
            fields = entry if collection == "Reviews" else {"ratings": [entry]}
            db[collection].delete_many({})
            db[collection].insert_many([{"user_id": i, **fields} for i in [*others, user_id]])
            text = "7" if user_id == 7 else str(user_id)
            ((user, restaurant, rating),) = triples(ratings_of_user(db, db_settings, text))
            assert (user, restaurant, rating) == (user_id, "g", 4.0)

    def test_other_texts_match_only_themselves(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        texts = [str(2**63), "9" * 1000, "1.5", "", "zz"]
        db["Reviews"].insert_many([{**REVIEW, "user_id": u} for u in (*texts, 1, 1000, None)])
        for text in texts:
            assert triples(ratings_of_user(db, db_settings, text)) == [(text, "g", 4.0)]
        # Python's int() would read these as 1000, or refuse the last.
        for text in ("1_000", " 1000 ", "+1000", "\u0661\u0660\u0660\u0660", "9" * 5000):
            with pytest.raises(DataError):
                ratings_of_user(db, db_settings, text)

    def test_the_user_field_is_that_of_the_settings(
        self, db: MongoDatabase, db_settings: Settings
    ) -> None:
        db["Reviews"].insert_many(
            [{**REVIEW, "who": "u", "user_id": "x"}, {**REVIEW, "who": "x", "user_id": "u"}]
        )
        settings = db_settings.with_values({"reviews_user_field": "who"})
        assert len(ratings_of_user(db, settings, "u")) == 1
        assert triples(ratings_of_user(db, settings, "x")) == [("x", "g", 4.0)]


class TestRatingsFromRequest:
    def test_they_are_cleaned_without_a_log_of_each_user(
        self, db_settings: Settings, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        rated = {"b": "4.5", "a": 1, "c": "9", "d": None}
        ratings = ratings_from_request(db_settings.reviews, rated, KeyIndex(keys_of([])))
        assert [(item, rating) for _, item, rating in triples(ratings)] == [("a", 1.0), ("b", 4.5)]
        assert len(ratings.users) == 1
        assert ratings.report.rows_rejected == {"rating_missing": 1, "rating_out_of_range": 1}
        assert caplog.text == ""

    def test_without_a_valid_rating_the_error_names_the_scale_and_no_setting(
        self, db_settings: Settings
    ) -> None:
        for rating in ("tasty", 9):
            with pytest.raises(DataError, match="numbers from 1 to 5") as caught:
                ratings_from_request(db_settings.reviews, {"a": rating}, KeyIndex(keys_of([])))
            assert "REVIEWS" not in str(caught.value)

    def test_a_text_stands_for_the_known_id_that_it_spells(self, db_settings: Settings) -> None:
        oid = ObjectId("0123456789ab0123456789ab")
        known = KeyIndex(keys_of([7, Int64(8), oid, "9"]))
        rated = {"7": 1, "8": 2, str(oid): 3, "9": 4, "10": 5}
        ids = decode_ids(ratings_from_request(db_settings.reviews, rated, known).restaurants)
        expected = [(int, 7), (int, 8), (ObjectId, oid), (str, "9"), (str, "10")]
        assert {(type(i), i) for i in ids} == set(expected)


def test_a_rating_is_parsed_at_the_last_equals_sign() -> None:
    assert split_rated("a=b=4.5") == ("a=b", "4.5")
    for text in ("a", "=4", "a=", ""):
        with pytest.raises(ValueError, match="gmap_id=rating"):
            split_rated(text)
