"""A run's life: however it ends, the ledger says so, the lease is free and no stage is left."""

import contextlib
import datetime
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pymongo.errors import AutoReconnect

from recommender.core.errors import (
    DatabaseUnavailableError,
    DataError,
    LeaseHeldError,
    LeaseLostError,
    ModelRejectedError,
    PublishError,
)
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.settings import Settings
from recommender.core.signals import Cancelled
from recommender.publishing import staging
from recommender.publishing.publish import publish
from recommender.publishing.staging import staged
from recommender.runs import run as run_module
from recommender.runs.lease import COLLECTION as STATE
from recommender.runs.lease import LEASE_ID, Lease, holder
from recommender.runs.ledger import Ledger
from recommender.runs.run import training_run
from recommender.runs.switch import recover
from tests.mongods import MongodForTests
from tests.support import PROJECT, environment
from tests.waiting import DEADLINE_SECONDS, until

ENDS: list[tuple[BaseException, str, int, str]] = [
    (DataError("no\nreview"), "failed", 65, "no review"),
    (PublishError("not that many"), "failed", 70, "not that many"),
    (ModelRejectedError("no good"), "rejected", 76, "no good"),
    (DatabaseUnavailableError("gone"), "failed", 69, "gone"),
    (ValueError("a\nbug"), "failed", 1, "ValueError: a bug"),
    (MemoryError(), "failed", 1, "MemoryError:"),
    (SystemExit(3), "failed", 1, "SystemExit: 3"),
    (Cancelled(signal.SIGTERM), "cancelled", 143, "stopped by SIGTERM"),
    (Cancelled(signal.SIGINT), "cancelled", 130, "stopped by SIGINT"),
]


def entry(db: MongoDatabase, run_id: str) -> Document:
    run = Ledger(db).get(run_id)
    assert run
    return run


def only_entry(db: MongoDatabase) -> Document:
    (run,) = Ledger(db).recent(10)
    return run


@pytest.fixture
def quick_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_BEATS_PER_LEASE", 10_000)


def take_over(db: MongoDatabase) -> None:
    """Make the lease another run's, as after a pause beyond its expiry."""
    changed = {"$set": {"run_id": "another"}, "$inc": {"token": 1}}
    db[STATE].update_one({"_id": LEASE_ID}, changed)


def test_a_run_that_succeeds_is_recorded(db: MongoDatabase, db_settings: Settings) -> None:
    with training_run(db_settings) as run:
        begun = entry(db, run.run_id)
        assert run.document is None
        assert (run.settings, run.db.name) == (db_settings, db.name)
    ended = only_entry(db)
    assert (begun["state"], begun["trigger"], begun["pid"]) == ("running", "script", os.getpid())
    assert begun["queued_at"] <= begun["started_at"]
    assert (ended["state"], ended["exit_code"], ended["error"]) == ("succeeded", 0, None)
    assert ended["ended_at"] >= ended["started_at"]
    assert run.document == ended


@pytest.mark.parametrize(
    ("error", "state", "code", "message"), ENDS, ids=[f"{e!r}"[:30] for e, *_ in ENDS]
)
def test_a_run_that_fails_is_recorded_and_leaves_nothing(
    db: MongoDatabase,
    db_settings: Settings,
    error: BaseException,
    state: str,
    code: int,
    message: str,
) -> None:
    db["Recommendations"].insert_one({"_id": 1, "user_id": "u"})
    with pytest.raises(type(error)) as caught:
        stage_and_fail(db_settings, error)
    assert caught.value is error
    ended = only_entry(db)
    assert (ended["state"], ended["exit_code"], ended["error"]) == (state, code, message)
    assert ended["ended_at"] >= ended["started_at"]
    assert holder(db) is None
    assert set(db.list_collection_names()) == {"Recommendations", "TrainingRuns", "TrainingState"}
    assert list(db["Recommendations"].find()) == [{"_id": 1, "user_id": "u"}]


def stage_and_fail(settings: Settings, error: BaseException | None) -> None:
    with (
        training_run(settings) as run,
        staged(run.db, "Recommendations", run.run_id) as stage,
    ):
        stage.insert([{"user_id": "new"}])
        assert run.document is None
        if error:
            raise error


def test_a_run_holds_the_lease_until_its_end(db: MongoDatabase, db_settings: Settings) -> None:
    with training_run(db_settings) as run:
        held = holder(db)
        assert held
        assert held["run_id"] == run.run_id
        run.lease.renew()
    assert holder(db) is None


