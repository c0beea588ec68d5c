"""Reading of Reviews from MongoDB as blocks of cleaned ratings, here or in Spark's executors."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby, pairwise

import bson
import pyarrow as pa
from bson import MaxKey, MinKey
from pymongo.collection import Collection as MongoCollection

from recommender.core.mongo import Document, MongoDatabase, connected, mongo_errors, source_of
from recommender.core.settings import MongoSettings, ReviewsSettings, Settings
from recommender.data.cleaning import BLOCK_SCHEMA, clean_rows
from recommender.data.ids import CODEC
from recommender.data.ratings import Ratings, gather_reviews

BATCH_ROWS = 10_000

# Ids ``{"_id": value}`` from the first to before the second; None: no bound.
IdRange = tuple[Document | None, Document | None]
ALL_IDS: IdRange = (None, None)

_SAMPLES_PER_RANGE = 100  # enough that the largest range is seldom twice the mean
_ID_INDEX = "_id_"


def reviews_collection(db: MongoDatabase) -> MongoCollection[Document]:
    """Return ``Reviews``, decoded so that no value of a document stops the reading."""
    return source_of(db)["Reviews"].with_options(codec_options=CODEC)


def plan(mongo: MongoSettings, ranges: int, batch_rows: int = BATCH_ROWS) -> list[IdRange]:
    """Divide Reviews into at most ``ranges`` ranges of ``_id`` of about the same size.

    Together they cover every ``_id`` of every BSON type once. A range has at least about
    ``batch_rows`` rows: fewer cost less to read than the reader to start. A collection without an
    index on ``_id``, such as a view, is one range.
    """
    with connected(mongo) as db, mongo_errors("dividing Reviews"):
        reviews = reviews_collection(db)
        ranges = min(ranges, reviews.estimated_document_count() // batch_rows)
        if ranges < 2 or not _has_id_index(reviews):
            return [ALL_IDS]
        sample: Document = {"$sample": {"size": ranges * _SAMPLES_PER_RANGE}}
        ids = list(reviews.aggregate([sample, {"$project": {"_id": 1}}, {"$sort": {"_id": 1}}]))
    cuts = [ids[len(ids) * i // ranges] for i in range(1, ranges) if ids]
    # MinKey and MaxKey have ids on one side only.
    cuts = [cut for cut, _ in groupby(cuts) if not isinstance(cut["_id"], MinKey | MaxKey)]
    return list(pairwise([None, *filter(can_be_sent, cuts), None]))


def can_be_sent(document: Document) -> bool:
    """Return true if MongoDB accepts a document; it refuses text that is not valid UTF-8."""
    try:
        return bool(bson.encode(document, codec_options=CODEC))
    except (UnicodeEncodeError, bson.errors.BSONError):
        return False


def _has_id_index(reviews: MongoCollection[Document]) -> bool:
    kind = next(iter(reviews.database.list_collections(filter={"name": reviews.name})), {})
    return kind.get("type") == "collection" and _ID_INDEX in reviews.index_information()


def read(
    mongo: MongoSettings, fields: ReviewsSettings, id_range: IdRange, batch_rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """Yield the cleaned rows of a range in blocks of ``BLOCK_SCHEMA``."""
    projection = {"_id": 0} | dict.fromkeys(fields.fields, 1)
    lower, upper = id_range
    with gc_paused(), connected(mongo) as db, mongo_errors("reading Reviews"):
        reviews = reviews_collection(db)
        cursor = reviews.find({}, projection, batch_size=batch_rows)
        # Unlike $gte and $lt, index bounds compare ids of all BSON types.
        if lower or upper:
            cursor.hint(_ID_INDEX)
        if lower:
            cursor.min(list(lower.items()))
        if upper:
            cursor.max(list(upper.items()))
        while rows := cursor.to_list(batch_rows):
            yield clean_rows(rows, fields)
        # Without an upper bound MongoDB stops before MaxKey.
        if lower and not upper:
            last = reviews.find({"_id": MaxKey()}, projection).to_list()
            yield clean_rows(last, fields)


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause Python's garbage collector, which would search many objects that have no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_ratings(settings: Settings) -> Ratings:
    """Read all of Reviews in this process; raise `DataError` if it holds no valid row."""
    blocks = read(settings.mongo, settings.reviews, ALL_IDS)
    return gather_reviews(pa.Table.from_batches(blocks, schema=BLOCK_SCHEMA))
