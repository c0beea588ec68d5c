"""A run's life inside the process that trains: lease, heartbeat, phases, outcome."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from pymongo.errors import PyMongoError

from recommender.core.errors import LeaseLostError, ModelRejectedError, RecommenderError
from recommender.core.logs import one_line, redact, secrets_of
from recommender.core.mongo import (
    Document,
    MongoDatabase,
    connect,
    database,
    mongo_errors,
    reason_of,
)
from recommender.core.settings import Settings
from recommender.core.signals import Cancelled, TimedOut, time_limit
from recommender.runs.lease import Lease
from recommender.runs.ledger import OPEN_STATES, RUN_ID, Ledger, State, Trigger, new_run_id, now
from recommender.runs.log_file import run_log
from recommender.runs.switch import published_runs, stages_of, sweep

_BEATS_PER_LEASE = 4

log = logging.getLogger(__name__)


class TrainingRun:
    """The run in progress: records a training in the ledger and holds its lease.

    Attributes
    ----------
    run_id
        Its id, which every document that it writes has.
    db
        The database.
    settings
        The settings that it runs with.
    lease
        The lease, checked whenever something is published.
    document
        The run's document in the ledger after it has succeeded; None until then.
    """

    document: Document | None = None

    def __init__(
        self,
        run_id: str,
        db: MongoDatabase,
        settings: Settings,
        lease: Lease,
        heartbeat: _Heartbeat,
    ) -> None:
        self.run_id = run_id
        self.db = db
        self.settings = settings
        self.lease = lease
        self._heartbeat = heartbeat
        self._ledger = Ledger(db)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Record the block in the ledger as a phase, with its start and its seconds."""
        self._heartbeat.check()
        with mongo_errors("writing to the ledger"):
            self._ledger.update(self.run_id, {"phase": name})
        with _timed(name) as phase:
            yield
        with mongo_errors("writing to the ledger"):
            self._ledger.add_phase(self.run_id, phase)

    def record(self, **fields: Any) -> None:
        """Record fields of the run, such as its counts or its metrics."""
        with mongo_errors("writing to the ledger"):
            self._ledger.update(self.run_id, fields)

    def look_up(self) -> None:
        """Fetch the run's document from the ledger, if the end of the run could be written."""
        run = self._ledger.get(self.run_id) or {}
        self.document = run if "ended_at" in run else None


@contextmanager
def _timed(name: str) -> Iterator[Document]:
    """Log a phase and yield its document, which has its seconds after the block."""
    phase = {"name": name, "started_at": now()}
    started = time.monotonic()
    log.info("phase %s", name)
    yield phase
    phase["seconds"] = round(time.monotonic() - started, 3)
    log.info("phase %s took %.1f s", name, phase["seconds"])


class _Heartbeat:
    """Renews the lease from a thread of its own."""

    def __init__(self, lease: Lease, seconds: float) -> None:
        self._lease = lease
        self._interval = seconds / _BEATS_PER_LEASE
        self._stopped = threading.Event()
        self._lost: LeaseLostError | None = None
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> _Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def check(self) -> None:
        if self._lost:
            raise self._lost

    def _beat(self) -> None:
        while not self._stopped.wait(self._interval):
            try:
                self._lease.renew()
            except LeaseLostError as error:
                self._lost = error
                return
            except PyMongoError as error:
                log.warning("the lease could not be renewed: %s", reason_of(error))


@contextmanager
def training_run(settings: Settings, run_id: str | None = None) -> Iterator[TrainingRun]:
    """Hold the lease for the block, and record how it ended.

    Parameters
    ----------
    settings
        The settings to train with.
    run_id
        A run for which the parent process has acquired the lease and opened the ledger; None
        starts a new one.

    Raises
    ------
    LeaseHeldError
        If another training is in progress.
    DatabaseUnavailableError
        If MongoDB does not answer.
    TimedOut
        If it takes longer than ``TRAIN_TIMEOUT_MINUTES``.
    """
    with connect(settings) as client:
        db = database(client, settings)
        lease = Lease(db, settings.schedule.lease_seconds)
        resumed = run_id is not None
        run_id = run_id or new_run_id()
        write = partial(Ledger(db).close, run_id)
        release = partial(
            _quietly, "the lease could not be released", partial(_release, lease, db, run_id)
        )

        def give_up(reason: TimedOut) -> None:
            _close(settings, write, "failed", reason)
            release()
            log.error("%s", reason)  # after all else, as logging may be what hangs

        grace = settings.schedule.stop_grace_seconds
        with time_limit(settings.schedule.timeout_minutes, grace, give_up):
            try:
                with _closing(settings, write):
                    with mongo_errors("taking the lease"):
                        (lease.resume if resumed else lease.acquire)(run_id)
                    with (
                        _opened(db, run_id, settings, resumed=resumed),
                        _Heartbeat(lease, settings.schedule.lease_seconds) as heartbeat,
                    ):
                        run = TrainingRun(run_id, db, settings, lease, heartbeat)
                        with _lost_lease_first(lease):
                            yield run
                _quietly("the ledger could not be read", run.look_up)
            finally:
                _quietly("old runs could not be pruned", partial(_prune, db, settings))
                release()


