"""Replaces the documents of several collections in one transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference, ReplaceOne
from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from recommender.core.mongo import Document, MongoDatabase
from recommender.core.mongo_collections import copy_indexes

WRITTEN_BY_A_TRAINING: Document = {"run_id": {"$exists": True}}

_MONGODB_4_2 = 8  # its wire version: before it, a transaction holds 16 MB at most
# IllegalOperation, CommandNotSupported, NotImplemented, OperationNotSupportedInTransaction.
_NO_TRANSACTIONS = {20, 115, 238, 263}

_RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)

Staged = Mapping[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Replacement:
    """A stage and the collection whose documents it replaces.

    Attributes
    ----------
    stage, target
        Names of the staged collection and of the live one.
    unique
        Field that no two documents share: a document replaces the one with the same value.
    keep_others
        Whether documents that no training wrote stay if none replaces them.
    """

    stage: str
    target: str
    unique: str
    keep_others: bool


def replace_in_transaction(
    db: MongoDatabase,
    replacements: Sequence[Replacement],
    may_publish: Callable[[ClientSession], None] = lambda session: None,
) -> bool:
    """Replace the documents of all collections, or return False and change nothing.

    Only for servers that have transactions, see :func:`has_transactions`. Each try begins with
    ``may_publish`` in its transaction; an error that it raises leaves all collections unchanged.

    Documents are replaced in place, so that a cursor that is open during the commit neither misses
    one nor returns one twice.

    Raises
    ------
    pymongo.errors.PyMongoError
        If MongoDB refuses a document, or stops answering.
    """
    if not all(_is_ready(db, one) for one in replacements):
        return False
    # Read before, as what was just staged may be too new for a transaction's snapshot.
    staged = [list(db[one.stage].with_options(_RAW).find()) for one in replacements]

    def replace(session: ClientSession) -> None:
        may_publish(session)
        for one, documents in zip(replacements, staged, strict=True):
            _replace(db, one, documents, session)

    try:
        with db.client.start_session() as session:
            session.with_transaction(
                replace,
                ReadConcern("snapshot"),
                WriteConcern("majority"),
                ReadPreference.PRIMARY,
            )
    except OperationFailure as error:
        if error.code not in _NO_TRANSACTIONS:
            raise
        log.warning("this MongoDB has no transactions after all: %s", error.details)
        return False
    log.info("published %s in one transaction", " and ".join(one.target for one in replacements))
    return True


def has_transactions(db: MongoDatabase) -> bool:
    """Return true for a replica set or a sharded cluster of MongoDB 4.2 or later."""
    hello = db.client.admin.command("hello")
    cluster = "setName" in hello or hello.get("msg") == "isdbgrid"
    sessions = hello.get("logicalSessionTimeoutMinutes") is not None
    return cluster and sessions and hello["maxWireVersion"] >= _MONGODB_4_2


def _is_ready(db: MongoDatabase, one: Replacement) -> bool:
    """Copy the stage's indexes to the target; return whether its documents can be replaced.

    A transaction cannot create an index, and without a unique one several documents could match.
    Then the stage is renamed over the target, which repairs it.
    """
    try:
        copy_indexes(db[one.stage], db[one.target])
    except OperationFailure as error:
        log.warning("%s cannot be replaced in a transaction: %s", one.target, error.details)
        return False
    keys = [("_id", 1)]
    indexes = db[one.target].index_information().values()
    uniques = [index["key"] for index in indexes if index.get("unique")]
    return [(one.unique, 1)] in [keys, *uniques]


def _replace(
    db: MongoDatabase, one: Replacement, documents: Sequence[Staged], session: ClientSession
) -> None:
    live = db[one.target]
    values = [document[one.unique] for document in documents]
    live.bulk_write(list(_writes(one, documents)), session=session)
    gone: Document = {one.unique: {"$nin": values}}
    live.delete_many(
        {**gone, **(WRITTEN_BY_A_TRAINING if one.keep_others else {})}, session=session
    )


def _writes(one: Replacement, documents: Sequence[Staged]) -> Iterator[ReplaceOne[Any]]:
    for document in documents:
        # The document that is replaced keeps its _id.
        body = {key: value for key, value in document.items() if key != "_id"}
        yield ReplaceOne({one.unique: document[one.unique]}, body, upsert=True)
