"""Keeps what others write to a collection while a staged one is put in its place.

Documents of others are those without a ``run_id``. On a replica set a change stream has each of
their writes up to the rename, and they are repeated on the new collection. A standalone server has
no change streams: there the old collection is read again and again until the rename is done.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo import ReturnDocument
from pymongo.change_stream import ChangeStream
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from recommender.core.mongo import Document, MongoDatabase
from recommender.core.mongo_collections import WRITTEN_BY_OTHERS

_RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
_NO_CHANGE_STREAMS = 40573  # a standalone server
_RENAME_SECONDS = 30.0  # for the rename to appear in the change stream
# Documents seen before, in a row from the newest on, after which no newer one is expected.
_SEEN_IN_A_ROW = 20

RawDatabase = Database[RawBSONDocument]
RawCollection = Collection[RawBSONDocument]
Event = Mapping[str, Any]

log = logging.getLogger(__name__)


def others_in(collection: Collection[Any]) -> Iterator[RawBSONDocument]:
    """Yield the documents of others, undecoded: they may hold what Python cannot represent."""
    return iter(collection.with_options(codec_options=_RAW).find(WRITTEN_BY_OTHERS))


def digest(document: RawBSONDocument) -> bytes:
    """Return what identifies this version of a document."""
    return hashlib.blake2b(document.raw, digest_size=16).digest()


def digests_of_others(collection: Collection[Any]) -> set[bytes]:
    """Return the digests of the documents of others."""
    return {digest(document) for document in others_in(collection)}


def _same(unique: str, document: Event) -> Document:
    return {unique: {"$eq": document.get(unique)}}


def stream_position(db: MongoDatabase) -> Document | None:
    """Return the present position in the database's change stream, None where it has none."""
    try:
        with _raw(db).watch([{"$match": {"operationType": "none"}}]) as stream:
            return dict(stream.resume_token or {}) or None
    except OperationFailure as error:
        if error.code != _NO_CHANGE_STREAMS:
            log.warning("no change stream, so a write in the switch may be lost: %s", error.details)
        return None


def replay(db: MongoDatabase, position: Document, kept: Mapping[str, str]) -> None:
    """Repeat on the live collections what others wrote to those that they have replaced.

    It can be repeated, also by two processes at once.

    Parameters
    ----------
    position
        Position in the change stream, before the documents of others were copied.
    kept
        The unique field of each collection that was replaced and keeps documents of others.

    Raises
    ------
    pymongo.errors.PyMongoError
        If MongoDB does not answer, or no longer has the position.
    """
    raw = _raw(db)
    names = list(kept)
    pipeline = [{"$match": {"$or": [{"ns.coll": {"$in": names}}, {"to.coll": {"$in": names}}]}}]
    with raw.watch(pipeline, resume_after=position, max_await_time_ms=100) as stream:
        events = _read(stream, set(names), Timestamp(0, 0))
        repeats = {name: _Repeat(raw[name], unique) for name, unique in kept.items()}
        for name, repeat in repeats.items():
            repeat.prepare(_split(events, name)[0])
        events += _read(stream, set(), raw.command("ping")["operationTime"])
    for name, repeat in repeats.items():
        repeat.run(*_split(events, name))


def _raw(db: MongoDatabase) -> RawDatabase:
    """Return the database as change streams need it: undecoded, of read concern majority."""
    return db.with_options(codec_options=_RAW, read_concern=ReadConcern("majority"))


def _read(stream: ChangeStream[RawBSONDocument], names: set[str], time_: Timestamp) -> list[Event]:
    """Return the next events, until the collections are renamed and the server's time is passed."""
    deadline = time.monotonic() + _RENAME_SECONDS
    events: list[Event] = []
    while time.monotonic() < deadline:
        event = stream.try_next()
        if event is not None:
            events.append(event)
            names.discard(_renamed_to(event) or "")
        if not names and (event is None or event["clusterTime"] > time_):
            break
    return events


def _split(events: list[Event], name: str) -> tuple[list[Event], list[Event]]:
    """Return the writes to a collection before and after another was renamed to its name."""
    renamed = max((i for i, event in enumerate(events) if _renamed_to(event) == name), default=0)
    writes = [
        [event for event in part if event["ns"]["coll"] == name and "documentKey" in event]
        for part in (events[:renamed], events[renamed:])
    ]
    return writes[0], writes[1]


def _renamed_to(event: Event) -> str | None:
    return event["to"]["coll"] if event["operationType"] == "rename" else None


def _key(document: Event) -> bytes:
    return bson.encode({"_id": document["_id"]})


