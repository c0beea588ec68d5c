"""The time of the next scheduled training: kept in MongoDB, by the server's clock.

A restart does not reset it, all processes of the service share it, and one of them gets each slot.
After downtime, one missed slot is made up for. If the server's clock is set, the slot moves with
it.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from pymongo import ReturnDocument

from recommender.core.mongo import Document, MongoDatabase, mongo_errors, quick_read
from recommender.runs.lease import COLLECTION

SCHEDULE_ID = "schedule"

_NOW = "$$NOW"
_JUMP_MILLISECONDS = 30_000  # a slow answer, or the clock of another primary, differs by less

log = logging.getLogger(__name__)


def steady_seconds() -> float:
    """Return the seconds since boot: a clock that is never set, and runs during suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Schedule:
    """The slots of the scheduled trainings, one every ``interval`` seconds; none if that is 0.

    The attributes are as last read.
    """

    paused: bool = False  # slots pass without a training
    skipped: int = 0  # slots so far in which another training was in progress
    last_skipped: Document | None = None  # run_id and host of that training, and the time (at)

    def __init__(
        self, db: MongoDatabase, interval: float, steady: Callable[[], float] = steady_seconds
    ) -> None:
        self._state = db[COLLECTION]
        self.interval = interval
        self._milliseconds = round(interval * 1000)
        self._steady = steady
        self._next_at = self._asked_at = datetime.now(UTC)
        self._asked_steady = steady()
        self._due = self._asked_steady + (interval or math.inf)  # until MongoDB answers

    def seconds_left(self) -> float:
        """Return the seconds to the next slot as last read; infinite without a schedule."""
        return max(self._due - self._steady(), 0.0)

    @quick_read("pausing or resuming the schedule")
    def set_paused(self, paused: bool) -> None:
        """Let slots pass without a training from now on, or no longer, in all processes."""
        change = {"$set": {"paused": paused}}
        self._state.update_one({"_id": SCHEDULE_ID}, change, upsert=True)
        self.paused = paused

    @mongo_errors("reading the schedule")
    def refresh(self) -> float:
        """Read the next slot, and return the seconds to it, negative if it has passed unclaimed.

        The very first call starts the schedule. If the interval was shortened, the next slot comes
        forward to one interval from now. Without a schedule, the seconds are infinite.
        """
        if not self._milliseconds:
            self.paused = bool((self._state.find_one({"_id": SCHEDULE_ID}) or {}).get("paused"))
            return math.inf
        steady = self._steady()
        elapsed = round((steady - self._asked_steady) * 1000)
        # By how much more MongoDB's clock has advanced since the last reading than ours has.
        jump = {"$subtract": [{"$subtract": [_NOW, self._asked_at]}, elapsed]}
        unmoved = {"$eq": ["$next_at", self._next_at]}  # else another process has moved the slot
        jumped = {"$and": [unmoved, {"$gt": [{"$abs": jump}, _JUMP_MILLISECONDS]}]}
        next_at = {"$min": [{"$add": ["$next_at", "$jump"]}, {"$add": [_NOW, self._milliseconds]}]}
        state: Any = self._state.find_one_and_update(
            {"_id": SCHEDULE_ID},
            [
                {"$set": {"asked_at": _NOW, "jump": {"$cond": [jumped, jump, 0]}}},
                {"$set": {"next_at": next_at}},
            ],
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        if jumped_by := state["jump"] / 1000:
            log.warning("MongoDB's clock was set by %+.0f s; the schedule moves with it", jumped_by)
        self._next_at, self._asked_at = state["next_at"], state["asked_at"]
        self._asked_steady = steady
        self.paused = state.get("paused", False)
        self.skipped, self.last_skipped = state.get("skipped", 0), state.get("last_skipped")
        left: float = (self._next_at - self._asked_at).total_seconds()
        self._due = steady + left
        return left

    @mongo_errors("claiming the scheduled training")
    def claim(self) -> bool:
        """Take the slot that is due and set the next; return False if none is due."""
        if self.refresh() > 0:  # also if the server's clock was set
            return False
        following = {"$add": ["$next_at", self._milliseconds]}
        restart = {"$add": [_NOW, self._milliseconds]}
        next_at = {"$cond": [{"$gt": [following, _NOW]}, following, restart]}
        due = {"_id": SCHEDULE_ID, "$expr": {"$lte": ["$next_at", _NOW]}}
        return bool(self._state.update_one(due, [{"$set": {"next_at": next_at}}]).modified_count)

    @mongo_errors("counting a skipped training")
    def count_skip(self, lease: Mapping[str, Any]) -> None:
        """Count a slot in which another training, the holder of the lease, was in progress."""
        training = {key: {"$literal": lease.get(key)} for key in ("run_id", "host")}
        counted = {
            "skipped": {"$add": [{"$ifNull": ["$skipped", 0]}, 1]},
            "last_skipped": {**training, "at": _NOW},
        }
        self._state.update_one({"_id": SCHEDULE_ID}, [{"$set": counted}])
