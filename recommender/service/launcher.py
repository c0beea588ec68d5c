"""Starts trainings as child processes of the service, and records how they ended."""

import logging
import math
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pymongo
from pymongo.errors import PyMongoError

from recommender.core import errors
from recommender.core.child_process import Guarded
from recommender.core.logs import one_line
from recommender.core.mongo import MongoDatabase, mongo_errors, reason_of
from recommender.core.settings import Settings
from recommender.core.signals import TimedOut
from recommender.runs.lease import Lease
from recommender.runs.ledger import OPEN_STATES, Kind, Ledger, State, Trigger, new_run_id
from recommender.runs.switch import recover
from recommender.service.child_log import ChildLog
from recommender.service.recovery import Recovery
from recommender.service.schedule import steady_seconds

SCRIPT = Path(__file__).parents[2] / "als_training.py"

# Added to the time limit and two graces before a hanging child is killed: its start is slow.
_LAST_RESORT_SECONDS = 30.0
_PASS_ON_SECONDS = 0.5  # between two readings of a training's log
_RECORD_SECONDS = 10.0  # to record a child's begin or end; recovery does the rest
_SIGTERM_CODE, _SIGKILL_CODE = 143, 137
# A scheduled training that fails with a code that may pass by itself is retried once.
_RETRIED_CODES = (errors.DatabaseUnavailableError.exit_code, errors.SparkError.exit_code)
_RETRY_SECONDS = 60.0

log = logging.getLogger(__name__)


