"""Starts trainings as child processes of the service, and records how they ended."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from typing import NamedTuple

from pymongo.errors import PyMongoError

from recommender.core.child_process import Guarded
from recommender.core.errors import LeaseLostError, ModelRejectedError, RecommenderError
from recommender.core.logs import one_line
from recommender.core.mongo import MongoDatabase, mongo_errors, reason_of
from recommender.core.settings import Settings
from recommender.core.signals import TimedOut
from recommender.runs.lease import Lease
from recommender.runs.ledger import Ledger, State, Trigger, new_run_id
from recommender.runs.switch import sweep
from recommender.service.recovery import Recovery

SCRIPT = Path(__file__).parents[2] / "als_training.py"

# Added to the time limit and two graces before a hanging child is killed: its start is slow.
_LAST_RESORT_SECONDS = 30.0
_SIGTERM_CODE = 143
_SIGKILL_CODE = 137

log = logging.getLogger(__name__)


class _Training(NamedTuple):
    run_id: str
    child: Guarded


class Trainer:
    """Starts trainings, one at a time, each as a child process with a log of its own.

    Parameters
    ----------
    settings
        The service's settings; the child reads the same ones for itself.
    db
        The database.
    script
        What the child runs.
    """

    def __init__(self, settings: Settings, db: MongoDatabase, script: Path = SCRIPT) -> None:
        self._settings = settings
        self._db = db
        self._script = script
        self._tidier = Recovery(db, settings.schedule.lease_seconds)
        self._lock = threading.Lock()
        self._stopping = False
        self._unreleased: Lease | None = None
        self._watched: dict[threading.Thread, _Training] = {}

    def start(self, trigger: Trigger, *, force: bool = False) -> str:
        """Start a training and return its run's id.

        Parameters
        ----------
        trigger
            What started it.
        force
            Publish what the gate would reject.

        Raises
        ------
        LeaseHeldError
            If a training is in progress, whoever started it.
        DatabaseUnavailableError
            If MongoDB does not answer.
        """
        run_id = new_run_id()
        lease = Lease(self._db, self._settings.schedule.lease_seconds)
        log_file = self._settings.log_dir / f"{run_id}.log"
        ledger = Ledger(self._db)
        with self._lock, mongo_errors("taking the lease"):
            if self._stopping:
                raise RecommenderError("the service is stopping; start the training elsewhere")
            self._settings.make_folder(log_file.parent)
            if self._unreleased:
                self._unreleased.release()
            self._unreleased = lease  # until a training has it
            lease.acquire(run_id)
            try:
                settings = self._settings
                settings = settings.with_values({"gate": False}) if force else settings
                ledger.open(run_id, trigger, settings, log_file)
                child = self._spawn(run_id, log_file, ["--force"] if force else [])
            except BaseException as error:
                ledger.close(run_id, "failed", 1, one_line(error))
                lease.release()
                raise
            self._unreleased = None
            watcher = threading.Thread(
                target=self._watch, args=(run_id, child, lease), name=f"watch {run_id}"
            )
            self._watched[watcher] = _Training(run_id, child)
            watcher.start()
            self._end_those_given_up(ledger)
        log.info("training %s started by %s", run_id, trigger)
        return run_id

    def stop(self) -> None:
        """Stop the trainings that this process started, and start no more."""
        with self._lock:
            self._stopping = True
            living = self._living()
        endings = [_end(training.child) for training in living.values()]
        for thread in (*endings, *living):
            thread.join()

    def tidy_up(self) -> None:
        """Clean up after a training that died, unless one of ours is running."""
        with self._lock:
            watched = bool(self._living())
        if not watched:
            self._tidier.look()

    def _living(self) -> dict[threading.Thread, _Training]:
        """Return the running trainings, and drop those that have ended."""
        self._watched = {w: training for w, training in self._watched.items() if w.is_alive()}
        return self._watched

    def _end_those_given_up(self, ledger: Ledger) -> None:
        """Stop trainings that lost their lease and are recorded as crashed: they cannot publish."""
        for run_id, child in self._living().values():
            try:
                state = (ledger.get(run_id) or {}).get("state")
            except PyMongoError as failure:  # the new training has started all the same
                log.warning("the state of %s could not be read: %s", run_id, reason_of(failure))
                continue
            if state == "crashed":
                log.warning("training %s lost its lease and is still running: stopping it", run_id)
                _end(child)

    def _spawn(self, run_id: str, log_file: Path, options: list[str]) -> Guarded:
        command: list[str | Path] = [sys.executable, self._script, "--run-id", run_id, *options]
        with log_file.open("wb") as output:
            grace = self._settings.schedule.stop_grace_seconds
            return Guarded(command, grace_seconds=grace, output=output)

    def _wait(self, child: Guarded, overdue: threading.Event) -> int:
        """Wait for the child's end; stop it and set ``overdue`` if its own time limit failed."""

        def end() -> None:
            overdue.set()
            child.stop()

        seconds = self._settings.schedule.timeout_minutes * 60
        seconds += 2 * self._settings.schedule.stop_grace_seconds + _LAST_RESORT_SECONDS
        last_resort = threading.Timer(seconds, end)
        last_resort.daemon = True
        last_resort.start()
        try:
            return child.wait()
        finally:
            last_resort.cancel()

    def _watch(self, run_id: str, child: Guarded, lease: Lease) -> None:
        """Wait for the child's end, and record it if the child could not."""
        overdue = threading.Event()
        code = self._wait(child, overdue)
        log.log(logging.ERROR if code else logging.INFO, "training %s ended: %d", run_id, code)
        state, error = _outcome(code, overdue=overdue.is_set(), stopping=self._stopping)
        try:
            if Ledger(self._db).close(run_id, state, code, error):
                log.error("training %s: %s", run_id, error)
                lease.renew()
                sweep(self._db)
            lease.release()
        except LeaseLostError:
            log.info("training %s: another run holds the lease", run_id)
        except PyMongoError as failure:
            # Its lease expires; the next training or look at the schedule marks it as crashed.
            log.error("the end of %s could not be recorded: %s", run_id, reason_of(failure))


def _end(child: Guarded) -> threading.Thread:
    """Stop a training in a thread: it may take as long as the grace."""
    ending = threading.Thread(target=child.stop, name="end a training")
    ending.start()
    return ending


def _outcome(code: int, *, overdue: bool, stopping: bool) -> tuple[State, str]:
    if overdue or code == TimedOut.exit_code:
        how = "was killed, as it hung" if overdue else "could not clean up"
        return "failed", f"the training took longer than TRAIN_TIMEOUT_MINUTES and {how}"
    if code == _SIGTERM_CODE or (code == _SIGKILL_CODE and stopping):
        return "cancelled", "stopped with the service before it could record it"
    if code == _SIGKILL_CODE:
        return "crashed", "the training was killed"
    if code == ModelRejectedError.exit_code:
        return "rejected", "the gate rejected the model; the training's log says why"
    return "failed", f"the training ended with exit code {code} and recorded no reason; see its log"
