"""Starts the scheduled trainings: APScheduler waits, the schedule in MongoDB decides."""

import datetime
import logging
import threading
from collections.abc import Callable

from apscheduler.schedulers.background import BackgroundScheduler

from recommender.core.errors import DatabaseUnavailableError, LeaseHeldError, RecommenderError
from recommender.runs.ledger import Trigger, now
from recommender.service.schedule import Schedule, steady_seconds

_RETRY_SECONDS = 15.0
_MOST_SECONDS = 60.0  # between two readings: another process may have moved the slot
_CORRECTION_SECONDS = 5.0  # APScheduler waits by the wall clock, which may be set

log = logging.getLogger(__name__)


class TrainingClock:
    """Waits for each slot of the schedule, claims it, and starts a training.

    A scheduled training that failed in passing is retried once, unless the schedule is paused or
    off. A claimed slot whose training cannot start because MongoDB is unavailable is kept and tried
    again every few seconds until the next slot is due; then it is counted as skipped.
    ``start_training`` raises :class:`LeaseHeldError` if one is in progress. Before each reading of
    the schedule but the first, ``tidy_up`` is called; it returns true, once, if a retry is due.
    """

    def __init__(
        self,
        schedule: Schedule,
        start_training: Callable[[Trigger], object],
        tidy_up: Callable[[], bool | None] = lambda: False,
    ) -> None:
        self._schedule = schedule
        self._start_training = start_training
        self._tidy_up = tidy_up
        self._next_look = steady_seconds()
        self._claimed: Trigger | None = None
        self._scheduler = BackgroundScheduler(timezone=datetime.UTC)
        self._stopped = threading.Event()

    def start(self) -> None:
        """Read the schedule and begin to wait for its next slot."""
        self._look()
        self._scheduler.start()
        threading.Thread(target=self._correct_job, name="steady clock", daemon=True).start()

    def stop(self) -> None:
        """Start no more trainings; do not wait for a reading in progress, slow without MongoDB."""
        self._stopped.set()
        self._scheduler.remove_all_jobs()
        self._scheduler.shutdown(wait=False)

    def _tick(self) -> None:
        """Start a training if a slot is due, and read the schedule anew."""
        try:
            if self._tidy_up():
                self._claimed = self._claimed or "retry"
            if self._schedule.claim():
                if self._claimed == "schedule":
                    self._schedule.count_skip({})
                self._claimed = "schedule"
            if self._schedule.paused or not self._schedule.interval:
                self._claimed = None
            if self._claimed:
                self._train(self._claimed)
        except Exception as error:  # the schedule goes on after any failure to start one training
            bug = not isinstance(error, RecommenderError)
            log.error("the scheduled training could not be started: %s", error, exc_info=bug)
        self._look()

    def _train(self, trigger: Trigger) -> None:
        """Start the training of the claimed slot, or count the slot as skipped.

        If MongoDB is unavailable for either, the slot stays claimed for the next try.
        """
        try:
            self._start_training(trigger)
        except DatabaseUnavailableError:
            raise
        except Exception as error:
            bug = not isinstance(error, RecommenderError)
            log.warning("scheduled training skipped: %s", error, exc_info=bug)
            if trigger == "schedule":
                self._schedule.count_skip(error.holder if isinstance(error, LeaseHeldError) else {})
        self._claimed = None

    def _look(self) -> None:
        """Read the next slot and set the job that reads it again."""
        try:
            left = max(self._schedule.refresh(), 0.0)
            wait = min(left, _RETRY_SECONDS if self._claimed else _MOST_SECONDS)
        except DatabaseUnavailableError as error:
            log.warning("%s; trying again in %g s", error, _RETRY_SECONDS)
            wait = _RETRY_SECONDS
        self._next_look = steady_seconds() + wait
        self._set_job()

    def _set_job(self) -> None:
        run_date = now() + datetime.timedelta(seconds=self._next_look - steady_seconds())
        options = {"id": "training", "replace_existing": True, "misfire_grace_time": None}
        if not self._stopped.is_set():
            self._scheduler.add_job(self._tick, "date", run_date=run_date, **options)

    def _correct_job(self) -> None:
        """Set the job again every few seconds, by the steady clock."""
        while not self._stopped.wait(_CORRECTION_SECONDS):
            if self._next_look > steady_seconds():  # else the job is running
                self._set_job()
