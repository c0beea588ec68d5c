"""What is published: the collections' names, the documents' shapes, and how they are swapped in.

Everything is written to a collection beside its target, indexed, counted, and renamed over the
target: a reader sees all of the old or all of the new. What is left without a rename is dropped.
Clusters and Metadata, which belong together, are replaced in a transaction where MongoDB has them.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError

from recommender.bulk import SIMPLE, copy_indexes, copy_validator, count_misfits, create_like
from recommender.errors import PublishError
from recommender.lease import Lease
from recommender.mongo import Document, MongoDatabase, mongo_errors
from recommender.scripts import signals_deferred
from recommender.spot_checks import LOOKED_AT, faults_found
from recommender.switching import (
    PREVIOUS,
    finish_switch,
    finish_whatever_it_takes,
    is_switching,
    switch_of,
)
from recommender.together import Replacement, has_transactions, replace_together

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

_STAGED = ".staged."
_INSERT_ROWS = 10_000
_DUPLICATE_KEY = 11000
WRITTEN_BY_OTHERS: Document = {"run_id": {"$exists": False}}
_BY_A_TRAINING: Document = {"run_id": {"$type": "string"}}

_RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
_INT32 = struct.Struct("<i")
_SCORE_TAIL = b"\0" * 9  # a double and the document's end

log = logging.getLogger(__name__)


class Stage:
    """A collection that is filled beside its target until it is published over it.

    Parameters
    ----------
    db
        The database.
    target
        Name of the collection that readers read.
    run_id
        The training that writes.
    unique
        Field that no two documents share.
    keep_others
        Whether documents of the target that no training wrote (they carry no ``run_id``) are
        carried over, where the stage has none of the same ``unique`` field.
    """

    def __init__(
        self, db: MongoDatabase, target: str, run_id: str, unique: str, *, keep_others: bool
    ) -> None:
        self.target = target
        self.name = f"{target}{_STAGED}{run_id}"
        self._db = db
        self._run_id = run_id
        self._unique = unique
        self._keep_others = keep_others

    @property
    def replacement(self) -> Replacement:
        """What a transaction needs to know of this stage."""
        return Replacement(self.name, self.target, self._unique, self._keep_others)

    def insert(self, documents: Iterable[Document | RawBSONDocument]) -> None:
        """Add documents, as :func:`insert_once` does."""
        insert_once(self._db[self.name], documents)

    def seal(self, expected: int) -> None:
        """Index and check what was written.

        Parameters
        ----------
        expected
            Count of the documents that were computed.

        Raises
        ------
        PublishError
            If another number of documents is there, the target's validator would refuse one, or one
            of those that are looked at is not as readers expect it.
        """
        with mongo_errors(f"checking what is to become {self.target}"):
            collection = self._db[self.name]
            if self._unique != "_id":
                keys = [(self._unique, ASCENDING)]
                collection.create_index(keys, unique=True, collation=SIMPLE)
            copy_indexes(self._db[self.target], collection)
            found = collection.count_documents({})
            misfits = count_misfits(self._db[self.target], collection)
            faults = faults_found(collection, self._run_id)
            if found != expected or not found:
                raise PublishError(
                    f"{found:,} documents are staged for {self.target} where {expected:,} were "
                    "computed; nothing was published"
                )
            if misfits:
                raise PublishError(
                    f"{misfits:,} of {found:,} documents staged for {self.target} do not fit the "
                    "validator that it has; nothing was published; change the validator (collMod)"
                )
            if faults:
                raise PublishError(
                    f"of {min(found, LOOKED_AT)} documents looked at that are staged for "
                    f"{self.target}, {len(faults)} are wrong: {faults[0]}; nothing was published"
                )

    def carry_over(self) -> None:
        """Add what others wrote to the target, where that is to be kept, and its validator."""
        if self._keep_others:
            # Byte by byte, whatever is in them: dates and texts that Python cannot hold, too.
            others = self._db[self.target].with_options(codec_options=_RAW)
            self.insert(others.find(WRITTEN_BY_OTHERS))
        # Not before: what others wrote before there was a validator stays as well.
        copy_validator(self._db[self.target], self._db[self.name])


def insert_once(
    collection: Collection[Document], documents: Iterable[Document | RawBSONDocument]
) -> None:
    """Insert documents in blocks; one whose unique key is there already is skipped.

    So a block that is written again, as by a retried Spark task, is there once.
    """
    rows = iter(documents)
    while block := list(islice(rows, _INSERT_ROWS)):
        try:
            collection.insert_many(block, ordered=False)
        except BulkWriteError as error:
            details = error.details
            codes = {write_error["code"] for write_error in details["writeErrors"]}
            if codes != {_DUPLICATE_KEY} or details["writeConcernErrors"]:
                raise


@contextmanager
def staged(
    db: MongoDatabase, target: str, run_id: str, unique: str, *, keep_others: bool = False
) -> Iterator[Stage]:
    """Give an empty :class:`Stage`; what the block neither publishes nor began to is dropped."""
    stage = Stage(db, target, run_id, unique, keep_others=keep_others)
    try:
        with mongo_errors(f"staging {target}"):
            create_like(db[target], db[stage.name])
        yield stage
    finally:
        with mongo_errors(f"dropping what was staged for {target}"):
            if not is_switching(db, stage.name):
                db.drop_collection(stage.name)
                db.drop_collection(stage.name + PREVIOUS)


def publish(db: MongoDatabase, *stages: Stage, lease: Lease) -> None:
    """Put sealed stages in their targets' places, one right after the other.

    What is to be switched is noted first: if this process or its connection dies on the way,
    :func:`recommender.switching.finish_switch` does the rest. All but the last target are copied
    beside, so that they can be put back if the server refuses a later one.

    Raises
    ------
    LeaseLostError
        If the lease is with another when nothing but the switch is left to do: what was published
        before stays.
    """
    targets = " and ".join(stage.target for stage in stages)
    with mongo_errors(f"publishing {targets}"), signals_deferred():
        for stage in stages:
            stage.carry_over()
        for stage in stages[:-1]:
            _copy_beside(db[stage.target], db[stage.name + PREVIOUS])
        # Whoever took the lease over has dropped the stages; what was carried over since, alone,
        # would pass for one.
        lease.begin_switch(switch_of({stage.name: stage.target for stage in stages}))
        finish_whatever_it_takes(db)


def _copy_beside(live: Collection[Document], previous: Collection[Document]) -> None:
    create_like(live, previous)
    live.aggregate([{"$merge": {"into": previous.name}}])
    copy_indexes(live, previous)
    copy_validator(live, previous)


def sweep(db: MongoDatabase) -> None:
    """Finish or drop what dead trainings left staged; only for who holds the lease."""
    finish_switch(db)
    for target in PUBLISHED:
        prefix = f"{target}{_STAGED}"
        for name in db.list_collection_names():
            if name.startswith(prefix):
                log.warning("dropping %s, left by a training that did not end", name)
                db.drop_collection(name)


def published_runs(db: MongoDatabase) -> set[str]:
    """Return the ids of the runs that wrote what is published."""
    live = (db[name].find_one(_BY_A_TRAINING, {"run_id": 1}) for name in PUBLISHED)
    return {document["run_id"] for document in live if document}


def publish_clusters(
    db: MongoDatabase,
    run_id: str,
    clusters: Sequence[Document],
    metadata: Sequence[Document],
    *,
    lease: Lease,
) -> None:
    """Publish the clusters and the model that readers find them with.

    In one transaction where MongoDB has them, else one right after the other.

    Parameters
    ----------
    clusters
        One document for each cluster, ``cluster_id`` 0 to k-1.
    metadata
        The documents of ``Metadata``, by their fixed ``_id``.
    lease
        Renewed when both are staged and checked, with each way to switch and in each try of a
        transaction.

    Raises
    ------
    LeaseLostError
        If it is with another by then: what was published before stays.
    """
    with (
        staged(db, CLUSTERS, run_id, "cluster_id") as new_clusters,
        staged(db, METADATA, run_id, "_id", keep_others=True) as new_metadata,
    ):
        with mongo_errors("staging the clusters"):
            new_clusters.insert(clusters)
            new_metadata.insert(metadata)
        new_clusters.seal(len(clusters))
        new_metadata.seal(len(metadata))
        _publish_together(db, new_metadata, new_clusters, lease=lease)


def _publish_together(db: MongoDatabase, *stages: Stage, lease: Lease) -> None:
    targets = " and ".join(stage.target for stage in stages)
    replacements = [stage.replacement for stage in stages]
    with mongo_errors(f"publishing {targets}"), signals_deferred():
        if has_transactions(db):
            lease.renew()
            if replace_together(db, replacements, lease.renew):
                return
    publish(db, *stages, lease=lease)
