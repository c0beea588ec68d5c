"""Restaurants from a real MongoDB."""

from __future__ import annotations

import pyarrow as pa
import pytest

from recommender.core.errors import ConfigurationError, DatabaseUnavailableError
from recommender.core.mongo import MongoDatabase
from recommender.core.settings import Settings, load_settings
from recommender.data.restaurants import restaurant_names, shown_restaurants

KEYS = pa.array(["a", "b", "c"])


def test_all_are_shown_where_nothing_is_excluded(db: MongoDatabase, db_settings: Settings) -> None:
    db["Restaurants"].insert_one({"gmap_id": "a", "closed": True})
    assert shown_restaurants(db, KEYS, db_settings).tolist() == [True, True, True]


def test_what_matches_the_filter_is_not_shown(db: MongoDatabase, db_settings: Settings) -> None:
    closed = [{"gmap_id": name, "closed": name in "cx"} for name in "abcx"]
    db["Restaurants"].insert_many([*closed, {"closed": True}])
    settings = db_settings.with_values({"restaurants_exclude": '{"closed": true}'})
    assert shown_restaurants(db, KEYS, settings).tolist() == [True, True, False]


def test_a_filter_that_mongodb_refuses_is_a_clear_error(
    db: MongoDatabase, db_settings: Settings
) -> None:
    db["Restaurants"].insert_one({"gmap_id": "a"})
    settings = db_settings.with_values({"restaurants_exclude": '{"a": {"$no": 1}}'})
    with pytest.raises(DatabaseUnavailableError, match="RESTAURANTS_EXCLUDE"):
        shown_restaurants(db, KEYS, settings)


def test_a_text_that_is_no_filter_is_refused_at_the_start() -> None:
    for text in ("closed", "[1]", '{"a":'):
        with pytest.raises(ConfigurationError, match="RESTAURANTS_EXCLUDE"):
            load_settings(restaurants_exclude=text)


def test_names_are_those_of_the_ids_asked_for(db: MongoDatabase) -> None:
    named = [{"gmap_id": i, "name": f"Place {i}"} for i in ("a", "b", 7)]
    db["Restaurants"].insert_many([*named, {"gmap_id": "c", "name": 5}, {"name": "no id"}])
    assert restaurant_names(db, ["b", 7, "c"]) == {"b": "Place b", 7: "Place 7"}
    assert set(restaurant_names(db)) == {"a", "b", 7}