def _release(lease: Lease, db: MongoDatabase, run_id: str) -> None:
    """Release the lease, unless the run is open or has stages: then it expires, for recovery."""
    run = Ledger(db).get(run_id) or {}
    if run.get("state") not in OPEN_STATES and not stages_of(db, run_id):
        lease.release()


@contextmanager
def _lost_lease_first(lease: Lease) -> Iterator[None]:
    """Raise LeaseLostError however the block ends, if another run has taken the lease over.

    That run has dropped the stages of this one and may have published, which explains any failure.
    """
    renew = partial(_quietly, "the lease could not be renewed", lease.renew)
    try:
        yield
    except RecommenderError:
        renew()
        raise
    renew()


@contextmanager
def _opened(db: MongoDatabase, run_id: str, settings: Settings, *, resumed: bool) -> Iterator[None]:
    """Record the run as running, and write its log unless the parent process does."""
    ledger = Ledger(db)
    with ExitStack() as stack:
        with mongo_errors("beginning the run"):
            if not resumed:
                ledger.open(run_id, "script", settings, None)
                log_file = stack.enter_context(run_log(settings, run_id))
                ledger.update(run_id, {"log": str(log_file) if log_file else None})
            # The service's settings may differ: this process has read .env again.
            used = {"settings": settings.public(), "forced": not settings.gate.enabled}
            started = {"state": "running", "pid": os.getpid(), "started_at": now()}
            ledger.update(run_id, used | started)
            sweep(db)
        yield


class SideRun:
    """A run without the lease, which publishes nothing; it is recorded when it has ended.

    Attributes
    ----------
    run_id
        Its id, which every document that it writes has.
    db
        The database.
    settings
        The settings that it was started with.
    """

    def __init__(self, db: MongoDatabase, settings: Settings) -> None:
        self.run_id = new_run_id()
        self.db = db
        self.settings = settings
        started_at = now()
        self._fields: Document = {"queued_at": started_at, "started_at": started_at, "phases": []}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Keep the block as a phase, with its start and its seconds."""
        self._fields["phase"] = name
        with _timed(name) as phase:
            yield
        self._fields["phases"].append(phase)

    def record(self, **fields: Any) -> None:
        """Keep fields of the run, such as its counts or its metrics."""
        self._fields.update(fields)

    def write(self, trigger: Trigger, state: State, exit_code: int, error: str | None) -> None:
        """Write the run to the ledger."""
        outcome = {"state": state, "exit_code": exit_code, "error": error, "ended_at": now()}
        fields = {**self._fields, **outcome, "pid": os.getpid()}
        Ledger(self.db).add_ended(self.run_id, trigger, self.settings, fields)


@contextmanager
def side_run(settings: Settings, trigger: Trigger) -> Iterator[SideRun]:
    """Connect to MongoDB for a run beside trainings, and record how it ended.

    Raises
    ------
    DatabaseUnavailableError
        If MongoDB does not answer.
    """
    with connect(settings) as client:
        run = SideRun(database(client, settings), settings)
        with (
            _closing(settings, partial(run.write, trigger)),
            run_log(settings, run.run_id) as log_file,
        ):
            run.record(log=str(log_file) if log_file else None)
            yield run


_Write = Callable[[State, int, str | None], object]


@contextmanager
def _closing(settings: Settings, write: _Write) -> Iterator[None]:
    """Write the block's outcome to the ledger."""
    try:
        yield
    except (Cancelled, KeyboardInterrupt) as stop:
        _close(settings, write, "cancelled", stop)
        raise
    except ModelRejectedError as error:
        _close(settings, write, "rejected", error)
        raise
    except BaseException as error:
        _close(settings, write, "failed", error)
        raise
    _close(settings, write, "succeeded")


def _close(
    settings: Settings, write: _Write, state: State, error: BaseException | None = None
) -> None:
    line = one_line(redact(str(error), secrets_of(settings))) if error else None
    complaint = "the outcome could not be written to the ledger"
    _quietly(complaint, lambda: write(state, _exit_code_of(error), line))


def _exit_code_of(error: BaseException | None) -> int:
    if error is None:
        return 0
    return getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)


def _prune(db: MongoDatabase, settings: Settings) -> None:
    """Delete old runs, and the logs here of runs that this process or another has deleted."""
    ledger = Ledger(db)
    ledger.prune(settings.schedule.runs_kept, published_runs(db))
    # Paths come from the folder, never from the database.
    logs = {path.stem: path for path in settings.log_dir.glob("*.log")}
    run_ids = filter(RUN_ID.fullmatch, logs)
    for run_id in ledger.pruned(settings.schedule.runs_kept, run_ids):
        with contextlib.suppress(OSError):
            logs[run_id].unlink(missing_ok=True)


def _quietly(complaint: str, action: Callable[[], object]) -> None:
    """Do an action, and log its failure: it must not hide the outcome of the run."""
    try:
        action()
    except PyMongoError as error:
        log.error("%s: %s", complaint, reason_of(error))
