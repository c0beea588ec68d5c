"""Staging: documents are collected and checked beside the collection that they will replace."""

import math
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING

from recommender.core import mongo_collections as names
from recommender.core.errors import PublishError
from recommender.core.mongo import Document, MongoDatabase, mongo_errors
from recommender.core.mongo_collections import copy_indexes, copy_validator, create_like
from recommender.data.ids import CODEC, encode_id
from recommender.runs.late_writes import digest, others_in
from recommender.runs.run import logged
from recommender.runs.switch import PREVIOUS, is_switching

SAMPLE_SIZE = 100


@dataclass(frozen=True)
class Stage:
    """A collection that is filled beside its target and then replaces it.

    With ``keep_others``, documents of the target that no training wrote (without ``run_id``) are
    kept. Those whose digests are ``old`` lose to a staged one with the same ``unique`` field; newer
    ones win, as they were written since the training began.
    """

    db: MongoDatabase
    target: str  # name of the live collection
    run_id: str
    old: Set[bytes]
    written_by: str  # the run that wrote the documents: ``run_id``, or an earlier one in a rollback
    carried: set[bytes] = field(default_factory=set)  # digests that :meth:`carry_over` read

    @property
    def name(self) -> str:
        """Name of the staged collection."""
        return f"{self.target}{names.STAGED}{self.run_id}"

    @property
    def unique(self) -> str:
        """Field that no two documents share."""
        return names.PUBLISHED[self.target]

    @property
    def keep_others(self) -> bool:
        """True if the backend's documents are kept."""
        return self.target in names.SHARED

    def insert(self, documents: Iterable[Document | RawBSONDocument]) -> None:
        """Insert documents with :func:`insert_once`."""
        names.insert_once(self.db[self.name], documents)

    def seal(self, expected: int) -> None:
        """Create the indexes; PublishError for a wrong count, misfits or a fault in a sample."""
        with mongo_errors(f"checking the stage of {self.target}"):
            live, stage = self.db[self.target], self.db[self.name]
            if self.unique != "_id":
                stage.create_index([(self.unique, ASCENDING)], unique=True, collation=names.SIMPLE)
            copy_indexes(live, stage)
            count = stage.count_documents({})
            misfits = names.count_misfits(live, stage)
            readable = stage.with_options(codec_options=CODEC)  # decoded as readers decode
            drawn = readable.aggregate([{"$sample": {"size": SAMPLE_SIZE}}])
            faults = [fault for each in drawn if (fault := fault_of(each, self.written_by))]
        documents, problem = f"documents staged for {self.target}", ""
        if count != expected or not count:
            problem = f"{count:,} {documents} where {expected:,} were computed"
        elif misfits:
            problem = f"{misfits:,} of {count:,} {documents} do not fit its validator (see collMod)"
        elif faults:
            sampled = min(count, SAMPLE_SIZE)
            problem = f"{len(faults)} of {sampled} sampled {documents} are wrong: {faults[0]}"
        if problem:
            raise PublishError(f"{problem}; nothing was published")

    def carry_over(self) -> None:
        """Copy the target's documents of others, if they are kept, new indexes and validator."""
        live, stage = self.db[self.target], self.db[self.name]
        others = iter(others_in(live) if self.keep_others else ())
        while block := list(islice(others, names.INSERT_ROWS)):
            versions = {digest(document): document for document in block}
            newer = [versions[version].get(self.unique) for version in versions.keys() - self.old]
            stage.delete_many({self.unique: {"$in": newer}})
            self.insert(block)
            self.carried.update(versions)
        copy_indexes(live, stage)
        copy_validator(live, stage)  # last, as documents older than the validator are kept, too


def fault_of(document: Mapping[str, Any], run_id: str) -> str | None:
    """Return the fault of a staged document, or None."""
    entries = document.get("recommendations", [])
    scores = [entry["score"] for entry in entries]
    if document.get("run_id") != run_id:
        return f"run_id is {document.get('run_id')!r}, not {run_id!r}"
    if not all(map(math.isfinite, scores)):
        return "a score is not finite"
    if any(later > earlier for earlier, later in pairwise(scores)):
        return "the recommendations are not best first"
    if len({encode_id(entry["gmap_id"]) for entry in entries}) < len(entries):
        return "a restaurant is recommended twice"
    return None


def others_before(db: MongoDatabase, target: str) -> set[bytes]:
    """Return the digests of the documents of others in a collection, for :func:`staged`."""
    with mongo_errors(f"reading {target}"):
        return {digest(document) for document in others_in(db[target])}


@contextmanager
def staged(
    db: MongoDatabase,
    target: str,
    run_id: str,
    *,
    old: set[bytes] | None = None,
    written_by: str | None = None,
) -> Iterator[Stage]:
    """Yield an empty :class:`Stage`, and drop it unless its switch has begun.

    ``old`` is the result of :func:`others_before` when the training began; None reads it now.
    """
    if old is None:
        old = others_before(db, target) if target in names.SHARED else set()
    stage = Stage(db, target, run_id, old, written_by or run_id)
    try:
        with mongo_errors(f"staging {target}"):
            create_like(db[target], db[stage.name])
        yield stage
    finally:
        with logged(f"{stage.name} could not be dropped"):  # recovery does it
            if not is_switching(db, stage.name):
                db.drop_collection(stage.name)
                db.drop_collection(stage.name + PREVIOUS)
