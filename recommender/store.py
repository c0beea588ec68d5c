"""Publishing: the collections' names, staging, and the switch to what is staged.

Documents are written to a stage beside their target, indexed, checked, and renamed over the target:
a reader sees all of the old or all of the new. A stage that is not renamed is dropped. Clusters and
Metadata, which belong together, are replaced in a transaction where MongoDB has them. What was live
before is kept as one previous generation.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from operator import attrgetter

from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING
from pymongo.errors import PyMongoError

from recommender.core.errors import PublishError
from recommender.core.mongo import Document, MongoDatabase, mongo_errors, reason_of
from recommender.core.mongo_collections import (
    _INSERT_ROWS,
    CLUSTERS,
    METADATA,
    SIMPLE,
    copy_indexes,
    copy_validator,
    count_misfits,
    create_like,
    insert_once,
)
from recommender.core.signals import signals_deferred
from recommender.runs.late_writes import (
    digest,
    digests_of_others,
    others_in,
    polled,
    stream_position,
)
from recommender.runs.lease import Lease
from recommender.runs.switch import (
    PREVIOUS,
    STAGED,
    finish_with_retries,
    is_switching,
    switch_of,
)
from recommender.spot_checks import SAMPLE_SIZE, sample_faults
from recommender.together import Replacement, has_transactions, replace_in_transaction

_INT32 = struct.Struct("<i")
_SCORE_TAIL = b"\0" * 9  # a double and the document's end

log = logging.getLogger(__name__)


class Stage:
    """A collection that is filled beside its target and then replaces it.

    Parameters
    ----------
    db
        The database.
    target
        Name of the collection that readers read.
    run_id
        The run that writes.
    unique
        Field that no two documents share.
    keep_others
        Whether documents of the target that no training wrote (they have no ``run_id``) are
        carried over.
    old
        Digests of those that lose to a staged document with the same ``unique`` field, as they
        were written before the training began; the others win.
    """

    def __init__(
        self,
        db: MongoDatabase,
        target: str,
        run_id: str,
        unique: str,
        *,
        keep_others: bool,
        old: set[bytes],
    ) -> None:
        self.target = target
        self.name = f"{target}{STAGED}{run_id}"
        self.run_id = run_id
        self.unique = unique
        self.keep_others = keep_others
        self.carried: set[bytes] = set()
        self._db = db
        self._old = old

    @property
    def replacement(self) -> Replacement:
        """The stage as a transaction takes it."""
        return Replacement(self.name, self.target, self.unique, self.keep_others)

    def insert(self, documents: Iterable[Document | RawBSONDocument]) -> None:
        """Insert documents with :func:`insert_once`."""
        insert_once(self._db[self.name], documents)

    def seal(self, expected: int) -> None:
        """Create the indexes and check the documents.

        Parameters
        ----------
        expected
            Count of the computed documents.

        Raises
        ------
        PublishError
            If the count differs, the target's validator would refuse a document, or a spot check
            fails.
        """
        with mongo_errors(f"checking the stage of {self.target}"):
            collection = self._db[self.name]
            if self.unique != "_id":
                keys = [(self.unique, ASCENDING)]
                collection.create_index(keys, unique=True, collation=SIMPLE)
            copy_indexes(self._db[self.target], collection)
            count = collection.count_documents({})
            misfits = count_misfits(self._db[self.target], collection)
            faults = sample_faults(collection, self.run_id)
            if count != expected or not count:
                raise PublishError(
                    f"{count:,} documents are staged for {self.target} where {expected:,} were "
                    "computed; nothing was published"
                )
            if misfits:
                raise PublishError(
                    f"{misfits:,} of {count:,} documents staged for {self.target} do not fit its "
                    "validator; nothing was published; change the validator (collMod)"
                )
            if faults:
                raise PublishError(
                    f"{len(faults)} of {min(count, SAMPLE_SIZE)} sampled documents staged for "
                    f"{self.target} are wrong: {faults[0]}; nothing was published"
                )

    def carry_over(self) -> None:
        """Copy the documents of others from the target, if they are kept, and its validator."""
        others = iter(others_in(self._db[self.target]) if self.keep_others else ())
        while block := list(islice(others, _INSERT_ROWS)):
            versions = {digest(document): document for document in block}
            newer = [versions[version].get(self.unique) for version in versions.keys() - self._old]
            self._db[self.name].delete_many({self.unique: {"$in": newer}})
            self.insert(block)
            self.carried |= versions.keys()
        # Not before: documents that are older than the validator are kept, too.
        copy_validator(self._db[self.target], self._db[self.name])


def others_before(db: MongoDatabase, target: str) -> set[bytes]:
    """Return the digests of the documents of others in a collection, for :func:`staged`."""
    with mongo_errors(f"reading {target}"):
        return digests_of_others(db[target])


@contextmanager
def staged(
    db: MongoDatabase,
    target: str,
    run_id: str,
    unique: str,
    *,
    keep_others: bool = False,
    old: set[bytes] | None = None,
) -> Iterator[Stage]:
    """Yield an empty :class:`Stage`, and drop it unless its switch has begun.

    Parameters
    ----------
    old
        What :func:`others_before` returned when the training began; None reads it now.
    """
    if old is None:
        old = others_before(db, target) if keep_others else set()
    stage = Stage(db, target, run_id, unique, keep_others=keep_others, old=old)
    try:
        with mongo_errors(f"staging {target}"):
            create_like(db[target], db[stage.name])
        yield stage
    except BaseException:
        try:
            _drop(db, stage)
        except PyMongoError as error:  # recovery does it
            log.error("%s could not be dropped: %s", stage.name, reason_of(error))
        raise
    with mongo_errors(f"dropping what was staged for {target}"):
        _drop(db, stage)


def _drop(db: MongoDatabase, stage: Stage) -> None:
    if not is_switching(db, stage.name):
        db.drop_collection(stage.name)
        db.drop_collection(stage.name + PREVIOUS)


def publish(db: MongoDatabase, *stages: Stage, lease: Lease) -> None:
    """Put sealed stages in their targets' places, one right after the other.

    The switch is noted first: if this process or its connection dies on the way,
    :func:`recommender.runs.switch.finish_switch` does the rest. The targets are copied before: as the
    previous generation, and to be put back if the server refuses a later one.

    Raises
    ------
    LeaseLostError
        If another run holds the lease when the switch is to begin: the live collections stay.
    PublishError
        If the live collections are not this run's after the switch.
    """
    targets = " and ".join(stage.target for stage in stages)
    with mongo_errors(f"publishing {targets}"):
        _copy_previous(db, stages)
    with mongo_errors(f"publishing {targets}"), signals_deferred():
        position = stream_position(db)
        for stage in stages:
            stage.carry_over()
        # Only under the lease: a run that took it over has dropped the stages, and the carried
        # documents alone would pass for one.
        lease.begin_switch(_switch_of(stages, position))
        with ExitStack() as polls:
            if position is None:
                for stage in filter(attrgetter("keep_others"), stages):
                    live = db[stage.target]
                    polls.enter_context(polled(live, stage.unique, stage.carried))
            finish_with_retries(db)
        _check_live(db, stages)


def _switch_of(
    stages: Sequence[Stage], position: Document | None = None, *, in_place: bool = False
) -> Document:
    targets = {stage.name: stage.target for stage in stages}
    kept = {stage.target: stage.unique for stage in stages if stage.keep_others}
    return switch_of(targets, kept, position, in_place=in_place)


def _copy_previous(db: MongoDatabase, stages: Iterable[Stage]) -> None:
    """Copy the stages' targets beside, to become the previous generation in the switch."""
    for stage in stages:
        live, previous = db[stage.target], db[stage.name + PREVIOUS]
        previous.drop()
        create_like(live, previous)
        live.aggregate([{"$out": previous.name}])
        copy_indexes(live, previous)
        copy_validator(live, previous)


