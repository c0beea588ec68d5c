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
from recommender.schedule import Schedule, Slot, steady_seconds

_JOB = "training"
_RETRY_SECONDS = 15.0
# The schedule is looked at so often at least: it may have been moved.
_MOST_SECONDS = 60.0
_JUMP_SECONDS = 1.0

log = logging.getLogger(__name__)


class SteadyScheduler(BackgroundScheduler):  # type: ignore[misc]
    """Fires after as long as it was told, even where the wall clock is set meanwhile.

    APScheduler compares the times of its jobs with the wall clock: set back by two hours, it would
    wait two hours more. So whenever it looks, all times first move with the wall clock.
    """

    def __init__(self) -> None:
        super().__init__(timezone=datetime.UTC)
        self._ahead = _wall_ahead()

    def time_in(self, seconds: float) -> datetime.datetime:
        """Return the time, as the scheduler has it, in so many seconds."""
        # Told by what the wall clock was when it was last looked at: if it was set since, this
        # time will move with it like all others.
        now = steady_seconds() + self._ahead
        return datetime.datetime.fromtimestamp(now + seconds, datetime.UTC)

    def _process_jobs(self) -> float:
        before, self._ahead = self._ahead, _wall_ahead()
        jump = self._ahead - before
        if abs(jump) > _JUMP_SECONDS:
            log.warning("the clock was set by %+.0f s; the schedule does not mind", jump)
            for job in self.get_jobs():
                job.modify(next_run_time=job.next_run_time + datetime.timedelta(seconds=jump))
        wait: float | None = super()._process_jobs()
        return _MOST_SECONDS if wait is None else min(wait, _MOST_SECONDS)


def _wall_ahead() -> float:
    """Return by how much the wall clock is ahead of the steady one, seconds."""
    return time.time() - steady_seconds()


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
        self._scheduler = SteadyScheduler()

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
        return max(self._deadline - steady_seconds(), 0.0)

    @property
    def latest(self) -> Slot:
        """The slot as it was when the schedule was last asked, within the last minute."""
        return self._latest

    def _tick(self) -> None:
        try:
            self._tidy_up()
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
                self._schedule.count_skip(held.holder)

    def _next_look(self) -> datetime.datetime:
        """Ask for the next slot and return when to look whether it is due."""
        try:
            with mongo_errors("reading the schedule"):
                self._latest = self._schedule.look()
        except DatabaseUnavailableError as error:
            log.warning("%s; trying again in %g s", error, _RETRY_SECONDS)
            return self._scheduler.time_in(_RETRY_SECONDS)
        left = self._latest.seconds_left
        self._deadline = steady_seconds() + left
        return self._scheduler.time_in(min(max(left, 0.0), _MOST_SECONDS))
