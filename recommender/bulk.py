"""Fills whole collections fast: batches of documents, and a stage that replaces what is live."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo import IndexModel
from pymongo.collection import Collection
from pymongo.results import InsertManyResult

from recommender.mongo import Document, MongoDatabase

_STAGED = ".staged."
_ABANDONED_AFTER = timedelta(days=1)


def insert_batches(collection: Collection[Document], batches: Iterable[list[Document]]) -> int:
    """Insert batches of documents in their order and return how many there were.

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

    Readers see what was there until the end, and go on seeing it after an error. The indexes of
    what was there are made on what replaces it. Where two replace the same, the last one stays.
    """
    stage = database[f"{name}{_STAGED}{ObjectId()}"]
    try:
        _drop_left_behind(database, f"{name}{_STAGED}")
        database.create_collection(stage.name)
        yield stage
        copy_indexes(database[name], stage)
        stage.rename(name, dropTarget=True)
    finally:
        stage.drop()


def _drop_left_behind(database: MongoDatabase, prefix: str) -> None:
    """Drop what processes that were killed have staged; a stage's name tells its age."""
    for name in database.list_collection_names():
        suffix = name.removeprefix(prefix)
        if suffix == name or not ObjectId.is_valid(suffix):
            continue
        if datetime.now(UTC) - ObjectId(suffix).generation_time > _ABANDONED_AFTER:
            database.drop_collection(name)


def copy_indexes(source: Collection[Document], target: Collection[Document]) -> None:
    """Make the indexes of ``source`` on ``target`` too, but for those that are there.

    So indexes that the readers' side made live on when ``target`` is renamed over ``source``.
    """
    have = list(target.list_indexes())
    names = {index["name"] for index in have}
    models = []
    for index in source.list_indexes():
        if any(_order(index) == _order(other) for other in have):
            continue
        options = {option: index[option] for option in index if option not in {"v", "ns", "key"}}
        if index["name"] in names:
            options["name"] = f"{index['name']}_kept"
        models.append(IndexModel(list(index["key"].items()), **options))
    if models:
        target.create_indexes(models)


def _order(index: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return what tells indexes apart: the keys in their order, and how texts compare."""
    return list(index["key"].items()), index.get("collation")
