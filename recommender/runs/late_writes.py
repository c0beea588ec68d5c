"""Keeps the writes of others to a collection while a staged one replaces it.

Documents of others are those without a ``run_id``. On a replica set, their writes up to the rename
are read from a change stream and repeated on the new collection. A standalone server has no change
streams: there the old collection is polled until the rename is done.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Self

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo import ReturnDocument
from pymongo.change_stream import ChangeStream
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from recommender.core.mongo import Document, MongoDatabase, reason_of
from recommender.core.mongo_collections import WRITTEN_BY_OTHERS

# Of documents of others, fields are read one by one: none may stop the reading.
RAW: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    unicode_decode_error_handler="replace",
)
_NO_CHANGE_STREAMS = 40573  # a standalone server
_RENAME_SECONDS = 30.0  # for the rename to appear in the change stream
# Known documents in a row, from the newest on, after which no newer one is expected.
_KNOWN_IN_A_ROW = 20

RawCollection = Collection[RawBSONDocument]
Event = Mapping[str, Any]

log = logging.getLogger(__name__)


def others_in(collection: Collection[Any]) -> Iterator[RawBSONDocument]:
    """Yield the documents of others, undecoded, as Python cannot represent all of BSON."""
    return iter(collection.with_options(codec_options=RAW).find(WRITTEN_BY_OTHERS))


def digest(document: RawBSONDocument) -> bytes:
    """Return a digest that identifies this version of a document."""
    return hashlib.blake2b(document.raw, digest_size=16).digest()


def stream_position(db: MongoDatabase) -> Document | None:
    """Return the present position in the database's change stream, None where it has none."""
    try:
        with _majority(db).watch([{"$match": {"operationType": "none"}}]) as stream:
            return dict(stream.resume_token or {}) or None
    except OperationFailure as error:
        if error.code != _NO_CHANGE_STREAMS:
            log.warning("no change stream; writes in the switch may be lost: %s", reason_of(error))
        return None


def replay(db: MongoDatabase, position: Document, name: str, unique: str, previous: str) -> None:
    """Repeat the writes of others since ``position`` to a collection on the one that replaced it.

    ``name`` is live, unique by ``unique``, and ``previous`` the copy of what it replaced. Safe to
    repeat, and in two processes at once: a document is changed only if it is as it was read, and no
    event after the rename concerns it.
    """
    raw = _majority(db)
    live = raw[name]
    groups: _Groups = {}
    of_writes = {"ns.coll": name, "documentKey": {"$exists": True}}
    pipeline = [{"$match": {"$or": [of_writes, {"to.coll": name}]}}]
    with raw.watch(pipeline, resume_after=position, max_await_time_ms=100) as stream:
        for event in _writes(stream, lambda event: "to" in (event or {})):  # up to the rename
            if "run_id" not in event.get("fullDocument", {}):
                _add(event, groups, live, unique, raw[previous])
        now = raw.command("ping")["operationTime"]
        for event in _writes(stream, lambda event: event is None or event["clusterTime"] > now):
            if group := groups.get(_key(event["documentKey"])):
                group.writes.clear()
    for group in groups.values():
        try:
            _repeat(live, group.current, group.writes)
        except DuplicateKeyError as error:  # another one has its unique field by now
            log.warning("a write of others could not be repeated: %s", reason_of(error))
        group.writes.clear()  # the group may have another key


def _majority(db: MongoDatabase) -> Database[RawBSONDocument]:
    """Return the database as change streams need it: undecoded, of read concern majority."""
    return db.with_options(codec_options=RAW, read_concern=ReadConcern("majority"))


def _writes(
    stream: ChangeStream[RawBSONDocument], is_last: Callable[[Event | None], bool]
) -> Iterator[Event]:
    """Yield the writes up to the last event; None is passed while there is no new event."""
    deadline = time.monotonic() + _RENAME_SECONDS
    while time.monotonic() < deadline:
        event = stream.try_next()
        if event is not None and "documentKey" in event:
            yield event
        if is_last(event):
            return


class _Group(NamedTuple):
    """A live document as it was read, and the writes to repeat on it."""

    current: RawBSONDocument | None
    writes: list[Event]


# By the document's key in the replaced collection and by that in the live one: both lead to it.
_Groups = dict[bytes, _Group]


