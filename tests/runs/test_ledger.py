"""The ledger: a document for each run, from queued to its one end."""

import datetime
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from recommender.core.mongo import Document, MongoDatabase
from recommender.core.settings import Settings, load_settings
from recommender.runs import ledger as ledger_module
from recommender.runs.ledger import COLLECTION, Ledger, State, new_run_id

NOON = datetime.datetime(2026, 1, 2, 12, 0, tzinfo=datetime.UTC)


@pytest.fixture
def ledger(db: MongoDatabase) -> Ledger:
    return Ledger(db)


def opened(ledger: Ledger, run_id: str, settings: Settings) -> Document:
    ledger.add(run_id, "script", settings, None)
    return run_of(ledger, run_id)


def run_of(ledger: Ledger, run_id: str) -> Document:
    run = ledger.get(run_id)
    assert run
    return run


def put(db: MongoDatabase, run_id: str, state: State, log: str | None = None) -> None:
    db[COLLECTION].insert_one({"_id": run_id, "run_id": run_id, "state": state, "log": log})


def ids(db: MongoDatabase) -> list[str]:
    return sorted(run["_id"] for run in db[COLLECTION].find())


def test_ids_sort_by_time_and_differ_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds() -> Iterator[datetime.datetime]:
        for days in range(400):
            yield NOON + datetime.timedelta(days=days, seconds=days)
            yield NOON + datetime.timedelta(days=days, seconds=days + 1)

    times = seconds()
    monkeypatch.setattr(ledger_module, "now", lambda: next(times))
    made = [new_run_id() for _ in range(800)]
    assert made == sorted(made)
    monkeypatch.setattr(ledger_module, "now", lambda: NOON)
    same_second = {new_run_id() for _ in range(100)}
    assert len(same_second) == 100
    assert all(re.fullmatch(r"20260102T120000000Z-[0-9a-f]{8}", run_id) for run_id in same_second)


def test_a_run_begins_queued_with_its_settings(
    ledger: Ledger, db_settings: Settings, tmp_path: Path
) -> None:
    before = ledger_module.now() - datetime.timedelta(seconds=1)
    ledger.add("run-1", "api", db_settings, tmp_path / "run-1.log")
    run = run_of(ledger, "run-1")
    assert (run["run_id"], run["state"], run["trigger"]) == ("run-1", "queued", "api")
    assert before <= run["queued_at"] <= ledger_module.now()
    assert run["log"] == str(tmp_path / "run-1.log")
    assert (run["phase"], run["phases"], run["metrics"]) == (None, [], {})
    assert run["settings"] == db_settings.public()
    assert {"python", "pyspark", "pymongo", "numpy", "scipy"} <= set(run["versions"])
    assert run["host"]


def test_no_secret_is_in_the_ledger(ledger: Ledger) -> None:
    settings = load_settings(mongo_uri="mongodb://u:s3cret@h/", api_key="s3cret")
    assert "s3cret" not in str(opened(ledger, "run-1", settings))


@pytest.mark.parametrize("state", ["queued", "running"])
def test_an_open_run_is_marked_as_crashed_when_the_next_begins(
    db: MongoDatabase, ledger: Ledger, db_settings: Settings, state: State
) -> None:
    put(db, "run-1", state)
    opened(ledger, "run-2", db_settings)
    dead = run_of(ledger, "run-1")
    assert dead["state"] == "crashed"
    assert dead["ended_at"]
    assert run_of(ledger, "run-2")["state"] == "queued"


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled", "crashed"])
def test_an_ended_run_is_not_changed_when_the_next_begins(
    db: MongoDatabase, ledger: Ledger, db_settings: Settings, state: State
) -> None:
    put(db, "run-1", state)
    before = run_of(ledger, "run-1")
    opened(ledger, "run-2", db_settings)
    assert run_of(ledger, "run-1") == before


def test_a_run_is_closed_once(ledger: Ledger, db_settings: Settings) -> None:
    opened(ledger, "run-1", db_settings)
    ledger.close("run-1", "failed", 65, "no data")
    ended = run_of(ledger, "run-1")
    assert (ended["state"], ended["exit_code"], ended["error"]) == ("failed", 65, "no data")
    assert ended["ended_at"] >= ended["queued_at"]
    ledger.close("run-1", "succeeded", 0, None)
    assert run_of(ledger, "run-1") == ended


def test_a_running_run_is_closed(ledger: Ledger, db_settings: Settings) -> None:
    opened(ledger, "run-1", db_settings)
    ledger.update("run-1", {"state": "running"})
    ledger.close("run-1", "succeeded", 0, None)
    assert run_of(ledger, "run-1")["state"] == "succeeded"


def test_an_unknown_run_is_not_closed(db: MongoDatabase, ledger: Ledger) -> None:
    ledger.close("run-1", "failed", 1, "x")
    assert ledger.get("run-1") is None
    assert ids(db) == []


def test_dotted_names_update_parts(ledger: Ledger, db_settings: Settings) -> None:
    opened(ledger, "run-1", db_settings)
    opened(ledger, "run-2", db_settings)
    ledger.update("run-2", {"metrics.als": {"rmse": 1.5}})
    ledger.update("run-2", {"metrics.clusters": {"k": 2}})
    assert run_of(ledger, "run-2")["metrics"] == {"als": {"rmse": 1.5}, "clusters": {"k": 2}}
    assert run_of(ledger, "run-1")["metrics"] == {}


def test_the_latest_runs_come_first_up_to_the_limit(db: MongoDatabase, ledger: Ledger) -> None:
    for number in (3, 1, 5, 2, 4):
        put(db, f"run-{number}", "failed")
    assert [run["_id"] for run in ledger.recent(3)] == ["run-5", "run-4", "run-3"]
    assert len(ledger.recent(10)) == 5


def test_prune_keeps_the_published_runs(db: MongoDatabase, ledger: Ledger) -> None:
    for number in (2, 1, 4, 3):
        put(db, f"run-{number}", "failed")
    put(db, "run-0", "succeeded")
    for _ in range(2):
        ledger.prune(2, ["run-0", "run-4"], [])
        assert ids(db) == ["run-0", "run-3", "run-4"]
    ledger.prune(9, [], [])
    assert len(ids(db)) == 3


def test_a_missing_run_was_pruned_if_enough_newer_ones_ended(
    db: MongoDatabase, ledger: Ledger
) -> None:
    assert ledger.prune(1, [], ["run-1"]) == set()
    put(db, "run-1", "succeeded")
    for number in (4, 5):
        put(db, f"run-{number}", "failed")
    run_ids = [f"run-{number}" for number in range(9)]
    assert ledger.prune(2, ["run-1"], run_ids) == {"run-0", "run-2", "run-3"}
    assert ledger.prune(4, [], run_ids) == set()


def test_prune_ignores_open_runs(db: MongoDatabase, ledger: Ledger) -> None:
    put(db, "run-1", "queued")
    put(db, "run-2", "running")
    put(db, "run-3", "failed")
    put(db, "run-4", "succeeded")
    put(db, "run-5", "running")
    ledger.prune(1, [], [])
    assert ids(db) == ["run-1", "run-2", "run-4", "run-5"]
