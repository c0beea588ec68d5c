"""The training in progress, as read every few seconds, so that no request waits for MongoDB."""

import threading
from contextlib import suppress

from pymongo.errors import PyMongoError

from recommender.core.mongo import Document, MongoDatabase
from recommender.runs.lease import holder
from recommender.runs.ledger import Ledger

_SECONDS = 2.0  # between two readings


class Progress:
    """Reads the training in progress from a thread, of this service or of another process."""

    training: Document | None = None  # its run_id, phase and started_at

    def __init__(self, db: MongoDatabase) -> None:
        self._db = db
        self._stopped = threading.Event()

    def __enter__(self) -> None:
        threading.Thread(target=self._read_on, name="progress", daemon=True).start()

    def __exit__(self, *_error: object) -> None:
        self._stopped.set()  # a reading is not waited for, as MongoDB may hang

    def _read_on(self) -> None:
        while True:
            with suppress(PyMongoError):  # the schedule's clock reports an outage
                self.training = self._read()
            if self._stopped.wait(_SECONDS):
                return

    def _read(self) -> Document | None:
        if not (lease := holder(self._db)):
            return None
        run = lease | (Ledger(self._db).get(lease["run_id"]) or {})
        return {key: run.get(key) for key in ("run_id", "phase", "started_at")}
