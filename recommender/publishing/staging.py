"""Spot checks of staged documents, decoded as readers decode them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice, pairwise
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING
from pymongo.collection import Collection
from pymongo.errors import PyMongoError

from recommender.core.errors import PublishError
from recommender.core.mongo import Document, MongoDatabase, mongo_errors, reason_of
from recommender.core.mongo_collections import (
    INSERT_ROWS,
    SIMPLE,
    copy_indexes,
    copy_validator,
    count_misfits,
    create_like,
    insert_once,
)
from recommender.data.ids import CODEC, encode_id
from recommender.publishing.transaction import Replacement
from recommender.runs.late_writes import (
    digest,
    digests_of_others,
    others_in,
)
from recommender.runs.switch import (
    PREVIOUS,
    STAGED,
    is_switching,
)

log = logging.getLogger(__name__)

SAMPLE_SIZE = 100


def sample_faults(staged: Collection[Document], run_id: str) -> list[str]:
    """Return the faults of documents that are drawn at random, in a few words each.

    Parameters
    ----------
    staged
        The collection to draw from.
    run_id
        The run that wrote the documents.
    """
    drawn = staged.with_options(codec_options=CODEC).aggregate([{"$sample": {"size": SAMPLE_SIZE}}])
    faults = (fault_of(document, run_id) for document in drawn)
    return [fault for fault in faults if fault]


def fault_of(document: Mapping[str, Any], run_id: str) -> str | None:
    """Return a fault of a document, or None."""
    if document.get("run_id") != run_id:
        return f"run_id is {document.get('run_id')!r}, not {run_id!r}"
    entries = document.get("recommendations", [])
    scores = [entry["score"] for entry in entries]
    if not all(map(math.isfinite, scores)):
        return "a score is not finite"
    if any(later > earlier for earlier, later in pairwise(scores)):
        return "the recommendations are not best first"
    if len({encode_id(entry["gmap_id"]) for entry in entries}) < len(entries):
        return "a restaurant is recommended twice"
    return None


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
        while block := list(islice(others, INSERT_ROWS)):
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