def _check_live(db: MongoDatabase, stages: Iterable[Stage]) -> None:
    for stage in stages:
        if db[stage.target].find_one({"run_id": stage.run_id}, {"_id": 1}) is None:
            raise PublishError(
                f"{stage.target} has no document of this run after the switch; another process may "
                "have replaced it; train again"
            )


def publish_clusters(
    db: MongoDatabase,
    run_id: str,
    clusters: Sequence[Document],
    metadata: Sequence[Document],
    *,
    lease: Lease,
) -> None:
    """Publish ``Clusters`` and ``Metadata``.

    In one transaction where MongoDB has them, else one right after the other.

    Parameters
    ----------
    clusters
        One document for each cluster, ``cluster_id`` 0 to k-1.
    metadata
        The documents of ``Metadata``, by their fixed ``_id``.
    lease
        Renewed when both are staged and checked, and in each try of the transaction.

    Raises
    ------
    LeaseLostError
        If another run holds it by then: the live collections stay.
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
            _copy_previous(db, stages)
            lease.renew()
            begin = partial(lease.begin_switch, _switch_of(stages, in_place=True))
            if replace_in_transaction(db, replacements, begin):
                finish_with_retries(db)
                _check_live(db, stages)
                return
    publish(db, *stages, lease=lease)
