"""Rollback: what the latest run has replaced is published again, whole, and once more undone."""

import contextlib
from collections.abc import Callable

import pytest

from recommender.core.errors import DatabaseUnavailableError, LeaseLostError, NoPreviousError
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.mongo_collections import CLUSTERS, METADATA, PUBLISHED, RECOMMENDATIONS
from recommender.core.settings import Settings
from recommender.publishing import publish as publishing
from recommender.publishing.rollback import previous_generation, rollback
from recommender.runs import switch
from recommender.runs.run import TrainingRun
from recommender.runs.switch import PREVIOUS, published_runs, recover
from tests.publishing.publications import (
    HookedLease,
    clusters_and_metadata,
    everything,
    nothing,
    publish_pair,
    train,
    watched,
)

USERS = 500


def publish_all(db: MongoDatabase, *run_ids: str) -> None:
    for run_id in run_ids:
        train(db, run_id)
        publish_pair(db, run_id)


def roll_back(
    db: MongoDatabase, settings: Settings, run_id: str, before: Callable[[], None] = nothing
) -> None:
    lease = HookedLease(db, run_id, before)
    rollback(TrainingRun(run_id, db, settings, lease, "rollback"))
    lease.release()


def live(db: MongoDatabase, suffix: str = "") -> dict[str, list[str]]:
    return {name: db[name + suffix].distinct("run_id") for name in PUBLISHED}


def of(run_id: str) -> dict[str, list[str]]:
    return {name: [run_id] for name in PUBLISHED}


def test_the_previous_generation_is_published_and_the_live_one_kept(
    either: MongoDatabase, db_settings: Settings
) -> None:
    publish_all(either, "r1", "r2")
    second = everything(either)
    roll_back(either, db_settings, "r3")
    assert (live(either), live(either, PREVIOUS)) == (of("r1"), of("r2"))
    assert published_runs(either) == {"r1", "r2"}
    assert either[RECOMMENDATIONS].count_documents({}) == USERS
    assert either[RECOMMENDATIONS].index_information()["user_id_1"]["unique"]
    assert set(everything(either)) == set(PUBLISHED)
    roll_back(either, db_settings, "r4")
    assert everything(either) == second
    publish_all(either, "r5")
    roll_back(either, db_settings, "r6")
    assert live(either) == of("r2")


def test_the_backend_s_documents_stay(either: MongoDatabase, db_settings: Settings) -> None:
    publish_all(either, "r1", "r2")
    theirs: list[Document] = [{"user_id": "guest"}, {"user_id": "u7", "a": 1}]
    for document in theirs:
        either[RECOMMENDATIONS].replace_one({"user_id": document["user_id"]}, document, upsert=True)
    either[METADATA].insert_one({"_id": "theirs"})
    for run_id in ("r3", "r4"):
        roll_back(either, db_settings, run_id)
        kept = either[RECOMMENDATIONS].find({"run_id": {"$exists": False}}, {"_id": 0})
        assert sorted(kept, key=lambda each: str(each["user_id"])) == theirs
        assert either[RECOMMENDATIONS].count_documents({}) == USERS + 1
        assert either[METADATA].count_documents({"_id": "theirs"}) == 1


def test_only_what_the_latest_run_replaced_is_rolled_back(
    either: MongoDatabase, db_settings: Settings
) -> None:
    publish_all(either, "r1", "r2")
    publish_pair(either, "r3")
    for clusters, run_id in (("r2", "r4"), ("r3", "r5")):
        roll_back(either, db_settings, run_id)
        assert live(either) == of("r2") | {CLUSTERS: [clusters], METADATA: [clusters]}