class Trainer:
    """Starts trainings, one at a time, each as a child process that runs ``script``."""

    def __init__(self, settings: Settings, db: MongoDatabase, script: Path = SCRIPT) -> None:
        self._settings = settings
        self._db = db
        self._script = script
        self._recovery = Recovery(db, settings.schedule.lease_seconds)
        self._lock = threading.Lock()
        self._stopping = False
        self._unreleased: Lease | None = None
        self._retry_at = steady_seconds() + _RETRY_SECONDS  # of what another process left
        self._watched: dict[threading.Thread, tuple[str, Guarded]] = {}

    def start(self, trigger: Trigger, *, force: bool = False, rollback: bool = False) -> str:
        """Start a training, or a rollback, and return its run's id; ``force`` turns the gate off.

        Raises LeaseHeldError if a training is in progress, of this process or another.
        """
        run_id = new_run_id()
        kind: Kind = "rollback" if rollback else "training"
        lease = Lease(self._db, self._settings.schedule.lease_seconds)
        log_file = self._settings.log_dir.resolve() / f"{run_id}.log"
        ledger = Ledger(self._db)
        limit = pymongo.timeout(_RECORD_SECONDS)  # the lock would hold up a stop
        with self._lock, mongo_errors("taking the lease"), limit:
            if self._stopping:
                raise errors.RecommenderError("the service is stopping; train elsewhere")
            self._settings.make_folder(log_file.parent)
            if self._unreleased:
                self._unreleased.release()
            self._unreleased = lease  # until a child process has it
            lease.acquire(run_id)
            try:
                settings = self._settings.with_values({"gate": False} if force else {})
                ledger.add(run_id, trigger, settings, log_file, kind)
                self._stop_crashed(ledger)
                options = ["--force"] * force + ["--rollback"] * rollback
                command = [sys.executable, str(self._script), "--run-id", run_id, *options]
                grace = settings.schedule.stop_grace_seconds
                with log_file.open("wb") as output:
                    lines = ChildLog(log_file, run_id)
                    child = Guarded(command, grace_seconds=grace, output=output)
            except BaseException as error:
                ledger.close(run_id, "failed", 1, one_line(error))
                lease.release()
                raise
            self._unreleased = None
            self._retry_at = math.inf
            about = run_id, trigger, child, lines, lease
            watcher = threading.Thread(target=self._watch, args=about)
            self._watched[watcher] = run_id, child
            watcher.start()
        log.info("%s started by %s", kind, trigger, extra={"run_id": run_id})
        return run_id

    def stop(self) -> None:
        """Stop the trainings that this process started, and start no more."""
        with self._lock:
            self._stopping = True
            running = self._running()
        with ThreadPoolExecutor() as pool:  # each may take as long as the grace
            pool.map(lambda training: training[1].stop(), running.values())
        for watcher in running:
            watcher.join()

    def tidy_up(self) -> bool:
        """Clean up after a training that died, unless one of this process is running.

        Return true, once, if the latest training is due to be retried.
        """
        with self._lock:
            running = bool(self._running())
        if not running:
            self._recovery.check()
        if steady_seconds() < self._retry_at:
            return False
        with mongo_errors("looking for a training to retry"):
            latest = next(iter(Ledger(self._db).recent(1)), {})
        if latest.get("state") in OPEN_STATES:
            return False
        self._retry_at = math.inf
        # Without a code it died, or MongoDB was away when it ended.
        failed_in_passing = latest.get("exit_code", _RETRIED_CODES[0]) in _RETRIED_CODES
        return latest.get("trigger") == "schedule" and failed_in_passing

    def _running(self) -> dict[threading.Thread, tuple[str, Guarded]]:
        """Return the running trainings, and forget those that have ended."""
        self._watched = {w: training for w, training in self._watched.items() if w.is_alive()}
        return self._watched

    def _stop_crashed(self, ledger: Ledger) -> None:
        """Stop trainings that lost their lease and are recorded as crashed: they cannot publish."""
        for run_id, child in self._running().values():
            if (ledger.get(run_id) or {}).get("state") == "crashed":
                log.warning("training %s lost its lease and is still running: stopping it", run_id)
                threading.Thread(target=child.stop, name=f"stop {run_id}").start()

    def _watch(
        self, run_id: str, trigger: Trigger, child: Guarded, lines: ChildLog, lease: Lease
    ) -> None:
        """Wait for the child's end; record it and clean up if the child could not."""
        code, overdue = self._wait(child, lines)
        state, error = _outcome(code, overdue=overdue, stopping=self._stopping)
        level, ending = logging.INFO, "succeeded"
        if code:
            level = logging.WARNING if state == "cancelled" else logging.ERROR
            error = lines.reason or error
            ending = f"{state} with code {code}: {error}"
        log.log(level, "training %s", ending, extra={"run_id": run_id})
        try:
            with pymongo.timeout(_RECORD_SECONDS):
                Ledger(self._db).close(run_id, state, code, error)
                lease.renew()
            recover(self._db)
            lease.release()
        except errors.LeaseLostError:
            log.debug("training %s has released its lease, or another run has it", run_id)
        except PyMongoError as failure:
            # Its lease expires; recovery or the next training marks it as crashed.
            log.error("the end of %s could not be recorded: %s", run_id, reason_of(failure))
        if trigger == "schedule" and code in _RETRIED_CODES:
            log.info("the training is tried once more in about %g s", _RETRY_SECONDS)
            self._retry_at = steady_seconds() + _RETRY_SECONDS

    def _wait(self, child: Guarded, lines: ChildLog) -> tuple[int, bool]:
        """Pass the child's log on until it ends; return its code, and true if it was overdue."""
        schedule = self._settings.schedule
        limit = schedule.timeout_minutes * 60 + 2 * schedule.stop_grace_seconds
        deadline = time.monotonic() + limit + _LAST_RESORT_SECONDS
        code: int | None = None
        while code is None and time.monotonic() < deadline:
            with suppress(subprocess.TimeoutExpired):
                code = child.wait(_PASS_ON_SECONDS)
            lines.pass_on()
        overdue = code is None  # the child's own time limit has failed
        code = child.stop() if code is None else code
        lines.pass_on(ended=True)
        return code, overdue


def _outcome(code: int, *, overdue: bool, stopping: bool) -> tuple[State, str | None]:
    if code == 0:
        return "succeeded", None
    if overdue or code == TimedOut.exit_code:
        how = "was killed, as it hung" if overdue else "could not clean up"
        return "failed", f"the training took longer than TRAIN_TIMEOUT_MINUTES and {how}"
    if code == _SIGTERM_CODE or (code == _SIGKILL_CODE and stopping):
        return "cancelled", "stopped before it could record its end"
    if code == _SIGKILL_CODE:
        return "crashed", "the training was killed"
    if code == errors.ModelRejectedError.exit_code:
        return "rejected", "the gate rejected the model; the training's log says why"
    return "failed", f"the training ended with exit code {code} and recorded no reason; see its log"
