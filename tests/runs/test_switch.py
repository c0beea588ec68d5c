"""The switch: any process can finish it, and a refused one is undone."""

import pytest
from pymongo.errors import AutoReconnect

from recommender.core.errors import DatabaseUnavailableError, PublishError
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.mongo_collections import CLUSTERS, METADATA, RECOMMENDATIONS
from recommender.publishing.publish import publish
from recommender.publishing.staging import staged
from recommender.runs import switch
from recommender.runs.switch import finish_switch, recover
from tests.publishing.publications import (
    HookedLease,
    die_switching,
    everything,
    nothing,
    publish_pair,
    recommendations,
)


class TestSwitch:
    @pytest.mark.parametrize("switched", [0, 1, 2])
    def test_the_next_run_finishes_an_interrupted_switch(
        self, db: MongoDatabase, switched: int
    ) -> None:
        publish_pair(db, "r1")
        die_switching(db, "r2", switched)
        recover(db)
        published = everything(db)
        assert sorted(published) == [CLUSTERS, METADATA]
        assert {document["run_id"] for name in published for document in published[name]} == {"r2"}
        recover(db)
        assert everything(db) == published

    def test_a_finished_switch_keeps_the_indexes(self, db: MongoDatabase) -> None:
        die_switching(db, "r1", 0)
        finish_switch(db)
        assert db[CLUSTERS].index_information()["cluster_id_1"]["unique"]

    def test_a_stage_outside_the_switch_is_dropped(self, db: MongoDatabase) -> None:
        die_switching(db, "r1", 0)
        with staged(db, RECOMMENDATIONS, "r1") as stage:
            stage.insert(recommendations("r1", 1))
        assert stage.name not in everything(db)
        assert len(everything(db)) == 2  # the stages of the switch

    def test_a_refused_switch_is_undone(self, db: MongoDatabase) -> None:
        db["Source"].insert_one({"user_id": "u"})
        db.create_collection(RECOMMENDATIONS, viewOn="Source", pipeline=[])
        before = everything(db)
        with staged(db, RECOMMENDATIONS, "r1") as stage:
            stage.insert(recommendations("r1", 1))
            with pytest.raises(DatabaseUnavailableError, match=RECOMMENDATIONS):
                publish(db, stage, lease=HookedLease(db, "r1", nothing))
        assert everything(db) == before
        recover(db)
        assert everything(db) == before

    def test_a_paused_process_leaves_the_switch_of_a_later_run(
        self, db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish_pair(db, "r1")
        die_switching(db, "r2", 1)
        rename = switch._rename

        def asleep(db: MongoDatabase, stage: str, target: str) -> None:
            monkeypatch.setattr(switch, "_rename", rename)
            recover(db)  # who took over does it, and then begins one of its own
            die_switching(db, "r3", 1)
            rename(db, stage, target)

        monkeypatch.setattr(switch, "_rename", asleep)
        assert finish_switch(db)
        run_ids = {name: db[name].distinct("run_id") for name in (METADATA, CLUSTERS)}
        assert run_ids == {METADATA: ["r3"], CLUSTERS: ["r2"]}
        assert finish_switch(db)
        assert set(everything(db)) == {METADATA, CLUSTERS}
        assert db[CLUSTERS].distinct("run_id") == ["r3"]

    def test_a_refusal_before_a_lost_connection_is_an_error(
        self, db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish_pair(db, "r1")
        before, undo = everything(db), switch._undo

        def turn_against_it() -> None:
            db[CLUSTERS].rename("Source")
            db.create_collection(CLUSTERS, viewOn="Source", pipeline=[])

        def cut_off(db: MongoDatabase, _: Document) -> None:
            monkeypatch.setattr(switch, "_undo", undo)
            raise AutoReconnect("connection closed")

        monkeypatch.setattr(switch, "_undo", cut_off)
        with pytest.raises(PublishError):
            publish_pair(db, "r2", before=turn_against_it)
        assert everything(db)[METADATA] == before[METADATA]
        assert everything(db)[CLUSTERS] == before[CLUSTERS]

    def test_without_a_switch_nothing_is_done(self, db: MongoDatabase) -> None:
        finish_switch(db)
        assert everything(db) == {}
