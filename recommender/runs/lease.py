"""The lease: one training at a time on a database, by the server's clock."""

from __future__ import annotations

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

    It expires if it is not renewed. Each holder gets a higher token than the one before, so that a
    holder that slept past its expiry finds that it was replaced. All times are the server's, so a
    wrong clock of this machine has no effect.

    Parameters
    ----------
    db
        The database.
    seconds
        How long the lease is valid without being renewed.
    """

    def __init__(self, db: MongoDatabase, seconds: float) -> None:
        self._state = db[COLLECTION]
        self._milliseconds = round(seconds * 1000)
        self._mine: Document | None = None

    def acquire(self, run_id: str, dead: Document | None = None) -> None:
        """Take the lease for a run.

        Parameters
        ----------
        dead
            A holder's lease that was not renewed for too long by a steady clock, and is taken over
            if it is still unchanged. The server's clock may have been set back since.

        Raises
        ------
        LeaseHeldError
            If another run holds it.
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
            "expires_at": self._expiry(),
        }
        self._mine = self._state.find_one_and_update(
            {"_id": LEASE_ID, "$or": free}, [{"$set": holder}], return_document=ReturnDocument.AFTER
        )
        if self._mine is None:
            raise LeaseHeldError(self._state.find_one({"_id": LEASE_ID}) or {})

    def resume(self, run_id: str) -> None:
        """Continue the lease that the parent process acquired for this run.

        Raises
        ------
        LeaseLostError
            If the run no longer holds it.
        """
        self._mine = self._state.find_one({"_id": LEASE_ID, "run_id": run_id})
        self.renew()

    def renew(self, session: ClientSession | None = None) -> None:
        """Extend the lease.

        Parameters
        ----------
        session
            Of a transaction, which then commits only if no other run takes the lease meanwhile.

        Raises
        ------
        LeaseLostError
            If another run took the lease over, or it was released.
        """
        self._set({"expires_at": self._expiry()}, session)

    def begin_switch(self, switch: Document, session: ClientSession | None = None) -> None:
        """Extend the lease and note a switch in one write: only the holder can begin one.

        The next holder reads the note, see `recommender.runs.switch.finish_switch`.

        Raises
        ------
        LeaseLostError
            As :meth:`renew` does.
        """
        self._set({"expires_at": self._expiry(), SWITCH: {"$literal": switch}}, session)

    def _set(self, fields: Document, session: ClientSession | None = None) -> None:
        change: list[Document] = [{"$set": fields}]
        mine = self._mine and _key(self._mine)
        if not mine or not self._state.update_one(mine, change, session=session).matched_count:
            holder = self._state.find_one({"_id": LEASE_ID}, session=session) or {}
            raise LeaseLostError(
                "this training no longer holds the lease, as it did not renew it in time; the "
                f"lease is with {holder.get('run_id') or 'nobody'}; nothing more is published"
            )

    def release(self) -> None:
        """Release the lease, if it is still ours.

        If a switch is still noted, the lease expires instead, so that recovery finishes the switch.
        """
        if self._mine is not None:
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

    def _expiry(self) -> Document:
        return {"$add": [_NOW, self._milliseconds]}


def _key(lease: Document) -> Document:
    return {"_id": LEASE_ID, "run_id": lease["run_id"], "token": lease["token"]}


def abandoned(db: MongoDatabase) -> Document | None:
    """Return the lease that expired without being released, or None."""
    expired = {"$expr": {"$lt": ["$expires_at", _NOW]}}
    return db[COLLECTION].find_one({"_id": LEASE_ID, "run_id": {"$ne": None}, **expired})


def last_holder(db: MongoDatabase) -> Document | None:
    """Return the lease if it was not released, expired or not."""
    return db[COLLECTION].find_one({"_id": LEASE_ID, "run_id": {"$ne": None}})


def holder(db: MongoDatabase) -> Document | None:
    """Return the lease of the run that holds it now, or None."""
    running = {"$expr": {"$gte": ["$expires_at", _NOW]}}
    return db[COLLECTION].find_one({"_id": LEASE_ID, "run_id": {"$ne": None}, **running})
