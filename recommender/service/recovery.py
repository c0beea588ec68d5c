"""Recovery from a training that died: recorded in the ledger, its switch finished or undone."""

import logging
from collections.abc import Callable

from recommender.core.errors import LeaseHeldError
from recommender.core.mongo import Document, MongoDatabase, mongo_errors
from recommender.runs.lease import Lease, abandoned, holder
from recommender.runs.ledger import Ledger
from recommender.runs.switch import recover
from recommender.service.schedule import steady_seconds

log = logging.getLogger(__name__)


class Recovery:
    """Cleans up after trainings that died, as the next training would.

    Until then, the ledger shows them as running, and readers may see collections of two runs.
    """

    def __init__(
        self, db: MongoDatabase, lease_seconds: float, steady: Callable[[], float] = steady_seconds
    ) -> None:
        self._db = db
        self._lease_seconds = lease_seconds
        self._steady = steady
        self._seen: tuple[Document, float] | None = None
        self._since = 0.0

    @mongo_errors("cleaning up after a training that died")
    def check(self) -> None:
        """Clean up if a training has shown no sign of life for long enough.

        - Its lease has expired, and was not renewed while this process watched it for as long
          again: after an outage of MongoDB all leases have expired until they are renewed.
        - Its lease has not expired by MongoDB's clock, which may have been set back, and was not
          renewed for twice as long.
        - Its run is open in the ledger without a lease: its end could not be written.

        After an error of MongoDB the watch starts again.
        """
        before, self._seen = self._seen, None
        self._seen = self._silent()
        if self._seen != before:
            self._since = self._steady()
        if self._seen and self._steady() - self._since >= self._seen[1]:
            self._clean_up(self._seen[0])

    def _silent(self) -> tuple[Document, float] | None:
        """Return the lease or run that may be dead, and the seconds after which it is."""
        if expired := abandoned(self._db):
            return expired, self._lease_seconds
        if held := holder(self._db):
            return held, 2 * self._lease_seconds
        run = Ledger(self._db).unfinished()
        return (run, self._lease_seconds) if run else None

    def _clean_up(self, dead: Document) -> None:
        lease = Lease(self._db, self._lease_seconds)
        try:
            # In its name: a training that is refused meanwhile then names a run of the ledger.
            lease.acquire(dead["run_id"], dead if "token" in dead else None)
        except LeaseHeldError:
            return
        log.error("training %s died; cleaning up after it", dead["run_id"])
        try:
            Ledger(self._db).mark_crashed()
            lease.renew()
            recover(self._db)
        except BaseException:
            lease.expire()  # not released, so that the next check tries again
            raise
        lease.release()
