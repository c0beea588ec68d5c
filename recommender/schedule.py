"""When the next scheduled training is due: kept in MongoDB, told by the server's clock.

So a restart does not reset it, several processes of the service share it, and exactly one of them
gets each slot. After a long stop there is one slot to catch up with, not all that were missed.
"""

from __future__ import annotations

import datetime
from typing import Any

from pymongo import ReturnDocument

from recommender.lease import COLLECTION
from recommender.mongo import Document, MongoDatabase

SCHEDULE_ID = "schedule"

_NOW = "$$NOW"


class Schedule:
    """The slots of the scheduled trainings.

    Parameters
    ----------
    db
        The database.
    interval_seconds
        From one slot to the next.
    """

    def __init__(self, db: MongoDatabase, interval_seconds: float) -> None:
        self._state = db[COLLECTION]
        self._interval = round(interval_seconds * 1000)

    def seconds_left(self) -> float:
        """Return the seconds to the next slot, negative where it has passed unclaimed.

        The first call of all starts the clock. Where the interval was shortened since, the next
        slot comes forward to one interval from now.
        """
        latest = {"$add": [_NOW, self._interval]}
        asked: list[Document] = [
            {"$set": {"asked_at": _NOW, "next_at": {"$min": ["$next_at", latest]}}}
        ]
        slot: Any = self._state.find_one_and_update(
            {"_id": SCHEDULE_ID}, asked, upsert=True, return_document=ReturnDocument.AFTER
        )
        due: datetime.datetime = slot["next_at"]
        asked_at: datetime.datetime = slot["asked_at"]
        return (due - asked_at).total_seconds()

    def claim(self) -> bool:
        """Take the slot that is due and set the next; return False if none is due any more."""
        following = {"$add": ["$next_at", self._interval]}
        restart = {"$add": [_NOW, self._interval]}
        on = {"$cond": [{"$gt": [following, _NOW]}, following, restart]}
        due = {"_id": SCHEDULE_ID, "$expr": {"$lte": ["$next_at", _NOW]}}
        return bool(self._state.update_one(due, [{"$set": {"next_at": on}}]).modified_count)

    def count_skip(self) -> None:
        """Count a slot in which another training was in progress."""
        self._state.update_one({"_id": SCHEDULE_ID}, {"$inc": {"skipped": 1}})
