"""The training clock: fires when a slot is due, and survives failures and set clocks."""

import datetime
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import apscheduler.schedulers.base
import pytest

from recommender.core.errors import DatabaseUnavailableError, LeaseHeldError
from recommender.core.mongo import Document, MongoDatabase, connect, database
from recommender.core.ports import LOOPBACK
from recommender.core.settings import Settings, load_settings
from recommender.runs.lease import COLLECTION
from recommender.runs.ledger import Trigger
from recommender.service import training_clock
from recommender.service.schedule import SCHEDULE_ID, Schedule
from recommender.service.training_clock import TrainingClock
from tests.mongods import MongodForTests
from tests.support import PROJECT, free_port
from tests.waiting import DEADLINE_SECONDS, until

OFTEN = 0.3
HOUR = 3600.0
JUMPS = (10 * 365 * 24 * HOUR, -2 * HOUR)


class Trainings:
    """Counts the trainings started, or fails to start them."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.count = 0
        self.triggers: list[str] = []
        self.failure = failure

    def start(self, trigger: str) -> str:
        self.count += 1
        self.triggers.append(trigger)
        if self.failure:
            raise self.failure
        return "run-1"


@contextmanager
def running(
    db: MongoDatabase,
    start_training: Callable[[Trigger], object],
    interval: float,
    kind: type[Schedule] = Schedule,
) -> Iterator[Schedule]:
    schedule = kind(db, interval)
    clock = TrainingClock(schedule, start_training)
    clock.start()
    try:
        yield schedule
        settle(schedule, interval)
    finally:
        clock.stop()


def settle(schedule: Schedule, interval: float) -> None:
    """Wait until the clock has read the schedule and is not about to do so again."""
    until(lambda: interval / 4 < schedule.seconds_left() < interval - 0.05)


def slot(db: MongoDatabase) -> Document:
    return db[COLLECTION].find_one({"_id": SCHEDULE_ID}) or {}


def make_due(db: MongoDatabase) -> None:
    """Start the schedule so that its next slot has just passed."""
    Schedule(db, HOUR).refresh()
    earlier = slot(db)["next_at"] - datetime.timedelta(seconds=HOUR + 1)
    db[COLLECTION].update_one({"_id": SCHEDULE_ID}, {"$set": {"next_at": earlier}})


def test_the_first_training_is_one_interval_after_the_start(db: MongoDatabase) -> None:
    fired = threading.Event()
    started = time.monotonic()
    with running(db, lambda _: fired.set(), OFTEN):
        assert fired.wait(DEADLINE_SECONDS)
        assert time.monotonic() - started >= OFTEN


def test_a_missed_slot_is_made_up_for_once(db: MongoDatabase) -> None:
    make_due(db)
    trainings = Trainings()
    with running(db, trainings.start, HOUR) as schedule:
        until(lambda: schedule.seconds_left() > 0)
        assert trainings.count == 1
        assert schedule.seconds_left() > HOUR - 60
    assert trainings.count == 1


def test_one_of_several_clocks_fires(db: MongoDatabase) -> None:
    make_due(db)
    trainings = Trainings()
    schedules = [Schedule(db, HOUR) for _ in range(4)]
    clocks = [TrainingClock(schedule, trainings.start) for schedule in schedules]
    for clock in clocks:
        clock.start()
    try:
        for schedule in schedules:
            settle(schedule, HOUR)
    finally:
        for clock in clocks:
            clock.stop()
    assert trainings.count == 1


def test_a_slot_that_another_process_claims_first_is_not_fired(db: MongoDatabase) -> None:
    class Late(Schedule):
        def claim(self) -> bool:
            assert Schedule(db, HOUR).claim()
            return super().claim()

    make_due(db)
    trainings = Trainings()
    with running(db, trainings.start, HOUR, Late):
        pass
    assert trainings.count == 0


def test_a_slot_during_a_training_is_skipped_and_counted(db: MongoDatabase) -> None:
    make_due(db)
    with running(db, Trainings(LeaseHeldError({"run_id": "run-7"})).start, HOUR) as schedule:
        until(lambda: schedule.seconds_left() > 0)
    assert slot(db)["skipped"] == schedule.skipped == 1
    assert (schedule.last_skipped or {})["run_id"] == "run-7"


def test_a_slot_is_kept_until_mongodb_can_start_its_training(
    db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_clock, "_RETRY_SECONDS", 0.1)
    make_due(db)
    trainings = Trainings(DatabaseUnavailableError("an election"))
    with running(db, trainings.start, HOUR):
        until(lambda: trainings.count >= 3)
        trainings.failure = None
        failed = trainings.count
        until(lambda: trainings.count > failed)
        count = trainings.count
    assert trainings.count == count
    assert "skipped" not in slot(db)


def test_a_slot_that_never_starts_is_counted(db: MongoDatabase) -> None:
    for failure in (DatabaseUnavailableError("for longer than an interval"), OSError("no fork")):
        before = slot(db).get("skipped", 0)
        trainings = Trainings(failure)
        with running(db, trainings.start, OFTEN):
            until(lambda before=before: slot(db).get("skipped", 0) > before)  # type: ignore[misc]
        assert slot(db)["last_skipped"]["run_id"] is None


def test_a_retry_that_is_due_is_started_once_and_is_no_slot(
    db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_clock, "_MOST_SECONDS", 0.05)
    for failure in (None, LeaseHeldError({"run_id": "run-7"})):
        trainings, due = Trainings(failure), [True]
        clock = TrainingClock(Schedule(db, HOUR), trainings.start, lambda: bool(due and due.pop()))  # noqa: B023
        clock.start()
        until(lambda: trainings.count)  # noqa: B023
        clock.stop()
        assert trainings.triggers == ["retry"]
    assert "skipped" not in slot(db)


def test_without_a_schedule_nothing_is_retried(db: MongoDatabase) -> None:
    trainings, due = Trainings(), [True]
    clock = TrainingClock(Schedule(db, 0), trainings.start, due.pop)
    clock._tick()
    assert (trainings.count, due) == (0, [])


def test_a_retry_that_is_due_outlasts_an_election(
    db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unavailable(Schedule):
        failed = False

        def claim(self) -> bool:
            if not self.failed:
                self.failed = True
                raise DatabaseUnavailableError("an election")
            return super().claim()

    monkeypatch.setattr(training_clock, "_MOST_SECONDS", 0.05)
    monkeypatch.setattr(training_clock, "_RETRY_SECONDS", 0.05)
    trainings, due = Trainings(), [True]
    clock = TrainingClock(Unavailable(db, HOUR), trainings.start, lambda: bool(due and due.pop()))
    clock.start()
    until(lambda: trainings.count)
    clock.stop()
    assert trainings.triggers == ["retry"]


def test_a_paused_schedule_lets_slots_pass_also_after_a_restart(db: MongoDatabase) -> None:
    trainings = Trainings()
    Schedule(db, OFTEN).set_paused(True)
    with running(db, trainings.start, OFTEN) as schedule:
        for _ in range(2):
            due = slot(db).get("next_at")
            until(lambda due=due: slot(db)["next_at"] != due)  # type: ignore[misc]
        assert (trainings.count, schedule.paused) == (0, True)
        schedule.set_paused(False)
        until(lambda: trainings.count)
    assert "skipped" not in slot(db)


class WallClock(datetime.datetime):
    """APScheduler's wall clock, which can be set."""

    ahead = 0.0

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Self:
        now = datetime.datetime.now(tz) + datetime.timedelta(seconds=cls.ahead)
        return cls.fromtimestamp(now.timestamp(), tz)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> type[WallClock]:
    monkeypatch.setattr(WallClock, "ahead", 0.0)
    monkeypatch.setattr(apscheduler.schedulers.base, "datetime", WallClock)
    monkeypatch.setattr(training_clock, "now", lambda: WallClock.now(datetime.UTC))
    monkeypatch.setattr(training_clock, "_CORRECTION_SECONDS", 0.05)
    return WallClock


