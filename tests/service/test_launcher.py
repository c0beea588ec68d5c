"""Trainings as child processes of the service: how they start, and how their end is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from pymongo.errors import AutoReconnect

from recommender.core.errors import DatabaseUnavailableError
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.settings import Settings
from recommender.runs.lease import COLLECTION, LEASE_ID, holder
from recommender.runs.ledger import OPEN_STATES, Ledger
from recommender.service import launcher as child
from recommender.service.launcher import Trainer
from tests.support import PROJECT, set_environment
from tests.waiting import until


@contextmanager
def trainer(settings: Settings, db: MongoDatabase, program: str) -> Iterator[Trainer]:
    """Give a trainer whose child does what the program says."""
    script = settings.work_dir / "child.py"
    script.write_text(program)
    found = Trainer(settings, db, script)
    try:
        yield found
    finally:
        found.stop()


def ended(db: MongoDatabase, run_id: str) -> Document:
    def look() -> Document | None:
        run = Ledger(db).get(run_id)
        return run if run and run["state"] not in OPEN_STATES else None

    found = until(look)
    assert found
    until(lambda: holder(db) is None)
    return found


CODES = {1: "failed", 76: "rejected", 143: "cancelled", 137: "crashed", 124: "failed"}


@pytest.mark.parametrize(("code", "state"), CODES.items())
def test_the_end_of_a_child_that_recorded_none_is_recorded_by_its_code(
    db: MongoDatabase, db_settings: Settings, code: int, state: str
) -> None:
    with trainer(db_settings, db, f"raise SystemExit({code})") as starts:
        run = ended(db, starts.start("api"))
    assert (run["state"], run["exit_code"]) == (state, code)
    assert run["error"]


def test_a_lease_that_could_not_be_released_does_not_refuse_the_next_try(
    db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise AutoReconnect("an election")

    with trainer(db_settings, db, "raise SystemExit(1)") as starts:
        with monkeypatch.context() as patch:
            for action in ("open", "close"):
                patch.setattr(Ledger, action, unreachable)
            with pytest.raises(DatabaseUnavailableError):
                starts.start("schedule")
        assert holder(db)
        ended(db, starts.start("schedule"))


@pytest.mark.parametrize("force", [False, True])
def test_a_forced_training_is_told_so_and_written_down(
    db: MongoDatabase, db_settings: Settings, force: bool
) -> None:
    with trainer(db_settings, db, "import sys; print(*sys.argv[1:])") as starts:
        run = ended(db, starts.start("api", force=force))
    options = Path(run["log"]).read_text().split()
    assert options == ["--run-id", run["run_id"], *["--force"][: int(force)]]
    assert run["forced"] is force
    assert run["settings"]["gate"] is not force


MINUTE = 60.0
WAITS = """
import signal
signal.pause()
"""


def silent_for_too_long(db: MongoDatabase) -> None:
    past = [{"$set": {"expires_at": {"$subtract": ["$$NOW", 1]}}}]
    db[COLLECTION].update_one({"_id": LEASE_ID}, past)


def test_what_the_service_kills_as_it_stops_is_cancelled(
    db: MongoDatabase, db_settings: Settings
) -> None:
    quick = db_settings.with_values({"stop_grace_seconds": 0.1})
    with trainer(quick, db, HANGS_FOR_GOOD) as starts:
        run_id = starts.start("api")
        until(lambda: "deaf" in (db_settings.log_dir / f"{run_id}.log").read_text())
    assert ended(db, run_id)["state"] == "cancelled"


def until_tidied(starts: Trainer) -> None:
    """Let it look twice, as long after one another as a lease lasts."""
    starts.tidy_up()
    starts._tidier._since -= MINUTE
    starts.tidy_up()


def test_it_tidies_up_after_others_and_watches_its_own(
    db: MongoDatabase, db_settings: Settings
) -> None:
    with trainer(db_settings, db, WAITS) as starts:
        own = starts.start("api")
        silent_for_too_long(db)
        until_tidied(starts)
        assert (Ledger(db).get(own) or {})["state"] in OPEN_STATES
        until_tidied(Trainer(db_settings, db))
        assert (Ledger(db).get(own) or {})["state"] == "crashed"


SAYS_WHO_IT_IS = """
import os, signal
print(os.getpid(), flush=True)
signal.pause()
"""


def process_of(run_id: str, settings: Settings) -> psutil.Process:
    """Return the process that has written its number to its log."""
    log = settings.log_dir / f"{run_id}.log"
    return psutil.Process(int(until(lambda: log.read_text().strip())))


def test_one_that_slept_past_its_lease_ends_when_another_starts(
    db: MongoDatabase, db_settings: Settings
) -> None:
    quick = db_settings.with_values({"stop_grace_seconds": 0.1})
    with trainer(quick, db, SAYS_WHO_IT_IS) as starts:
        asleep = process_of(starts.start("api"), db_settings)
        asleep.suspend()
        silent_for_too_long(db)
        run_id = starts.start("api")
        awake = process_of(run_id, db_settings)
        until(lambda: not asleep.is_running())
        assert awake.is_running()
        assert (holder(db) or {})["run_id"] == run_id
        awake.suspend()
        silent_for_too_long(db)
        newest = process_of(starts.start("api"), db_settings)
        newest.suspend()
        starts.stop()
        assert not any(process.is_running() for process in (awake, newest))


HAS_JUST_SUCCEEDED = """
import os, signal, sys
from recommender.runs.run import training_run
from recommender.core.settings import load_settings
with training_run(load_settings(), run_id=sys.argv[2]):
    pass
print(os.getpid(), flush=True)
signal.pause()
"""


def test_one_that_has_succeeded_may_end_in_peace_while_another_starts(
    db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, db_settings, PYTHONPATH=str(PROJECT))
    quick = db_settings.with_values({"stop_grace_seconds": 0.1})
    with trainer(quick, db, HAS_JUST_SUCCEEDED) as starts:
        first = process_of(starts.start("api"), db_settings)
        process_of(starts.start("api"), db_settings)
        assert first.is_running()


HANGS_FOR_GOOD = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
while True:
    signal.pause()
"""


def test_a_child_that_hangs_beyond_its_own_limit_is_killed(
    db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_LAST_RESORT_SECONDS", 0.3)
    quick = {"train_timeout_minutes": 0.001, "stop_grace_seconds": 0.1}
    with trainer(db_settings.with_values(quick), db, HANGS_FOR_GOOD) as starts:
        run = ended(db, starts.start("schedule"))
    assert (run["state"], run["exit_code"]) == ("failed", 137)
