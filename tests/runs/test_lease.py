"""The lease: one holder at a time by the server's clock, and no way back for who lost it."""

import datetime
import os
import socket

import pytest

from recommender.core.errors import LeaseHeldError, LeaseLostError
from recommender.core.mongo import Document, MongoDatabase
from recommender.runs.lease import COLLECTION, LEASE_ID, Lease, abandoned, holder
from tests.waiting import at_once, until

MINUTE = 60.0
MOMENT = 0.05
EXPIRED: Document = {"$set": {"expires_at": datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)}}


def taken(db: MongoDatabase, run_id: str, seconds: float = MINUTE) -> Lease:
    lease = Lease(db, seconds)
    lease.acquire(run_id)
    return lease


def state(db: MongoDatabase) -> Document:
    document = db[COLLECTION].find_one({"_id": LEASE_ID})
    assert document
    return document


def expire(db: MongoDatabase) -> None:
    """Let the lease run out as if its holder had been silent for long."""
    db[COLLECTION].update_one({"_id": LEASE_ID}, EXPIRED)


def server_time(db: MongoDatabase) -> datetime.datetime:
    now: datetime.datetime = db.client.admin.command("hello")["localTime"]
    return now.replace(tzinfo=datetime.UTC)


def test_a_new_lease_has_no_holder(db: MongoDatabase) -> None:
    assert holder(db) is None


def test_the_holders_document(db: MongoDatabase) -> None:
    taken(db, "run-1")
    held = holder(db)
    assert held == state(db)
    assert (held["run_id"], held["host"], held["pid"], held["token"]) == (
        "run-1",
        socket.gethostname(),
        os.getpid(),
        1,
    )
    assert held["expires_at"] - held["started_at"] == datetime.timedelta(seconds=MINUTE)


def test_a_second_run_is_refused_with_the_holders_document(db: MongoDatabase) -> None:
    taken(db, "run-1")
    before = state(db)
    with pytest.raises(LeaseHeldError, match="run-1") as caught:
        Lease(db, MINUTE).acquire("run-2")
    assert caught.value.holder == before
    assert caught.value.exit_code == 75
    assert str(before["started_at"]) in str(caught.value)
    assert state(db) == before


def test_the_holder_cannot_acquire_it_twice(db: MongoDatabase) -> None:
    lease = taken(db, "run-1")
    with pytest.raises(LeaseHeldError):
        lease.acquire("run-1")


def test_a_released_lease_is_free_and_the_next_token_is_higher(db: MongoDatabase) -> None:
    taken(db, "run-1").release()
    assert holder(db) is None
    taken(db, "run-2")
    assert (state(db)["run_id"], state(db)["token"]) == ("run-2", 2)


def test_releasing_a_lease_that_was_not_acquired_does_nothing(db: MongoDatabase) -> None:
    holding = taken(db, "run-1")
    refused = Lease(db, MINUTE)
    with pytest.raises(LeaseHeldError):
        refused.acquire("run-2")
    refused.release()
    Lease(db, MINUTE).release()
    holding.renew()


def test_an_expired_lease_is_taken_over(db: MongoDatabase) -> None:
    taken(db, "run-1", seconds=MOMENT)
    until(lambda: holder(db) is None)
    taken(db, "run-2")
    assert (state(db)["run_id"], state(db)["token"]) == ("run-2", 2)


def test_its_times_are_the_servers(db: MongoDatabase) -> None:
    before = server_time(db)
    taken(db, "run-1")
    assert before <= state(db)["started_at"] <= server_time(db)


def test_renew_extends_the_lease(db: MongoDatabase) -> None:
    lease = taken(db, "run-1")
    before = state(db)
    until(lambda: server_time(db) > before["started_at"])
    lease.renew()
    after = state(db)
    assert after.pop("expires_at") > before.pop("expires_at")
    assert after == before


def test_an_expired_lease_that_is_free_can_be_renewed(db: MongoDatabase) -> None:
    lease = taken(db, "run-1")
    expire(db)
    assert holder(db) is None
    lease.renew()
    assert state(db)["run_id"] == "run-1"
    with pytest.raises(LeaseHeldError):
        Lease(db, MINUTE).acquire("run-2")


