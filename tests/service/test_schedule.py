"""The schedule in MongoDB: its clock, its slots, and one process for each slot."""

import datetime
import math
import time

import pytest

from recommender.core.mongo import Document, MongoDatabase
from recommender.runs.lease import COLLECTION, Lease, holder
from recommender.service.schedule import SCHEDULE_ID, Schedule
from tests.waiting import at_once

HOUR = 3600.0
YEARS = 10 * 365 * 24 * HOUR


def slot(db: MongoDatabase) -> Document:
    return db[COLLECTION].find_one({"_id": SCHEDULE_ID}) or {}


def let_pass(db: MongoDatabase, hours: float) -> None:
    """Move the schedule back, as if these hours had passed."""
    earlier = slot(db)["next_at"] - datetime.timedelta(hours=hours)
    db[COLLECTION].update_one({"_id": SCHEDULE_ID}, {"$set": {"next_at": earlier}})


@pytest.fixture
def hourly(db: MongoDatabase) -> Schedule:
    schedule = Schedule(db, HOUR)
    schedule.refresh()
    return schedule


def test_the_first_look_starts_the_clock(db: MongoDatabase) -> None:
    assert Schedule(db, HOUR).refresh() == HOUR
    assert slot(db)["next_at"] - slot(db)["asked_at"] == datetime.timedelta(hours=1)


def test_an_interval_may_be_a_fraction_of_a_second(db: MongoDatabase) -> None:
    assert Schedule(db, 0.25).refresh() == 0.25


def test_many_first_looks_at_once_start_one_clock(db: MongoDatabase) -> None:
    assert max(at_once(20, lambda _: Schedule(db, HOUR).refresh())) == HOUR
    assert db[COLLECTION].count_documents({}) == 1


def test_a_restart_does_not_reset_the_clock(db: MongoDatabase, hourly: Schedule) -> None:
    let_pass(db, 0.5)
    due = slot(db)["next_at"]
    left = Schedule(db, HOUR).refresh()
    assert slot(db)["next_at"] == due
    assert left == (due - slot(db)["asked_at"]).total_seconds()
    assert HOUR / 4 < left <= HOUR / 2


def test_a_shorter_interval_brings_the_next_slot_forward_and_a_longer_one_does_not(
    db: MongoDatabase, hourly: Schedule
) -> None:
    due = slot(db)["next_at"]
    assert Schedule(db, 24 * HOUR).refresh() <= HOUR
    assert slot(db)["next_at"] == due
    assert Schedule(db, 60).refresh() == 60


def test_a_slot_that_is_not_due_is_not_claimed(db: MongoDatabase, hourly: Schedule) -> None:
    before = slot(db)["next_at"]
    assert not hourly.claim()
    assert slot(db)["next_at"] == before


def test_a_schedule_that_was_not_started_has_no_slot_to_claim(db: MongoDatabase) -> None:
    assert not Schedule(db, HOUR).claim()


def test_a_slot_is_claimed_once_and_the_next_is_one_interval_after_it(
    db: MongoDatabase, hourly: Schedule
) -> None:
    let_pass(db, 1.25)
    due = slot(db)["next_at"]
    assert hourly.claim()
    assert slot(db)["next_at"] == due + datetime.timedelta(hours=1)
    assert not hourly.claim()


def test_one_of_twenty_processes_claims_a_slot(db: MongoDatabase, hourly: Schedule) -> None:
    let_pass(db, 1.25)
    assert at_once(20, lambda _: Schedule(db, HOUR).claim()).count(True) == 1


def test_one_slot_is_made_up_for_after_a_long_stop(db: MongoDatabase, hourly: Schedule) -> None:
    let_pass(db, 100.5)
    assert -100 * HOUR < hourly.refresh() <= -99.5 * HOUR
    assert hourly.seconds_left() == 0
    assert hourly.claim()
    assert not hourly.claim()
    assert HOUR - 60 < hourly.refresh() <= HOUR


def test_without_a_schedule_no_slot_is_due(db: MongoDatabase, hourly: Schedule) -> None:
    let_pass(db, 2)
    none = Schedule(db, 0)
    assert none.refresh() == none.seconds_left() == math.inf
    assert not none.claim()
    assert hourly.claim()  # a process that has one keeps it


def test_skipped_slots_are_counted(db: MongoDatabase, hourly: Schedule) -> None:
    assert (hourly.skipped, hourly.last_skipped) == (0, None)
    hourly.count_skip({"run_id": "run-1"})
    hourly.count_skip({"run_id": "$run-2", "host": "h", "token": 7})
    hourly.refresh()
    assert hourly.skipped == 2
    last = hourly.last_skipped or {}
    assert (last["run_id"], last["host"], len(last)) == ("$run-2", "h", 3)
    assert abs(last["at"] - slot(db)["asked_at"]) < datetime.timedelta(seconds=60)


def set_server_clock(db: MongoDatabase, seconds: float, *schedules: Schedule) -> None:
    """Set it forward: earlier readings are then that much earlier by the new clock."""
    earlier = datetime.timedelta(seconds=seconds)
    db[COLLECTION].update_one(
        {"_id": SCHEDULE_ID}, {"$set": {"next_at": slot(db)["next_at"] - earlier}}
    )
    for schedule in schedules:
        schedule._next_at -= earlier
        schedule._asked_at -= earlier


@pytest.mark.parametrize("jump", [YEARS, 2 * HOUR, 60, -60, -2 * HOUR, -YEARS])
def test_the_slot_moves_with_the_servers_clock(
    db: MongoDatabase, hourly: Schedule, jump: float, caplog: pytest.LogCaptureFixture
) -> None:
    let_pass(db, 0.25)
    left = hourly.refresh()
    set_server_clock(db, jump, hourly)
    assert not hourly.claim()
    assert hourly.refresh() == pytest.approx(left, abs=10)
    assert f"{jump:+.0f} s" in caplog.text
    let_pass(db, 0.75)
    assert hourly.claim()
    assert not hourly.claim()


def test_several_processes_move_the_slot_once(db: MongoDatabase) -> None:
    schedules = [Schedule(db, HOUR) for _ in range(3)]
    left = [schedule.refresh() for schedule in schedules]
    set_server_clock(db, 0.5 * HOUR, *schedules)
    for schedule in schedules:
        assert schedule.refresh() == pytest.approx(left[0], abs=10)


class Steady:
    """A steady clock that can be set forward."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def test_a_slow_answer_does_not_move_the_slot(
    db: MongoDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    steady = Steady()
    schedule = Schedule(db, HOUR, steady)
    schedule.refresh()
    steady.ahead += 20
    assert HOUR - 5 < schedule.refresh() <= HOUR
    assert caplog.text == ""


def test_the_time_left_runs_by_the_steady_clock(db: MongoDatabase) -> None:
    steady = Steady()
    schedule = Schedule(db, HOUR, steady)
    assert schedule.seconds_left() == pytest.approx(HOUR, abs=10)  # MongoDB has not answered yet
    assert schedule.refresh() == pytest.approx(schedule.seconds_left(), abs=10)
    steady.ahead += 100
    assert schedule.seconds_left() == pytest.approx(HOUR - 100, abs=10)
    steady.ahead += HOUR
    assert schedule.seconds_left() == 0


def test_the_schedule_leaves_the_lease_as_it_is(db: MongoDatabase, hourly: Schedule) -> None:
    Lease(db, HOUR).acquire("run-1")
    before = holder(db)
    let_pass(db, 2)
    hourly.claim()
    hourly.count_skip({"run_id": "run-1"})
    assert before
    assert holder(db) == before
