"""The schedule: its clock runs in MongoDB, and each slot is one process's."""

from __future__ import annotations

import datetime

import pytest

from recommender.lease import COLLECTION, Lease, holder
from recommender.mongo import Document, MongoDatabase
from recommender.schedule import SCHEDULE_ID, Schedule
from tests.waiting import at_once

HOUR = 3600.0


def slot(db: MongoDatabase) -> Document:
    found = db[COLLECTION].find_one({"_id": SCHEDULE_ID})
    assert found
    return found


def let_pass(db: MongoDatabase, hours: float) -> None:
    """Move the schedule back, as if so much time had passed."""
    earlier = slot(db)["next_at"] - datetime.timedelta(hours=hours)
    db[COLLECTION].update_one({"_id": SCHEDULE_ID}, {"$set": {"next_at": earlier}})


@pytest.fixture
def hourly(db: MongoDatabase) -> Schedule:
    schedule = Schedule(db, HOUR)
    schedule.seconds_left()
    return schedule


def test_the_first_call_of_all_starts_the_clock(db: MongoDatabase) -> None:
    assert Schedule(db, HOUR).seconds_left() == HOUR
    assert slot(db)["next_at"] - slot(db)["asked_at"] == datetime.timedelta(hours=1)


def test_an_interval_of_a_fraction_of_a_second_is_kept(db: MongoDatabase) -> None:
    assert Schedule(db, 0.25).seconds_left() == 0.25


def test_many_first_calls_at_once_start_one_clock(db: MongoDatabase) -> None:
    left = at_once(20, lambda _: Schedule(db, HOUR).seconds_left())
    assert max(left) == HOUR
    assert db[COLLECTION].count_documents({}) == 1


def test_a_restart_does_not_reset_it(db: MongoDatabase, hourly: Schedule) -> None:
    let_pass(db, 0.5)
    due = slot(db)["next_at"]
    left = Schedule(db, HOUR).seconds_left()
    assert slot(db)["next_at"] == due
    assert left == (due - slot(db)["asked_at"]).total_seconds()
    assert HOUR / 4 < left <= HOUR / 2


def test_a_shorter_interval_brings_the_next_slot_forward(
    db: MongoDatabase, hourly: Schedule
) -> None:
    assert Schedule(db, 60).seconds_left() == 60


def test_a_longer_interval_leaves_the_next_slot_where_it_is(
    db: MongoDatabase, hourly: Schedule
) -> None:
    due = slot(db)["next_at"]
    assert Schedule(db, 24 * HOUR).seconds_left() <= HOUR
    assert slot(db)["next_at"] == due


def test_what_is_not_due_cannot_be_claimed(db: MongoDatabase, hourly: Schedule) -> None:
    before = slot(db)
    assert not hourly.claim()
    assert slot(db) == before


def test_a_clock_that_was_not_started_has_no_slot(db: MongoDatabase) -> None:
    assert not Schedule(db, HOUR).claim()


def test_a_slot_is_claimed_once_and_the_next_keeps_the_beat(
    db: MongoDatabase, hourly: Schedule
) -> None:
    let_pass(db, 1.25)
    due = slot(db)["next_at"]
    assert hourly.claim()
    assert slot(db)["next_at"] == due + datetime.timedelta(hours=1)
    assert not hourly.claim()


def test_of_twenty_at_once_one_gets_the_slot(db: MongoDatabase, hourly: Schedule) -> None:
    let_pass(db, 1.25)
    assert at_once(20, lambda _: Schedule(db, HOUR).claim()).count(True) == 1


def test_a_long_stop_leaves_one_slot_to_catch_up_with(db: MongoDatabase, hourly: Schedule) -> None:
    let_pass(db, 100.5)
    assert hourly.claim()
    assert not hourly.claim()
    assert HOUR - 60 < hourly.seconds_left() <= HOUR


def test_a_slot_that_has_passed_unclaimed_is_told_as_such(
    db: MongoDatabase, hourly: Schedule
) -> None:
    let_pass(db, 3)
    assert -2 * HOUR - 60 < hourly.seconds_left() <= -2 * HOUR
    assert hourly.claim()


def test_skips_are_counted(db: MongoDatabase, hourly: Schedule) -> None:
    hourly.count_skip()
    hourly.count_skip()
    assert slot(db)["skipped"] == 2
    hourly.seconds_left()
    assert slot(db)["skipped"] == 2


def test_the_lease_beside_it_is_not_touched(db: MongoDatabase, hourly: Schedule) -> None:
    Lease(db, HOUR).acquire("run-1")
    before = holder(db)
    let_pass(db, 2)
    hourly.claim()
    hourly.seconds_left()
    hourly.count_skip()
    assert before
    assert holder(db) == before
