"""Reading of Reviews from MongoDB as blocks of cleaned ratings, in one process or in many.

:func:`plan` divides the collection into ranges of ``_id``; :func:`read` reads one of them. The
Spark data source of :mod:`recommender.spark.reviews_source` plans in the driver and reads in its
executors; :func:`read_ratings` reads everything in this process.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import bson
import pyarrow as pa
from bson.max_key import MaxKey
from bson.min_key import MinKey
from pymongo.collection import Collection as MongoCollection

from recommender.core.mongo import Document, connect, mongo_errors, source_database
from recommender.core.settings import Settings
from recommender.data.cleaning import BLOCK_SCHEMA, clean_rows
from recommender.data.ids import CODEC
from recommender.data.ratings import Ratings, gather

COLLECTION = "Reviews"
BATCH_ROWS = 10_000

# Sampled ids for each range: enough that the largest is seldom twice the mean.
_SAMPLES_PER_RANGE = 100
_ID_INDEX = "_id_"


@dataclass(frozen=True)
class IdRange:
    """A range of ``_id``: from ``lower``, included, to ``upper``, excluded.

    Each end is a document ``{"_id": value}``, or None where the range is open.
    """

    lower: Document | None = None
    upper: Document | None = None


def plan(settings: Settings, ranges: int, batch_rows: int = BATCH_ROWS) -> list[IdRange]:
    """Divide Reviews into at most ``ranges`` ranges of ``_id`` of about the same size.

    A range is not much smaller than a batch: starting a reader costs more than reading one.
    Together they cover every ``_id`` of every BSON type once. A collection without an index on
    ``_id``, such as a view, is one range.
    """
    with connect(settings) as client, mongo_errors("dividing Reviews"):
        reviews = source_database(client, settings)[COLLECTION]
        ranges = min(ranges, reviews.estimated_document_count() // batch_rows)
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
    """Return true if a cut can be an index bound, with ids on either side."""
    return not isinstance(cut["_id"], MinKey | MaxKey) and can_be_sent(cut)


def can_be_sent(document: Document) -> bool:
    """Return true if a document that was read can be sent: text that is not UTF-8 cannot."""
    try:
        return bool(bson.encode(document, codec_options=CODEC))
    except (UnicodeEncodeError, bson.errors.BSONError):
        return False


def _has_id_index(reviews: MongoCollection[Document]) -> bool:
    kind = next(iter(reviews.database.list_collections(filter={"name": reviews.name})), {})
    return kind.get("type") == "collection" and _ID_INDEX in reviews.index_information()


def read(
    settings: Settings,
    id_range: IdRange,
    matching: Document | None = None,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[pa.RecordBatch]:
    """Yield the cleaned blocks of one range: rows of ``recommender.data.ratings.BLOCK_SCHEMA``.

    Parameters
    ----------
    matching
        A MongoDB filter; None for all rows of the range.
    batch_rows
        Reviews fetched and cleaned at a time.
    """
    projection = {"_id": 0} | dict.fromkeys(settings.reviews.fields, 1)
    with gc_paused(), connect(settings) as client, mongo_errors("reading Reviews"):
        reviews = source_database(client, settings)[COLLECTION].with_options(codec_options=CODEC)
        wanted = matching or {}
        cursor = reviews.find(wanted, projection, batch_size=batch_rows)
        # Unlike $gte and $lt, index bounds compare ids of all BSON types.
        if id_range.lower or id_range.upper:
            cursor.hint(_ID_INDEX)
        if id_range.lower:
            cursor.min(list(id_range.lower.items()))
        if id_range.upper:
            cursor.max(list(id_range.upper.items()))
        while rows := cursor.to_list(batch_rows):
            yield clean_rows(rows, settings.reviews.fields, settings)
        # Without an upper bound MongoDB stops before MaxKey.
        if id_range.lower and not id_range.upper:
            last: Document = {"$and": [wanted, {"_id": MaxKey()}]}
            if rows := reviews.find(last, projection).to_list():
                yield clean_rows(rows, settings.reviews.fields, settings)


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause Python's garbage collector, which would search many objects that have no cycles.

    The searches took a third of the time of reading.
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
