"""A whole training on odd and invalid reviews, which change while they are read."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import bson
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument

import als_training
from recommender.core.mongo import MongoDatabase
from recommender.core.settings import Settings
from recommender.runs.ledger import Ledger
from tests.data.bad_rows import BAD_ROWS, GOOD
from tests.support import ContractReader, write_tiny_city

# Each is the id of a user and of a restaurant, and must be handled as a plain value.
ODD_IDS: list[Any] = [
    "$where",
    "$set",
    "a.b.0",
    "../../etc/passwd",
    "two\nlines\r\n2026-01-01 00:00:00,000 INFO recommender: forged",
    "N\0UL",
    "",
    " ",
    "7",
    7,
    Int64(2**40),
    ObjectId("0123456789ab0123456789ab"),
    "é" * 512,
    "\U0001f363",
]


def lone_surrogate() -> RawBSONDocument:
    """Return a review whose user's id is half of a surrogate pair."""
    row = bson.encode({"_id": ObjectId(), **GOOD, "user_id": "AAA"})
    return RawBSONDocument(row.replace(b"AAA", b"\xed\xa0\x80"))


def write_odd_reviews(db: MongoDatabase) -> None:
    """Write ratings of every odd restaurant but one by every odd user, and invalid rows."""
    db["Reviews"].insert_many(
        {"user_id": user, "gmap_id": restaurant, "rating": 1 + (row + column) % 5}
        for row, user in enumerate(ODD_IDS)
        for column, restaurant in enumerate(ODD_IDS)
        if row != column
    )
    db["Reviews"].insert_many([{**GOOD, **bad} for _, bad in BAD_ROWS])
    db["Reviews"].insert_one(lone_surrogate())


@contextmanager
def changing(db: MongoDatabase) -> Iterator[None]:
    """Add, change and remove reviews during the block."""
    stopped = threading.Event()

    def change() -> None:
        number = 0
        while not stopped.wait(0.01):
            number += 1
            new = {**GOOD, "user_id": f"new {number % 50}", "gmap_id": f"restaurant {number}"}
            db["Reviews"].insert_one(new)
            db["Reviews"].update_one({"user_id": "new 1"}, {"$set": {"rating": 1 + number % 5}})
            if number % 3 == 0:
                db["Reviews"].delete_one({"user_id": f"new {number % 50}"})

    writer = threading.Thread(target=change)
    writer.start()
    try:
        yield
    finally:
        stopped.set()
        writer.join()


def test_odd_ids_are_plain_values_and_both_models_use_one_snapshot(
    train_here: Callable[..., int], db: MongoDatabase, db_settings: Settings
) -> None:
    write_tiny_city(db, db_settings)
    write_odd_reviews(db)
    with changing(db):
        assert train_here(als_training.main) == 0
    run = Ledger(db).recent(1)[0]
    expected = Counter(reason for reason, _ in BAD_ROWS) | Counter({"id_unusable": 2})
    assert run["rows_rejected"] == dict(expected)
    users = {kind_and_value(d["user_id"]): d for d in db["Recommendations"].find()}
    assert {kind_and_value(odd) for odd in ODD_IDS} <= set(users)
    assert len(users) == run["users"]
    reader = ContractReader(db)
    assert {kind_and_value(odd) for odd in ODD_IDS} <= set(map(kind_and_value, reader.columns))
    figures = db["Metadata"].find_one({"_id": "kmeans_clusters"}) or {}
    assert figures["users"] + figures["users_left_out"] == run["users"]
    assert sum(reader.sizes) + figures["users_without_overlap"] == figures["users"]
    assert len(reader.columns) + figures["restaurants_left_out"] == run["restaurants"]


def kind_and_value(value: Any) -> tuple[str, Any]:
    """Return an id with its type: 7 and "7" are two ids, as in the database."""
    return type(value).__name__, value
