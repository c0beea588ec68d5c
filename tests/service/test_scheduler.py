"""The clock: fires when a slot is due, survives what may fail, and tells how long it is."""

from __future__ import annotations

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
from recommender.core.settings import Settings, load_settings
from recommender.demo.commands import PROJECT
from recommender.demo.embedded_mongod import EmbeddedMongo
from recommender.runs.lease import COLLECTION
from recommender.service import scheduler as clock_module
from recommender.service.schedule import SCHEDULE_ID, Schedule, steady_seconds
from recommender.service.scheduler import TrainingClock
from tests.waiting import DEADLINE_SECONDS, until

OFTEN = 0.3
HOUR = 3600.0


class Trainings:
    """Stands in for what starts trainings: counts, and fails where it is told to."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.count = 0
        self.failure = failure

    def start(self) -> str:
        self.count += 1
        if self.failure:
            raise self.failure
        return "run-1"


@contextmanager
def running(
    db: MongoDatabase, start_training: Callable[[], object], interval: float
) -> Iterator[TrainingClock]:
    clock = TrainingClock(Schedule(db, interval), start_training, interval)
    clock.start()
    try:
        yield clock
        settle(clock, interval)
    finally:
        clock.stop()


def settle(clock: TrainingClock, interval: float) -> None:
    """Wait until the clock has looked and does not look again at once."""
    until(lambda: interval / 4 < clock.seconds_left() < interval - 0.05)


def slot(db: MongoDatabase) -> Document:
    return db[COLLECTION].find_one({"_id": SCHEDULE_ID}) or {}


def make_due(db: MongoDatabase, interval: float = HOUR) -> None:
    """Start the schedule so that its next slot has just passed."""
    Schedule(db, interval).seconds_left()
    earlier = slot(db)["next_at"] - datetime.timedelta(seconds=interval + 1)
    db[COLLECTION].update_one({"_id": SCHEDULE_ID}, {"$set": {"next_at": earlier}})


def test_it_fires_again_and_again(db: MongoDatabase) -> None:
    trainings = Trainings()
    with running(db, trainings.start, OFTEN):
        until(lambda: trainings.count >= 3)


def test_the_first_training_is_one_interval_after_the_start(db: MongoDatabase) -> None:
    fired = threading.Event()
    started = time.monotonic()
    with running(db, fired.set, OFTEN):
        assert fired.wait(DEADLINE_SECONDS)
        assert time.monotonic() - started >= OFTEN


def test_a_slot_that_was_missed_is_caught_up_with_once(db: MongoDatabase) -> None:
    make_due(db)
    trainings = Trainings()
    with running(db, trainings.start, HOUR) as clock:
        until(lambda: clock.seconds_left() > 0)
        assert trainings.count == 1
        assert clock.seconds_left() > HOUR - 60
    assert trainings.count == 1


def test_of_several_clocks_one_fires(db: MongoDatabase) -> None:
    make_due(db)
    trainings = Trainings()
    clocks = [TrainingClock(Schedule(db, HOUR), trainings.start, HOUR) for _ in range(4)]
    for clock in clocks:
        clock.start()
    try:
        for clock in clocks:
            settle(clock, HOUR)
    finally:
        for clock in clocks:
            clock.stop()
    assert trainings.count == 1


def test_a_slot_that_another_process_took_first_is_not_fired(db: MongoDatabase) -> None:
    class Late(Schedule):
        def claim(self) -> bool:
            assert Schedule(db, HOUR).claim()
            return super().claim()

    make_due(db)
    trainings = Trainings()
    clock = TrainingClock(Late(db, HOUR), trainings.start, HOUR)
    clock.start()
    try:
        settle(clock, HOUR)
    finally:
        clock.stop()
    assert trainings.count == 0


def test_a_training_in_progress_is_a_counted_skip(
    db: MongoDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    make_due(db)
    with running(db, Trainings(LeaseHeldError({"run_id": "run-7"})).start, HOUR) as clock:
        until(lambda: clock.seconds_left() > 0)
    assert slot(db)["skipped"] == clock.latest.skipped == 1
    assert clock.latest.last_skipped
    assert clock.latest.last_skipped["run_id"] == "run-7"
    assert "scheduled training skipped: training run-7 is in progress" in caplog.text


def test_a_slot_is_kept_until_mongodb_can_start_its_training(
    db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_module, "_RETRY_SECONDS", 0.1)
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


def test_the_time_left_runs_by_the_steady_clock(
    db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    steady = [0.0]
    with running(db, Trainings().start, HOUR) as clock:
        left = clock.seconds_left()
        assert HOUR - 60 < left <= HOUR
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: 0.0)
            assert HOUR - 60 < clock.seconds_left() <= left
        with monkeypatch.context() as patch:
            now = steady_seconds()
            patch.setattr(clock_module, "steady_seconds", lambda: steady[0])
            steady[0] = now + 100
            assert clock.seconds_left() == pytest.approx(left - 100, abs=30)
            steady[0] = now + 200
            assert clock.seconds_left() == pytest.approx(left - 200, abs=30)
            steady[0] = now + 2 * HOUR
            assert clock.seconds_left() == 0


class WallClock(datetime.datetime):
    """APScheduler's wall clock, which can be set."""

    ahead = 0.0

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Self:
        found = datetime.datetime.now(tz) + datetime.timedelta(seconds=cls.ahead)
        return cls.fromtimestamp(found.timestamp(), tz)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> type[WallClock]:
    monkeypatch.setattr(WallClock, "ahead", 0.0)
    monkeypatch.setattr(apscheduler.schedulers.base, "datetime", WallClock)
    monkeypatch.setattr(clock_module, "_wall_time", lambda: WallClock.now(datetime.UTC))
    monkeypatch.setattr(clock_module, "_CORRECTION_SECONDS", 0.05)
    return WallClock


