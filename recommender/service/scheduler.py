"""Fires the scheduled trainings: APScheduler waits, the schedule in MongoDB decides."""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Callable, Mapping

from apscheduler.schedulers.background import BackgroundScheduler

from recommender.core.errors import DatabaseUnavailableError, LeaseHeldError, RecommenderError
from recommender.core.mongo import mongo_errors
from recommender.service.schedule import Schedule, Slot, steady_seconds

_JOB = "training"
_RETRY_SECONDS = 15.0
# The schedule is looked at so often at least: another process may have moved it.
_MOST_SECONDS = 60.0
# APScheduler waits by the wall clock. So often, its job is set again by the steady clock.
_CORRECTION_SECONDS = 5.0

log = logging.getLogger(__name__)


class TrainingClock:
    """Waits for each slot of the schedule, claims it, and starts a training.

    A claimed slot whose training cannot start because MongoDB is unavailable is kept and tried
    again every few seconds until the next slot is due; then it is counted as skipped.

    Parameters
    ----------
    schedule
        The slots.
    start_training
        Starts a training; raises :class:`LeaseHeldError` if one is in progress.
    interval_seconds
        From one slot to the next.
    tidy_up
        Called whenever the schedule is looked at, before a training is started.
    """

    def __init__(
        self,
        schedule: Schedule,
        start_training: Callable[[], object],
        interval_seconds: float,
        tidy_up: Callable[[], object] = lambda: None,
    ) -> None:
        self._schedule = schedule
        self._start_training = start_training
        self._tidy_up = tidy_up
        self._interval = interval_seconds
        self._latest = Slot(interval_seconds)
        self._deadline = steady_seconds() + interval_seconds
        self._next_look = steady_seconds()
        self._claimed = False
        self._scheduler = BackgroundScheduler(timezone=datetime.UTC)
        self._stopped = threading.Event()
        self._correction = threading.Thread(
            target=self._correct_job, name="steady clock", daemon=True
        )

    def start(self) -> None:
        """Look at the schedule, and begin to wait for its next slot."""
        self._look()
        self._scheduler.start()
        self._correction.start()

    def stop(self) -> None:
        """Start no more trainings; one that was started goes on.

        Does not wait for a look at the schedule in progress, which is slow without MongoDB.
        """
        self._stopped.set()
        self._scheduler.remove_all_jobs()
        self._scheduler.shutdown(wait=False)

    def seconds_left(self) -> float:
        """Return the seconds to the next scheduled training, at least 0.

        Counted by this process's steady clock since the schedule was last looked at.
        """
        return max(self._deadline - steady_seconds(), 0.0)

    @property
    def latest(self) -> Slot:
        """The slot as it was when the schedule was last looked at, within the last minute."""
        return self._latest

    def _tick(self) -> None:
        try:
            self._tidy_up()
            self._claim()
            if self._claimed:
                self._train()
        except RecommenderError as error:
            log.error("the scheduled training could not be started: %s", error)
        except Exception:  # the schedule goes on after any failure to start one training
            log.exception("the scheduled training could not be started")
        self._look()

    def _claim(self) -> None:
        with mongo_errors("claiming the scheduled training"):
            if self._schedule.claim():
                if self._claimed:
                    self._schedule.count_skip({})
                self._claimed = True

    def _train(self) -> None:
        """Start the training of the claimed slot, or count the slot as skipped.

        If MongoDB is unavailable for either, the slot stays claimed for the next try.
        """
        try:
            self._start_training()
        except DatabaseUnavailableError:
            raise
        except LeaseHeldError as held:
            log.warning("scheduled training skipped: %s", held)
            self._count_skip(held.holder)
        except Exception:
            log.exception("scheduled training skipped")
            self._count_skip({})
        self._claimed = False

    def _count_skip(self, holder: Mapping[str, object]) -> None:
        with mongo_errors("counting a skipped training"):
            self._schedule.count_skip(holder)

    def _look(self) -> None:
        """Read the next slot, and schedule the next look at it."""
        try:
            with mongo_errors("reading the schedule"):
                self._latest = self._schedule.look()
            left = max(self._latest.seconds_left, 0.0)
            self._deadline = steady_seconds() + left
            wait = min(left, _RETRY_SECONDS if self._claimed else _MOST_SECONDS)
        except DatabaseUnavailableError as error:
            log.warning("%s; trying again in %g s", error, _RETRY_SECONDS)
            wait = _RETRY_SECONDS
        self._next_look = steady_seconds() + wait
        self._set_job()

    def _set_job(self) -> None:
        if self._stopped.is_set():
            return
        wait = datetime.timedelta(seconds=self._next_look - steady_seconds())
        self._scheduler.add_job(
            self._tick,
            "date",
            run_date=_wall_time() + wait,
            id=_JOB,
            replace_existing=True,
            misfire_grace_time=None,
        )

    def _correct_job(self) -> None:
        """Set the job again every few seconds, in case the wall clock was set meanwhile."""
        while not self._stopped.wait(_CORRECTION_SECONDS):
            if self._next_look > steady_seconds():  # else the job is running
                self._set_job()


def _wall_time() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
