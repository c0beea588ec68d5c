"""The lease: one training at a time on a database, by the server's clock."""

import os
import socket

from pymongo import ReturnDocument
from pymongo.client_session import ClientSession

from recommender.core.errors import LeaseHeldError, LeaseLostError
from recommender.core.mongo import Document, MongoDatabase

COLLECTION = "TrainingState"
LEASE_ID = "lease"
SWITCH = "switch"

_NOW = "$$NOW"


class Lease:
    """The right to train and publish, held by one run at a time.

    It expires by the server's clock if it is not renewed. Each holder gets a higher token than the
    one before, so that a holder that slept past its expiry finds that it was replaced.
    """

    def __init__(self, db: MongoDatabase, seconds: float) -> None:
        self._state = db[COLLECTION]
        self._expiry: Document = {"$add": [_NOW, round(seconds * 1000)]}
        self._mine: Document | None = None

    def acquire(self, run_id: str, dead: Document | None = None) -> None:
        """Take the lease for a run, or raise LeaseHeldError if another run holds it.

        A ``dead`` lease, not renewed for too long by a steady clock, is taken over if unchanged.
        """
        never: Document = {"$setOnInsert": {"token": 0, "run_id": None}}
        self._state.update_one({"_id": LEASE_ID}, never, upsert=True)
        free: list[Document] = [{"run_id": None}, {"$expr": {"$lt": ["$expires_at", _NOW]}}]
        if dead:
            free.append({**_key(dead), "expires_at": dead["expires_at"]})
        holder = {
            "run_id": {"$literal": run_id},
            "host": {"$literal": socket.gethostname()},
            "pid": os.getpid(),
            "token": {"$add": ["$token", 1]},
            "started_at": _NOW,
            "expires_at": self._expiry,
        }
        self._mine = self._state.find_one_and_update(
            {"_id": LEASE_ID, "$or": free}, [{"$set": holder}], return_document=ReturnDocument.AFTER
        )
        if self._mine is None:
            raise LeaseHeldError(self._state.find_one({"_id": LEASE_ID}) or {})

    def resume(self, run_id: str) -> None:
        """Continue the lease that the parent process acquired for this run, as :meth:`renew`."""
        self._mine = self._state.find_one({"_id": LEASE_ID, "run_id": run_id})
        self.renew()

    def renew(self) -> None:
        """Extend the lease, or raise LeaseLostError if it was taken over or released."""
        self._extend({}, None)

    def begin_switch(self, switch: Document, session: ClientSession | None = None) -> None:
        """Extend the lease, as :meth:`renew` does, and note a switch for the next holder to finish.

        A transaction whose session this is commits only if no other run takes the lease meanwhile.
        """
        self._extend({SWITCH: {"$literal": switch}}, session)

    def _extend(self, fields: Document, session: ClientSession | None) -> None:
        change: list[Document] = [{"$set": {"expires_at": self._expiry, **fields}}]
        mine = self._mine and _key(self._mine)
        if not mine or not self._state.update_one(mine, change, session=session).matched_count:
            holder = self._state.find_one({"_id": LEASE_ID}, session=session) or {}
            raise LeaseLostError(
                "this training does not hold the lease: it did not renew it in time, or --run-id, "
                "which is for the service, was given by hand; the lease is with "
                f"{holder.get('run_id') or 'no run'}; nothing more is published"
            )

    def release(self) -> None:
        """Release the lease, if it is ours; with a noted switch it expires, for recovery."""
        if self._mine:
            free = {**_key(self._mine), SWITCH: {"$exists": False}}
            if not self._state.update_one(free, {"$set": {"run_id": None}}).matched_count:
                self.expire()
            self._mine = None

    def expire(self) -> None:
        """Let the lease expire now, if it is still ours."""
        if self._mine is not None:
            past: list[Document] = [{"$set": {"expires_at": {"$subtract": [_NOW, 1]}}}]
            self._state.update_one(_key(self._mine), past)
            self._mine = None


def _key(lease: Document) -> Document:
    return {"_id": LEASE_ID, "run_id": lease["run_id"], "token": lease["token"]}


def abandoned(db: MongoDatabase) -> Document | None:
    """Return the lease that expired without being released, or None."""
    return _held(db, {"$expr": {"$lt": ["$expires_at", _NOW]}})


def holder(db: MongoDatabase) -> Document | None:
    """Return the lease of the run that holds it now, or None."""
    return _held(db, {"$expr": {"$gte": ["$expires_at", _NOW]}})


def _held(db: MongoDatabase, condition: Document) -> Document | None:
    return db[COLLECTION].find_one({"_id": LEASE_ID, "run_id": {"$ne": None}, **condition})
