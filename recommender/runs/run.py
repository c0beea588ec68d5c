"""A run's life inside the process that trains: lease, heartbeat, phases, outcome."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pymongo.errors import PyMongoError
from rich.progress import Progress

from recommender.core.errors import LeaseLostError, ModelRejectedError, RecommenderError
from recommender.core.logs import one_line, redact, secrets_of
from recommender.core.mongo import Document, MongoDatabase, connected, mongo_errors, reason_of
from recommender.core.settings import Settings
from recommender.core.signals import Cancelled, Stopped, stop_main_thread, time_limit
from recommender.core.terminal import progress
from recommender.runs.lease import Lease
from recommender.runs.ledger import OPEN_STATES, RUN_ID, Kind, Ledger, State, new_run_id, now
from recommender.runs.log_file import run_log
from recommender.runs.switch import published_runs, recover, stages_of

_BEATS_PER_LEASE = 4
_EARLIER_RUNS = 50
_BEAT_SECONDS = 3.0  # at most between two beats, so that a cancelled run stops soon

log = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class TrainingRun:
    """A training or a rollback, which holds the lease and is in the ledger from its start."""

    run_id: str  # every document that it writes has it
    db: MongoDatabase
    settings: Settings
    lease: Lease
    kind: Kind
    earlier: list[Document] = field(default_factory=list, init=False)  # the latest run first
    display: Progress = field(default_factory=lambda: Progress(disable=True), init=False)
    warnings: list[str] = field(default_factory=list, init=False)
    document: Document | None = field(default=None, init=False)  # of the ledger, after a success
    _phases: list[Document] = field(default_factory=list, init=False)

    def record(self, **fields: Any) -> None:
        """Write fields of the run to the ledger, unless another run has taken the lease over."""
        with mongo_errors("writing to the ledger"):
            self.lease.renew()
            Ledger(self.db).update(self.run_id, fields)

    def warn(self, message: str) -> None:
        """Log a warning, and add it to those that are recorded with the next verdict."""
        log.warning("%s", message)
        self.warnings.append(message)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Record the block as a phase, with its start and its seconds."""
        self.record(phase=name)
        log.info("phase %s", name)
        started_at, started = now(), time.monotonic()
        earlier = (p for run in self.earlier for p in run.get("phases", []) if p["name"] == name)
        last = next((f", last {p['seconds']:.0f} s" for p in earlier), "")
        task = self.display.add_task(f"phase {name}{last}", total=None)
        yield
        self.display.remove_task(task)
        seconds = round(time.monotonic() - started, 3)
        log.info("phase %s took %.1f s", name, seconds)
        self._phases.append({"name": name, "started_at": started_at, "seconds": seconds})
        self.record(phases=self._phases)


@contextmanager
def _heartbeat(lease: Lease, seconds: float, is_cancelled: Callable[[], bool]) -> Iterator[None]:
    """Renew the lease from a thread, which stops a cancelled run, until it is lost."""
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(min(seconds / _BEATS_PER_LEASE, _BEAT_SECONDS)):
            try:
                lease.renew()
                if is_cancelled():
                    stop_main_thread("cancelled on request")
            except LeaseLostError:
                return  # the run finds it, too, when it next records or publishes something
            except PyMongoError as error:
                log.warning("the lease could not be renewed: %s", reason_of(error))

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@contextmanager
def training_run(
    settings: Settings, run_id: str | None = None, kind: Kind = "training"
) -> Iterator[TrainingRun]:
    """Hold the lease for the block, and record how it ended.

    The parent process has acquired the lease and opened the ledger for ``run_id``; None starts a
    new run. LeaseHeldError if another training is in progress, DatabaseUnavailableError if MongoDB
    does not answer, and TimedOut if it takes longer than ``TRAIN_TIMEOUT_MINUTES``.
    """
    with connected(settings.mongo) as db:
        schedule = settings.schedule
        lease = Lease(db, schedule.lease_seconds)
        resumed = run_id is not None
        run_id = run_id or new_run_id()
        close = partial(_close, Ledger(db), run_id, settings)
        is_cancelled = partial(Ledger(db).is_cancel_requested, run_id)
        release = partial(_release, lease, db, run_id)

        def give_up(reason: Stopped) -> None:
            close(reason)
            release()
            log.error("%s", reason)  # last, as logging may hang

        with time_limit(schedule.timeout_minutes, schedule.stop_grace_seconds, give_up):
            try:
                # At its end: display, check of the lease, log file, heartbeat, ledger.
                with ExitStack() as stack:
                    stack.push(lambda _kind, error, _trace: close(error))
                    with mongo_errors("taking the lease"):
                        if resumed:
                            lease.resume(run_id)
                        else:
                            lease.acquire(run_id)
                    stack.enter_context(_heartbeat(lease, schedule.lease_seconds, is_cancelled))
                    run = TrainingRun(run_id, db, settings, lease, kind)
                    with mongo_errors("beginning the run"):
                        _begin(run, stack, resumed=resumed)
                    stack.push(lambda _kind, error, _trace: _check_lease(lease, error))
                    run.display = stack.enter_context(progress())
                    with mongo_errors("reading the ledger"):
                        run.earlier = Ledger(db).recent(_EARLIER_RUNS, before=run_id)
                    yield run
                with logged("the ledger could not be read"):
                    document = Ledger(db).get(run_id) or {}
                    run.document = document if "ended_at" in document else None
            finally:
                release()  # first, as a stop may cut off the rest
                with logged("old runs could not be pruned"):
                    _prune(db, settings)


