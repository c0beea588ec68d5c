"""Restaurants from a real MongoDB."""

import pyarrow as pa
import pytest

from recommender.core.errors import ConfigurationError, DatabaseUnavailableError
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.settings import Settings, load_settings
from recommender.data.restaurants import (
    RestaurantNames,
    restaurant_names,
    shown_restaurants,
)

KEYS = pa.array(["a", "b", "c"])


def test_without_a_filter_all_are_shown(db: MongoDatabase, db_settings: Settings) -> None:
    db["Restaurants"].insert_one({"gmap_id": "a", "closed": True})
    assert shown_restaurants(db, KEYS, None).tolist() == [True, True, True]


def test_restaurants_that_match_the_filter_are_not_shown(
    db: MongoDatabase, db_settings: Settings
) -> None:
    closed = [{"gmap_id": name, "closed": name in "cx"} for name in "abcx"]
    db["Restaurants"].insert_many([*closed, {"closed": True}])
    settings = db_settings.with_values({"restaurants_exclude": '{"closed": true}'})
    shown = shown_restaurants(db, KEYS, settings.reviews.restaurants_exclude)
    assert shown.tolist() == [True, True, False]


def test_a_filter_that_mongodb_refuses_is_an_invalid_setting(db: MongoDatabase) -> None:
    numbers: list[Document] = [{"gmap_id": "a", "n": 1}, {"gmap_id": "b", "n": "one"}]
    db["Restaurants"].insert_many(numbers)
    for refused in ({"$no": 1}, {"a": {"$regex": "("}}, {"$expr": {"$add": ["$n", 1]}}):
        with pytest.raises(ConfigurationError, match="RESTAURANTS_EXCLUDE"):
            shown_restaurants(db, KEYS, refused)


def test_restaurants_that_cannot_be_read_are_not_blamed_on_the_filter(db: MongoDatabase) -> None:
    db.create_collection(
        "Restaurants", viewOn="Source", pipeline=[{"$set": {"a": {"$log": ["x", 2]}}}]
    )
    db["Source"].insert_one({"gmap_id": "a"})
    with pytest.raises(DatabaseUnavailableError):
        shown_restaurants(db, KEYS, {"closed": True})


def test_a_text_that_is_not_a_filter_is_an_invalid_setting() -> None:
    for text in ("closed", "[1]", '{"a":', '{"a": {"$oid": "z"}}', 5):
        with pytest.raises(ConfigurationError):
            load_settings(restaurants_exclude=text)
    settings = load_settings(restaurants_exclude={"closed": True})
    assert settings.reviews.restaurants_exclude == {"closed": True}


def test_names_are_those_of_the_ids(db: MongoDatabase) -> None:
    named = [{"gmap_id": i, "name": f"Name {i}"} for i in ("a", "b", 7, ["b"])]
    db["Restaurants"].insert_many([*named, {"gmap_id": "c", "name": 5}, {"name": "no id"}])
    assert restaurant_names(db, ["b", 7, "c"]) == {"b": "Name b", 7: "Name 7"}


def test_a_search_lists_whole_beginnings_first() -> None:
    names = RestaurantNames(["xxab", "ab1", "c", "ab2"], {"c": "AB Grill", "xxab": "The Ab"})
    assert names.search("ab", 9) == ["ab1", "c", "ab2", "xxab"]
    assert names.search("ab the", 9) == ["xxab"]


def test_the_text_of_an_id_names_a_restaurant_unless_it_is_another_id() -> None:
    names = RestaurantNames([7, 8, "8"], {7: "Seven", "8": "Text", 8: "Number"})
    assert [names.of(each) for each in (7, "7", 8, "8", "9")] == [
        *("Seven", "Seven", "Number", "Text"),
        None,
    ]
