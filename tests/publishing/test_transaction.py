"""Clusters and Metadata in one transaction."""

import pytest
from pymongo.errors import BulkWriteError

from recommender.core.errors import DatabaseUnavailableError
from recommender.core.mongo import MongoDatabase
from recommender.core.mongo_collections import (
    CENTROIDS_ID,
    CLUSTERS,
    CLUSTERS_ID,
    COLUMNS_ID,
    METADATA,
)
from tests.publishing.publications import clusters_and_metadata, everything, publish_pair, watched


def test_a_refused_transaction_changes_nothing(replica_set: MongoDatabase) -> None:
    publish_pair(replica_set, "r1")
    before = everything(replica_set)

    def turn_against_it() -> None:
        validator = {"run_id": {"$ne": "r2"}}
        replica_set.command("collMod", CLUSTERS, validator=validator)

    with pytest.raises(DatabaseUnavailableError) as caught:
        publish_pair(replica_set, "r2", before=turn_against_it)
    assert isinstance(caught.value.__cause__, BulkWriteError)  # and no refused renaming
    assert everything(replica_set) == before


def test_both_collections_change_at_one_moment(replica_set: MongoDatabase) -> None:
    publish_pair(replica_set, "r0")
    with watched(lambda: clusters_and_metadata(replica_set)) as seen:
        for number in range(1, 8):
            publish_pair(replica_set, f"r{number}")
    assert {len(runs) for _, runs in seen} == {1}
    assert len({run for _, runs in seen for run in runs}) > 1


def test_documents_are_replaced_in_place(replica_set: MongoDatabase) -> None:
    publish_pair(replica_set, "r1")
    ids = replica_set[CLUSTERS].distinct("_id")
    reading = replica_set[METADATA].find({}, {"run_id": 1}, batch_size=2)
    first = [next(reading)["_id"], next(reading)["_id"]]
    publish_pair(replica_set, "r2")
    assert sorted([*first, *(d["_id"] for d in reading)]) == sorted(
        [COLUMNS_ID, CENTROIDS_ID, CLUSTERS_ID]
    )
    assert replica_set[CLUSTERS].distinct("_id") == ids


def test_duplicate_clusters_are_replaced_by_renaming(replica_set: MongoDatabase) -> None:
    replica_set[CLUSTERS].insert_many([{"cluster_id": 0, "run_id": "r0"} for _ in range(2)])
    publish_pair(replica_set, "r1")
    assert replica_set[CLUSTERS].count_documents({}) == 3
    assert replica_set[CLUSTERS].index_information()["cluster_id_1"]["unique"]
