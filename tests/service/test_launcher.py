"""Trainings as child processes of the service: how they start, and how their end is recorded."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import psutil
import pytest
from pymongo.errors import AutoReconnect

from recommender.core.errors import DatabaseUnavailableError
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.settings import Settings
from recommender.runs.lease import COLLECTION, LEASE_ID, holder
from recommender.runs.ledger import OPEN_STATES, Ledger
from recommender.service import launcher
from recommender.service.launcher import Trainer
from tests.service.test_api import service
from tests.support import PROJECT, set_environment
from tests.waiting import until

MINUTE = 60.0
PRINTS_ITS_PID = """
import os, signal
print(os.getpid(), flush=True)
signal.pause()
"""
IGNORES_SIGTERM = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("started", flush=True)
while True:
    signal.pause()
"""


@contextmanager
def trainer_of(settings: Settings, db: MongoDatabase, program: str) -> Iterator[Trainer]:
    """Yield a trainer whose child process runs the program."""
    script = settings.work_dir / "child.py"
    script.write_text(program)
    trainer = Trainer(settings, db, script)
    try:
        yield trainer
    finally:
        trainer.stop()


def ended(db: MongoDatabase, run_id: str) -> Document:
    """Return a run's document once it has ended and its lease is released."""
    ended_run = {"_id": run_id, "state": {"$nin": list(OPEN_STATES)}}
    run = until(lambda: db["TrainingRuns"].find_one(ended_run))
    until(lambda: holder(db) is None)
    return run or {}


def state_of(db: MongoDatabase, run_id: str) -> str:
    return str((Ledger(db).get(run_id) or {})["state"])


def expire_lease(db: MongoDatabase) -> None:
    past = [{"$set": {"expires_at": {"$subtract": ["$$NOW", 1]}}}]
    db[COLLECTION].update_one({"_id": LEASE_ID}, past)


def process_of(run_id: str, settings: Settings) -> psutil.Process:
    """Return the process that has written its id to its log."""
    log = settings.log_dir / f"{run_id}.log"
    return psutil.Process(int(until(lambda: log.read_text().strip())))


def test_an_end_that_the_child_did_not_record_is_recorded_by_its_code(
    db: MongoDatabase, db_settings: Settings
) -> None:
    states = {
        0: "succeeded",
        1: "failed",
        76: "rejected",
        143: "cancelled",
        137: "crashed",
        124: "failed",
    }
    for code, state in states.items():
        with trainer_of(db_settings, db, f"raise SystemExit({code})") as trainer:
            run = ended(db, trainer.start("api"))
        assert (run["state"], run["exit_code"], bool(run["error"])) == (state, code, code > 0)


