"""Publishing: readers see all of one run, and the previous generation is kept."""

import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

import bson
import pytest
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from pymongo.errors import DuplicateKeyError

from recommender.core.errors import DatabaseUnavailableError, LeaseLostError, PublishError
from recommender.core.mongo import Document, MongoDatabase, connect, database
from recommender.core.mongo_collections import (
    CENTROIDS_ID,
    CLUSTERS,
    COLUMNS_ID,
    METADATA,
    PUBLISHED,
    RECOMMENDATIONS,
)
from recommender.core.settings import load_settings
from recommender.publishing.bson_size import columns_that_fit
from recommender.publishing.publish import publish, publish_clusters
from recommender.publishing.staging import staged
from recommender.runs import switch
from recommender.runs.lease import Lease
from recommender.runs.switch import PREVIOUS, published_runs, recover
from tests.publishing.publications import (
    HookedLease,
    clusters,
    everything,
    metadata,
    nothing,
    publish_pair,
    recommendations,
    train,
    watched,
)

# What must not change where the service's own reads and writes go.
URI_OPTIONS = (
    "w=1&readConcernLevel=majority",
    "readPreference=secondaryPreferred",
    "readPreference=secondaryPreferred&readConcernLevel=linearizable&retryWrites=false&w=1",
)


@pytest.mark.parametrize("options", URI_OPTIONS)
def test_the_options_of_the_uri_do_not_change_publishing(
    replica_set_uri: str, clean_environment: Path, options: str
) -> None:
    name = f"test-{uuid.uuid4().hex}"
    settings = load_settings(mongo_uri=f"{replica_set_uri}&{options}", mongo_db=name)
    with connect(settings.mongo) as client:
        db = database(client, settings.mongo)
        for number in range(4):
            train(db, f"r{number}")
            publish_pair(db, f"r{number}")
            assert published_runs(db) == {f"r{max(0, number - 1)}", f"r{number}"}
        client.drop_database(name)


def test_a_switch_without_its_note_is_an_error(
    db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "finish_switch", lambda db: True)
    with pytest.raises(PublishError):
        train(db, "r1")


def test_both_are_published(either: MongoDatabase) -> None:
    publish_pair(either, "r1")
    publish_pair(either, "r2", k=2)
    assert sorted(everything(either)) == [CLUSTERS, METADATA]
    assert [d["cluster_id"] for d in either[CLUSTERS].find().sort("cluster_id")] == [0, 1]
    assert {d["run_id"] for name in (CLUSTERS, METADATA) for d in either[name].find()} == {"r2"}


def test_readers_of_each_collection_see_one_whole_run(either: MongoDatabase) -> None:
    publish_pair(either, "r0")
    with (
        watched(lambda: list(either[CLUSTERS].find())) as seen_clusters,
        watched(lambda: list(either[METADATA].find())) as seen_metadata,
    ):
        for number in range(1, 8):
            publish_pair(either, f"r{number}")
    for seen in (seen_clusters, seen_metadata):
        assert {(count, len(runs)) for count, runs in seen} == {(3, 1)}


def test_cluster_ids_are_unique(either: MongoDatabase) -> None:
    publish_pair(either, "r1")
    with pytest.raises(DuplicateKeyError):
        either[CLUSTERS].insert_one({"cluster_id": 0})


def test_documents_of_others_stay_in_metadata_only(
    either: MongoDatabase,
) -> None:
    either[METADATA].insert_many([{"_id": "theirs", "a": 1}, {"_id": COLUMNS_ID, "a": 1}])
    either[CLUSTERS].insert_one({"cluster_id": 99})
    publish_pair(either, "r1")
    assert either[METADATA].find_one({"_id": "theirs"}) == {"_id": "theirs", "a": 1}
    assert either[METADATA].find_one({"_id": COLUMNS_ID}) == {"_id": COLUMNS_ID, "run_id": "r1"}
    assert either[CLUSTERS].count_documents({}) == 3