def test_the_old_holder_cannot_renew_after_a_takeover(db: MongoDatabase) -> None:
    old = taken(db, "run-1")
    expire(db)
    taken(db, "run-2")
    before = state(db)
    with pytest.raises(LeaseLostError, match="run-2"):
        old.renew()
    assert state(db) == before


def test_only_the_holder_begins_a_switch_and_the_next_one_reads_it(db: MongoDatabase) -> None:
    old = taken(db, "run-1")
    expire(db)
    old.begin_switch({"stages": ["$one"]})  # a value, and no expression
    assert state(db)["switch"] == {"stages": ["$one"]}
    assert holder(db), "the expiry is put off as well"
    expire(db)
    new = taken(db, "run-2")
    assert state(db)["switch"] == {"stages": ["$one"]}
    with pytest.raises(LeaseLostError, match="run-2"):
        old.begin_switch({"stages": ["another"]})
    assert state(db)["switch"] == {"stages": ["$one"]}
    new.begin_switch({"stages": []})
    assert state(db)["switch"] == {"stages": []}


def test_release_with_a_noted_switch_lets_the_lease_expire(db: MongoDatabase) -> None:
    lease = taken(db, "run-1")
    lease.begin_switch({"stages": []})
    lease.release()
    assert holder(db) is None
    assert (abandoned(db) or {})["run_id"] == "run-1"
    taken(db, "run-2")
    assert state(db)["switch"] == {"stages": []}


def test_a_takeover_by_a_run_of_the_same_id(db: MongoDatabase) -> None:
    old = taken(db, "run-1")
    expire(db)
    taken(db, "run-1")
    with pytest.raises(LeaseLostError):
        old.renew()


def test_a_late_release_does_not_free_the_lease_of_the_next(db: MongoDatabase) -> None:
    old = taken(db, "run-1")
    expire(db)
    new = taken(db, "run-2")
    old.release()
    new.renew()
    with pytest.raises(LeaseHeldError):
        Lease(db, MINUTE).acquire("run-3")


def test_renewing_a_released_or_new_lease_fails(db: MongoDatabase) -> None:
    lease = taken(db, "run-1")
    lease.release()
    for nobodys in (lease, Lease(db, MINUTE)):
        with pytest.raises(LeaseLostError):
            nobodys.renew()


def test_one_of_twenty_concurrent_runs_acquires_it(db: MongoDatabase) -> None:
    def take(number: int) -> str | None:
        try:
            taken(db, f"run-{number}")
        except LeaseHeldError as error:
            return str(error.holder["run_id"])
        return None

    outcomes = at_once(20, take)
    assert outcomes.count(None) == 1
    winner = f"run-{outcomes.index(None)}"
    assert {outcome for outcome in outcomes if outcome} == {winner}
    assert (state(db)["run_id"], state(db)["token"]) == (winner, 1)


def test_one_of_twenty_concurrent_runs_takes_over_an_expired_lease(db: MongoDatabase) -> None:
    taken(db, "old")
    expire(db)

    def take(number: int) -> bool:
        try:
            taken(db, f"run-{number}")
        except LeaseHeldError:
            return False
        return True

    assert at_once(20, take).count(True) == 1
    assert state(db)["token"] == 2


def test_a_child_resumes_its_parents_lease(db: MongoDatabase) -> None:
    parents = taken(db, "run-1")
    expire(db)
    childs = Lease(db, MINUTE)
    childs.resume("run-1")
    assert holder(db)
    assert state(db)["token"] == 1
    parents.renew()
    childs.release()
    assert holder(db) is None
    parents.release()


@pytest.mark.parametrize("now_with", ["run-2", None])
def test_a_lost_lease_is_not_resumed(db: MongoDatabase, now_with: str | None) -> None:
    parents = taken(db, "run-1")
    parents.release()
    if now_with:
        taken(db, now_with)
    with pytest.raises(LeaseLostError, match=now_with):
        Lease(db, MINUTE).resume("run-1")


def test_a_run_id_is_a_value_not_an_expression(db: MongoDatabase) -> None:
    taken(db, "$token")
    assert state(db)["run_id"] == "$token"
