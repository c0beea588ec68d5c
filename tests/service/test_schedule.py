"""The schedule: its clock runs in MongoDB, and each slot is one process's."""

from __future__ import annotations

import dataclasses
import datetime
import time

import pytest

from recommender.core.mongo import Document, MongoDatabase
from recommender.runs.lease import COLLECTION, Lease, holder
from recommender.service.schedule import SCHEDULE_ID, Schedule
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
    before = slot(db)["next_at"]
    assert not hourly.claim()
    assert slot(db)["next_at"] == before


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
    assert hourly.look().last_skipped is None
    hourly.count_skip({"run_id": "run-1"})
    hourly.count_skip({"run_id": "$run-2", "host": "h", "token": 7})
    found = hourly.look()
    assert found.skipped == 2
    assert found.last_skipped
    assert found.last_skipped == {
        "run_id": "$run-2",
        "host": "h",
        "at": found.last_skipped["at"],
    }
    assert abs(found.last_skipped["at"] - slot(db)["asked_at"]) < datetime.timedelta(seconds=60)
    assert Schedule(db, HOUR).look().skipped == 2


YEARS = 10 * 365 * 24 * HOUR


def set_server_clock(db: MongoDatabase, seconds: float, *schedules: Schedule) -> None:
    """Set it forward: what was told by the old clock is so much earlier by the new one."""
    earlier = datetime.timedelta(seconds=seconds)
    db[COLLECTION].update_one(
        {"_id": SCHEDULE_ID}, {"$set": {"next_at": slot(db)["next_at"] - earlier}}
    )
    for schedule in schedules:
        seen = schedule._seen
        assert seen
        schedule._seen = dataclasses.replace(
            seen, next_at=seen.next_at - earlier, asked_at=seen.asked_at - earlier
        )


@pytest.mark.parametrize("jump", [YEARS, 2 * HOUR, 60, -60, -2 * HOUR, -YEARS])
def test_a_jump_of_the_servers_clock_leaves_the_slot_as_far_away_as_it_was(
    db: MongoDatabase, hourly: Schedule, jump: float, caplog: pytest.LogCaptureFixture
) -> None:
    let_pass(db, 0.25)
    left = hourly.seconds_left()
    set_server_clock(db, jump, hourly)
    assert not hourly.claim()
    assert hourly.seconds_left() == pytest.approx(left, abs=10)
    assert f"MongoDB's clock was set by {jump:+.0f} s" in caplog.text
    let_pass(db, 0.75)
    assert hourly.claim()
    assert not hourly.claim()


def test_several_processes_move_the_slot_once(db: MongoDatabase) -> None:
    schedules = [Schedule(db, HOUR) for _ in range(3)]
    left = [schedule.seconds_left() for schedule in schedules]
    set_server_clock(db, 0.5 * HOUR, *schedules)
    for schedule in schedules:
        assert schedule.seconds_left() == pytest.approx(left[0], abs=10)


class Steady:
    """A steady clock of which so much can be taken as gone by."""

    gone = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.gone


def test_a_slow_answer_is_no_jump(db: MongoDatabase, caplog: pytest.LogCaptureFixture) -> None:
    steady = Steady()
    schedule = Schedule(db, HOUR, steady)
    schedule.look()
    steady.gone += 10
    assert HOUR - 5 < schedule.seconds_left() <= HOUR
    assert "was set" not in caplog.text


def test_the_lease_beside_it_is_not_touched(db: MongoDatabase, hourly: Schedule) -> None:
    Lease(db, HOUR).acquire("run-1")
    before = holder(db)
    let_pass(db, 2)
    hourly.claim()
    hourly.seconds_left()
    hourly.count_skip({"run_id": "run-1"})
    assert before
    assert holder(db) == before