def _add(
    event: Event, groups: _Groups, live: RawCollection, unique: str, previous: RawCollection
) -> None:
    """Add a write to the group of the live document that it concerns, which is read first."""
    key = _key(event["documentKey"])
    if key not in groups:
        document, same_id = event.get("fullDocument"), {"_id": event["documentKey"]["_id"]}
        current = None if document else live.find_one(same_id)
        earlier: list[Event] = []
        if current is None and event["operationType"] == "update":
            # It lost to a staged document before this write, which makes it the newer one.
            document = previous.find_one({**same_id, **WRITTEN_BY_OTHERS})
            earlier += [{"operationType": "replace", "fullDocument": document}] if document else []
        if document:
            current = live.find_one(_same(unique, document))
        groups[key] = groups.setdefault(_key(current or same_id), _Group(current, []))
        groups[key].writes.extend(earlier)
    groups[key].writes.append(event)


def _repeat(live: RawCollection, current: RawBSONDocument | None, events: list[Event]) -> None:
    """Repeat writes on a document, up to the first that finds it written meanwhile."""
    for event in events:
        document = event.get("fullDocument")
        if document is not None and current is None:
            live.insert_one(document)
            current = document
        elif current is None or (document is None and "run_id" in current):
            continue
        elif event["operationType"] == "delete":
            live.delete_one(_exactly(current))
            current = None
        else:
            for change in [_replacing(document)] if document else _updates(event):
                current = current and live.find_one_and_update(
                    _exactly(current), change, return_document=ReturnDocument.AFTER
                )
            if current is None:
                return


def _key(document: Event) -> bytes:
    return bson.encode({"_id": document["_id"]})


def _same(unique: str, document: Event) -> Document:
    return {unique: {"$eq": document.get(unique)}}


def _exactly(document: RawBSONDocument) -> Document:
    return {"_id": document["_id"], "$expr": {"$eq": ["$$ROOT", {"$literal": document}]}}


def _replacing(document: RawBSONDocument) -> list[Document]:
    """Return the update that replaces a document but for its ``_id``."""
    body = {"$mergeObjects": [{"$literal": document}, {"_id": "$_id"}]}
    return [{"$replaceWith": body}]


def _updates(event: Event) -> Iterator[Document]:
    """Yield the updates that lead to the state that an update event describes."""
    description = event["updateDescription"]
    for array in description.get("truncatedArrays", []):
        yield {"$push": {array["field"]: {"$each": [], "$slice": array["newSize"]}}}
    unset = dict.fromkeys(description["removedFields"], "")
    change = {"$set": description["updatedFields"], "$unset": unset}
    if change := {operator: fields for operator, fields in change.items() if fields}:
        yield change


class Polling:
    """Polls the documents of others in a block in which another collection replaces theirs.

    Then it writes the latest version of each that is neither live nor ``known`` (copied before).
    """

    def __init__(self, live: Collection[Any], unique: str, known: set[bytes]) -> None:
        self._live: RawCollection = live.with_options(codec_options=RAW)
        self._unique = unique
        self._known = known
        self.seen: dict[bytes, RawBSONDocument] = {}  # versions that are not known, by digest
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(read,), name="late writes", daemon=True)
            for read in (self._read_all, self._read_newest)
        ]

    def __enter__(self) -> Self:
        self._read_all()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        if error is None:
            versions = self.seen.values()
            latest = {bson.encode({"": each.get(self._unique)}): each for each in versions}
            for document in latest.values():
                self._write(document)

    def _repeat(self, read: Callable[[], None]) -> None:
        while not self._stopped.is_set():
            with suppress(PyMongoError):  # such as for a collection that was replaced meanwhile
                read()

    def _read_all(self) -> None:
        for document in others_in(self._live):
            self._is_new(document)

    def _read_newest(self) -> None:
        in_a_row = 0
        newest = self._live.find(WRITTEN_BY_OTHERS, batch_size=_KNOWN_IN_A_ROW)
        for document in newest.sort("$natural", -1):
            in_a_row = 0 if self._is_new(document) else in_a_row + 1
            if in_a_row == _KNOWN_IN_A_ROW:
                return

    def _is_new(self, document: RawBSONDocument) -> bool:
        """Return true, and keep the document, if this version of it was not seen before."""
        version = digest(document)
        new = version not in self._known and version not in self.seen
        if new:
            self.seen[version] = document
        return new

    def _write(self, document: RawBSONDocument) -> None:
        current = self._live.find_one(_same(self._unique, document))
        if current is None:
            with suppress(DuplicateKeyError):  # written since
                self._live.insert_one(document)
        elif "run_id" in current or digest(current) in self._known:
            self._live.update_one(_exactly(current), _replacing(document))
