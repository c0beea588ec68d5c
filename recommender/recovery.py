"""What a training that died leaves behind: told in the ledger, its switch finished or undone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from recommender.errors import LeaseHeldError
from recommender.lease import Lease, abandoned
from recommender.ledger import Ledger
from recommender.mongo import Document, MongoDatabase, mongo_errors
from recommender.schedule import steady_seconds
from recommender.store import sweep

log = logging.getLogger(__name__)


class Tidier:
    """Does for trainings that fell silent what they can no longer do.

    The next training would do the same. Until then the ledger would go on to say that they run, and
    where one died between two switches, readers would meet collections of two runs.

    Parameters
    ----------
    db
        The database.
    lease_seconds
        How long a lease is good for.
    steady
        A clock that nobody sets, seconds.
    """

    def __init__(
        self,
        db: MongoDatabase,
        lease_seconds: float,
        steady: Callable[[], float] = steady_seconds,
    ) -> None:
        self._db = db
        self._lease_seconds = lease_seconds
        self._steady = steady
        self._seen: Document | None = None
        self._since = 0.0

    def look(self) -> None:
        """Tidy up after a training that has been silent for long enough, if there is one.

        That is one whose lease has run out, and was not renewed while this process watched it for
        as long again: when MongoDB comes back after an outage, all leases have run out, and those
        who live renew them.

        Raises
        ------
        DatabaseUnavailableError
            If MongoDB does not answer.
        """
        with mongo_errors("tidying up after a training that died"):
            silent = abandoned(self._db)
            if silent != self._seen:
                self._seen, self._since = silent, self._steady()
            if silent and self._steady() - self._since >= self._lease_seconds:
                self._tidy_up(silent)

    def _tidy_up(self, dead: Document) -> None:
        lease = Lease(self._db, self._lease_seconds)
        try:
            # In its name: whoever is refused meanwhile is told of a run that the ledger knows.
            lease.acquire(dead["run_id"])
        except LeaseHeldError:
            return
        log.error("training %s died; tidying up after it", dead["run_id"])
        try:
            for step in (Ledger(self._db).mark_crashed, partial(sweep, self._db)):
                lease.renew()
                step()
        except BaseException:
            lease.expire()  # and not given back: the next look is to try again
            raise
        lease.release()
