"""Staging: documents are checked beside the live collection, and failures change nothing."""

from typing import Any

import bson
import pytest
from bson import Int64, ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo.errors import BulkWriteError, DuplicateKeyError, WriteError

from recommender.core import mongo_collections
from recommender.core.errors import DatabaseUnavailableError, LeaseLostError, PublishError
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.mongo_collections import CLUSTERS, METADATA, RECOMMENDATIONS, insert_once
from recommender.publishing.publish import publish
from recommender.publishing.staging import SAMPLE_SIZE, Stage, fault_of, staged
from recommender.runs.switch import recover
from tests.publishing.publications import (
    TRAINED_USERS,
    HookedLease,
    everything,
    nothing,
    recommendations,
    train,
    watched,
)

UNIQUE = {"v": 2, "key": [("user_id", 1)], "unique": True}
ENTRIES = [(ObjectId(), 2.0), ("1", 2.0), (1, -0.5)]


def document(entries: list[tuple[Any, float]], **fields: Any) -> Document:
    listed = [{"gmap_id": gmap_id, "score": score} for gmap_id, score in entries]
    return {"run_id": "r1", "recommendations": listed, **fields}


def fail(stage: Stage, error: BaseException, *, sealed: bool) -> None:
    stage.insert(recommendations("r2", 3))
    if sealed:
        stage.seal(3)
    raise error


def test_the_published_documents_are_live_and_the_stage_is_gone(db: MongoDatabase) -> None:
    train(db, "r1")
    assert db[RECOMMENDATIONS].count_documents({"run_id": "r1"}) == TRAINED_USERS
    assert list(everything(db)) == [RECOMMENDATIONS]


def test_a_reader_sees_one_whole_run(either: MongoDatabase) -> None:
    train(either, "r0")
    with watched(lambda: list(either[RECOMMENDATIONS].find())) as seen:
        for number in range(1, 8):
            train(either, f"r{number}")
    assert {(count, len(runs)) for count, runs in seen} == {(TRAINED_USERS, 1)}
    assert len({run for _, runs in seen for run in runs}) > 1


def test_a_stage_is_not_live(db: MongoDatabase) -> None:
    train(db, "r1", recommendations("r1", 2))
    before = everything(db)[RECOMMENDATIONS]
    with staged(db, RECOMMENDATIONS, "r2") as stage:
        stage.insert(recommendations("r2", 3))
        stage.seal(3)
        assert everything(db)[RECOMMENDATIONS] == before
        assert stage.name != RECOMMENDATIONS
        assert db[stage.name].count_documents({}) == 3


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
@pytest.mark.parametrize("sealed", [False, True])
def test_a_failure_drops_the_stage(db: MongoDatabase, error: BaseException, sealed: bool) -> None:
    train(db, "r1", recommendations("r1", 2))
    before = everything(db)
    with (
        pytest.raises(type(error)),
        staged(db, RECOMMENDATIONS, "r2") as stage,
    ):
        fail(stage, error, sealed=sealed)
    assert everything(db) == before


def test_a_stage_that_is_not_published_is_dropped(db: MongoDatabase) -> None:
    with staged(db, RECOMMENDATIONS, "r1") as stage:
        stage.insert(recommendations("r1", 1))
    assert everything(db) == {}


def test_a_wrong_count_is_not_published(db: MongoDatabase) -> None:
    train(db, "r1", recommendations("r1", 2))
    before = everything(db)
    for count, computed in ((2, 3), (3, 2), (0, 0), (0, 3)):
        with staged(db, RECOMMENDATIONS, "r2") as stage:
            stage.insert(recommendations("r2", count))
            with pytest.raises(PublishError):
                stage.seal(computed)
        assert everything(db) == before


def test_documents_of_others_do_not_count(db: MongoDatabase) -> None:
    db[RECOMMENDATIONS].insert_one({"user_id": "backend's"})
    with staged(db, RECOMMENDATIONS, "r1") as stage:
        stage.insert(recommendations("r1", 1))
        with pytest.raises(PublishError):
            stage.seal(2)


def test_two_documents_of_one_user_are_not_published(db: MongoDatabase) -> None:
    twice = [{"user_id": "u", "run_id": "r"}, {"user_id": "u", "run_id": "r"}]
    with pytest.raises(DatabaseUnavailableError, match="E11000"):
        train(db, "r", twice)
    assert everything(db) == {}


