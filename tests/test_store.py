"""Publishing: readers see all of the old or all of the new, and failures change nothing."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bson
import pytest
from bson import Int64
from bson.raw_bson import RawBSONDocument
from pymongo.client_session import ClientSession
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    DuplicateKeyError,
    OperationFailure,
    WriteError,
)

from recommender import switching
from recommender.embedded import EmbeddedMongo
from recommender.errors import DatabaseUnavailableError, LeaseLostError, PublishError
from recommender.late_writes import stream_position
from recommender.lease import COLLECTION as STATE
from recommender.lease import LEASE_ID, Lease
from recommender.mongo import Document, MongoDatabase, connect, database
from recommender.publishing.bson_size import columns_that_fit
from recommender.settings import load_settings
from recommender.store import (
    CENTROIDS_ID,
    CLUSTERS,
    CLUSTERS_ID,
    COLUMNS_ID,
    METADATA,
    PUBLISHED,
    RECOMMENDATIONS,
    Stage,
    insert_once,
    publish,
    publish_clusters,
    published_runs,
    staged,
    sweep,
)
from recommender.switching import PREVIOUS, finish_switch, switch_of

TRAINED_USERS = 500


@pytest.fixture(scope="module")
def replica_set_uri() -> Iterator[str]:
    with EmbeddedMongo(replica_set=True) as mongo:
        yield mongo.uri


@pytest.fixture
def replica_set(replica_set_uri: str, clean_environment: Path) -> Iterator[MongoDatabase]:
    """A database of a replica set of one, which has transactions."""
    found = load_settings(mongo_uri=replica_set_uri, mongo_db=f"test-{uuid.uuid4().hex}")
    with connect(found) as client:
        yield database(client, found)
        client.drop_database(found.mongo_db)


@pytest.fixture(params=["db", "replica_set"])
def either(request: pytest.FixtureRequest) -> MongoDatabase:
    """A database of a single mongod, and one of a replica set."""
    found: MongoDatabase = request.getfixturevalue(request.param)
    return found


def recommendations(run_id: str, count: int = TRAINED_USERS) -> list[Document]:
    return [{"user_id": f"u{i}", "run_id": run_id, "recommendations": []} for i in range(count)]


class Asked(Lease):
    """The lease of a run, whoever had it; something happens whenever it is asked for."""

    def __init__(self, db: MongoDatabase, run_id: str, before: Callable[[], None]) -> None:
        super().__init__(db, 60)
        db[STATE].update_one({"_id": LEASE_ID}, {"$set": {"run_id": None}})
        self.acquire(run_id)
        self._before = before

    def renew(self, session: ClientSession | None = None) -> None:
        self._before()
        super().renew(session)

    def begin_switch(self, switch: Document, session: ClientSession | None = None) -> None:
        self._before()
        super().begin_switch(switch, session)


def nothing() -> None:
    pass


def train(db: MongoDatabase, run_id: str, documents: list[Document] | None = None) -> None:
    """Publish Recommendations as the training does."""
    documents = recommendations(run_id) if documents is None else documents
    with staged(db, RECOMMENDATIONS, run_id, "user_id", keep_others=True) as stage:
        stage.insert(documents)
        stage.seal(len(documents))
        publish(db, stage, lease=Asked(db, run_id, nothing))


def clusters(run_id: str, k: int = 3) -> list[Document]:
    return [{"cluster_id": i, "run_id": run_id, "recommendations": []} for i in range(k)]


def metadata(run_id: str) -> list[Document]:
    return [{"_id": name, "run_id": run_id} for name in (COLUMNS_ID, CENTROIDS_ID, CLUSTERS_ID)]


def publish_pair(
    db: MongoDatabase, run_id: str, before: Callable[[], None] = nothing, k: int = 3
) -> None:
    lease = Asked(db, run_id, before)
    publish_clusters(db, run_id, clusters(run_id, k), metadata(run_id), lease=lease)


def everything(db: MongoDatabase) -> dict[str, list[Document]]:
    """Return what is in the database but for the lease; an empty collection counts as none."""
    found = {
        name: list(db[name].find().sort("_id"))
        for name in db.list_collection_names()
        if not name.startswith("system.") and name != STATE and not name.endswith(PREVIOUS)
    }
    return {name: documents for name, documents in found.items() if documents}


@contextlib.contextmanager
def watched(db: MongoDatabase, name: str) -> Iterator[list[tuple[int, set[str]]]]:
    """Read a collection all the time, as the backend does: how many there are, and of which run."""
    seen: list[tuple[int, set[str]]] = []
    stop, started = threading.Event(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            # MongoDB ends a reading that the switch overtakes between two batches with an error.
            with contextlib.suppress(OperationFailure):
                found = list(db[name].find({}, {"run_id": 1}))
                seen.append((len(found), {document["run_id"] for document in found}))
                started.set()

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        assert started.wait(30)
        try:
            yield seen
        finally:
            stop.set()
            reader.result()


@contextlib.contextmanager
def watched_together(db: MongoDatabase) -> Iterator[list[set[str]]]:
    """Read both of a pair in one snapshot all the time; give the runs that each reading saw."""
    seen: list[set[str]] = []
    stop, started = threading.Event(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            with db.client.start_session(snapshot=True) as session:
                found = [
                    *db[METADATA].find({}, {"run_id": 1}, session=session),
                    *db[CLUSTERS].find({}, {"run_id": 1}, session=session),
                ]
            seen.append({document["run_id"] for document in found})
            started.set()

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        assert started.wait(30)
        try:
            yield seen
        finally:
            stop.set()
            reader.result()


def fail(stage: Stage, error: BaseException, *, sealed: bool) -> None:
    stage.insert(recommendations("r2", 3))
    if sealed:
        stage.seal(3)
    raise error


class TestStage:
    def test_what_is_published_is_there_and_the_stage_is_gone(self, db: MongoDatabase) -> None:
        train(db, "r1")
        assert db[RECOMMENDATIONS].count_documents({"run_id": "r1"}) == TRAINED_USERS
        assert list(everything(db)) == [RECOMMENDATIONS]

    def test_a_reader_sees_all_of_one_run_at_any_moment(self, either: MongoDatabase) -> None:
        train(either, "r0")
        with watched(either, RECOMMENDATIONS) as seen:
            for number in range(1, 8):
                train(either, f"r{number}")
        assert {(count, len(runs)) for count, runs in seen} == {(TRAINED_USERS, 1)}
        assert len({run for _, runs in seen for run in runs}) > 1

    def test_before_it_is_published_readers_see_nothing_of_it(self, db: MongoDatabase) -> None:
        train(db, "r1", recommendations("r1", 2))
        before = everything(db)[RECOMMENDATIONS]
        with staged(db, RECOMMENDATIONS, "r2", "user_id", keep_others=True) as stage:
            stage.insert(recommendations("r2", 3))
            stage.seal(3)
            assert everything(db)[RECOMMENDATIONS] == before
            assert stage.name != RECOMMENDATIONS
            assert db[stage.name].count_documents({}) == 3

    @pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
    @pytest.mark.parametrize("sealed", [False, True])
    def test_a_failure_drops_the_stage_and_leaves_what_was_live(
        self, db: MongoDatabase, error: BaseException, sealed: bool
    ) -> None:
        train(db, "r1", recommendations("r1", 2))
        before = everything(db)
        with (
            pytest.raises(type(error)),
            staged(db, RECOMMENDATIONS, "r2", "user_id", keep_others=True) as stage,
        ):
            fail(stage, error, sealed=sealed)
        assert everything(db) == before

    def test_what_is_not_published_is_dropped_without_a_failure_too(
        self, db: MongoDatabase
    ) -> None:
        with staged(db, RECOMMENDATIONS, "r1", "user_id") as stage:
            stage.insert(recommendations("r1", 1))
        assert everything(db) == {}

    @pytest.mark.parametrize(("staged_count", "computed"), [(2, 3), (3, 2), (0, 0), (0, 3)])
    def test_another_count_than_was_computed_is_not_published(
        self, db: MongoDatabase, staged_count: int, computed: int
    ) -> None:
        train(db, "r1", recommendations("r1", 2))
        before = everything(db)
        told = f"{staged_count} documents are .* {computed} were"
        with staged(db, RECOMMENDATIONS, "r2", "user_id", keep_others=True) as stage:
            stage.insert(recommendations("r2", staged_count))
            with pytest.raises(PublishError, match=told):
                stage.seal(computed)
        assert everything(db) == before

    def test_documents_of_others_do_not_make_up_for_missing_ones(self, db: MongoDatabase) -> None:
        db[RECOMMENDATIONS].insert_one({"user_id": "backend's"})
        with staged(db, RECOMMENDATIONS, "r1", "user_id", keep_others=True) as stage:
            stage.insert(recommendations("r1", 1))
            with pytest.raises(PublishError):
                stage.seal(2)

    def test_two_documents_of_one_user_are_not_published(self, db: MongoDatabase) -> None:
        twice = [{"user_id": "u", "run_id": "r"}, {"user_id": "u", "run_id": "r"}]
        with pytest.raises(DatabaseUnavailableError, match="duplicate key"):
            train(db, "r", twice)
        assert everything(db) == {}

    def test_afterwards_no_user_can_be_there_twice(self, db: MongoDatabase) -> None:
        train(db, "r1", recommendations("r1", 1))
        with pytest.raises(DuplicateKeyError):
            db[RECOMMENDATIONS].insert_one({"user_id": "u0"})

    def test_documents_of_others_are_carried_over_as_they_are(self, db: MongoDatabase) -> None:
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

    def test_the_trainings_document_wins_over_anothers_of_the_same_user(
        self, db: MongoDatabase
    ) -> None:
        db[RECOMMENDATIONS].insert_many([{"user_id": "u0"}, {"user_id": "new"}])
        train(db, "r1", recommendations("r1", 2))
        found = {d["user_id"]: d.get("run_id") for d in db[RECOMMENDATIONS].find()}
        assert found == {"u0": "r1", "u1": "r1", "new": None}

    def test_documents_of_earlier_trainings_are_not_carried_over(self, db: MongoDatabase) -> None:
        train(db, "r1", recommendations("r1", 3))
        train(db, "r2", recommendations("r2", 1))
        assert [d["run_id"] for d in db[RECOMMENDATIONS].find()] == ["r2"]

    def test_indexes_that_others_made_live_on(self, db: MongoDatabase) -> None:
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

    def test_collation_and_validator_that_others_set_live_on(self, either: MongoDatabase) -> None:
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
            found = [str(document["user_id"]) for document in live.find()]
            assert sorted(found) == ["7", "U1", "u0", "u1"]
        with pytest.raises(WriteError, match="failed validation"):
            live.insert_one({"user_id": 8})

    def test_what_the_validator_would_refuse_is_not_published(self, db: MongoDatabase) -> None:
        train(db, "r1", recommendations("r1", 3))
        before = everything(db)
        db.command("collMod", RECOMMENDATIONS, validator={"user_id": {"$ne": "u1"}})
        with pytest.raises(PublishError, match=r"1 of 3 documents .* do not fit the validator"):
            train(db, "r2", recommendations("r2", 3))
        assert everything(db) == before
        db.command("collMod", RECOMMENDATIONS, validationAction="warn")
        train(db, "r2", recommendations("r2", 3))

    def test_an_index_on_the_user_that_others_made_becomes_unique(self, db: MongoDatabase) -> None:
        db[RECOMMENDATIONS].create_index("user_id", name="theirs")
        train(db, "r1", recommendations("r1", 2))
        assert db[RECOMMENDATIONS].index_information()["user_id_1"] == UNIQUE

    def test_a_view_as_target_is_a_clear_error_and_nothing_is_lost(self, db: MongoDatabase) -> None:
        db["Source"].insert_one({"user_id": "u"})
        db.create_collection(RECOMMENDATIONS, viewOn="Source", pipeline=[])
        before = everything(db)
        with pytest.raises(DatabaseUnavailableError, match="Recommendations is a view"):
            train(db, "r1")
        assert everything(db) == before

    def test_what_was_carried_over_alone_is_not_published(self, db: MongoDatabase) -> None:
        """A training that sleeps in its last step finds its stage swept when it goes on."""
        db[RECOMMENDATIONS].insert_one({"user_id": "guest"})
        before = everything(db)

        def taken_over() -> None:
            assert db[stage.name].count_documents({"run_id": {"$exists": False}}) == 1
            Asked(db, "r2", nothing)

        with staged(db, RECOMMENDATIONS, "r1", "user_id", keep_others=True) as stage:
            stage.insert(recommendations("r1", 1))
            stage.seal(1)
            sweep(db)
            with pytest.raises(LeaseLostError):
                publish(db, stage, lease=Asked(db, "r1", taken_over))
        assert everything(db) == before

    def test_what_dead_runs_left_is_swept_and_nothing_else(self, db: MongoDatabase) -> None:
        kept = [RECOMMENDATIONS, CLUSTERS, METADATA, "Reviews", "Reviews.staged.x", "Clusters2"]
        for name in kept:
            db[name].insert_one({"a": 1})
        for target in (RECOMMENDATIONS, CLUSTERS, METADATA):
            db[f"{target}.staged.dead"].insert_one({"a": 1})
        with staged(db, RECOMMENDATIONS, "dead too", "user_id") as stage:
            stage.insert(recommendations("dead too", 1))
            sweep(db)
            assert sorted(db.list_collection_names()) == sorted(kept)


UNIQUE = {"v": 2, "key": [("user_id", 1)], "unique": True}


class TestInsertOnce:
    def test_twice_is_once(self, db: MongoDatabase) -> None:
        rows = [{"_id": i} for i in range(15_000)]  # more than one block
        insert_once(db["x"], iter(rows[:12_345]))
        insert_once(db["x"], iter(rows))
        insert_once(db["x"], rows)
        assert db["x"].count_documents({}) == 15_000

    def test_what_is_there_stays(self, db: MongoDatabase) -> None:
        db["x"].insert_one({"_id": 1, "a": "old"})
        insert_once(db["x"], [{"_id": 1, "a": "new"}, {"_id": 2, "a": "new"}])
        assert [d["a"] for d in db["x"].find().sort("_id")] == ["old", "new"]

    def test_nothing_is_nothing(self, db: MongoDatabase) -> None:
        insert_once(db["x"], [])
        assert everything(db) == {}

    @pytest.mark.parametrize("duplicate_too", [False, True])
    def test_any_other_refusal_is_an_error(self, db: MongoDatabase, duplicate_too: bool) -> None:
        db.create_collection("x", validator={"a": {"$type": "int"}})
        db["x"].insert_one({"_id": 1, "a": 1})
        rows: list[Document] = [{"_id": 2, "a": "no number"}, {"_id": 3, "a": 3}]
        with pytest.raises(BulkWriteError):
            insert_once(db["x"], [{"_id": 1, "a": 1}, *rows] if duplicate_too else rows)


class TestPublishClusters:
    def test_the_largest_model_that_fits_can_be_published(self, either: MongoDatabase) -> None:
        k, columns = 50, [f"0x{i:016x}:0x{i:016x}" for i in range(30_000)]
        kept = columns_that_fit(k, columns)
        centroids = [[0.5] * kept] * k
        documents: list[Document] = [
            {"_id": COLUMNS_ID, "run_id": "r1", "columns": columns[:kept]},
            {"_id": CENTROIDS_ID, "run_id": "r1", "centroids": centroids},
        ]
        for _ in range(2):
            publish_clusters(
                either, "r1", clusters("r1"), documents, lease=Asked(either, "r1", nothing)
            )
        assert either[METADATA].count_documents({}) == 2

    def test_both_are_published(self, either: MongoDatabase) -> None:
        publish_pair(either, "r1")
        publish_pair(either, "r2", k=2)
        assert sorted(everything(either)) == [CLUSTERS, METADATA]
        assert [d["cluster_id"] for d in either[CLUSTERS].find().sort("cluster_id")] == [0, 1]
        assert {d["run_id"] for name in (CLUSTERS, METADATA) for d in either[name].find()} == {"r2"}

    def test_readers_of_either_see_all_of_one_run_at_any_moment(
        self, either: MongoDatabase
    ) -> None:
        publish_pair(either, "r0")
        with watched(either, CLUSTERS) as seen_clusters, watched(either, METADATA) as seen_metadata:
            for number in range(1, 8):
                publish_pair(either, f"r{number}")
        for seen in (seen_clusters, seen_metadata):
            assert {(count, len(runs)) for count, runs in seen} == {(3, 1)}

    def test_cluster_ids_are_unique(self, either: MongoDatabase) -> None:
        publish_pair(either, "r1")
        with pytest.raises(DuplicateKeyError):
            either[CLUSTERS].insert_one({"cluster_id": 0})

    def test_more_documents_of_others_stay_in_metadata_and_not_in_clusters(
        self, either: MongoDatabase
    ) -> None:
        either[METADATA].insert_many([{"_id": "theirs", "a": 1}, {"_id": COLUMNS_ID, "a": 1}])
        either[CLUSTERS].insert_one({"cluster_id": 99})
        publish_pair(either, "r1")
        assert either[METADATA].find_one({"_id": "theirs"}) == {"_id": "theirs", "a": 1}
        assert either[METADATA].find_one({"_id": COLUMNS_ID}) == {"_id": COLUMNS_ID, "run_id": "r1"}
        assert either[CLUSTERS].count_documents({}) == 3

    def test_what_is_asked_before_publishing_is_asked_when_both_are_ready(
        self, either: MongoDatabase
    ) -> None:
        publish_pair(either, "r1")
        before = everything(either)

        def refuse() -> None:
            beside = set(everything(either)) - set(before)
            stages = sorted(name for name in beside if not name.endswith(".previous"))
            assert [name.split(".")[0] for name in stages] == [CLUSTERS, METADATA]
            assert [either[name].count_documents({}) for name in stages] == [3, 3]
            raise PublishError("not now")

        with pytest.raises(PublishError, match="not now"):
            publish_pair(either, "r2", before=refuse)
        assert everything(either) == before

    def test_who_lost_the_lease_since_it_was_staged_replaces_nothing(
        self, either: MongoDatabase
    ) -> None:
        publish_pair(either, "r1")
        before = everything(either)
        theirs: list[Lease] = []

        def taken_over_meanwhile() -> None:
            theirs.append(Asked(either, "r3", nothing))

        with pytest.raises(LeaseLostError):
            publish_pair(either, "r2", before=taken_over_meanwhile)
        assert everything(either) == before
        theirs[-1].renew()
        sweep(either)
        assert everything(either) == before

    @pytest.mark.parametrize("target", [CLUSTERS, METADATA])
    def test_a_view_as_target_is_a_clear_error_and_nothing_is_lost(
        self, either: MongoDatabase, target: str
    ) -> None:
        publish_pair(either, "r1")
        either[target].rename("Source")
        either.create_collection(target, viewOn="Source", pipeline=[])
        before = everything(either)
        asked: list[bool] = []
        with pytest.raises(DatabaseUnavailableError, match=f"{re.escape(target)} is a view"):
            publish_pair(either, "r2", before=lambda: asked.append(True))
        assert everything(either) == before
        assert asked == []

    def test_two_clusters_of_one_id_are_not_published(self, either: MongoDatabase) -> None:
        publish_pair(either, "r1")
        before = everything(either)
        twice = [*clusters("r2"), *clusters("r2", 1)]
        with pytest.raises(DatabaseUnavailableError, match="duplicate key"):
            publish_clusters(
                either, "r2", twice, metadata("r2"), lease=Asked(either, "r2", nothing)
            )
        assert everything(either) == before

    def test_foreign_documents_and_old_clusters_go_the_same_way_again_and_again(
        self, either: MongoDatabase
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

    def test_a_refused_second_part_leaves_both_as_they_were(self, either: MongoDatabase) -> None:
        either[METADATA].insert_one({"_id": "theirs", "a": 1})
        publish_pair(either, "r1")
        either[METADATA].create_index("a", name="theirs")
        before, indexes = everything(either), either[METADATA].index_information()

        def turn_against_it() -> None:
            if "Source" not in everything(either):
                either[CLUSTERS].rename("Source")
                either.create_collection(CLUSTERS, viewOn="Source", pipeline=[])

        with pytest.raises(DatabaseUnavailableError, match="refused publishing Metadata and Clu"):
            publish_pair(either, "r2", before=turn_against_it)
        assert everything(either)[METADATA] == before[METADATA]
        assert everything(either)[CLUSTERS] == before[CLUSTERS]
        assert either[METADATA].index_information() == indexes
        sweep(either)
        assert everything(either)[METADATA] == before[METADATA]
        assert set(everything(either)) == {CLUSTERS, METADATA, "Source"}

    def test_a_refused_second_part_of_the_first_publication_leaves_nothing(
        self, either: MongoDatabase
    ) -> None:
        def turn_against_it() -> None:
            if CLUSTERS not in either.list_collection_names():
                either.create_collection(CLUSTERS, viewOn="Source", pipeline=[])

        with pytest.raises(DatabaseUnavailableError, match="refused publishing"):
            publish_pair(either, "r1", before=turn_against_it)
        assert everything(either) == {}

    def test_a_transaction_that_is_refused_halfway_changes_nothing(
        self, replica_set: MongoDatabase
    ) -> None:
        publish_pair(replica_set, "r1")
        before = everything(replica_set)

        def turn_against_it() -> None:
            validator = {"run_id": {"$ne": "r2"}}
            replica_set.command("collMod", CLUSTERS, validator=validator)

        with pytest.raises(DatabaseUnavailableError, match="failed validation"):
            publish_pair(replica_set, "r2", before=turn_against_it)
        assert everything(replica_set) == before

    def test_in_a_transaction_both_change_at_one_moment(self, replica_set: MongoDatabase) -> None:
        publish_pair(replica_set, "r0")
        with watched_together(replica_set) as seen:
            for number in range(1, 30):
                publish_pair(replica_set, f"r{number}")
        assert {len(runs) for runs in seen} == {1}
        assert len({run for runs in seen for run in runs}) > 1

    def test_in_a_transaction_documents_stay_in_their_places(
        self, replica_set: MongoDatabase
    ) -> None:
        publish_pair(replica_set, "r1")
        ids = replica_set[CLUSTERS].distinct("_id")
        reading = replica_set[METADATA].find({}, {"run_id": 1}, batch_size=2)
        first = [next(reading)["_id"], next(reading)["_id"]]
        publish_pair(replica_set, "r2")
        assert sorted([*first, *(d["_id"] for d in reading)]) == sorted(
            [COLUMNS_ID, CENTROIDS_ID, CLUSTERS_ID]
        )
        assert replica_set[CLUSTERS].distinct("_id") == ids

    def test_clusters_that_share_an_id_are_mended_by_renaming(
        self, replica_set: MongoDatabase
    ) -> None:
        replica_set[CLUSTERS].insert_many([{"cluster_id": 0, "run_id": "r0"} for _ in range(2)])
        publish_pair(replica_set, "r1")
        assert replica_set[CLUSTERS].count_documents({}) == 3
        assert replica_set[CLUSTERS].index_information()["cluster_id_1"]["unique"]


# What must not change where the service's own reads and writes go.
URI_OPTIONS = (
    "w=1&readConcernLevel=majority",
    "readPreference=secondaryPreferred",
    "readPreference=secondaryPreferred&readConcernLevel=linearizable&retryWrites=false&w=1",
)


@pytest.mark.parametrize("options", URI_OPTIONS)
def test_what_is_published_is_live_whatever_options_the_uri_has(
    replica_set_uri: str, clean_environment: Path, options: str
) -> None:
    name = f"test-{uuid.uuid4().hex}"
    settings = load_settings(mongo_uri=f"{replica_set_uri}&{options}", mongo_db=name)
    with connect(settings) as client:
        db = database(client, settings)
        for number in range(4):
            train(db, f"r{number}")
            publish_pair(db, f"r{number}")
            assert published_runs(db) == {f"r{number}"}
        client.drop_database(name)


def test_a_switch_whose_note_is_gone_is_no_success(
    db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switching, "finish_switch", lambda db: True)
    with pytest.raises(PublishError):
        train(db, "r1")


class TestLateWrites:
    """Two writers of documents of their own during publications."""

    def lost(self, db: MongoDatabase, publications: int) -> tuple[set[str], int]:
        """Return whose last acknowledged upsert is gone afterwards, and the count of upserts."""
        acknowledged: dict[str, int] = {}
        stop = threading.Event()

        def write(writer: int) -> None:
            for number in itertools.count():
                if stop.is_set():
                    return
                # New documents, changed ones, replaced ones.
                user = f"guest {writer} {number if number % 2 else number % 7}"
                if number % 3:
                    change = {"$set": {"number": number}, "$setOnInsert": {"recommendations": []}}
                    db[RECOMMENDATIONS].update_one({"user_id": user}, change, upsert=True)
                else:
                    document = {"user_id": user, "number": number}
                    db[RECOMMENDATIONS].replace_one({"user_id": user}, document, upsert=True)
                acknowledged[user] = number

        train(db, "r0")
        with ThreadPoolExecutor(2) as pool:
            writers = [pool.submit(write, writer) for writer in range(2)]
            for number in range(publications):
                train(db, f"r{number + 1}")
            stop.set()
            for writer in writers:
                writer.result()
        live = {d["user_id"]: d.get("number") for d in db[RECOMMENDATIONS].find()}
        lost = {user for user, number in acknowledged.items() if live.get(user) != number}
        return lost, sum(number + 1 for number in acknowledged.values())

    def test_on_a_replica_set_none_is_lost(self, replica_set: MongoDatabase) -> None:
        lost, _ = self.lost(replica_set, 5)
        assert lost == set()

    def test_on_a_standalone_server_few_are_lost(self, db: MongoDatabase) -> None:
        lost, _ = self.lost(db, 5)
        assert len(lost) < 5

    def test_they_are_repeated_by_who_finishes_the_switch(self, replica_set: MongoDatabase) -> None:
        """As after kill -9 between the rename and the end."""
        live = replica_set[RECOMMENDATIONS]
        train(replica_set, "r0", recommendations("r0", 1))
        live.insert_many({"user_id": f"guest {n}"} for n in range(4))
        train(replica_set, "r1", recommendations("r1", 1))
        name = f"{RECOMMENDATIONS}.staged.r2"
        replica_set[name].insert_many(recommendations("r2", 2))
        replica_set[name].insert_many(live.find({"user_id": {"$regex": "guest"}}))
        note = switch_of(
            {name: RECOMMENDATIONS}, {RECOMMENDATIONS: "user_id"}, stream_position(replica_set)
        )
        Asked(replica_set, "r2", nothing).begin_switch(note)
        live.insert_one({"user_id": "new"})
        live.replace_one({"user_id": "guest 0"}, {"user_id": "guest 0", "list": [1, 2, 3]})
        live.update_one({"user_id": "guest 0"}, {"$push": {"list": {"$each": [], "$slice": 1}}})
        live.update_one({"user_id": "guest 1"}, {"$set": {"a": 1}, "$unset": {"b": 1}})
        live.delete_one({"user_id": "guest 2"})
        live.update_one({"user_id": "guest 3"}, {"$set": {"a": 1}})
        live.insert_one({"user_id": "u1", "recommendations": ["theirs"]})
        replica_set[name].rename(RECOMMENDATIONS, dropTarget=True)
        live.update_one({"user_id": "guest 3"}, {"$set": {"a": 2}})
        for _ in range(2):
            sweep(replica_set)
            found = {document.pop("user_id"): document for document in live.find({}, {"_id": 0})}
            assert found == {
                "u0": {"run_id": "r2", "recommendations": []},
                "u1": {"recommendations": ["theirs"]},
                "new": {},
                "guest 0": {"list": [1]},
                "guest 1": {"a": 1},
                "guest 3": {"a": 2},
            }

    def test_a_document_written_during_the_training_wins_over_the_staged_one(
        self, either: MongoDatabase
    ) -> None:
        live = either[RECOMMENDATIONS]
        live.insert_many([{"user_id": "u0"}, {"user_id": "u1"}])
        with staged(either, RECOMMENDATIONS, "r1", "user_id", keep_others=True) as stage:
            stage.insert(recommendations("r1", 4))
            stage.seal(4)
            live.update_one({"user_id": "u1"}, {"$set": {"changed": True}})
            live.insert_one({"user_id": "u2"})
            publish(either, stage, lease=Asked(either, "r1", nothing))
        found = {d["user_id"]: d.get("run_id") for d in live.find()}
        assert found == {"u0": "r1", "u1": None, "u2": None, "u3": "r1"}


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

    def test_a_failed_training_leaves_it(self, either: MongoDatabase) -> None:
        for number in range(2):
            publish_pair(either, f"r{number}")

        def fail_in_the_switch() -> None:
            raise PublishError("not now")

        with pytest.raises(PublishError):
            publish_pair(either, "r2", before=fail_in_the_switch)
        assert either[CLUSTERS + PREVIOUS].distinct("run_id") == ["r0"]


class TestSwitch:
    def begun(self, db: MongoDatabase, run_id: str, switched: int) -> None:
        """Die in the switch of the pair, as by kill -9, with so many of its parts switched."""
        with (
            contextlib.suppress(KeyboardInterrupt),
            staged(db, CLUSTERS, run_id, "cluster_id") as new_clusters,
            staged(db, METADATA, run_id, "_id", keep_others=True) as new_metadata,
        ):
            new_clusters.insert(clusters(run_id))
            new_clusters.seal(3)
            new_metadata.insert(metadata(run_id))
            new_metadata.seal(3)
            stages = [new_metadata, new_clusters]
            switch = switch_of({stage.name: stage.target for stage in stages})
            Asked(db, run_id, nothing).begin_switch(switch)
            for stage in stages[:switched]:
                db[stage.name].rename(stage.target, dropTarget=True)
            raise KeyboardInterrupt

    @pytest.mark.parametrize("switched", [0, 1, 2])
    def test_a_switch_cut_short_is_finished_by_the_next_run(
        self, db: MongoDatabase, switched: int
    ) -> None:
        publish_pair(db, "r1")
        self.begun(db, "r2", switched)
        sweep(db)
        found = everything(db)
        assert sorted(found) == [CLUSTERS, METADATA]
        assert {document["run_id"] for name in found for document in found[name]} == {"r2"}
        sweep(db)
        assert everything(db) == found

    def test_a_finished_switch_keeps_the_indexes(self, db: MongoDatabase) -> None:
        self.begun(db, "r1", 0)
        finish_switch(db)
        assert db[CLUSTERS].index_information()["cluster_id_1"]["unique"]

    def test_what_is_not_part_of_a_switch_is_dropped_all_the_same(self, db: MongoDatabase) -> None:
        self.begun(db, "r1", 0)
        with staged(db, RECOMMENDATIONS, "r1", "user_id") as stage:
            stage.insert(recommendations("r1", 1))
        assert stage.name not in everything(db)
        assert len(everything(db)) == 2  # the stages of the switch

    def test_a_switch_that_the_server_refuses_is_given_up(self, db: MongoDatabase) -> None:
        db["Source"].insert_one({"user_id": "u"})
        db.create_collection(RECOMMENDATIONS, viewOn="Source", pipeline=[])
        before = everything(db)
        with staged(db, RECOMMENDATIONS, "r1", "user_id") as stage:
            stage.insert(recommendations("r1", 1))
            with pytest.raises(DatabaseUnavailableError, match="refused publishing Recommend"):
                publish(db, stage, lease=Asked(db, "r1", nothing))
        assert everything(db) == before
        sweep(db)
        assert everything(db) == before

    def test_who_sleeps_in_its_switch_leaves_that_of_who_came_after(
        self, db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish_pair(db, "r1")
        self.begun(db, "r2", 1)
        rename = switching._rename

        def asleep(db: MongoDatabase, stage: str, target: str) -> None:
            monkeypatch.setattr(switching, "_rename", rename)
            sweep(db)  # who took over does it, and then begins one of its own
            self.begun(db, "r3", 1)
            rename(db, stage, target)

        monkeypatch.setattr(switching, "_rename", asleep)
        assert finish_switch(db)
        found = {name: db[name].distinct("run_id") for name in (METADATA, CLUSTERS)}
        assert found == {METADATA: ["r3"], CLUSTERS: ["r2"]}
        assert finish_switch(db)
        assert set(everything(db)) == {METADATA, CLUSTERS}
        assert db[CLUSTERS].distinct("run_id") == ["r3"]

    def test_a_refusal_told_by_a_lost_connection_is_no_success(
        self, db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish_pair(db, "r1")
        before, undo = everything(db), switching._undo

        def turn_against_it() -> None:
            db[CLUSTERS].rename("Source")
            db.create_collection(CLUSTERS, viewOn="Source", pipeline=[])

        def cut_off(db: MongoDatabase, switch: Document) -> None:
            monkeypatch.setattr(switching, "_undo", undo)
            raise AutoReconnect("connection closed")

        monkeypatch.setattr(switching, "_undo", cut_off)
        with pytest.raises(PublishError, match="what was published before stays"):
            publish_pair(db, "r2", before=turn_against_it)
        assert everything(db)[METADATA] == before[METADATA]
        assert everything(db)[CLUSTERS] == before[CLUSTERS]

    def test_nothing_to_finish_is_nothing_to_do(self, db: MongoDatabase) -> None:
        finish_switch(db)
        assert everything(db) == {}