def _release(lease: Lease, db: MongoDatabase, run_id: str) -> None:
    """Release the lease, unless the run is open or has stages: then it expires, for recovery."""
    with logged("the lease could not be released"):
        run = Ledger(db).get(run_id) or {}
        if run.get("state") not in OPEN_STATES and not stages_of(db, run_id):
            lease.release()


def _check_lease(lease: Lease, error: BaseException | None) -> None:
    """Raise LeaseLostError if another run has taken the lease over: it explains any failure."""
    if error is None or isinstance(error, RecommenderError):
        with logged("the lease could not be renewed"):
            lease.renew()


def _begin(run: TrainingRun, stack: ExitStack, *, resumed: bool) -> None:
    """Record the run as running, and write its log until the stack's end unless the parent does."""
    ledger, settings = Ledger(run.db), run.settings
    # The service's settings may differ: this process has read .env again.
    used = {"settings": settings.public(), "forced": not settings.gate.enabled, "kind": run.kind}
    if not resumed:
        log_file = stack.enter_context(run_log(settings, run.run_id))
        ledger.add(run.run_id, "script", settings, log_file)
    started = {"state": "running", "pid": os.getpid(), "started_at": now()}
    ledger.update(run.run_id, used | started)
    recover(run.db)


def _close(ledger: Ledger, run_id: str, settings: Settings, error: BaseException | None) -> None:
    """Write to the ledger how the run ended."""
    state: State = "failed" if error else "succeeded"
    if isinstance(error, Cancelled):
        state = "cancelled"
    elif isinstance(error, ModelRejectedError):
        state = "rejected"
    exit_code = getattr(error, "exit_code", 1) if error else 0
    kind = "" if hasattr(error, "exit_code") else f"{type(error).__name__}: "
    line = one_line(redact(f"{kind}{error}", secrets_of(settings))) if error else None
    with logged("the outcome could not be written to the ledger"):
        ledger.close(run_id, state, exit_code, line)


def _prune(db: MongoDatabase, settings: Settings) -> None:
    """Delete old runs, and the logs here of runs that this process or another has deleted."""
    # Paths come from the folder, never from the database.
    logs = {path.stem: path for path in settings.log_dir.glob("*.log")}
    kept, here = settings.schedule.runs_kept, filter(RUN_ID.fullmatch, logs)
    for run_id in Ledger(db).prune(kept, published_runs(db), here):
        with suppress(OSError):
            logs[run_id].unlink(missing_ok=True)


@contextmanager
def logged(problem: str) -> Iterator[None]:
    """Log a failure of MongoDB in the block: it must not hide the outcome of the run."""
    try:
        yield
    except PyMongoError as error:
        log.error("%s: %s", problem, reason_of(error))