def test_the_published_user_ids_are_unique(db: MongoDatabase) -> None:
    train(db, "r1", recommendations("r1", 1))
    with pytest.raises(DuplicateKeyError):
        db[RECOMMENDATIONS].insert_one({"user_id": "u0"})


def test_documents_of_others_are_carried_over_unchanged(db: MongoDatabase) -> None:
    others: list[Document] = [
        {"_id": 1, "user_id": "new", "recommendations": [{"gmap_id": "g", "score": 1.0}]},
        {"_id": "x", "user_id": 7, "small": 1, "big": Int64(1), "deep": {"b": [1], "a": None}},
    ]
    db[RECOMMENDATIONS].insert_many(others)
    raw = db[RECOMMENDATIONS].with_options(bson.CodecOptions(document_class=RawBSONDocument))
    before = {document.raw for document in raw.find()}
    for run_id in ("r1", "r2"):
        train(db, run_id, recommendations(run_id, 2))
        kept = raw.find({"run_id": {"$exists": False}})
        assert {document.raw for document in kept} == before
        assert db[RECOMMENDATIONS].count_documents({}) == 4


def test_a_trained_document_wins_over_an_older_one_of_others(db: MongoDatabase) -> None:
    db[RECOMMENDATIONS].insert_many([{"user_id": "u0"}, {"user_id": "new"}])
    train(db, "r1", recommendations("r1", 2))
    run_ids = {d["user_id"]: d.get("run_id") for d in db[RECOMMENDATIONS].find()}
    assert run_ids == {"u0": "r1", "u1": "r1", "new": None}


def test_documents_of_earlier_trainings_are_not_carried_over(db: MongoDatabase) -> None:
    train(db, "r1", recommendations("r1", 3))
    train(db, "r2", recommendations("r2", 1))
    assert [d["run_id"] for d in db[RECOMMENDATIONS].find()] == ["r2"]


def test_indexes_of_others_are_kept(db: MongoDatabase) -> None:
    live = db[RECOMMENDATIONS]
    live.create_index([("a", 1), ("b", -1)], name="pair")
    live.create_index([("b", -1), ("a", 1)], unique=True, name="by pair")
    live.create_index("seen_at", expireAfterSeconds=3600)
    live.create_index("email", unique=True, sparse=True)
    live.create_index("d", partialFilterExpression={"d": {"$gt": 5}})
    before = live.index_information()
    rows = recommendations("r1", 3)
    for number, row in enumerate(rows):
        row["a"] = number
    train(db, "r1", rows)
    after = live.index_information()
    assert after.pop("user_id_1")["unique"]
    assert after == before
    again = recommendations("r2", 3)
    for number, row in enumerate(again):
        row["a"] = number
    train(db, "r2", again)
    assert live.index_information() == {**before, "user_id_1": {**UNIQUE}}


def test_collation_and_validator_of_others_are_kept(either: MongoDatabase) -> None:
    validator = {"user_id": {"$type": "string"}}
    either.create_collection(RECOMMENDATIONS, collation={"locale": "en", "strength": 2})
    live = either[RECOMMENDATIONS]
    live.insert_many([{"user_id": 7}, {"user_id": "U1"}])  # before there was a validator
    live.create_index("a", collation={"locale": "simple"})
    live.create_index("b")
    either.command("collMod", RECOMMENDATIONS, validator=validator, validationLevel="moderate")
    before, indexes = live.options(), live.index_information()
    for run_id in ("r1", "r2"):
        train(either, run_id, recommendations(run_id, 2))
        assert live.options() == before
        after = live.index_information()
        assert after.pop("user_id_1") == UNIQUE
        assert after == indexes
        user_ids = [str(document["user_id"]) for document in live.find()]
        assert sorted(user_ids) == ["7", "U1", "u0", "u1"]
    with pytest.raises(WriteError) as caught:
        live.insert_one({"user_id": 8})
    assert caught.value.code == 121  # DocumentValidationFailure


def test_documents_that_do_not_fit_the_validator_are_not_published(db: MongoDatabase) -> None:
    train(db, "r1", recommendations("r1", 3))
    before = everything(db)
    db.command("collMod", RECOMMENDATIONS, validator={"user_id": {"$ne": "u1"}})
    with pytest.raises(PublishError, match=r"^1 of 3 .*collMod"):
        train(db, "r2", recommendations("r2", 3))
    assert everything(db) == before
    db.command("collMod", RECOMMENDATIONS, validationAction="warn")
    train(db, "r2", recommendations("r2", 3))