class _Repeat:
    """Repeats writes on a live collection, unless a document was written since the rename.

    The live documents are read before the last events are: so each is changed only if it is still
    as it was read, and no later event is about it.
    """

    def __init__(self, live: RawCollection, unique: str) -> None:
        self._live = live
        self._unique = unique
        self._current: dict[bytes, RawBSONDocument | None] = {}

    def prepare(self, events: list[Event]) -> None:
        """Read the live documents that the events are about."""
        for event in events:
            key, document = event["documentKey"], event.get("fullDocument")
            same = _same(self._unique, document) if document else {"_id": key["_id"]}
            if not document or "run_id" not in document:
                self._current.setdefault(_key(key), self._live.find_one(same))

    def run(self, events: list[Event], later: list[Event]) -> None:
        """Repeat the events, except on documents that the later events are about."""
        newer = {_key(event["documentKey"]) for event in later}
        for event in events:
            key = _key(event["documentKey"])
            current = self._current.get(key)
            if key in self._current and not {key, _key(current or event["documentKey"])} & newer:
                self._repeat(event, key, current)

    def _repeat(self, event: Event, key: bytes, current: RawBSONDocument | None) -> None:
        document = event.get("fullDocument")
        if document and current is None:
            with suppress(DuplicateKeyError):  # written since
                self._live.insert_one(document)
            self._current[key] = document
        elif document:
            self._change(key, [_replacing(document)])
        elif current is None or "run_id" in current:
            return
        elif event["operationType"] == "delete":
            self._live.delete_one(_exactly(current))
        else:
            self._change(key, list(_changes(event["updateDescription"])))

    def _change(self, key: bytes, changes: list[Any]) -> None:
        for change in changes:
            current = self._current[key]
            changed = current and self._live.find_one_and_update(
                _exactly(current), change, return_document=ReturnDocument.AFTER
            )
            if changed is None:  # written since
                del self._current[key]
                return
            self._current[key] = changed


def _exactly(document: RawBSONDocument) -> Document:
    return {"_id": document["_id"], "$expr": {"$eq": ["$$ROOT", {"$literal": document}]}}


def _replacing(document: RawBSONDocument) -> list[Document]:
    """Return the update that replaces a document but for its ``_id``."""
    body = {"$mergeObjects": [{"$literal": document}, {"_id": "$_id"}]}
    return [{"$replaceWith": body}]


def _changes(description: Event) -> Iterator[Document]:
    """Yield the updates that lead to the state that an update event describes."""
    for array in description.get("truncatedArrays", []):
        yield {"$push": {array["field"]: {"$each": [], "$slice": array["newSize"]}}}
    unset = dict.fromkeys(description["removedFields"], "")
    change = {"$set": description["updatedFields"]} if description["updatedFields"] else {}
    if change or unset:
        yield {**change, **({"$unset": unset} if unset else {})}


@contextmanager
def polled(live: Collection[Any], unique: str, known: set[bytes]) -> Iterator[None]:
    """Read the documents of others during the block, in which another collection replaces this.

    After it, those versions that were seen and are neither known nor live are written.

    Parameters
    ----------
    known
        Digests of the documents that were copied to the new collection.
    """
    raw = live.with_options(codec_options=_RAW)
    poll = _Poll(raw)
    with poll:
        yield
    for version in poll.seen.keys() - known:
        document = poll.seen[version]
        current = raw.find_one(_same(unique, document))
        if current is None:
            with suppress(DuplicateKeyError):  # written since
                raw.insert_one(document)
        elif "run_id" in current or digest(current) in known:
            raw.update_one(_exactly(current), _replacing(document))


class _Poll:
    """Reads the documents of others again and again, from two threads."""

    def __init__(self, live: RawCollection) -> None:
        self.seen: dict[bytes, RawBSONDocument] = {}
        self._live = live
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(read,), name="late writes", daemon=True)
            for read in (self._read_all, self._read_newest)
        ]

    def __enter__(self) -> None:
        self._read_all()
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, read: Callable[[], None]) -> None:
        while not self._stopped.is_set():
            with suppress(PyMongoError):  # such as for a collection that was replaced meanwhile
                read()

    def _read_all(self) -> None:
        for document in others_in(self._live):
            self.seen[digest(document)] = document

    def _read_newest(self) -> None:
        in_a_row = 0
        newest = self._live.find(WRITTEN_BY_OTHERS, batch_size=_SEEN_IN_A_ROW).sort("$natural", -1)
        for document in newest:
            version = digest(document)
            in_a_row = in_a_row + 1 if version in self.seen else 0
            self.seen[version] = document
            if in_a_row == _SEEN_IN_A_ROW:
                return
