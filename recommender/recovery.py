"""What a training that died leaves behind: told in the ledger, its switch finished or undone."""

from __future__ import annotations

import logging

from recommender.errors import LeaseHeldError
from recommender.lease import Lease, abandoned
from recommender.ledger import Ledger
from recommender.mongo import MongoDatabase, mongo_errors
from recommender.store import sweep

log = logging.getLogger(__name__)


def tidy_up(db: MongoDatabase, lease_seconds: float) -> None:
    """Do for a training that fell silent what it can no longer do; nothing where there is none.

    The next training would do the same. Until then the ledger would go on to say that it runs, and
    where it died between two switches, readers would meet collections of two runs.

    Raises
    ------
    DatabaseUnavailableError
        If MongoDB does not answer.
    """
    with mongo_errors("tidying up after a training that died"):
        dead = abandoned(db)
        if dead is None:
            return
        # In its name, so that whoever is refused meanwhile is told of a run that the ledger knows.
        lease = Lease(db, lease_seconds)
        try:
            lease.acquire(dead["run_id"])
        except LeaseHeldError:
            return
        try:
            log.error("training %s died; tidying up after it", dead["run_id"])
            Ledger(db).mark_crashed()
            sweep(db)
        finally:
            lease.release()