def test_the_lease_is_extended_when_both_are_staged(
    either: MongoDatabase,
) -> None:
    publish_pair(either, "r1")
    before, refusal = everything(either), PublishError("not now")

    def refuse() -> None:
        beside = set(everything(either)) - set(before)
        stages = sorted(name for name in beside if not name.endswith(".previous"))
        assert [name.split(".")[0] for name in stages] == [CLUSTERS, METADATA]
        assert [either[name].count_documents({}) for name in stages] == [3, 3]
        raise refusal

    with pytest.raises(PublishError) as caught:
        publish_pair(either, "r2", before=refuse)
    assert caught.value is refusal
    assert everything(either) == before


def test_a_lost_lease_replaces_nothing(either: MongoDatabase) -> None:
    publish_pair(either, "r1")
    before = everything(either)
    theirs: list[Lease] = []

    def taken_over_meanwhile() -> None:
        theirs.append(HookedLease(either, "r3", nothing))

    with pytest.raises(LeaseLostError):
        publish_pair(either, "r2", before=taken_over_meanwhile)
    assert everything(either) == before
    theirs[-1].renew()
    recover(either)
    assert everything(either) == before


@pytest.mark.parametrize("target", PUBLISHED)
def test_a_view_as_target_is_an_error(either: MongoDatabase, target: str) -> None:
    train(either, "r1")
    publish_pair(either, "r1")
    either[target].rename("Source")
    either.create_collection(target, viewOn="Source", pipeline=[])
    before = everything(either)
    calls: list[bool] = []
    publish_next: Callable[..., None] = train if target == RECOMMENDATIONS else publish_pair
    with pytest.raises(DatabaseUnavailableError, match=rf"{target} .*\bview\b"):
        publish_next(either, "r2", before=lambda: calls.append(True))
    assert everything(either) == before
    assert calls == []


def test_two_clusters_of_one_id_are_not_published(either: MongoDatabase) -> None:
    publish_pair(either, "r1")
    before = everything(either)
    twice = [*clusters("r2"), *clusters("r2", 1)]
    with pytest.raises(DatabaseUnavailableError, match="E11000"):
        publish_clusters(
            either, "r2", twice, metadata("r2"), lease=HookedLease(either, "r2", nothing)
        )
    assert everything(either) == before


def test_repeated_publications(
    either: MongoDatabase,
) -> None:
    for number, k in enumerate((3, 5, 2)):
        publish_pair(either, f"r{number}", k=k)
        either[METADATA].insert_one({"_id": f"theirs {number}"})
        assert [d["cluster_id"] for d in either[CLUSTERS].find().sort("cluster_id")] == list(
            range(k)
        )
        assert either[METADATA].count_documents({}) == 4 + number
    assert either[METADATA].distinct("run_id") == ["r2"]
    assert set(everything(either)) == {CLUSTERS, METADATA}


def test_a_refused_second_collection_changes_neither(either: MongoDatabase) -> None:
    either[METADATA].insert_one({"_id": "theirs", "a": 1})
    publish_pair(either, "r1")
    either[METADATA].create_index("a", name="theirs")
    before, indexes = everything(either), either[METADATA].index_information()

    def turn_against_it() -> None:
        if "Source" not in everything(either):
            either[CLUSTERS].rename("Source")
            either.create_collection(CLUSTERS, viewOn="Source", pipeline=[])

    with pytest.raises(DatabaseUnavailableError, match=f"{METADATA}.*{CLUSTERS}"):
        publish_pair(either, "r2", before=turn_against_it)
    assert everything(either)[METADATA] == before[METADATA]
    assert everything(either)[CLUSTERS] == before[CLUSTERS]
    assert either[METADATA].index_information() == indexes
    recover(either)
    assert everything(either)[METADATA] == before[METADATA]
    assert set(everything(either)) == {CLUSTERS, METADATA, "Source"}


def test_a_refused_second_collection_of_the_first_publication_leaves_nothing(
    either: MongoDatabase,
) -> None:
    def turn_against_it() -> None:
        if CLUSTERS not in either.list_collection_names():
            either.create_collection(CLUSTERS, viewOn="Source", pipeline=[])

    with pytest.raises(DatabaseUnavailableError, match=f"{METADATA}.*{CLUSTERS}"):
        publish_pair(either, "r1", before=turn_against_it)
    assert everything(either) == {}


