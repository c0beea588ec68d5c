"""Recovery from a training that died, without waiting for the next one."""

from pathlib import Path

import pytest
from pymongo.errors import AutoReconnect

from recommender.core.errors import DatabaseUnavailableError, LeaseLostError
from recommender.core.mongo import MongoDatabase
from recommender.core.mongo_collections import RECOMMENDATIONS
from recommender.core.settings import Settings
from recommender.runs import switch
from recommender.runs.lease import COLLECTION, LEASE_ID, Lease, abandoned, holder
from recommender.runs.ledger import Ledger
from recommender.service import recovery
from recommender.service.recovery import Recovery
from recommender.service.schedule import Schedule
from recommender.service.training_clock import TrainingClock
from tests.publishing.publications import switch_of
from tests.waiting import until

MINUTE = 60.0


@pytest.fixture
def dead(db: MongoDatabase, db_settings: Settings) -> Lease:
    """The lease of a training that died between two renames; it has not expired yet."""
    lease = Lease(db, MINUTE)
    lease.acquire("run-1")
    Ledger(db).add("run-1", "script", db_settings, Path("run-1.log"))
    db[RECOMMENDATIONS].insert_one({"user_id": "ann", "run_id": "run-0"})
    stage = f"{RECOMMENDATIONS}.staged.run-1"
    db[stage].insert_one({"user_id": "ann", "run_id": "run-1"})
    lease.begin_switch(switch_of({stage: RECOMMENDATIONS}))
    return lease


class Watch:
    """A steady clock that the test sets."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def expire(db: MongoDatabase) -> None:
    past = [{"$set": {"expires_at": {"$subtract": ["$$NOW", 1]}}}]
    db[COLLECTION].update_one({"_id": LEASE_ID}, past)


def recover(db: MongoDatabase) -> None:
    """Look at the lease, and again after a minute."""
    watch = Watch()
    observer = Recovery(db, MINUTE, watch)
    observer.check()
    watch.seconds += MINUTE
    observer.check()


def cut_off(db: MongoDatabase) -> None:
    raise AutoReconnect("gone")


def published_by(db: MongoDatabase) -> list[str]:
    return db[RECOMMENDATIONS].distinct("run_id")


def state(db: MongoDatabase) -> str:
    return str((Ledger(db).get("run-1") or {})["state"])


@pytest.mark.usefixtures("dead")
def test_a_dead_training_is_marked_as_crashed_and_its_switch_finished(db: MongoDatabase) -> None:
    expire(db)
    recover(db)
    assert (state(db), published_by(db)) == ("crashed", ["run-1"])
    assert not [name for name in db.list_collection_names() if ".staged." in name]
    assert holder(db) is None
    Lease(db, MINUTE).acquire("run-2")


def test_the_switch_of_a_failed_training_is_finished_and_its_state_stays(
    db: MongoDatabase, dead: Lease
) -> None:
    """MongoDB was away for so long that the training ended during its switch."""
    Ledger(db).close("run-1", "failed", 69, "MongoDB did not answer")
    dead.release()
    recover(db)
    assert (state(db), published_by(db)) == ("failed", ["run-1"])
    assert holder(db) is None
    assert abandoned(db) is None


@pytest.mark.usefixtures("dead")
def test_a_lease_that_is_not_renewed_is_dead_whatever_mongodbs_clock_is(db: MongoDatabase) -> None:
    """The clock was set back by hours after kill -9."""
    hours = [{"$set": {"expires_at": {"$add": ["$$NOW", 2 * 3_600_000]}}}]
    db[COLLECTION].update_one({"_id": LEASE_ID}, hours)
    watch = Watch()
    observer = Recovery(db, MINUTE, watch)
    for _ in range(2):
        observer.check()
        watch.seconds += MINUTE
    assert (state(db), published_by(db)) == ("queued", ["run-0"])
    observer.check()
    assert (state(db), published_by(db)) == ("crashed", ["run-1"])
    assert holder(db) is None


def test_an_outage_of_mongodb_does_not_count(db: MongoDatabase, dead: Lease) -> None:
    watch = Watch()
    observer = Recovery(db, MINUTE, watch)
    observer.check()
    watch.seconds += 9 * MINUTE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "abandoned", cut_off)
        with pytest.raises(DatabaseUnavailableError):
            observer.check()
    observer.check()
    dead.renew()
    assert state(db) == "queued"


def test_an_open_run_without_a_lease_is_crashed(db: MongoDatabase, db_settings: Settings) -> None:
    Ledger(db).add("run-1", "script", db_settings, None)
    db[f"{RECOMMENDATIONS}.staged.run-1"].insert_one({"user_id": "ann"})
    recover(db)
    assert state(db) == "crashed"
    assert not [name for name in db.list_collection_names() if ".staged." in name]


@pytest.mark.usefixtures("dead")
def test_a_training_that_renews_its_lease_is_left_alone(db: MongoDatabase) -> None:
    recover(db)
    assert (state(db), published_by(db)) == ("queued", ["run-0"])
    assert (holder(db) or {})["run_id"] == "run-1"


def test_a_training_that_was_cut_off_has_time_to_renew_its_lease(
    db: MongoDatabase, dead: Lease
) -> None:
    watch = Watch()
    observer = Recovery(db, MINUTE, watch)
    for _ in range(2):  # in two outages, far apart
        expire(db)
        observer.check()
        watch.seconds += MINUTE - 1
        observer.check()
        assert state(db) == "queued"
        dead.renew()
        watch.seconds += MINUTE
        observer.check()
    assert state(db) == "queued"
    assert (holder(db) or {})["run_id"] == "run-1"


def test_a_training_that_wakes_up_during_recovery_may_not_publish(
    db: MongoDatabase, dead: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recover_after_wake_up(db: MongoDatabase) -> None:
        assert (holder(db) or {})["run_id"] == "run-1"
        with pytest.raises(LeaseLostError):
            dead.renew()
        switch.recover(db)

    monkeypatch.setattr(recovery, "recover", recover_after_wake_up)
    expire(db)
    recover(db)
    assert published_by(db) == ["run-1"]


@pytest.mark.usefixtures("dead")
def test_a_failed_recovery_is_tried_again(
    db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    expire(db)
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "recover", cut_off)
        with pytest.raises(DatabaseUnavailableError):
            recover(db)
    assert holder(db) is None
    assert published_by(db) == ["run-0"]
    recover(db)
    assert (state(db), published_by(db)) == ("crashed", ["run-1"])


def test_without_a_training_nothing_is_done(db: MongoDatabase) -> None:
    recover(db)
    assert db.list_collection_names() == []


@pytest.mark.usefixtures("dead")
def test_a_training_that_has_taken_over_is_left_alone(
    db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    expire(db)
    expired = abandoned(db)
    Lease(db, MINUTE).acquire("run-2")
    monkeypatch.setattr(recovery, "abandoned", lambda db: expired)
    recover(db)
    assert state(db) == "queued"
    assert (holder(db) or {})["run_id"] == "run-2"


@pytest.mark.usefixtures("dead")
def test_the_clock_recovers_between_two_slots(
    db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recommender.service.training_clock._MOST_SECONDS", 0.05)
    hour, observer = 3600.0, Recovery(db, 0.1)
    clock = TrainingClock(Schedule(db, hour), pytest.fail, observer.check)
    clock.start()
    try:
        expire(db)
        until(lambda: state(db) == "crashed")
        until(lambda: published_by(db) == ["run-1"])
    finally:
        clock.stop()
