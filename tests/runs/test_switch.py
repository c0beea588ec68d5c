"""The switch: any process can finish it, and a refused one is undone."""

from __future__ import annotations

import contextlib

import pytest
from pymongo.errors import (
    AutoReconnect,
)

from recommender.core.errors import DatabaseUnavailableError, PublishError
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.mongo_collections import CLUSTERS, METADATA, RECOMMENDATIONS
from recommender.publishing.publish import publish
from recommender.publishing.staging import staged
from recommender.runs import switch as switching
from recommender.runs.switch import finish_switch, sweep, switch_of
from tests.publishing.publications import (
    Asked,
    clusters,
    everything,
    metadata,
    nothing,
    publish_pair,
    recommendations,
)


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
