"""Tidying up after a training that fell silent, without waiting for the next one."""

from __future__ import annotations

from pathlib import Path

import pytest
from pymongo.errors import AutoReconnect

from recommender.core.errors import DatabaseUnavailableError, LeaseLostError
from recommender.core.mongo import MongoDatabase
from recommender.core.mongo_collections import RECOMMENDATIONS
from recommender.core.settings import Settings
from recommender.runs.lease import COLLECTION, LEASE_ID, Lease, abandoned, holder
from recommender.runs.ledger import Ledger
from recommender.runs.switch import sweep, switch_of
from recommender.service import recovery
from recommender.service.recovery import Recovery
from recommender.service.schedule import Schedule
from recommender.service.scheduler import TrainingClock
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
    lease.begin_switch(switch_of({stage: RECOMMENDATIONS}))
    return lease


class Watch:
    """A steady clock that is turned by hand."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def expire(db: MongoDatabase) -> None:
    past = [{"$set": {"expires_at": {"$subtract": ["$$NOW", 1]}}}]
    db[COLLECTION].update_one({"_id": LEASE_ID}, past)


def tidy_up(db: MongoDatabase) -> None:
    """Look at a lease that has run out, and again after a minute."""
    watch = Watch()
    tidier = Recovery(db, MINUTE, watch)
    tidier.look()
    watch.seconds += MINUTE
    tidier.look()


def cut_off(db: MongoDatabase) -> None:
    raise AutoReconnect("gone")


def published_by(db: MongoDatabase) -> list[str]:
    return db[RECOMMENDATIONS].distinct("run_id")


def state(db: MongoDatabase) -> str:
    return str((Ledger(db).get("run-1") or {})["state"])


@pytest.mark.usefixtures("silent")
def test_a_training_that_fell_silent_is_crashed_and_its_switch_finished(db: MongoDatabase) -> None:
    expire(db)
    tidy_up(db)
    assert (state(db), published_by(db)) == ("crashed", ["run-1"])
    assert not [name for name in db.list_collection_names() if ".staged." in name]
    assert holder(db) is None
    Lease(db, MINUTE).acquire("run-2")


def test_a_switch_that_a_training_gave_up_is_finished_and_its_outcome_stays(
    db: MongoDatabase, silent: Lease
) -> None:
    """As where MongoDB was away for so long that the training ended in its switch."""
    Ledger(db).close("run-1", "failed", 69, "MongoDB did not answer")
    silent.release()
    tidy_up(db)
    assert (state(db), published_by(db)) == ("failed", ["run-1"])
    assert holder(db) is None
    assert abandoned(db) is None


@pytest.mark.usefixtures("silent")
def test_a_lease_that_nobody_renews_is_dead_whatever_mongodbs_clock_says(db: MongoDatabase) -> None:
    """As where that clock was set back by hours after kill -9."""
    hours = [{"$set": {"expires_at": {"$add": ["$$NOW", 2 * 3_600_000]}}}]
    db[COLLECTION].update_one({"_id": LEASE_ID}, hours)
    watch = Watch()
    tidier = Recovery(db, MINUTE, watch)
    for _ in range(2):
        tidier.look()
        watch.seconds += MINUTE
    assert (state(db), published_by(db)) == ("queued", ["run-0"])
    tidier.look()
    assert (state(db), published_by(db)) == ("crashed", ["run-1"])
    assert holder(db) is None


def test_an_outage_of_mongodb_does_not_count(db: MongoDatabase, silent: Lease) -> None:
    watch = Watch()
    tidier = Recovery(db, MINUTE, watch)
    tidier.look()
    watch.seconds += 9 * MINUTE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "abandoned", cut_off)
        with pytest.raises(DatabaseUnavailableError):
            tidier.look()
    tidier.look()
    silent.renew()
    assert state(db) == "queued"


def test_a_run_that_could_not_write_its_end_is_crashed_though_the_lease_is_free(
    db: MongoDatabase, db_settings: Settings
) -> None:
    Ledger(db).open("run-1", "script", db_settings, None)
    db[f"{RECOMMENDATIONS}.staged.run-1"].insert_one({"user_id": "ann"})
    tidy_up(db)
    assert state(db) == "crashed"
    assert not [name for name in db.list_collection_names() if ".staged." in name]


@pytest.mark.usefixtures("silent")
def test_a_training_that_renews_its_lease_is_left_alone(db: MongoDatabase) -> None:
    tidy_up(db)
    assert (state(db), published_by(db)) == ("queued", ["run-0"])
    assert (holder(db) or {})["run_id"] == "run-1"


def test_a_training_that_was_cut_off_has_as_long_again_to_renew_its_lease(
    db: MongoDatabase, silent: Lease
) -> None:
    watch = Watch()
    tidier = Recovery(db, MINUTE, watch)
    for _ in range(2):  # in two outages, far apart
        expire(db)
        tidier.look()
        watch.seconds += MINUTE - 1
        tidier.look()
        assert state(db) == "queued"
        silent.renew()
        watch.seconds += MINUTE
        tidier.look()
    assert state(db) == "queued"
    assert (holder(db) or {})["run_id"] == "run-1"


def test_what_wakes_up_while_it_is_tidied_up_after_may_not_publish(
    db: MongoDatabase, silent: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    def renewed_meanwhile(db: MongoDatabase) -> None:
        assert (holder(db) or {})["run_id"] == "run-1"
        with pytest.raises(LeaseLostError):
            silent.renew()
        sweep(db)

    monkeypatch.setattr(recovery, "sweep", renewed_meanwhile)
    expire(db)
    tidy_up(db)
    assert published_by(db) == ["run-1"]


@pytest.mark.usefixtures("silent")
def test_what_could_not_be_tidied_up_is_tried_again(
    db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    expire(db)
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "sweep", cut_off)
        with pytest.raises(DatabaseUnavailableError, match="cleaning up"):
            tidy_up(db)
    assert holder(db) is None
    assert published_by(db) == ["run-0"]
    tidy_up(db)
    assert (state(db), published_by(db)) == ("crashed", ["run-1"])


def test_without_a_training_nothing_is_done(db: MongoDatabase) -> None:
    tidy_up(db)
    assert db.list_collection_names() == []


@pytest.mark.usefixtures("silent")
def test_whoever_took_over_meanwhile_does_it_instead(
    db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    expire(db)
    dead = abandoned(db)
    Lease(db, MINUTE).acquire("run-2")
    monkeypatch.setattr(recovery, "abandoned", lambda db: dead)
    tidy_up(db)
    assert state(db) == "queued"
    assert (holder(db) or {})["run_id"] == "run-2"


@pytest.mark.usefixtures("silent")
def test_the_clock_tidies_up_between_two_slots(
    db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recommender.service.scheduler._MOST_SECONDS", 0.05)
    hour, tidier = 3600.0, Recovery(db, 0.1)
    clock = TrainingClock(Schedule(db, hour), pytest.fail, hour, tidier.look)
    clock.start()
    try:
        expire(db)
        until(lambda: state(db) == "crashed")
        until(lambda: published_by(db) == ["run-1"])
    finally:
        clock.stop()
