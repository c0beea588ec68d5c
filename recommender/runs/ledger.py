"""The ledger: one document in ``TrainingRuns`` for each run, from queued to its end."""

import datetime
import importlib.metadata
import platform
import re
import secrets
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pymongo import DESCENDING

from recommender.core.mongo import Document, MongoDatabase
from recommender.core.settings import Settings

COLLECTION = "TrainingRuns"

State = Literal["queued", "running", "succeeded", "failed", "cancelled", "crashed", "rejected"]
Trigger = Literal["api", "schedule", "retry", "script"]
Kind = Literal["training", "dry_run", "rollback"]

STATES: tuple[State, ...] = get_args(State)
OPEN_STATES: tuple[State, ...] = ("queued", "running")

RUN_ID = re.compile(r"\d{8}T\d{9}Z-[0-9a-f]{8}")

# What the ledger has of a run that has published lists; a dry run has the phase, too.
LISTS_PUBLISHED: Document = {"phases.name": "publish recommendations", "kind": {"$ne": "dry_run"}}

_OPEN: Document = {"state": {"$in": list(OPEN_STATES)}}
_ENDED: Document = {"state": {"$nin": list(OPEN_STATES)}}
_VERSIONED = ("pyspark", "pymongo", "numpy", "scipy", "scikit-learn", "pyarrow")


def new_run_id() -> str:
    """Return an id for a run that sorts by time: UTC to the millisecond and random digits."""
    return f"{now():%Y%m%dT%H%M%S%f}"[:-3] + f"Z-{secrets.token_hex(4)}"


def now() -> datetime.datetime:
    """Return the time in UTC."""
    return datetime.datetime.now(datetime.UTC)


def figure_at(run: Mapping[str, Any], path: str) -> Any:
    """Return what a run's document has at a dotted path, None if it has nothing there."""
    value: Any = run
    for name in path.split("."):
        value = (value or {}).get(name)
    return value


class Ledger:
    """Reads and writes the runs' documents."""

    def __init__(self, db: MongoDatabase) -> None:
        self._runs = db[COLLECTION]

    def add(
        self,
        run_id: str,
        trigger: Trigger,
        settings: Settings,
        log_file: Path | None,
        kind: Kind = "training",
    ) -> None:
        """Record a run that is about to start, and mark open ones as crashed, under the lease."""
        self.mark_crashed()
        versions = {name: importlib.metadata.version(name) for name in _VERSIONED}
        begun = {
            "_id": run_id,
            "run_id": run_id,
            "state": "queued",
            "kind": kind,
            "trigger": trigger,
            "host": socket.gethostname(),
            "queued_at": now(),
            "phase": None,
            "phases": [],
            "metrics": {},
            "settings": settings.public(),
            "forced": not settings.gate.enabled,
            "versions": {"python": platform.python_version(), **versions},
            "log": str(log_file) if log_file else None,
        }
        self._runs.insert_one(begun)

    def mark_crashed(self) -> None:
        """Mark open runs as crashed: only one run at a time has the lease, and thus a process."""
        error = "the training died without reporting an error"
        crashed = {"state": "crashed", "error": error, "ended_at": now()}
        self._runs.update_many(_OPEN, {"$set": crashed})

    def update(self, run_id: str, fields: Document) -> None:
        """Set fields of a run; dotted names reach into its parts."""
        self._runs.update_one({"_id": run_id}, {"$set": fields})

    def close(self, run_id: str, state: State, exit_code: int, error: str | None) -> None:
        """Record how a run ended, unless that was recorded before."""
        fields = {"state": state, "exit_code": exit_code, "error": error, "ended_at": now()}
        self._runs.update_one({"_id": run_id, **_OPEN}, {"$set": fields})

    def request_cancel(self, run_id: str) -> bool:
        """Ask a run to stop; return False if it has ended or is unknown."""
        change = {"$set": {"cancel_requested_at": now()}}
        return bool(self._runs.update_one({"_id": run_id, **_OPEN}, change).matched_count)

    def is_cancel_requested(self, run_id: str) -> bool:
        """Return true if a run was asked to stop."""
        requested = {"_id": run_id, "cancel_requested_at": {"$exists": True}}
        return bool(self._runs.count_documents(requested))

    def unfinished(self) -> Document | None:
        """Return the ``run_id`` of a run that has not ended, as far as the ledger knows."""
        return self._runs.find_one(_OPEN, {"_id": 0, "run_id": 1})

    def has_published_lists(self) -> bool:
        """Return true if a run has published lists, so that `run_of` finds it at once."""
        return bool(self._runs.count_documents(LISTS_PUBLISHED, limit=1))

    def get(self, run_id: str) -> Document | None:
        """Return a run's document, or None."""
        return self._runs.find_one({"_id": run_id})

    def recent(
        self, limit: int, before: str | None = None, *without: str, **matching: str | None
    ) -> list[Document]:
        """Return the latest runs before one, the latest first, ``without`` some fields.

        ``matching`` holds values of fields, such as ``state``; None is any value.
        """
        wanted: Document = {key: value for key, value in matching.items() if value is not None}
        if before is not None:
            wanted["_id"] = {"$lt": before}
        fields = dict.fromkeys(without, 0)
        return list(self._runs.find(wanted, fields).sort("_id", DESCENDING).limit(limit))

    def prune(self, kept: int, published: Iterable[str], run_ids: Iterable[str]) -> set[str]:
        """Delete all but the latest ``kept`` ended runs and the published ones.

        Return which of ``run_ids`` were pruned, now or before, by this process or another.
        """
        latest = self._runs.find(_ENDED, {"_id": 1}).sort("_id", DESCENDING).skip(kept - 1)
        oldest = str(next(latest.limit(1), {"_id": ""})["_id"])
        before: Document = {"_id": {"$lt": oldest, "$nin": list(published)}}
        self._runs.delete_many({**_ENDED, **before})
        old = {run_id for run_id in run_ids if run_id < oldest}
        return old - {run["_id"] for run in self._runs.find({"_id": {"$in": list(old)}}, {})}
