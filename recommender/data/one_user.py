"""Ratings of one user, from the database or from a request."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress

import pyarrow as pa
from bson.errors import InvalidId
from bson.int64 import Int64
from bson.objectid import ObjectId

from recommender.core.errors import DataError
from recommender.core.mongo import Document, connect, mongo_errors, source_database
from recommender.core.settings import Settings
from recommender.data.cleaning import clean_rows
from recommender.data.ids import CODEC, encode_id
from recommender.data.ratings import Ratings, gather
from recommender.data.reviews import IdRange, can_be_sent, read
from recommender.data.users import USERS, clean_users

_INT64_END = 2**63
_WHOLE_NUMBER = re.compile("-?[0-9]{1,19}")


def ratings_of_user(settings: Settings, user: str) -> Ratings:
    """Return one user's ratings from Reviews, or from Users if Reviews has none.

    Parameters
    ----------
    user
        The user's id as text. An id that is a whole number or an ObjectId is found as well.

    Raises
    ------
    DataError
        If neither has a rating of the user.
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
        users = source_database(client, settings)[USERS].with_options(codec_options=CODEC)
        document = users.find_one({"user_id": same}) or {}
    return clean_users([document], settings)


def parse_rating(text: str) -> tuple[str, str]:
    """Read ``gmap_id=rating``; an id may hold ``=`` itself.

    Raises
    ------
    ValueError
        If the text is not of that form.
    """
    gmap_id, _, rating = text.rpartition("=")
    if not (gmap_id and rating):
        raise ValueError(f"{text!r} is not of the form gmap_id=rating")
    return gmap_id, rating


def ratings_from_request(
    settings: Settings, given: Mapping[str, object], known: Collection[str]
) -> Ratings:
    """Return the ratings of a user who is in no collection.

    Parameters
    ----------
    given
        Ratings by the restaurants' ids as text.
    known
        Keys of the known restaurants. A text that is not a known id itself stands for the known
        number or ObjectId that it spells.

    Raises
    ------
    DataError
        If none is valid.
    """
    rows = []
    for text, rating in given.items():
        same = [i for i in (text, *_other_types(text)) if encode_id(i) in known]
        rows.append({"user": "", "restaurant": (same or [text])[0], "rating": rating})
    block = clean_rows(rows, ("user", "restaurant", "rating", "time"), settings)
    return gather(pa.Table.from_batches([block]))


def _other_types(text: str) -> list[object]:
    ids: list[object] = []
    if _WHOLE_NUMBER.fullmatch(text) and abs(int(text)) < _INT64_END:
        # Most drivers write 32 bits where these suffice; MongoDB compares both as equal.
        ids += [int(text), Int64(int(text))]
    with suppress(InvalidId):
        ids.append(ObjectId(text))
    return ids