def test_a_run_during_another_is_refused(db: MongoDatabase, db_settings: Settings) -> None:
    with training_run(db_settings) as run:
        with (
            pytest.raises(LeaseHeldError, match=run.run_id) as caught,
            training_run(db_settings),
        ):
            pytest.fail("two at once")
        assert caught.value.holder["host"] == socket.gethostname()
        assert only_entry(db)["state"] == "running"
        run.lease.renew()


def test_phases_are_recorded_with_start_and_seconds(
    db: MongoDatabase, db_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="recommender.runs.run")
    with training_run(db_settings) as run:
        with run.phase("read"):
            assert entry(db, run.run_id)["phase"] == "read"
            assert entry(db, run.run_id)["phases"] == []
        with run.phase("train"):
            assert entry(db, run.run_id)["phase"] == "train"
    first, second = only_entry(db)["phases"]
    assert (first["name"], second["name"]) == ("read", "train")
    assert 0 <= first["seconds"] < 60
    assert isinstance(first["started_at"], datetime.datetime)
    assert first["started_at"] <= second["started_at"]
    assert "phase read" in caplog.messages


def test_a_phase_that_fails_is_the_last(db: MongoDatabase, db_settings: Settings) -> None:
    with pytest.raises(DataError), training_run(db_settings) as run, run.phase("read"):
        raise DataError("nothing")
    assert (only_entry(db)["phase"], only_entry(db)["phases"]) == ("read", [])


def test_record_writes_fields(db: MongoDatabase, db_settings: Settings) -> None:
    with training_run(db_settings) as run:
        run.record(users=3, **{"metrics.als": {"rmse": 1.0}})
    assert run.document
    assert (run.document["users"], run.document["metrics"]) == (3, {"als": {"rmse": 1.0}})


def test_a_run_that_lost_its_lease_does_not_publish(
    db: MongoDatabase, db_settings: Settings
) -> None:
    with pytest.raises(LeaseLostError, match="another") as caught:
        run_until_publishing(db, db_settings)
    assert caught.value.exit_code == 75
    assert (only_entry(db)["state"], only_entry(db)["exit_code"]) == ("failed", 75)
    assert [name for name in db.list_collection_names() if "Recommendations" in name] == []
    held = holder(db)
    assert held
    assert held["run_id"] == "another"


def run_until_publishing(db: MongoDatabase, settings: Settings) -> None:
    with training_run(settings) as run:
        with staged(db, "Recommendations", run.run_id) as stage:
            stage.insert([{"user_id": "new", "run_id": run.run_id}])
            stage.seal(1)
            take_over(db)
            publish(db, stage, lease=run.lease)
        pytest.fail("it may not publish")


def test_a_stage_dropped_by_another_run_is_a_lost_lease(
    db: MongoDatabase, db_settings: Settings
) -> None:
    def train() -> None:
        with (
            training_run(db_settings) as run,
            staged(run.db, "Recommendations", run.run_id) as stage,
        ):
            stage.insert([{"user_id": "new", "run_id": run.run_id}])
            take_over(db)
            recover(db)
            stage.seal(1)

    with pytest.raises(LeaseLostError):
        train()
    assert only_entry(db)["exit_code"] == 75


@pytest.mark.usefixtures("quick_heartbeat")
def test_a_run_that_lost_its_lease_begins_no_phase(
    db: MongoDatabase, db_settings: Settings
) -> None:
    def train() -> None:
        with training_run(db_settings) as run:
            take_over(db)
            until(lambda: not beating())
            with run.phase("train"):
                pytest.fail("it may not go on")

    with pytest.raises(LeaseLostError):
        train()


@pytest.mark.usefixtures("quick_heartbeat")
def test_the_heartbeat_extends_the_lease_during_the_run(
    db: MongoDatabase, db_settings: Settings
) -> None:
    with training_run(db_settings):
        before = holder(db)
        assert before
        later = before["expires_at"] + datetime.timedelta(milliseconds=20)
        until(lambda: (holder(db) or before)["expires_at"] > later)
    assert not beating()