def test_readers_see_one_whole_run(
    replica_set: MongoDatabase, db: MongoDatabase, db_settings: Settings
) -> None:
    publish_all(replica_set, "r1", "r2")
    publish_all(db, "r1", "r2")
    with (
        watched(lambda: clusters_and_metadata(replica_set)) as pairs,
        watched(lambda: list(replica_set[RECOMMENDATIONS].find())) as lists,
        watched(lambda: list(db[RECOMMENDATIONS].find())) as alone,
        watched(lambda: list(db[METADATA].find())) as metadata,
    ):
        for number in (3, 4):
            roll_back(replica_set, db_settings, f"r{number}")
            roll_back(db, db_settings, f"r{number}")
    assert {len(runs) for _, runs in pairs} == {1}
    assert {count_and_runs(each) for each in (*lists, *alone)} == {(USERS, 1)}
    assert {count_and_runs(each) for each in metadata} == {(3, 1)}


def count_and_runs(reading: tuple[int, set[str]]) -> tuple[int, int]:
    return reading[0], len(reading[1])


@pytest.mark.parametrize("harm", ["none", "first", "dropped", "emptied", "replaced"])
def test_a_generation_that_is_missing_or_incomplete_is_refused(
    either: MongoDatabase, db_settings: Settings, harm: str
) -> None:
    publish_all(either, *([] if harm == "none" else ["r1"] if harm == "first" else ["r1", "r2"]))
    kept = either[CLUSTERS + PREVIOUS]
    if harm == "dropped":
        kept.drop()
    if harm == "emptied":
        kept.delete_one({})
    if harm == "replaced":
        kept.update_many({}, {"$set": {"run_id": "r0"}})
    before = everything(either)
    with pytest.raises(NoPreviousError) as caught:
        roll_back(either, db_settings, "r3")
    assert caught.value.incomplete is (harm not in {"none", "first"})
    assert everything(either) == before


@pytest.mark.parametrize("renames", [None, 0, 1, 2, 3, 6])
def test_a_rollback_that_is_killed_is_done_whole_or_not_at_all(
    either: MongoDatabase,
    db_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    renames: int | None,
) -> None:
    """Die before the switch (None), or after some of its renames."""
    publish_all(either, "r1", "r2")
    done: list[str] = []
    rename = switch._rename

    def die_later(db: MongoDatabase, stage: str, target: str) -> None:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(target)
        rename(db, stage, target)

    def die() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(switch, "_rename", die_later)
        patch.setattr(publishing, "signals_deferred", contextlib.nullcontext)
        roll_back(either, db_settings, "r3", die if renames is None else nothing)
    recover(either)
    expected = ("r2", "r1") if renames is None else ("r1", "r2")
    assert (live(either), live(either, PREVIOUS)) == tuple(map(of, expected))
    assert set(everything(either)) == set(PUBLISHED)
    roll_back(either, db_settings, "r4")
    assert live(either) == of(expected[1])


def test_a_lost_lease_rolls_nothing_back(either: MongoDatabase, db_settings: Settings) -> None:
    publish_all(either, "r1", "r2")
    with pytest.raises(LeaseLostError):
        roll_back(either, db_settings, "r3", lambda: HookedLease(either, "r4", nothing).renew())
    assert live(either) == of("r2")
    assert previous_generation(either)[CLUSTERS]["run_id"] == "r1"


def test_a_refused_rename_undoes_the_whole_rollback_but_not_what_the_backend_writes(
    either: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_all(either, "r1", "r2")
    either[METADATA].insert_one({"_id": "changed", "a": 1})
    rename = switch._rename

    def refuse(db: MongoDatabase, stage: str, target: str) -> None:
        if target == RECOMMENDATIONS:  # the other two are restored
            db[METADATA].insert_one({"_id": "new"})
            db[METADATA].replace_one({"_id": "changed"}, {"b": 2})
            db.command("refused")
        rename(db, stage, target)

    monkeypatch.setattr(switch, "_rename", refuse)
    with pytest.raises(DatabaseUnavailableError):
        roll_back(either, db_settings, "r3")
    assert live(either) == of("r2")
    theirs = list(either[METADATA].find({"run_id": {"$exists": False}}).sort("_id"))
    assert theirs == [{"_id": "changed", "b": 2}, {"_id": "new"}]
