"""Recovery from a training that died: recorded in the ledger, its switch finished or undone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from recommender.core.errors import LeaseHeldError
from recommender.core.mongo import Document, MongoDatabase, mongo_errors
from recommender.runs.lease import Lease, abandoned, last_holder
from recommender.runs.ledger import Ledger
from recommender.runs.switch import sweep
from recommender.service.schedule import steady_seconds

log = logging.getLogger(__name__)


class Recovery:
    """Cleans up after trainings that died.

    The next training would do the same. Until then the ledger would show them as running, and
    where one died between two switches, readers would see collections of two runs.

    Parameters
    ----------
    db
        The database.
    lease_seconds
        How long a lease is good for.
    steady
        A clock that is never set, seconds.
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
        self._seen: tuple[Document, float] | None = None
        self._since = 0.0

    def look(self) -> None:
        """Clean up after a training that has been silent for long enough, if there is one.

        It is one whose lease has expired and was not renewed while this process watched it for as
        long again: after an outage of MongoDB all leases have expired, and living trainings renew
        theirs. A lease that has not expired by MongoDB's clock, which may have been set back, is
        watched for twice as long. The third case is a run that is open in the ledger without the
        lease: it could not write its end.

        Raises
        ------
        DatabaseUnavailableError
            If MongoDB does not answer.
        """
        before, self._seen = self._seen, None  # after a failed look, the watch begins anew
        with mongo_errors("cleaning up after a training that died"):
            self._seen = self._silent()
            if self._seen != before:
                self._since = self._steady()
            if self._seen and self._steady() - self._since >= self._seen[1]:
                self._clean_up(self._seen[0])

    def _silent(self) -> tuple[Document, float] | None:
        """Return what may be dead, and the seconds after which it is."""
        if expired := abandoned(self._db):
            return expired, self._lease_seconds
        if held := last_holder(self._db):
            return held, 2 * self._lease_seconds
        run_id = Ledger(self._db).open_run()
        return ({"run_id": run_id}, self._lease_seconds) if run_id else None

    def _clean_up(self, dead: Document) -> None:
        lease = Lease(self._db, self._lease_seconds)
        try:
            # In its name, so that a training that is refused meanwhile names a run of the ledger.
            lease.acquire(dead["run_id"], dead if "token" in dead else None)
        except LeaseHeldError:
            return
        log.error("training %s died; cleaning up after it", dead["run_id"])
        try:
            for step in (Ledger(self._db).mark_crashed, partial(sweep, self._db)):
                lease.renew()
                step()
        except BaseException:
            lease.expire()  # and not released: the next look tries again
            raise
        lease.release()
