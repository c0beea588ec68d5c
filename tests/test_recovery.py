"""Tidying up after a training that fell silent, without waiting for the next one."""

from __future__ import annotations

from pathlib import Path

import pytest

from recommender.clock import TrainingClock
from recommender.lease import COLLECTION, LEASE_ID, Lease, holder
from recommender.ledger import Ledger
from recommender.mongo import MongoDatabase
from recommender.recovery import tidy_up
from recommender.schedule import Schedule
from recommender.settings import Settings
from recommender.store import RECOMMENDATIONS
from tests.waiting import until

MINUTE = 60.0


@pytest.fixture
def silent(db: MongoDatabase, db_settings: Settings) -> Lease:
    """A training between two switches; see that it is silent for too long by ``expire``."""
    lease = Lease(db, MINUTE)
    lease.acquire("run-1")
    Ledger(db).open("run-1", "script", db_settings, Path("run-1.log"))
    db[RECOMMENDATIONS].insert_one({"user_id": "ann", "run_id": "run-0"})
    stage = f"{RECOMMENDATIONS}.staged.run-1"
    db[stage].insert_one({"user_id": "ann", "run_id": "run-1"})
    switch = {"_id": "switch", "stages": [{"stage": stage, "target": RECOMMENDATIONS}]}
    db[COLLECTION].insert_one(switch)
    return lease


def expire(db: MongoDatabase) -> None:
    past = [{"$set": {"expires_at": {"$subtract": ["$$NOW", 1]}}}]
    db[COLLECTION].update_one({"_id": LEASE_ID}, past)


def published_by(db: MongoDatabase) -> list[str]:
    return db[RECOMMENDATIONS].distinct("run_id")


def state(db: MongoDatabase) -> str:
    return str((Ledger(db).get("run-1") or {})["state"])


@pytest.mark.usefixtures("silent")
def test_a_training_that_fell_silent_is_crashed_and_its_switch_finished(db: MongoDatabase) -> None:
    expire(db)
    tidy_up(db, MINUTE)
    assert (state(db), published_by(db)) == ("crashed", ["run-1"])
    assert not [name for name in db.list_collection_names() if ".staged." in name]
    assert holder(db) is None
    Lease(db, MINUTE).acquire("run-2")


@pytest.mark.usefixtures("silent")
def test_a_training_that_renews_its_lease_is_left_alone(db: MongoDatabase) -> None:
    tidy_up(db, MINUTE)
    assert (state(db), published_by(db)) == ("queued", ["run-0"])
    assert (holder(db) or {})["run_id"] == "run-1"


def test_what_woke_up_too_late_may_not_publish(db: MongoDatabase, silent: Lease) -> None:
    expire(db)
    tidy_up(db, MINUTE)
    with pytest.raises(Exception, match="no longer holds the lease"):
        silent.renew()


def test_without_a_training_nothing_is_done(db: MongoDatabase) -> None:
    tidy_up(db, MINUTE)
    assert db.list_collection_names() == []


@pytest.mark.usefixtures("silent")
def test_whoever_took_over_meanwhile_does_it_instead(
    db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    expire(db)

    def abandoned_until_taken(db: MongoDatabase) -> dict[str, str]:
        Lease(db, MINUTE).acquire("run-2")
        return {"run_id": "run-1"}

    monkeypatch.setattr("recommender.recovery.abandoned", abandoned_until_taken)
    tidy_up(db, MINUTE)
    assert state(db) == "queued"
    assert (holder(db) or {})["run_id"] == "run-2"


@pytest.mark.usefixtures("silent")
def test_the_clock_tidies_up_between_two_slots(
    db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recommender.clock._MOST_SECONDS", 0.05)
    hour = 3600.0
    clock = TrainingClock(
        Schedule(db, hour), pytest.fail, hour, tidy_up=lambda: tidy_up(db, MINUTE)
    )
    clock.start()
    try:
        expire(db)
        until(lambda: state(db) == "crashed")
        until(lambda: published_by(db) == ["run-1"])
    finally:
        clock.stop()
