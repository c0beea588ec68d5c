"""Reads Reviews from MongoDB as blocks of cleaned ratings, in one process or in many.

:func:`plan` divides the collection into ranges of ``_id``; :func:`read` reads one of them. The
Spark data source of :mod:`recommender.mongo_source` plans in the driver and reads in its executors,
:func:`read_ratings` reads all in this process.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise

import bson
import pyarrow as pa
from bson.errors import InvalidId
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from pymongo.collection import Collection as MongoCollection

from recommender.errors import DataError
from recommender.mongo import Document, connect, mongo_errors, source_database
from recommender.ratings import BLOCK_SCHEMA, CODEC, Ratings, clean_block, encode_id, gather
from recommender.settings import Settings

COLLECTION = "Reviews"
USERS = "Users"

# Sampled ids for each range: enough that the largest is seldom twice the mean.
_SAMPLES_PER_RANGE = 100
_ID_INDEX = "_id_"
_INT64_END = 2**63
_WHOLE_NUMBER = re.compile("-?[0-9]{1,19}")


@dataclass(frozen=True)
class IdRange:
    """A range of ``_id``: from ``lower``, included, to ``upper``, excluded.

    Each end is a document ``{"_id": value}``, or None where the range has no such end.
    """

    lower: Document | None = None
    upper: Document | None = None


def plan(settings: Settings, ranges: int) -> list[IdRange]:
    """Divide Reviews into at most ``ranges`` ranges of ``_id`` of about the same size.

    A range is not much smaller than ``READ_BATCH_ROWS``: starting a reader costs more than that.
    Together they cover every ``_id`` of every BSON type once. What has no index on ``_id``, such
    as a view, is one range.
    """
    with connect(settings) as client, mongo_errors("dividing Reviews"):
        reviews = source_database(client, settings)[COLLECTION]
        ranges = min(ranges, reviews.estimated_document_count() // settings.read_batch_rows)
        if ranges < 2 or not _has_id_index(reviews):
            return [IdRange()]
        pipeline: list[Document] = [
            {"$sample": {"size": ranges * _SAMPLES_PER_RANGE}},
            {"$project": {"_id": 1}},
            {"$sort": {"_id": 1}},
        ]
        ids = list(reviews.with_options(codec_options=CODEC).aggregate(pipeline))
    cuts = [ids[len(ids) * i // ranges] for i in range(1, ranges)] if ids else []
    distinct = [cut for cut, before in zip(cuts, [None, *cuts], strict=False) if cut != before]
    distinct = [cut for cut in distinct if _can_be_a_bound(cut)]
    ends = [None, *distinct, None]
    return [IdRange(lower, upper) for lower, upper in pairwise(ends)]


def _can_be_a_bound(cut: Document) -> bool:
    """Say whether ids lie on either side of a cut, and it can be written."""
    return not isinstance(cut["_id"], MinKey | MaxKey) and _can_be_sent(cut)


def _can_be_sent(document: Document) -> bool:
    """Say whether what was read can be written: text that is not UTF-8 cannot."""
    try:
        return bool(bson.encode(document, codec_options=CODEC))
    except (UnicodeEncodeError, bson.errors.BSONError):
        return False


def _has_id_index(reviews: MongoCollection[Document]) -> bool:
    kind = next(iter(reviews.database.list_collections(filter={"name": reviews.name})), {})
    return kind.get("type") == "collection" and _ID_INDEX in reviews.index_information()


def read(
    settings: Settings, id_range: IdRange, matching: Document | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the cleaned blocks of one range: rows of ``recommender.ratings.BLOCK_SCHEMA``.

    Parameters
    ----------
    matching
        A MongoDB filter; None for all rows of the range.
    """
    projection = {"_id": 0} | dict.fromkeys(settings.review_fields, 1)
    with no_search_for_cycles(), connect(settings) as client, mongo_errors("reading Reviews"):
        reviews = source_database(client, settings)[COLLECTION].with_options(codec_options=CODEC)
        rows_wanted = matching or {}
        cursor = reviews.find(rows_wanted, projection, batch_size=settings.read_batch_rows)
        # Unlike $gte and $lt, index bounds compare ids of all BSON types.
        if id_range.lower or id_range.upper:
            cursor.hint(_ID_INDEX)
        if id_range.lower:
            cursor.min(list(id_range.lower.items()))
        if id_range.upper:
            cursor.max(list(id_range.upper.items()))
        while rows := cursor.to_list(settings.read_batch_rows):
            yield _clean(rows, settings.review_fields, settings)
        # An index bound that is not given is MaxKey, excluded.
        if id_range.lower and not id_range.upper:
            last: Document = {"$and": [rows_wanted, {"_id": MaxKey()}]}
            if rows := reviews.find(last, projection).to_list():
                yield _clean(rows, settings.review_fields, settings)


