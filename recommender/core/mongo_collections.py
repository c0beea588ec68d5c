"""Helpers for whole collections: bulk inserts, replacing one, copying indexes and options."""

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

SIMPLE = {"locale": "simple"}  # MongoDB's default collation: texts compare by their bytes
WRITTEN_BY_A_RUN: Document = {"run_id": {"$type": "string"}}
WRITTEN_BY_OTHERS: Document = {"run_id": {"$exists": False}}

RECOMMENDATIONS = "Recommendations"
CLUSTERS = "Clusters"
METADATA = "Metadata"
# The unique field of each. In a switch, the last is replaced first.
PUBLISHED = {RECOMMENDATIONS: "user_id", CLUSTERS: "cluster_id", METADATA: "_id"}
SHARED = {RECOMMENDATIONS, METADATA}  # the backend may add documents to them

COLUMNS_ID = "train_columns"
CENTROIDS_ID = "kmeans_centroids"
CLUSTERS_ID = "kmeans_clusters"
FALLBACK_ID = "fallback"
CHECKS_ID = "reader_checks"
FACTORS_ID = "item_factors"

STAGED = ".staged."
INSERT_ROWS = 10_000
_ABANDONED_AFTER = timedelta(days=1)
_DUPLICATE_KEY = 11000
# Not those of a capped collection, which would lose documents, or of a view.
_KEPT_OPTIONS = {"collation", "clusteredIndex", "expireAfterSeconds", "storageEngine"}
_KEPT_OPTIONS |= {"changeStreamPreAndPostImages"}
_VALIDATOR = ("validator", "validationLevel", "validationAction")


def run_of(collection: Collection[Any]) -> str | None:
    """Return the run that wrote a collection; reads all documents to find that no run did."""
    written: Document = collection.find_one(WRITTEN_BY_A_RUN, {"run_id": 1}) or {}
    return written.get("run_id")


def insert_batches(collection: Collection[Document], batches: Iterable[list[Document]]) -> int:
    """Insert batches of documents, one while the next is made, and return the documents' count.

    The server adds the ``_id``. After an error, earlier batches stay inserted.
    """
    inserted = 0
    pending: Future[InsertManyResult] | None = None
    with ThreadPoolExecutor(max_workers=1) as writer:
        for batch in batches:
            # Encoded here, so that the writer's thread only sends bytes.
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
    """Yield an empty collection that replaces ``name``, with its indexes and options, at the end.

    Until then, and after an error in the block, readers see the old collection.
    """
    live, stage = database[name], database[f"{name}{STAGED}{ObjectId()}"]
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
    """Drop old stages of processes that were killed; their names end with an ObjectId."""
    oldest = datetime.now(UTC) - _ABANDONED_AFTER
    for name in database.list_collection_names():
        stage = name.removeprefix(prefix)
        if stage != name and ObjectId.is_valid(stage) and ObjectId(stage).generation_time < oldest:
            database.drop_collection(name)


def copy_indexes(source: Collection[Document], target: Collection[Document]) -> None:
    """Create the indexes of ``source`` on ``target``, except those that it has."""
    present = {index["name"]: _identity(index) for index in target.list_indexes()}
    models = []
    for index in source.list_indexes():
        if _identity(index) in present.values():
            continue
        options = {option: index[option] for option in index if option not in {"v", "ns", "key"}}
        options.setdefault("collation", SIMPLE)  # the collection may have another
        if index["name"] in present:
            options["name"] = f"{index['name']}_kept"
        models.append(IndexModel(list(index["key"].items()), **options))
    if models:
        target.create_indexes(models)


def create_like(source: Collection[Document], target: Collection[Document]) -> None:
    """Create ``target`` with the options of ``source`` but its validator, if it has any."""
    options = {key: value for key, value in source.options().items() if key in _KEPT_OPTIONS}
    target.database.command({"create": target.name, **options})


def copy_validator(source: Collection[Document], target: Collection[Document]) -> None:
    """Set the validator of ``source`` on ``target``; its present documents are not checked."""
    options = {key: value for key, value in source.options().items() if key in _VALIDATOR}
    if options:
        target.database.command({"collMod": target.name, **options})


def count_misfits(
    source: Collection[Document], staged: Collection[Document], matching: Document | None = None
) -> int:
    """Return how many staged documents, of those that match, ``source``'s validator refuses."""
    options = source.options()
    if not options.get("validator") or options.get("validationAction") == "warn":
        return 0
    return staged.count_documents({"$and": [matching or {}, {"$nor": [options["validator"]]}]})


def _identity(index: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return an index's keys in their order, and its collation."""
    return list(index["key"].items()), index.get("collation")


def insert_once(
    collection: Collection[Document], documents: Iterable[Document | RawBSONDocument]
) -> None:
    """Insert documents in blocks; skip those that exist, as a retried Spark task repeats blocks."""
    rows = iter(documents)
    while block := list(islice(rows, INSERT_ROWS)):
        try:
            collection.insert_many(block, ordered=False)
        except BulkWriteError as error:
            codes = {failure["code"] for failure in error.details["writeErrors"]}
            if codes != {_DUPLICATE_KEY} or error.details["writeConcernErrors"]:
                raise