def test_the_end_of_a_failed_training_is_one_error_with_its_reason(
    db: MongoDatabase, db_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    program = "import sys; print('x' * 2**20); sys.exit('error: ENOSPC')"
    with trainer_of(db_settings, db, program) as trainer:
        run_id = trainer.start("api")
        assert ended(db, run_id)["error"] == "ENOSPC"
    (error,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert error.getMessage().endswith("code 1: ENOSPC")
    assert error.__dict__["run_id"] == run_id
    assert (db_settings.log_dir / f"{run_id}.log").stat().st_size > 2**20


LEAVES_A_STAGE = """
import sys
from recommender.core.settings import load_settings
from recommender.runs.run import training_run
with training_run(load_settings(), run_id=sys.argv[2]) as run:
    run.db["Clusters.staged." + run.run_id].insert_one({})
"""


def test_stages_that_a_child_left_are_dropped_before_the_lease_is_released(
    db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, db_settings, PYTHONPATH=str(PROJECT))
    with trainer_of(db_settings, db, LEAVES_A_STAGE) as trainer:
        assert ended(db, trainer.start("api"))["state"] == "succeeded"
    assert not [name for name in db.list_collection_names() if ".staged." in name]


def test_a_hung_mongodb_does_not_keep_the_service_from_stopping(
    db: MongoDatabase, db_settings: Settings
) -> None:
    mongod = psutil.Process(db.client.admin.command("serverStatus")["pid"])
    with (
        ThreadPoolExecutor() as pool,
        service(db_settings, STOP_GRACE_SECONDS="0.5") as (process, url),
    ):
        mongod.suspend()
        try:
            pool.submit(httpx.post, f"{url}/train", timeout=60)
            process.terminate()
            process.wait(timeout=15)  # PyMongo alone waits for 30
        finally:
            mongod.resume()


def test_a_lease_that_could_not_be_released_does_not_refuse_the_next_try(
    db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise AutoReconnect("an election")

    with trainer_of(db_settings, db, "raise SystemExit(1)") as trainer:
        with monkeypatch.context() as patch:
            for action in ("add", "close"):
                patch.setattr(Ledger, action, unreachable)
            with pytest.raises(DatabaseUnavailableError):
                trainer.start("schedule")
        assert holder(db)
        ended(db, trainer.start("schedule"))


def test_force_reaches_the_child_and_the_ledger(db: MongoDatabase, db_settings: Settings) -> None:
    with trainer_of(db_settings, db, "import sys; print(*sys.argv[1:])") as trainer:
        for force in (False, True):
            run = ended(db, trainer.start("api", force=force))
            options = Path(run["log"]).read_text().split()
            assert options == ["--run-id", run["run_id"], *["--force"] * force]
            assert (run["forced"], run["settings"]["gate"]) == (force, not force)


def test_a_child_that_is_killed_as_the_service_stops_is_cancelled(
    db: MongoDatabase, db_settings: Settings
) -> None:
    quick = db_settings.with_values({"stop_grace_seconds": 0.1})
    with trainer_of(quick, db, IGNORES_SIGTERM) as trainer:
        run_id = trainer.start("api")
        until(lambda: "started" in (db_settings.log_dir / f"{run_id}.log").read_text())
    assert ended(db, run_id)["state"] == "cancelled"


def test_a_scheduled_training_that_failed_in_passing_is_retried_once(
    db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_RETRY_SECONDS", 0.0)
    for code, trigger, retried in (
        (69, "schedule", True),
        (70, "schedule", True),
        (76, "schedule", False),
        (69, "api", False),
        (69, "retry", False),
    ):
        with trainer_of(db_settings, db, f"raise SystemExit({code})") as trainer:
            ended(db, trainer.start(trigger))  # type: ignore[arg-type]
            until(lambda: not trainer._running())
            assert [trainer.tidy_up(), trainer.tidy_up()] == [retried, False]


def test_a_retry_outlasts_a_restart_of_the_service(
    db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trainer_of(db_settings, db, "raise SystemExit(70)") as trainer:
        run_id = trainer.start("schedule")
        ended(db, run_id)
        until(lambda: not trainer._running())
    monkeypatch.setattr(launcher, "_RETRY_SECONDS", 0.0)
    for state, code, is_due in (
        ("running", 70, False),
        ("failed", 70, True),
        ("rejected", 76, False),
    ):
        restarted = Trainer(db_settings, db)
        Ledger(db).update(run_id, {"exit_code": code, "state": state})
        assert [restarted.tidy_up(), restarted.tidy_up()] == [is_due, False]
    Ledger(db).add("~later", "api", db_settings, None)
    Ledger(db).close("~later", "failed", 70, None)
    assert not Trainer(db_settings, db).tidy_up()


def recover(trainer: Trainer) -> None:
    """Let it look twice, as far apart as a lease lasts."""
    trainer.tidy_up()
    trainer._recovery._since -= MINUTE
    trainer.tidy_up()


def test_a_service_recovers_from_trainings_of_others_only(
    db: MongoDatabase, db_settings: Settings
) -> None:
    with trainer_of(db_settings, db, PRINTS_ITS_PID) as trainer:
        run_id = trainer.start("api")
        expire_lease(db)
        recover(trainer)
        assert state_of(db, run_id) in OPEN_STATES
        recover(Trainer(db_settings, db))
        assert state_of(db, run_id) == "crashed"


def test_a_training_that_slept_past_its_lease_is_stopped_when_another_starts(
    db: MongoDatabase, db_settings: Settings
) -> None:
    quick = db_settings.with_values({"stop_grace_seconds": 0.1})
    with trainer_of(quick, db, PRINTS_ITS_PID) as trainer:
        asleep = process_of(trainer.start("api"), db_settings)
        asleep.suspend()
        expire_lease(db)
        run_id = trainer.start("api")
        awake = process_of(run_id, db_settings)
        until(lambda: not asleep.is_running())
        assert awake.is_running()
        assert (holder(db) or {})["run_id"] == run_id
        awake.suspend()
        expire_lease(db)
        newest = process_of(trainer.start("api"), db_settings)
        newest.suspend()
        trainer.stop()
        assert not any(process.is_running() for process in (awake, newest))


SUCCEEDS_AND_LINGERS = """
import os, signal, sys
from recommender.runs.run import training_run
from recommender.core.settings import load_settings
with training_run(load_settings(), run_id=sys.argv[2]):
    pass
print(os.getpid(), flush=True)
signal.pause()
"""


def test_a_training_that_has_succeeded_is_not_stopped_when_another_starts(
    db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, db_settings, PYTHONPATH=str(PROJECT))
    quick = db_settings.with_values({"stop_grace_seconds": 0.1})
    with trainer_of(quick, db, SUCCEEDS_AND_LINGERS) as trainer:
        first = process_of(trainer.start("api"), db_settings)
        process_of(trainer.start("api"), db_settings)
        assert first.is_running()


def test_a_child_that_hangs_beyond_its_own_limit_is_killed(
    db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_LAST_RESORT_SECONDS", 0.3)
    quick = {"train_timeout_minutes": 0.001, "stop_grace_seconds": 0.1}
    with trainer_of(db_settings.with_values(quick), db, IGNORES_SIGTERM) as trainer:
        run = ended(db, trainer.start("schedule"))
    assert (run["state"], run["exit_code"]) == ("failed", 137)
