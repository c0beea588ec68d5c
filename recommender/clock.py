"""Fires the scheduled trainings: APScheduler waits, the schedule in MongoDB decides."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from recommender.errors import DatabaseUnavailableError, LeaseHeldError, RecommenderError
from recommender.mongo import mongo_errors
from recommender.schedule import Schedule

_JOB = "training"
_RETRY_SECONDS = 15.0

log = logging.getLogger(__name__)


class TrainingClock:
    """Waits for each slot of the schedule, claims it, and starts a training.

    Parameters
    ----------
    schedule
        The slots.
    start_training
        Starts a training; raises :class:`LeaseHeldError` where one is in progress.
    interval_seconds
        From one slot to the next.
    """

    def __init__(
        self, schedule: Schedule, start_training: Callable[[], object], interval_seconds: float
    ) -> None:
        self._schedule = schedule
        self._start_training = start_training
        self._interval = interval_seconds
        self._deadline = time.monotonic() + interval_seconds
        self._scheduler = BackgroundScheduler(timezone=datetime.UTC)

    def start(self) -> None:
        """Begin to wait for the next slot; without MongoDB, try again every few seconds."""
        self._scheduler.start()
        self._scheduler.add_job(
            self._tick,
            IntervalTrigger(seconds=self._interval),
            id=_JOB,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
            next_run_time=self._next_look(),
        )

    def stop(self) -> None:
        """Fire no more; a training that was started goes on.

        Does not wait for a look at the schedule that is under way: without MongoDB, it takes long.
        """
        self._scheduler.shutdown(wait=False)

    def seconds_left(self) -> float:
        """Return the seconds to the next scheduled training, at least 0.

        Counted by this process's steady clock since the schedule was last asked.
        """
        return max(self._deadline - time.monotonic(), 0.0)

    def _tick(self) -> None:
        try:
            with mongo_errors("claiming the scheduled training"):
                claimed = self._schedule.claim()
            if claimed:
                self._train()
        except RecommenderError as error:
            log.error("the scheduled training could not be started: %s", error)
        except Exception:  # a schedule outlives whatever stopped one training from starting
            log.exception("the scheduled training could not be started")
        with suppress(JobLookupError):  # the clock was stopped meanwhile
            self._scheduler.modify_job(_JOB, next_run_time=self._next_look())

    def _train(self) -> None:
        try:
            self._start_training()
        except LeaseHeldError as held:
            log.warning("scheduled training skipped: %s", held)
            with mongo_errors("counting a skipped training"):
                self._schedule.count_skip()

    def _next_look(self) -> datetime.datetime:
        """Ask for the next slot and return when to look whether it is due."""
        try:
            with mongo_errors("reading the schedule"):
                left = self._schedule.seconds_left()
        except DatabaseUnavailableError as error:
            log.warning("%s; trying again in %g s", error, _RETRY_SECONDS)
            left = _RETRY_SECONDS
        else:
            self._deadline = time.monotonic() + left
        return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=max(left, 0.0))