def test_setting_the_wall_clock_does_not_delay_a_slot(
    db: MongoDatabase, wall: type[WallClock]
) -> None:
    trainings = Trainings()
    with running(db, trainings.start, OFTEN):
        for ahead in (0.0, *JUMPS, 0.0):
            wall.ahead = ahead
            count = trainings.count
            until(lambda count=count: trainings.count >= count + 3)  # type: ignore[misc]


def test_setting_the_wall_clock_fires_nothing(
    db: MongoDatabase, wall: type[WallClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_clock, "_MOST_SECONDS", 0.1)
    trainings = Trainings()
    with running(db, trainings.start, HOUR) as schedule:
        for ahead in JUMPS:
            wall.ahead = ahead
            for _ in range(2):
                asked = slot(db)["asked_at"]
                until(lambda asked=asked: slot(db)["asked_at"] > asked)  # type: ignore[misc]
        assert HOUR - 60 < schedule.seconds_left() <= HOUR
    assert trainings.count == 0


def test_a_slot_that_another_process_moves_is_noticed(
    db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_clock, "_MOST_SECONDS", 0.1)
    trainings = Trainings()
    with running(db, trainings.start, HOUR):
        make_due(db)
        until(lambda: trainings.count == 1)


def test_a_stopped_clock_leaves_no_thread(db: MongoDatabase) -> None:
    trainings = Trainings()
    with running(db, trainings.start, OFTEN):
        until(lambda: trainings.count >= 1)
    assert [t for t in threading.enumerate() if "APScheduler" in t.name] == []


def test_a_clock_without_mongodb_at_the_start_waits_and_then_fires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(training_clock, "_RETRY_SECONDS", 0.2)
    caplog.set_level(logging.WARNING)
    port = free_port()
    uri = f"mongodb://{LOOPBACK}:{port}/?serverSelectionTimeoutMS=200"
    settings = load_settings(mongo_uri=uri, mongo_db="clock")
    trainings = Trainings()
    with connect(settings.mongo) as client:
        schedule = Schedule(database(client, settings.mongo), OFTEN)
        clock = TrainingClock(schedule, trainings.start)
        clock.start()
        assert "0.2 s" in caplog.text
        with MongodForTests(tmp_path / "mongo", port=port):
            until(lambda: trainings.count >= 2)
        caplog.clear()
        until(lambda: "0.2 s" in caplog.text)  # down again
        count = trainings.count
        with MongodForTests(tmp_path / "mongo", port=port):
            until(lambda: trainings.count > count)
            settle(schedule, OFTEN)
            clock.stop()


STOP_IN_A_TICK = """
import sys, threading
sys.path.insert(0, PROJECT)
from recommender.service.training_clock import TrainingClock
from recommender.core.mongo import connect, database
from recommender.service.schedule import Schedule
from recommender.core.settings import load_settings
settings = load_settings()
db = database(connect(settings.mongo), settings.mongo)
inside, go = threading.Event(), threading.Event()
clock = TrainingClock(Schedule(db, 0.1), lambda _: (inside.set(), go.wait(10)))
clock.start()
inside.wait(10)
threading.Timer(0.3, go.set).start()
clock.stop()
print("stopped", flush=True)
"""


def test_stopping_the_clock_during_a_tick_ends(db: MongoDatabase, db_settings: Settings) -> None:
    environment = {**os.environ, "MONGO_URI": db_settings.mongo.uri.get_secret_value()}
    done = subprocess.run(
        [sys.executable, "-c", STOP_IN_A_TICK.replace("PROJECT", repr(str(PROJECT)))],
        env=environment | {"MONGO_DB": db_settings.mongo.db},
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert done.stdout == "stopped\n"
    assert "JobLookupError" not in done.stderr
