"""Ratings of one user, from the database or from a request."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress

import pyarrow as pa
from bson import Int64, ObjectId
from bson.errors import InvalidId

from recommender.core.errors import DataError
from recommender.core.mongo import Document, connect, database, mongo_errors
from recommender.core.settings import Settings
from recommender.data.cleaning import clean_rows
from recommender.data.ids import encode_id
from recommender.data.ratings import Ratings, gather
from recommender.data.reviews import IdRange, can_be_sent, read
from recommender.data.users import ratings_in, users_collection

_WHOLE_NUMBER = re.compile("-?[0-9]{1,19}")


def ratings_of_user(settings: Settings, user: str) -> Ratings:
    """Return a user's ratings from Reviews, else from Users; raise `DataError` if there are none.

    ``user`` is the id as text; it also matches the whole number or the ObjectId that it spells.
    """
    same: Document = {"$in": [user, *_other_types(user)]}
    if not can_be_sent(same):
        raise DataError(f"user {user!r} is not valid UTF-8, which MongoDB requires; check the id")
    batches = list(read(settings, IdRange(), {settings.reviews.user_field: same}))
    batches = batches or [_ratings_in_users(settings, same)]
    if not sum(batch.num_rows for batch in batches):
        raise DataError(f"user {user!r} has no rating in Reviews or Users; check the id")
    return gather(pa.Table.from_batches(batches))


def _ratings_in_users(settings: Settings, same: Document) -> pa.RecordBatch:
    """Return the cleaned ratings in Users of the user whose id matches, if any."""
    with connect(settings) as client, mongo_errors("reading Users"):
        users = users_collection(database(client, settings))
        document = users.find_one({"user_id": same}) or {}
    rows = [entry | {"user_id": document.get("user_id")} for entry in ratings_in(document)]
    return clean_rows(rows, ("user_id", "gmap_id", "rating", "timestamp"), settings)


def parse_rating(text: str) -> tuple[str, str]:
    """Split ``gmap_id=rating`` at the last ``=``; raise `ValueError` if a part is missing."""
    gmap_id, _, rating = text.rpartition("=")
    if not (gmap_id and rating):
        raise ValueError(f"{text!r} is not of the form gmap_id=rating")
    return gmap_id, rating


def ratings_from_request(
    settings: Settings, rated: Mapping[str, object], known: Collection[str]
) -> Ratings:
    """Return the ratings of a user who is in no collection; raise `DataError` if none is valid.

    ``rated`` holds ratings by the restaurants' ids as text, ``known`` the keys of the known
    restaurants. A text that is no known id stands for the known number or ObjectId that it spells.
    """
    rows = []
    for text, rating in rated.items():
        same = (i for i in (text, *_other_types(text)) if encode_id(i) in known)
        rows.append({"user": "", "restaurant": next(same, text), "rating": rating})
    block = clean_rows(rows, ("user", "restaurant", "rating", "time"), settings)
    return gather(pa.Table.from_batches([block]))


def _other_types(text: str) -> list[object]:
    """Return the whole numbers and the ObjectId that a text spells."""
    ids: list[object] = []
    if _WHOLE_NUMBER.fullmatch(text) and abs(int(text)) < 2**63:
        # Most drivers write 32 bits where these suffice; MongoDB compares both as equal.
        ids += [int(text), Int64(int(text))]
    with suppress(InvalidId):
        ids.append(ObjectId(text))
    return ids
