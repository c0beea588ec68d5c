"""When the next scheduled training is due: kept in MongoDB, told by the server's clock.

So a restart does not reset it, several processes of the service share it, and exactly one of them
gets each slot. After a long stop there is one slot to catch up with, not all that were missed. When
the server's clock is set, the next slot moves with it: it stays as far away as it was.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pymongo import ReturnDocument

from recommender.core.mongo import Document, MongoDatabase
from recommender.runs.lease import COLLECTION

SCHEDULE_ID = "schedule"

_NOW = "$$NOW"
# A server that answers late, or another one that took over, differs by less.
_JUMP_SECONDS = 15.0

log = logging.getLogger(__name__)


def steady_seconds() -> float:
    """Return a time that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Slot:
    """The next slot, and what became of those before.

    Attributes
    ----------
    seconds_left
        To the next slot, negative where it has passed unclaimed.
    skipped
        Slots so far in which another training was in progress.
    last_skipped
        The latest of them: ``run_id`` of the training in the way, its ``host``, and when (``at``).
    """

    seconds_left: float
    skipped: int = 0
    last_skipped: Document | None = None


@dataclass(frozen=True)
class _Seen:
    """What the schedule said, and the steady clock with it."""

    next_at: datetime.datetime
    asked_at: datetime.datetime
    steady: float

    def jump_until(self, later: _Seen) -> float:
        """Return by how many seconds the server's clock was set since; 0 for what may be chance."""
        if later.next_at != self.next_at:  # somebody has decided anew since
            return 0.0
        by_server = (later.asked_at - self.asked_at).total_seconds()
        jump = by_server - (later.steady - self.steady)
        return jump if abs(jump) > _JUMP_SECONDS else 0.0


class Schedule:
    """The slots of the scheduled trainings.

    Parameters
    ----------
    db
        The database.
    interval_seconds
        From one slot to the next.
    steady
        A clock that nobody sets, seconds.
    """

    def __init__(
        self,
        db: MongoDatabase,
        interval_seconds: float,
        steady: Callable[[], float] = steady_seconds,
    ) -> None:
        self._state = db[COLLECTION]
        self._interval = round(interval_seconds * 1000)
        self._steady = steady
        self._seen: _Seen | None = None

    def look(self) -> Slot:
        """Return the next slot.

        The first call of all starts the clock. Where the interval was shortened since, the next
        slot comes forward to one interval from now.
        """
        found, seen = self._ask()
        jump = self._seen.jump_until(seen) if self._seen else 0.0
        if jump:
            log.warning("MongoDB's clock was set by %+.0f s; the schedule moves with it", jump)
            found, seen = self._move(seen, {"$add": ["$next_at", round(jump * 1000)]})
        if (seen.next_at - seen.asked_at).total_seconds() * 1000 > self._interval:
            found, seen = self._move(seen, {"$add": [_NOW, self._interval]})
        self._seen = seen
        left = (seen.next_at - seen.asked_at).total_seconds()
        return Slot(left, found.get("skipped", 0), found.get("last_skipped"))

    def seconds_left(self) -> float:
        """Return the seconds to the next slot, as :meth:`look` does."""
        return self.look().seconds_left

    def claim(self) -> bool:
        """Take the slot that is due and set the next; return False if none is due any more."""
        if self.seconds_left() > 0:  # as it may be only now that the server's clock was set
            return False
        following = {"$add": ["$next_at", self._interval]}
        restart = {"$add": [_NOW, self._interval]}
        on = {"$cond": [{"$gt": [following, _NOW]}, following, restart]}
        due = {"_id": SCHEDULE_ID, "$expr": {"$lte": ["$next_at", _NOW]}}
        return bool(self._state.update_one(due, [{"$set": {"next_at": on}}]).modified_count)

    def count_skip(self, in_the_way: Mapping[str, Any]) -> None:
        """Count a slot in which another training was in progress.

        Parameters
        ----------
        in_the_way
            The lease of that training.
        """
        named = {key: {"$literal": in_the_way.get(key)} for key in ("run_id", "host")}
        counted = {
            "skipped": {"$add": [{"$ifNull": ["$skipped", 0]}, 1]},
            "last_skipped": {**named, "at": _NOW},
        }
        self._state.update_one({"_id": SCHEDULE_ID}, [{"$set": counted}])

    def _ask(self) -> tuple[Document, _Seen]:
        first = {"$ifNull": ["$next_at", {"$add": [_NOW, self._interval]}]}
        found: Any = self._state.find_one_and_update(
            {"_id": SCHEDULE_ID}, _set(first), upsert=True, return_document=ReturnDocument.AFTER
        )
        return found, self._seen_in(found)

    def _move(self, seen: _Seen, next_at: Document) -> tuple[Document, _Seen]:
        """Move the next slot, unless another process has done so; return what it is then."""
        unmoved = {"_id": SCHEDULE_ID, "next_at": seen.next_at}
        found = self._state.find_one_and_update(
            unmoved, _set(next_at), return_document=ReturnDocument.AFTER
        )
        return (found, self._seen_in(found)) if found else self._ask()

    def _seen_in(self, found: Document) -> _Seen:
        return _Seen(found["next_at"], found["asked_at"], self._steady())


def _set(next_at: Document) -> list[Document]:
    return [{"$set": {"asked_at": _NOW, "next_at": next_at}}]