def test_an_index_of_others_on_the_user_becomes_unique(db: MongoDatabase) -> None:
    db[RECOMMENDATIONS].create_index("user_id", name="theirs")
    train(db, "r1", recommendations("r1", 2))
    assert db[RECOMMENDATIONS].index_information()["user_id_1"] == UNIQUE


def test_carried_documents_alone_are_not_published(db: MongoDatabase) -> None:
    """A training that sleeps in its last step finds its stage dropped when it goes on."""
    db[RECOMMENDATIONS].insert_one({"user_id": "guest"})
    before = everything(db)

    def taken_over() -> None:
        assert db[stage.name].count_documents({"run_id": {"$exists": False}}) == 1
        HookedLease(db, "r2", nothing)

    with staged(db, RECOMMENDATIONS, "r1") as stage:
        stage.insert(recommendations("r1", 1))
        stage.seal(1)
        recover(db)
        with pytest.raises(LeaseLostError):
            publish(db, stage, lease=HookedLease(db, "r1", taken_over))
    assert everything(db) == before


def test_recovery_drops_only_the_stages_of_dead_runs(db: MongoDatabase) -> None:
    kept = [RECOMMENDATIONS, CLUSTERS, METADATA, "Reviews", "Reviews.staged.x", "Clusters2"]
    for name in kept:
        db[name].insert_one({"a": 1})
    for target in (RECOMMENDATIONS, CLUSTERS, METADATA):
        db[f"{target}.staged.dead"].insert_one({"a": 1})
    with staged(db, RECOMMENDATIONS, "dead too") as stage:
        stage.insert(recommendations("dead too", 1))
        recover(db)
        assert sorted(db.list_collection_names()) == sorted(kept)


@pytest.mark.parametrize(
    "staged_document", [document(ENTRIES), document([]), {"run_id": "r1", "columns": ["a"]}]
)
def test_correct_documents_have_no_fault(staged_document: Document) -> None:
    assert fault_of(staged_document, "r1") is None


@pytest.mark.parametrize(
    ("staged_document", "fault"),
    [
        (document(ENTRIES, run_id="r0"), "'r0'"),
        (document([("a", float("nan"))]), "finite"),
        (document([("a", float("inf")), ("b", 1.0)]), "finite"),
        (document(ENTRIES[::-1]), "first"),
        (document([("a", 2.0), ("a", 1.0)]), "twice"),
    ],
)
def test_documents_with_a_fault(staged_document: Document, fault: str) -> None:
    assert fault in (fault_of(staged_document, "r1") or "")


def test_a_stage_with_a_fault_is_not_published(db: MongoDatabase) -> None:
    good = [document(ENTRIES, user_id=n) for n in range(SAMPLE_SIZE - 1)]
    with staged(db, RECOMMENDATIONS, "r1") as stage:
        stage.insert([*good, document(ENTRIES[::-1], user_id="bad")])
        with pytest.raises(PublishError, match=f"^1 of {SAMPLE_SIZE} "):
            stage.seal(SAMPLE_SIZE)
    assert db.list_collection_names() == []


class TestInsertOnce:
    def test_duplicates_are_skipped(
        self, db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mongo_collections, "INSERT_ROWS", 10)
        rows = [{"_id": i} for i in range(35)]
        insert_once(db["x"], iter(rows[:23]))
        insert_once(db["x"], iter(rows))
        assert db["x"].count_documents({}) == 35

    def test_existing_documents_stay(self, db: MongoDatabase) -> None:
        db["x"].insert_one({"_id": 1, "a": "old"})
        insert_once(db["x"], [{"_id": 1, "a": "new"}, {"_id": 2, "a": "new"}])
        assert [d["a"] for d in db["x"].find().sort("_id")] == ["old", "new"]

    def test_no_documents(self, db: MongoDatabase) -> None:
        insert_once(db["x"], [])
        assert everything(db) == {}

    @pytest.mark.parametrize("duplicate_too", [False, True])
    def test_any_other_refusal_is_an_error(self, db: MongoDatabase, duplicate_too: bool) -> None:
        db.create_collection("x", validator={"a": {"$type": "int"}})
        db["x"].insert_one({"_id": 1, "a": 1})
        rows: list[Document] = [{"_id": 2, "a": "no number"}, {"_id": 3, "a": 3}]
        with pytest.raises(BulkWriteError):
            insert_once(db["x"], [{"_id": 1, "a": 1}, *rows] if duplicate_too else rows)