@contextmanager
def no_search_for_cycles() -> Iterator[None]:
    """Let Python's collector rest: rows are many objects without a cycle, and it searches them all.

    That took a third of the time of reading.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_ratings(settings: Settings) -> Ratings:
    """Read all of Reviews in this process.

    Raises
    ------
    DataError
        If Reviews holds no valid row.
    DatabaseUnavailableError
        If MongoDB does not answer.
    """
    return gather(pa.Table.from_batches(read(settings, IdRange()), schema=BLOCK_SCHEMA))


def ratings_of_user(settings: Settings, user: str) -> Ratings:
    """Return one user's ratings: from Reviews, or else those that the backend keeps in Users.

    Parameters
    ----------
    user
        The user's id as text. An id that is a whole number or an ObjectId is found as well.

    Raises
    ------
    DataError
        If neither knows the user.
    """
    same: Document = {"$in": [user, *_other_types(user)]}
    if not _can_be_sent(same):
        raise DataError(f"user {user!r} is no text that MongoDB could hold; check the id")
    batches = list(read(settings, IdRange(), {settings.reviews_user_field: same}))
    batches = batches or [_ratings_in_users(settings, same)]
    if not sum(batch.num_rows for batch in batches):
        raise DataError(f"user {user!r} has no rating in Reviews or Users; check the id")
    return gather(pa.Table.from_batches(batches))


def _ratings_in_users(settings: Settings, same: Document) -> pa.RecordBatch:
    """Return the cleaned ratings that Users keeps of the user whose id matches, if any."""
    with connect(settings) as client, mongo_errors("reading Users"):
        users = source_database(client, settings)[USERS].with_options(codec_options=CODEC)
        entry = users.find_one({"user_id": same}) or {}
    return clean_users([entry], settings)


def clean_users(entries: Sequence[Document], settings: Settings) -> pa.RecordBatch:
    """Return the cleaned ratings that documents of Users keep, as rows of ``BLOCK_SCHEMA``."""
    rows = []
    for entry in entries:
        kept = entry.get("ratings")
        rated = [row for row in kept if isinstance(row, dict)] if isinstance(kept, list) else []
        rows += [row | {"user_id": entry.get("user_id")} for row in rated]
    return _clean(rows, ("user_id", "gmap_id", "rating", "timestamp"), settings)


def given_rating(text: str) -> tuple[str, str]:
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


def ratings_given(
    settings: Settings, given: Mapping[str, object], known: Collection[str]
) -> Ratings:
    """Return the ratings, by restaurant id, of somebody who is in no collection.

    Parameters
    ----------
    given
        Ratings by the restaurants' ids as text.
    known
        Keys of the restaurants that there are: a text that is none of them, but is the number or
        the ObjectId of one, stands for that one.

    Raises
    ------
    DataError
        If none is valid.
    """
    rows = []
    for text, rating in given.items():
        same = [i for i in (text, *_other_types(text)) if encode_id(i) in known]
        rows.append({"user": "", "restaurant": (same or [text])[0], "rating": rating})
    block = _clean(rows, ("user", "restaurant", "rating", "time"), settings)
    return gather(pa.Table.from_batches([block]))


def _clean(
    rows: Sequence[Document], fields: tuple[str, str, str, str], settings: Settings
) -> pa.RecordBatch:
    user, restaurant, rating, time = fields
    return clean_block(
        [row.get(user) for row in rows],
        [row.get(restaurant) for row in rows],
        [row.get(rating) for row in rows],
        [row.get(time) for row in rows],
        rating_min=settings.rating_min,
        rating_max=settings.rating_max,
    )


def _other_types(text: str) -> list[object]:
    found: list[object] = []
    if _WHOLE_NUMBER.fullmatch(text) and abs(int(text)) < _INT64_END:
        # 32 bits where they do, as most drivers write them; MongoDB compares both alike.
        found += [int(text), Int64(int(text))]
    with suppress(InvalidId):
        found.append(ObjectId(text))
    return found