def test_the_largest_model_that_fits_can_be_published(replica_set: MongoDatabase) -> None:
    k, columns = 50, [f"0x{i:016x}:0x{i:016x}" for i in range(30_000)]
    kept = columns_that_fit(k, columns)
    centroids = [[0.5] * kept] * k
    documents: list[Document] = [
        {"_id": COLUMNS_ID, "run_id": "r1", "columns": columns[:kept]},
        {"_id": CENTROIDS_ID, "run_id": "r1", "centroids": centroids},
    ]
    for _ in range(2):
        publish_clusters(
            replica_set,
            "r1",
            clusters("r1"),
            documents,
            lease=HookedLease(replica_set, "r1", nothing),
        )
    assert replica_set[METADATA].count_documents({}) == 2


class TestPreviousGeneration:
    def test_one_generation_of_each_is_kept_with_its_indexes(self, either: MongoDatabase) -> None:
        either[RECOMMENDATIONS].insert_one({"user_id": "guest"})
        for number in range(3):
            train(either, f"r{number}", recommendations(f"r{number}", 2))
            publish_pair(either, f"r{number}")
        for name in PUBLISHED:
            previous = either[name + PREVIOUS]
            assert previous.distinct("run_id") == ["r1"]
            assert previous.count_documents({}) == 3
            indexes = either[name].index_information()
            assert previous.index_information() == indexes
        assert len(either.list_collection_names(filter={"name": {"$regex": "staged"}})) == 0

    def test_a_refused_copy_of_it_does_not_undo_the_switch(self, either: MongoDatabase) -> None:
        publish_pair(either, "r1")
        either.drop_collection(CLUSTERS + PREVIOUS)
        either.create_collection(CLUSTERS + PREVIOUS, viewOn="Source", pipeline=[])
        publish_pair(either, "r2")
        assert {either[name].distinct("run_id")[0] for name in (CLUSTERS, METADATA)} == {"r2"}

    def test_a_failed_training_keeps_it(self, either: MongoDatabase) -> None:
        for number in range(2):
            publish_pair(either, f"r{number}")

        def fail_in_the_switch() -> None:
            raise PublishError("not now")

        with pytest.raises(PublishError):
            publish_pair(either, "r2", before=fail_in_the_switch)
        assert either[CLUSTERS + PREVIOUS].distinct("run_id") == ["r0"]


def publish_one(db: MongoDatabase, before: Callable[[], object] = nothing) -> None:
    with staged(db, "Recommendations", "r") as stage:
        stage.insert([{"user_id": "a", "run_id": "r"}])
        stage.seal(1)
        before()
        lease = Lease(db, 60)
        lease.acquire("r")
        publish(db, stage, lease=lease)


@pytest.mark.parametrize("odd", ["date", "text"])
def test_undecodable_documents_are_carried_over(db: MongoDatabase, odd: str) -> None:
    raw = bson.encode(
        {"_id": 1, "user_id": "b", "x": DatetimeMS(2**60) if odd == "date" else "AAAA"}
    )
    db["Recommendations"].insert_one(RawBSONDocument(raw.replace(b"AAAA", b"\xff\xfeab")))
    publish_one(db)
    assert db["Recommendations"].count_documents({}) == 2


def test_an_index_of_the_backend_with_our_name_is_kept(
    db: MongoDatabase,
) -> None:
    db["Recommendations"].create_index([("user_id", -1)], name="user_id_1")
    publish_one(db)
    keys = [index["key"] for index in db["Recommendations"].index_information().values()]
    assert [("user_id", -1)] in keys
    assert [("user_id", 1)] in keys


def test_an_index_of_the_backend_with_a_collation_is_kept(db: MongoDatabase) -> None:
    create = partial(db["Recommendations"].create_index, collation={"locale": "en"})
    create("user_id", name="theirs")
    publish_one(db, lambda: create("x", name="late"))  # while the gate compares
    assert "late" in db["Recommendations"].index_information()
    assert "theirs" in db["Recommendations"].index_information()
