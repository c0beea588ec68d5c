"""Ratings of one user, from the database or from a request."""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa
from bson import Int64, ObjectId
from bson.errors import InvalidId

from recommender.core.errors import DataError
from recommender.core.mongo import Document, MongoDatabase, mongo_errors
from recommender.core.mongo_collections import SIMPLE
from recommender.core.settings import ReviewsSettings
from recommender.data.cleaning import clean_rows
from recommender.data.ids import KeyIndex
from recommender.data.ratings import Ratings, gather
from recommender.data.reviews import BATCH_ROWS, reviews_collection
from recommender.data.users import entries_in, users_collection

_WHOLE_NUMBER = re.compile("-?[0-9]{1,19}")


def ratings_by_id(
    db: MongoDatabase, reviews: ReviewsSettings, same: Any, milliseconds: int | None = None
) -> Ratings:
    """Return the first 10,000 ratings of the users whose id matches ``same``.

    They are from Reviews, else from the first such user in Users. Without a valid rating:
    DataError. If MongoDB takes longer, as without an index: DatabaseUnavailableError.
    """
    with mongo_errors("reading a user's ratings (are Reviews and Users indexed by user?)"):
        projection = {"_id": 0} | dict.fromkeys(reviews.fields, 1)
        cursor = reviews_collection(db).find({reviews.user_field: same}, projection)
        cursor = cursor.collation(SIMPLE).limit(BATCH_ROWS).max_time_ms(milliseconds)
        if rows := cursor.to_list():
            return gather(pa.Table.from_batches([clean_rows(rows, reviews)]))
        limits: Document = {"collation": SIMPLE, "max_time_ms": milliseconds}
        document = users_collection(db).find_one({"user_id": same}, **limits) or {}
    entries = [entry | {"user_id": document.get("user_id")} for entry in entries_in(document)]
    if not entries:
        raise DataError("the user has no rating in Reviews or Users; check the id")
    block = clean_rows(entries, reviews, ("user_id", "gmap_id", "rating", "timestamp"))
    return gather(pa.Table.from_batches([block]))


def split_rated(text: str) -> tuple[str, str]:
    """Split ``gmap_id=rating`` at the last ``=``; raise `ValueError` if a part is missing."""
    gmap_id, _, rating = text.rpartition("=")
    if not (gmap_id and rating):
        raise ValueError(f"{text!r} is not of the form gmap_id=rating")
    return gmap_id, rating


def ratings_from_request(
    scale: ReviewsSettings, rated: Mapping[str, object], known: KeyIndex
) -> Ratings:
    """Return the ratings of a user who is in no collection; raise `DataError` if none is valid.

    ``rated`` holds ratings by the restaurants' ids as text. A text that is no ``known`` id stands
    for the known number or ObjectId that it spells.
    """
    rows = []
    for text, rating in rated.items():
        same = (i for i in spelled_ids(text) if known.find(i) >= 0)
        rows.append({"user": "", "restaurant": next(same, text), "rating": rating})
    block = clean_rows(rows, scale, ("user", "restaurant", "rating", "time"))
    remedy = f"expected numbers from {scale.rating_min:g} to {scale.rating_max:g}"
    return gather(pa.Table.from_batches([block]), remedy)


def spelled_ids(text: str) -> list[object]:
    """Return the ids that a text spells: itself, and whole numbers or an ObjectId."""
    ids: list[object] = [text]
    if _WHOLE_NUMBER.fullmatch(text) and abs(int(text)) < 2**63:
        # Most drivers write 32 bits where these suffice; MongoDB compares both as equal.
        ids += [int(text), Int64(int(text))]
    with suppress(InvalidId):
        ids.append(ObjectId(text))
    return ids
