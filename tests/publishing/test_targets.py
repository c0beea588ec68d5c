"""The check of the targets before a training."""

import re
from collections.abc import Callable

import pytest

import als_training
import clustering_training
from recommender.core.errors import PublishError
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.settings import Settings
from recommender.publishing.targets import _sample, check_targets
from recommender.runs.lease import Lease
from recommender.runs.ledger import Ledger
from recommender.runs.run import TrainingRun
from tests.publishing.publications import publish_pair, recommendations, train
from tests.test_docs import schema_of

NO_CASE = {"locale": "en", "strength": 2}
NO_BLANKS = {"locale": "en", "alternate": "shifted", "maxVariable": "space"}
NO_ACCENT = {"locale": "en", "strength": 1, "caseLevel": True}


def refused(settings: Settings, db: MongoDatabase) -> str:
    """Return why the targets are refused, empty if they are not; nothing is left behind."""
    before = set(db.list_collection_names())
    why = ""
    try:
        check_targets(TrainingRun("r1", db, settings, Lease(db, 60), "training"))
    except PublishError as error:
        why = str(error)
    assert set(db.list_collection_names()) == before
    return why


@pytest.mark.parametrize("target", ["Recommendations", "Clusters", "Metadata"])
def test_a_view_or_time_series_is_refused(
    db: MongoDatabase, db_settings: Settings, target: str
) -> None:
    kinds: dict[str, Document] = {
        "view": {"viewOn": "Source", "pipeline": []},
        "timeseries": {"timeseries": {"timeField": "at"}},
    }
    for kind, options in kinds.items():
        db.create_collection(target, **options)
        assert re.match(rf"{target} .*\b{kind}\b", refused(db_settings, db))
        db.drop_collection(target)


def test_validators_refuse_what_a_training_writes(db: MongoDatabase, db_settings: Settings) -> None:
    db["Reviews"].insert_one({"user_id": 7, "gmap_id": ["g"], "rating": 4})
    form = {
        "required": ["user_id", "run_id", "recommendations"],
        "properties": {"user_id": {"bsonType": "int"}, "recommendations": {"minItems": 13}},
    }
    fits = {"$jsonSchema": form}
    for target, validator, is_refused in (
        ("Recommendations", fits, False),
        ("Recommendations", {"user_id": {"$type": "string"}}, True),
        ("Clusters", {"size": {"$gte": 1}, "recommendations.39": {"$exists": True}}, False),
        ("Clusters", {"backend": {"$exists": True}}, True),
        ("Metadata", {"run_id": {"$type": "int"}}, True),
    ):
        db.create_collection(target, validator=validator)
        assert ("collMod" in refused(db_settings, db)) == is_refused, validator
        db.drop_collection(target)


def test_published_documents_are_the_sample_and_those_of_others_are_not(
    db: MongoDatabase, db_settings: Settings
) -> None:
    train(db, "r1", recommendations("r1", 3))
    db["Recommendations"].insert_one({"user_id": "of the backend"})
    db.command("collMod", "Recommendations", validator={"recommendations": []})
    assert refused(db_settings, db) == ""
    db.command("collMod", "Recommendations", validator={"user_id": {"$ne": "u1"}})
    assert "collMod" in refused(db_settings, db)


def test_a_unique_index_must_keep_ids_apart(db: MongoDatabase, db_settings: Settings) -> None:
    train(db, "r1", recommendations("r1", 3))
    publish_pair(db, "r1")
    assert refused(db_settings, db) == ""
    for target, keys, options, is_refused in (
        ("Recommendations", "user_id", {"collation": {"locale": "en"}}, False),
        ("Recommendations", "user_id", {"collation": NO_CASE}, True),
        ("Recommendations", "user_id", {"collation": NO_ACCENT}, True),
        ("Recommendations", "user_id", {"collation": NO_BLANKS}, True),
        ("Recommendations", [("user_id", 1), ("at", 1)], {}, False),
        ("Clusters", "cluster_id", {"collation": NO_CASE}, False),
        ("Clusters", "title", {"sparse": True}, False),
        ("Metadata", "run_id", {}, True),
    ):
        db[target].delete_many({})  # else the index would not be created
        db[target].create_index(keys, name="theirs", unique=True, **options)
        assert ("theirs" in refused(db_settings, db)) == is_refused, keys
        db[target].drop_index("theirs")


def test_a_collation_must_keep_ids_apart(db: MongoDatabase, db_settings: Settings) -> None:
    for collation, is_refused in (({"locale": "en"}, False), (NO_CASE, True), (NO_BLANKS, True)):
        db.create_collection("Recommendations", collation=collation)
        assert ("has a collation" in refused(db_settings, db)) == is_refused, collation
        db.drop_collection("Recommendations")


def test_the_samples_have_the_form_of_the_schemas(db: MongoDatabase, db_settings: Settings) -> None:
    for target in ("Recommendations", "Clusters"):
        sample = _sample(TrainingRun("r1", db, db_settings, Lease(db, 60), "training"), target)
        assert set(sample) | {"_id"} == set(schema_of(target)["properties"])


def test_the_scripts_refuse_a_target_before_they_train(
    run_here: Callable[..., int], db: MongoDatabase
) -> None:
    db.create_collection("Clusters", viewOn="Source", pipeline=[])
    for main in (als_training.main, clustering_training.main):
        assert run_here(main) == 70
        run = Ledger(db).recent(1)[0]
        assert (run["state"], run["phases"]) == ("failed", [])
        assert re.match(r"Clusters .*\bview\b", run["error"])