YEARS = 10 * 365 * 24 * HOUR


@pytest.mark.parametrize("jump", [YEARS, -2 * HOUR])
def test_a_wall_clock_that_is_set_does_not_delay_a_slot(
    db: MongoDatabase, wall: type[WallClock], jump: float
) -> None:
    trainings = Trainings()
    with running(db, trainings.start, OFTEN):
        until(lambda: trainings.count >= 1)
        wall.ahead = jump
        count = trainings.count
        until(lambda: trainings.count >= count + 3)
        wall.ahead = 0.0
        count = trainings.count
        until(lambda: trainings.count >= count + 3)


@pytest.mark.parametrize("jump", [YEARS, -2 * HOUR])
def test_a_wall_clock_that_is_set_fires_nothing(
    db: MongoDatabase, wall: type[WallClock], jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_module, "_MOST_SECONDS", 0.1)
    trainings = Trainings()
    with running(db, trainings.start, HOUR) as clock:
        wall.ahead = jump
        for _ in range(2):
            asked = slot(db)["asked_at"]
            until(lambda asked=asked: slot(db)["asked_at"] > asked)  # type: ignore[misc]
        assert HOUR - 60 < clock.seconds_left() <= HOUR
    assert trainings.count == 0


def test_a_slot_that_was_moved_is_noticed_before_long(
    db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_module, "_MOST_SECONDS", 0.1)
    trainings = Trainings()
    with running(db, trainings.start, HOUR):
        make_due(db)
        until(lambda: trainings.count == 1)


def test_before_mongodb_has_answered_the_time_left_is_an_interval(db: MongoDatabase) -> None:
    clock = TrainingClock(Schedule(db, HOUR), Trainings().start, HOUR)
    assert HOUR - 60 < clock.seconds_left() <= HOUR


def test_a_restart_goes_on_with_the_clock(db: MongoDatabase) -> None:
    with running(db, Trainings().start, HOUR):
        due = slot(db)["next_at"]
    earlier = due - datetime.timedelta(seconds=HOUR / 2)
    db[COLLECTION].update_one({"_id": SCHEDULE_ID}, {"$set": {"next_at": earlier}})
    with running(db, Trainings().start, HOUR) as clock:
        assert HOUR / 2 - 60 < clock.seconds_left() <= HOUR / 2


def test_once_stopped_it_fires_no_more(db: MongoDatabase) -> None:
    trainings = Trainings()
    with running(db, trainings.start, OFTEN):
        until(lambda: trainings.count >= 1)
    assert clock_threads() == []


def clock_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "APScheduler" in thread.name]


def test_without_mongodb_at_the_start_it_waits_and_then_fires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(clock_module, "_RETRY_SECONDS", 0.2)
    caplog.set_level(logging.WARNING)
    mongo = EmbeddedMongo(tmp_path / "mongo")
    with mongo:
        port = mongo.port
    settings = load_settings(
        mongo_uri=f"{mongo.uri}?serverSelectionTimeoutMS=200", mongo_db="clock"
    )
    trainings = Trainings()
    with connect(settings) as client:
        db = database(client, settings)
        clock = TrainingClock(Schedule(db, OFTEN), trainings.start, OFTEN)
        clock.start()
        assert "trying again in 0.2 s" in caplog.text
        with EmbeddedMongo(tmp_path / "mongo", port=port):
            until(lambda: trainings.count >= 2)
        caplog.clear()
        until(lambda: "trying again" in caplog.text)  # down again
        count = trainings.count
        with EmbeddedMongo(tmp_path / "mongo", port=port):
            until(lambda: trainings.count > count)
            settle(clock, OFTEN)
            clock.stop()


STOP_IN_A_TICK = """
import sys, threading, time
sys.path.insert(0, PROJECT)
from recommender.service.scheduler import TrainingClock
from recommender.core.mongo import connect, database
from recommender.service.schedule import Schedule
from recommender.core.settings import load_settings
settings = load_settings()
db = database(connect(settings), settings)
inside, go = threading.Event(), threading.Event()
clock = TrainingClock(Schedule(db, 0.1), lambda: (inside.set(), go.wait(10)), 0.1)
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


def test_after_any_failure_to_start_the_time_left_is_that_of_the_next_slot(
    db: MongoDatabase,
) -> None:
    failed = threading.Event()

    def start() -> None:
        failed.set()
        raise OSError("No space left on device")

    Schedule(db, 600).seconds_left()
    db["TrainingState"].update_one(
        {"_id": "schedule"}, [{"$set": {"next_at": {"$add": ["$$NOW", -1]}}}]
    )
    clock = TrainingClock(Schedule(db, 600), start, 600)
    clock.start()
    try:
        assert failed.wait(20)
        until(lambda: clock.seconds_left() > 500)
    finally:
        clock.stop()
