"""Replaces the documents of several collections in one transaction."""

import logging
from collections.abc import Callable, Sequence

from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference, ReplaceOne
from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from recommender.core.mongo import Document, MongoDatabase, reason_of
from recommender.core.mongo_collections import copy_indexes
from recommender.publishing.staging import Stage
from recommender.runs.late_writes import RAW

# IllegalOperation, CommandNotSupported, NotImplemented, OperationNotSupportedInTransaction.
_NO_TRANSACTIONS = {20, 115, 238, 263}

log = logging.getLogger(__name__)


def has_transactions(db: MongoDatabase) -> bool:
    """Return true for a replica set or a sharded cluster (4.2 or later, as the lease needs)."""
    hello = db.client.admin.command("hello")
    return "setName" in hello or hello.get("msg") == "isdbgrid"


def replace_in_transaction(
    db: MongoDatabase, stages: Sequence[Stage], begin: Callable[[ClientSession], None]
) -> bool:
    """Replace the targets' documents by the stages', or return false and change nothing.

    Each try calls ``begin`` in its transaction; an error that it raises leaves the targets as they
    are. Documents are replaced in place, so that a cursor that is open during the commit neither
    misses one nor returns one twice.
    """
    if not all(_is_ready(db, stage) for stage in stages):
        return False
    # Read before, as documents staged just now may be too new for a transaction's snapshot.
    documents = [list(db[stage.name].with_options(RAW).find()) for stage in stages]

    def replace(session: ClientSession) -> None:
        begin(session)
        for stage, staged in zip(stages, documents, strict=True):
            _replace(stage, staged, session)

    try:
        with db.client.start_session() as session:
            session.with_transaction(
                replace, ReadConcern("snapshot"), WriteConcern("majority"), ReadPreference.PRIMARY
            )
    except OperationFailure as error:
        if error.code not in _NO_TRANSACTIONS:
            raise
        log.warning("this MongoDB has no transactions: %s", reason_of(error))
        return False
    log.info("published %s in one transaction", " and ".join(stage.target for stage in stages))
    return True


def _is_ready(db: MongoDatabase, stage: Stage) -> bool:
    """Copy the stage's indexes to the target, as a transaction cannot create one.

    Return false without a unique index: renaming the stage over the target repairs that.
    """
    try:
        copy_indexes(db[stage.name], db[stage.target])
    except OperationFailure as error:
        log.warning("no transaction can replace %s: %s", stage.target, reason_of(error))
        return False
    indexes = db[stage.target].index_information().values()
    uniques = [index["key"] for index in indexes if index.get("unique")]
    return stage.unique == "_id" or [(stage.unique, 1)] in uniques


def _replace(stage: Stage, documents: Sequence[RawBSONDocument], session: ClientSession) -> None:
    live, unique = stage.db[stage.target], stage.unique
    writes = [
        # The document that is replaced keeps its _id.
        ReplaceOne({unique: each[unique]}, {k: each[k] for k in each if k != "_id"}, upsert=True)
        for each in documents
    ]
    live.bulk_write(writes, session=session)
    gone: Document = {unique: {"$nin": [document[unique] for document in documents]}}
    if stage.keep_others:
        gone["run_id"] = {"$exists": True}
    live.delete_many(gone, session=session)