@pytest.mark.usefixtures("quick_heartbeat")
def test_the_heartbeat_extends_the_lease_while_dead_runs_are_swept(
    db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recover(db: MongoDatabase) -> None:
        before = holder(db)
        assert before
        until(lambda: (holder(db) or before)["expires_at"] > before["expires_at"])

    monkeypatch.setattr(run_module, "recover", recover)
    with training_run(db_settings):
        pass


def beating() -> bool:
    return any(thread.name == "heartbeat" for thread in threading.enumerate())


@pytest.mark.parametrize("how", ["request", "SIGHUP"])
def test_a_cancelled_run_stops_wherever_it_is(
    db: MongoDatabase, db_settings: Settings, how: str
) -> None:
    program = (
        "import os, threading; from recommender.core.script import run_script\n"
        "from recommender.core.settings import load_settings\n"
        "from recommender.runs import run; run._BEAT_SECONDS = 0.1\n"
        "os.open(os.ttyname(0), os.O_RDWR)\n"  # which makes it the session's terminal
        "def main(_):\n"
        "    with run.training_run(load_settings()) as training, training.phase('read'):\n"
        "        threading.Event().wait()\n"
        "raise SystemExit(run_script(main))\n"
    )
    ours, theirs = os.openpty()
    with os.fdopen(ours) as terminal, os.fdopen(theirs) as slave:
        child = subprocess.Popen(
            [sys.executable, "-c", program],
            env=environment(db_settings, TERM="xterm"),
            cwd=PROJECT,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        slave.close()
        try:
            until(lambda: db["TrainingRuns"].find_one({"phase": "read"}))
            (run,) = Ledger(db).recent(1)
            if how == "SIGHUP":
                terminal.close()
            else:
                assert Ledger(db).request_cancel(run["run_id"])
            assert child.wait(DEADLINE_SECONDS) == 143
        finally:
            child.kill()
            child.wait()
    run = Ledger(db).get(run["run_id"]) or {}
    assert (run["state"], run["exit_code"]) == ("cancelled", 143)
    assert how in run["error"]
    assert holder(db) is None
    assert not Ledger(db).request_cancel(run["run_id"])


def test_a_child_resumes_its_parents_run(db: MongoDatabase, db_settings: Settings) -> None:
    lease = Lease(db, 60)
    lease.acquire("run-1")
    Ledger(db).add("run-1", "api", db_settings, Path("run-1.log"))
    of_child = db_settings.with_values({"als_rank": 7, "gate": False})
    with training_run(of_child, run_id="run-1") as run:
        assert run.run_id == "run-1"
        assert entry(db, "run-1")["state"] == "running"
    ended = only_entry(db)
    assert (ended["state"], ended["trigger"], ended["log"]) == ("succeeded", "api", "run-1.log")
    assert (ended["settings"], ended["forced"]) == (of_child.public(), True)


def test_a_child_whose_run_lost_the_lease_does_not_begin(
    db: MongoDatabase, db_settings: Settings
) -> None:
    Lease(db, 60).acquire("run-1")
    Ledger(db).add("run-1", "api", db_settings, None)
    take_over(db)
    with pytest.raises(LeaseLostError), training_run(db_settings, run_id="run-1"):
        pytest.fail("it may not begin")
    assert (only_entry(db)["state"], only_entry(db)["exit_code"]) == ("failed", 75)


def test_a_run_drops_the_stages_of_dead_runs(db: MongoDatabase, db_settings: Settings) -> None:
    for target in ("Recommendations", "Clusters", "Metadata"):
        db[f"{target}.staged.dead"].insert_one({"a": 1})
    Ledger(db).add("dead", "schedule", db_settings, None)
    with training_run(db_settings):
        assert [name for name in db.list_collection_names() if ".staged." in name] == []
        assert entry(db, "dead")["state"] == "crashed"


def test_a_run_that_is_refused_drops_nothing(db: MongoDatabase, db_settings: Settings) -> None:
    Lease(db, 60).acquire("at work")
    db["Clusters.staged.at work"].insert_one({"a": 1})
    with pytest.raises(LeaseHeldError), training_run(db_settings):
        pytest.fail("two at once")
    assert db["Clusters.staged.at work"].count_documents({}) == 1


def test_old_runs_and_their_logs_are_pruned_except_the_published_ones(
    db: MongoDatabase, db_settings: Settings
) -> None:
    ids = [f"19990101T00000000{number}Z-00000000" for number in range(5)]
    logs = [db_settings.log_dir / f"{run_id}.log" for run_id in ids]
    db_settings.log_dir.mkdir(parents=True)
    foreign = db_settings.log_dir / "1998-01-01.log"
    for log in (*logs, foreign):
        log.touch()
    for number in (0, 1, 2, 4):  # another replica has pruned 3
        Ledger(db).add(ids[number], "api", db_settings, logs[number])
        Ledger(db).close(ids[number], "failed", 1, "x")
    for number, name in enumerate(("Recommendations", "Metadata")):
        db[name].insert_many([{"user_id": "guest"}, {"run_id": ids[number]}])
    with training_run(db_settings.with_values({"runs_kept": 2})) as run:
        pass
    assert [e["_id"] for e in Ledger(db).recent(9)] == [run.run_id, ids[4], ids[1], ids[0]]
    assert [log.exists() for log in logs] == [True, True, False, False, True]
    assert foreign.exists()


def test_old_runs_are_pruned_if_all_fail(db: MongoDatabase, db_settings: Settings) -> None:
    few = db_settings.with_values({"runs_kept": 2})
    for _ in range(4):
        with pytest.raises(DataError), training_run(few):
            raise DataError("nothing to train on")
    assert len(Ledger(db).recent(9)) == 2


def test_a_lease_lost_at_the_end_fails_the_run(db: MongoDatabase, db_settings: Settings) -> None:
    def train() -> None:
        with training_run(db_settings):
            db["TrainingState"].update_one({"_id": "lease"}, {"$set": {"run_id": None}})
            Lease(db, 60).acquire("another")

    with pytest.raises(LeaseLostError):
        train()
    assert Ledger(db).recent(1)[0]["state"] == "failed"


def test_a_log_that_stays_does_not_fail_the_run(db: MongoDatabase, db_settings: Settings) -> None:
    run_id = "19990101T000000000Z-00000000"
    log = db_settings.log_dir / f"{run_id}.log"  # a folder
    log.mkdir(parents=True)
    Ledger(db).add(run_id, "api", db_settings, log)
    Ledger(db).close(run_id, "failed", 1, "x")
    with training_run(db_settings.with_values({"runs_kept": 1})) as run:
        pass
    assert only_entry(db)["_id"] == run.run_id


def test_the_password_does_not_reach_the_ledger(db: MongoDatabase, db_settings: Settings) -> None:
    plain = db_settings.mongo.uri.get_secret_value()
    db.command("createUser", "trainer", pwd="s3/cr@t%", roles=["readWrite"])
    uri = plain.replace("://", "://trainer:s3%2Fcr%40t%25@") + f"?authSource={db.name}"
    settings = db_settings.with_values({"mongo_uri": SecretStr(uri)})
    try:
        with pytest.raises(ValueError, match="no way"), training_run(settings):
            raise ValueError(f"no way to {uri} with s3/cr@t% or s3%2Fcr%40t%25")
    finally:
        db.command("dropAllUsersFromDatabase")
    assert only_entry(db)["error"] == "ValueError: no way to *** with *** or ***"
    assert "cr@t" not in str(only_entry(db))


def test_no_mongodb_at_the_start(db_settings: Settings) -> None:
    nowhere = {"mongo_uri": SecretStr("mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=200")}
    with (
        pytest.raises(DatabaseUnavailableError, match="MONGO_URI") as caught,
        training_run(db_settings.with_values(nowhere)),
    ):
        pytest.fail("there is no MongoDB")
    assert caught.value.exit_code == 69


def test_an_outage_of_mongodb_does_not_hide_the_error(
    db_settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with MongodForTests(tmp_path / "mongod") as mongo:
        changes: dict[str, Any] = {
            "mongo_uri": SecretStr(f"{mongo.uri}?serverSelectionTimeoutMS=200")
        }
        with pytest.raises(DataError, match=r"^theirs$"):
            lose_mongodb_and_fail(db_settings.with_values(changes), mongo)
    levels = [r.levelname for r in caplog.records if r.name == run_module.__name__]
    assert levels.count("ERROR") == 4  # the lease, twice, the outcome and the pruning


def lose_mongodb_and_fail(settings: Settings, mongo: MongodForTests) -> None:
    with training_run(settings):
        mongo.stop()
        raise DataError("theirs")


def test_an_outage_of_mongodb_at_the_end_is_no_failure(
    db_settings: Settings, tmp_path: Path
) -> None:
    with MongodForTests(tmp_path / "mongod") as mongo:
        changes: dict[str, Any] = {
            "mongo_uri": SecretStr(f"{mongo.uri}?serverSelectionTimeoutMS=200")
        }
        with training_run(db_settings.with_values(changes)) as run:
            mongo.stop()
    assert run.document is None


def test_a_stop_while_old_runs_are_pruned_leaves_the_lease_free(
    db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise Cancelled(signal.SIGTERM)

    monkeypatch.setattr(Ledger, "prune", stop)
    with pytest.raises(Cancelled), training_run(db_settings):
        pass
    assert holder(db) is None


@pytest.mark.parametrize("error", [Cancelled(signal.SIGTERM), None])
def test_a_stage_that_could_not_be_dropped_keeps_the_lease_and_changes_no_outcome(
    db: MongoDatabase,
    db_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    error: Cancelled | None,
) -> None:
    def hang(db: MongoDatabase, stage: str) -> bool:
        raise AutoReconnect("timed out")

    monkeypatch.setattr(staging, "is_switching", hang)
    with pytest.raises(Cancelled) if error else contextlib.nullcontext():
        stage_and_fail(db_settings, error)
    assert only_entry(db)["state"] == ("cancelled" if error else "succeeded")
    assert (holder(db) or {})["run_id"] == only_entry(db)["run_id"]


HANGING_TRAINING = f"""
import sys, threading
sys.path.insert(0, {str(PROJECT)!r})
from recommender.runs.run import training_run
from recommender.core.script import run_script
from recommender.core.settings import load_settings

def main(argv):
    with training_run(load_settings()):
        try:
            threading.Event().wait(25)
        finally:
            threading.Event().wait(25)

raise SystemExit(run_script(main))
"""


def test_a_training_that_hangs_in_its_clean_up_is_recorded_and_frees_the_lease(
    db: MongoDatabase, db_settings: Settings
) -> None:
    limits = {"TRAIN_TIMEOUT_MINUTES": "0.02", "STOP_GRACE_SECONDS": "0.3"}
    done = subprocess.run(
        [sys.executable, "-c", HANGING_TRAINING],
        env=environment(db_settings, **limits),
        timeout=30,
        check=False,
    )
    assert done.returncode == 124
    run = only_entry(db)
    assert (run["state"], run["exit_code"]) == ("failed", 124)
    assert "TRAIN_TIMEOUT_MINUTES=0.02" in run["error"]
    assert holder(db) is None


def test_a_stop_that_hangs_in_its_clean_up_is_recorded_and_frees_the_lease(
    db: MongoDatabase, db_settings: Settings
) -> None:
    training = subprocess.Popen(
        [sys.executable, "-c", HANGING_TRAINING],
        env=environment(db_settings, STOP_GRACE_SECONDS="4"),
    )
    until(lambda: db["TrainingRuns"].find_one({"state": "running"}))
    Ledger(db).request_cancel(only_entry(db)["run_id"])
    assert training.wait(30) == 143
    run = only_entry(db)
    assert (run["state"], run["exit_code"]) == ("cancelled", 143)
    assert run["error"] == "cancelled on request"
    assert holder(db) is None


HUNG_STOP = f"""
import sys, threading
sys.path.insert(0, {str(PROJECT)!r})
from recommender.runs.run import training_run
from recommender.core.script import run_script
from recommender.core.signals import signals_deferred
from recommender.core.settings import load_settings
import contextlib

def main(argv):
    with training_run(load_settings()):
        with signals_deferred() if sys.argv[1] == "deferred" else contextlib.nullcontext():
            print("ready", flush=True)
            threading.Event().wait(25)

raise SystemExit(run_script(main))
"""


@pytest.mark.parametrize("when", ["training", "deferred"])
def test_a_stop_while_mongodb_hangs_ends_after_the_grace(
    db_settings: Settings, tmp_path: Path, when: str
) -> None:
    with MongodForTests(tmp_path / "mongod") as mongo:
        settings = db_settings.with_values({"mongo_uri": SecretStr(mongo.uri)})
        training = subprocess.Popen(
            [sys.executable, "-c", HUNG_STOP, when],
            env=environment(settings, STOP_GRACE_SECONDS="0.5"),
            stdout=subprocess.PIPE,
        )
        assert training.stdout
        assert training.stdout.readline() == b"ready\n"
        os.kill(mongo.pid, signal.SIGSTOP)
        try:
            training.send_signal(signal.SIGTERM)
            assert training.wait(20) == 143
        finally:
            os.kill(mongo.pid, signal.SIGCONT)
            training.kill()
            training.stdout.close()


def test_a_truncated_password_does_not_reach_the_ledger(
    db: MongoDatabase, db_settings: Settings
) -> None:
    password = "Sup3rS3cretPassword"
    db.command("createUser", "t", pwd=password, roles=["readWrite"])
    uri = db_settings.mongo.uri.get_secret_value().replace("://", f"://t:{password}@")
    settings = db_settings.with_values({"mongo_uri": SecretStr(f"{uri}?authSource={db.name}")})
    try:
        with contextlib.suppress(ValueError), training_run(settings):
            raise ValueError("x" * 485 + " " + password)
    finally:
        db.command("dropAllUsersFromDatabase")
    assert "Sup3r" not in Ledger(db).recent(1)[0]["error"]


def test_pruning_removes_logs_in_the_log_folder_only(
    db: MongoDatabase, db_settings: Settings, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.touch()
    db["TrainingRuns"].insert_one({"_id": "0", "state": "failed", "log": str(precious)})
    with training_run(db_settings.with_values({"runs_kept": 1})):
        pass
    assert precious.exists()
