"""Helpers for whole collections: bulk inserts, replacing one, copying indexes and options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import bson
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo import IndexModel
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError
from pymongo.results import InsertManyResult

from recommender.core.mongo import Document, MongoDatabase

# MongoDB's default collation: texts compare by their bytes.
SIMPLE = {"locale": "simple"}
WRITTEN_BY_OTHERS: Document = {"run_id": {"$exists": False}}

STAGED = ".staged."
# A capped collection would lose documents; a view has none of its own.
_KEPT_OPTIONS = {
    *("collation", "clusteredIndex", "expireAfterSeconds", "changeStreamPreAndPostImages"),
    "storageEngine",
}
_VALIDATOR = ("validator", "validationLevel", "validationAction")
_ABANDONED_AFTER = timedelta(days=1)


def insert_batches(collection: Collection[Document], batches: Iterable[list[Document]]) -> int:
    """Insert batches of documents in their order and return their count.

    One batch is inserted while the next is made. The server gives the documents their ``_id``.

    Raises
    ------
    pymongo.errors.PyMongoError
        If MongoDB refuses a document or stops answering; earlier batches stay inserted.
    """
    inserted = 0
    pending: Future[InsertManyResult] | None = None
    with ThreadPoolExecutor(max_workers=1) as writer:
        for batch in batches:
            # Encoded here, pymongo has nothing left to do but to send the bytes.
            encoded = [RawBSONDocument(bson.encode(document)) for document in batch]
            if pending:
                pending.result()
            pending = writer.submit(collection.insert_many, encoded, ordered=False)
            inserted += len(encoded)
        if pending:
            pending.result()
    return inserted


@contextmanager
def replacing(database: MongoDatabase, name: str) -> Iterator[Collection[Document]]:
    """Yield an empty collection that replaces ``name`` when the block ends without an error.

    Until the end, and after an error, readers see the old collection. The new one has its indexes
    and options. If two replace the same collection, the later one stays.
    """
    stage = database[f"{name}{STAGED}{ObjectId()}"]
    live = database[name]
    try:
        _drop_left_behind(database, f"{name}{STAGED}")
        create_like(live, stage)
        yield stage
        copy_indexes(live, stage)
        copy_validator(live, stage)
        stage.rename(name, dropTarget=True)
    finally:
        stage.drop()


def _drop_left_behind(database: MongoDatabase, prefix: str) -> None:
    """Drop old stages of processes that were killed; the stage's name has its time."""
    for name in database.list_collection_names():
        suffix = name.removeprefix(prefix)
        if suffix == name or not ObjectId.is_valid(suffix):
            continue
        if datetime.now(UTC) - ObjectId(suffix).generation_time > _ABANDONED_AFTER:
            database.drop_collection(name)


def copy_indexes(source: Collection[Document], target: Collection[Document]) -> None:
    """Create the indexes of ``source`` on ``target``, except those that it has.

    So the backend's own indexes are kept when ``target`` is renamed over ``source``.
    """
    have = list(target.list_indexes())
    names = {index["name"] for index in have}
    models = []
    for index in source.list_indexes():
        if any(_order(index) == _order(other) for other in have):
            continue
        options = {option: index[option] for option in index if option not in {"v", "ns", "key"}}
        options.setdefault("collation", SIMPLE)  # the collection may have another
        if index["name"] in names:
            options["name"] = f"{index['name']}_kept"
        models.append(IndexModel(list(index["key"].items()), **options))
    if models:
        target.create_indexes(models)


def create_like(source: Collection[Document], target: Collection[Document]) -> None:
    """Create ``target`` with the options of ``source``, such as its collation, if it has any.

    Its validator comes later, by :func:`copy_validator`.
    """
    options = {key: value for key, value in _options(source).items() if key in _KEPT_OPTIONS}
    target.database.command({"create": target.name, **options})


def copy_validator(source: Collection[Document], target: Collection[Document]) -> None:
    """Set the validator of ``source`` on ``target``; documents that it has are not checked."""
    options = {key: value for key, value in _options(source).items() if key in _VALIDATOR}
    if options:
        target.database.command({"collMod": target.name, **options})


def count_misfits(source: Collection[Document], staged: Collection[Document]) -> int:
    """Return how many documents of ``staged`` the validator of ``source`` would refuse."""
    options = _options(source)
    if not options.get("validator") or options.get("validationAction") == "warn":
        return 0
    return staged.count_documents({"$nor": [options["validator"]]})


def _options(collection: Collection[Document]) -> Document:
    collections = collection.database.list_collections(filter={"name": collection.name})
    options: Document = next(iter(collections), {}).get("options", {})
    return options


def _order(index: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return what identifies an index: the keys in their order, and the collation."""
    return list(index["key"].items()), index.get("collation")


RECOMMENDATIONS = "Recommendations"
CLUSTERS = "Clusters"
METADATA = "Metadata"
PUBLISHED = (RECOMMENDATIONS, CLUSTERS, METADATA)

COLUMNS_ID = "train_columns"
CENTROIDS_ID = "kmeans_centroids"
CLUSTERS_ID = "kmeans_clusters"
FALLBACK_ID = "fallback"
CHECKS_ID = "reader_checks"
FACTORS_ID = "item_factors"
INSERT_ROWS = 10_000
_DUPLICATE_KEY = 11000


def insert_once(
    collection: Collection[Document], documents: Iterable[Document | RawBSONDocument]
) -> None:
    """Insert documents in blocks, and skip those whose unique key exists.

    So a block that a retried Spark task writes again is stored once.
    """
    rows = iter(documents)
    while block := list(islice(rows, INSERT_ROWS)):
        try:
            collection.insert_many(block, ordered=False)
        except BulkWriteError as error:
            details = error.details
            codes = {write_error["code"] for write_error in details["writeErrors"]}
            if codes != {_DUPLICATE_KEY} or details["writeConcernErrors"]:
                raise
