"""Reads Reviews from MongoDB as blocks of cleaned ratings, in one process or in many.

:func:`plan` divides the collection into ranges of ``_id``; :func:`read` reads one of them. The
Spark data source of :mod:`recommender.mongo_source` calls them in its executors,
:func:`read_ratings` in this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import bson
import pyarrow as pa
from pymongo.collection import Collection

from recommender.mongo import Document, connect, database, mongo_errors
from recommender.ratings import BLOCK_SCHEMA, CODEC, Ratings, clean_block, gather
from recommender.settings import Settings

COLLECTION = "Reviews"

# Sampled ids for each range: enough that the largest is seldom twice the mean.
_SAMPLES_PER_RANGE = 100
_ID_INDEX = "_id_"


@dataclass(frozen=True)
class IdRange:
    """A range of ``_id``: from ``lower``, included, to ``upper``, excluded.

    Each end is a document ``{"_id": value}``, or None where the range has no such end.
    """

    lower: Document | None = None
    upper: Document | None = None


def plan(settings: Settings, ranges: int) -> list[IdRange]:
    """Divide Reviews into at most ``ranges`` ranges of ``_id`` of about the same size.

    Together they cover every ``_id`` of every BSON type once. What has no index on ``_id``, such
    as a view, is one range.
    """
    with connect(settings) as client, mongo_errors("dividing Reviews"):
        reviews = database(client, settings)[COLLECTION]
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
    ends = [None, *distinct, None]
    return [IdRange(lower, upper) for lower, upper in pairwise(ends)]


def _has_id_index(reviews: Collection[Document]) -> bool:
    kind = next(iter(reviews.database.list_collections(filter={"name": reviews.name})), {})
    return kind.get("type") == "collection" and _ID_INDEX in reviews.index_information()


def read(settings: Settings, id_range: IdRange) -> Iterator[pa.RecordBatch]:
    """Yield the cleaned blocks of one range: rows of ``recommender.ratings.BLOCK_SCHEMA``."""
    user, restaurant, rating, time = settings.review_fields
    projection = dict.fromkeys(settings.review_fields, 1) | {"_id": 0}
    with connect(settings) as client, mongo_errors("reading Reviews"):
        reviews = database(client, settings)[COLLECTION]
        cursor = reviews.find_raw_batches(
            projection=projection, batch_size=settings.read_batch_rows
        )
        # Unlike $gte and $lt, index bounds compare ids of all BSON types.
        if id_range.lower or id_range.upper:
            cursor.hint(_ID_INDEX)
        if id_range.lower:
            cursor.min(list(id_range.lower.items()))
        if id_range.upper:
            cursor.max(list(id_range.upper.items()))
        for raw in cast(Iterator[bytes], cursor):
            rows = bson.decode_all(raw, CODEC)
            yield clean_block(
                [row.get(user) for row in rows],
                [row.get(restaurant) for row in rows],
                [row.get(rating) for row in rows],
                [row.get(time) for row in rows],
                rating_min=settings.rating_min,
                rating_max=settings.rating_max,
            )


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
