"""Whole clusterings of reviews in MongoDB, as a reader of the contract sees them."""

import json
from collections.abc import Callable

import numpy as np
import pytest

import clus_counter
import clustering_training
from recommender.clustering import evaluate
from recommender.core.mongo import MongoDatabase
from tests.support import TINY_CITY, ContractReader, rated_by_user


@pytest.fixture(autouse=True)
def _clean(clean_environment: object) -> None:
    """Ignore the settings of the developer."""


@pytest.mark.usefixtures("tiny_city")
def test_the_script_publishes_a_model_that_a_contract_reader_can_use(
    run_here: Callable[..., int], db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = {"_id": "of the backend", "value": 1}
    db["Metadata"].insert_one(foreign)
    assert run_here(clustering_training.main, "--json", CLUSTERS_K="7") == 0
    run = db["TrainingRuns"].find_one() or {}
    printed = json.loads(capsys.readouterr().out)
    assert (printed["run_id"], printed["metrics"]) == (run["run_id"], run["metrics"])
    assert run["state"] == "succeeded"
    figures = run["metrics"]["clusters"]
    assert -1 <= figures["silhouette"] <= 1
    assert figures["landed"] > 0.95
    assert "landed_unshifted" not in figures
    assert 0 < figures["held_out"]["ndcg"] <= 1
    assert 0 < figures["held_out"]["ndcg_error"] < 0.1
    assert (db["Metadata"].find_one({"_id": "kmeans_clusters"}) or {})["contract"] == 1
    reader = ContractReader(db)
    assert reader.run_ids == {run["run_id"]}
    assert sorted(reader.clusters) == list(range(7))
    assert sum(reader.sizes) == TINY_CITY.users
    for document in reader.clusters.values():
        scores = [entry["score"] for entry in document["recommendations"]]
        assert len(scores) == 40
        assert scores == sorted(scores, reverse=True)
        assert document["size"] == reader.sizes[document["cluster_id"]]
        assert 0 < document["tightness"] <= 1
        assert 1 <= document["mean_rating"] <= 5
        for entry in document["stands_out"]:
            assert 2 * entry["city_share"] <= entry["share"] <= 1
    assert any(document["stands_out"] for document in reader.clusters.values())
    checks = db["Metadata"].find_one({"_id": "reader_checks"}) or {}
    assert len(checks["users"]) > 3
    for check in checks["users"][1:]:
        rated = {entry["gmap_id"]: entry["rating"] for entry in check["ratings"]}
        assert reader.cluster_of(rated) == check["cluster_id"]
    assert db["Metadata"].find_one({"_id": "of the backend"}) == foreign


@pytest.mark.usefixtures("tiny_city")
def test_on_a_scale_from_zero_a_reader_of_raw_ratings_finds_the_clusters(
    run_here: Callable[..., int],
    db: MongoDatabase,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lowered = {"$max": [0, {"$subtract": ["$rating", 3]}]}
    db["Reviews"].update_many({}, [{"$set": {"rating": lowered}}])
    scale = {"RATING_MIN": "0", "RATING_MAX": "2", "CLUSTERS_K": "7"}
    assert run_here(clustering_training.main, **scale) == 0
    figures = (db["TrainingRuns"].find_one() or {})["metrics"]["clusters"]
    assert figures["landed"] > 0.95
    assert "landed_unshifted" not in figures
    assert figures["held_out"]["ndcg"] > figures["held_out"]["popular"]["ndcg"]
    reader, rated = ContractReader(db), rated_by_user(db).values()
    labels = [reader.cluster_of(user) for user in rated if any(user.values())]
    assert (reader.shift, np.bincount(labels).tolist()) == (0, reader.sizes)
    assert figures["users_without_overlap"] == len(rated) - len(labels) > 0
    checks = db["Metadata"].find_one({"_id": "reader_checks"}) or {}
    _, zero, *others = checks["users"]
    assert ([entry["rating"] for entry in zero["ratings"]], zero["cluster_id"]) == ([0], None)
    for check in others:
        ratings = {entry["gmap_id"]: entry["rating"] for entry in check["ratings"]}
        assert reader.cluster_of(ratings) == check["cluster_id"]
    assert run_here(clus_counter.main, **scale) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(": 0")


@pytest.mark.usefixtures("tiny_city")
def test_on_a_scale_below_zero_a_reader_adds_the_shift(
    run_here: Callable[..., int], db: MongoDatabase
) -> None:
    db["Reviews"].update_many({}, [{"$set": {"rating": {"$subtract": ["$rating", 3]}}}])
    scale = {"RATING_MIN": "-2", "RATING_MAX": "2", "CLUSTERS_K": "7"}
    assert run_here(clustering_training.main, **scale) == 0
    run = db["TrainingRuns"].find_one() or {}
    rated = rated_by_user(db).values()
    reader = ContractReader(db)
    labels = [reader.cluster_of(user) for user in rated]
    assert (reader.shift, np.bincount(labels).tolist()) == (3, reader.sizes)
    assert all(-2 <= document["mean_rating"] <= 2 for document in reader.clusters.values())
    reader.shift = 0
    # At a distance of 1 and more from every centroid, a user is in no cluster.
    overlaps = [(reader.centroids @ reader.vector(user) > 0).any() for user in rated]
    clusters = map(reader.cluster_of, rated)
    without = [cluster if near else -1 for cluster, near in zip(clusters, overlaps, strict=True)]
    share = np.mean(np.equal(labels, without))
    assert run["metrics"]["clusters"]["landed_unshifted"] == pytest.approx(share)
    assert share < 1


@pytest.mark.usefixtures("tiny_city")
def test_most_users_keep_their_cluster_id_in_the_next_training(
    run_here: Callable[..., int], db: MongoDatabase
) -> None:
    readers, moved = [], []
    for seed in ("1", "1", "2"):
        assert run_here(clustering_training.main, SEED=seed, CLUSTERS_K="7") == 0
        readers.append(ContractReader(db))
        (run,) = db["TrainingRuns"].find({"run_id": {"$in": list(readers[-1].run_ids)}})
        moved.append(run["metrics"]["clusters"]["users_moved"])
    assert (readers[0].centroids == readers[1].centroids).all()
    assert moved[:2] == [None, 0]
    assert 0 < moved[2] < TINY_CITY.users * 0.7
    before, after = (
        [reader.cluster_of(user) for user in rated_by_user(db).values()] for reader in readers[1:]
    )
    assert np.not_equal(before, after).sum() == moved[2]
    assert [readers[2].clusters[i]["size"] for i in range(7)] == readers[2].sizes


@pytest.mark.usefixtures("tiny_city")
def test_many_users_are_clustered_once(
    run_here: Callable[..., int], db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, readers, test_users = [], [], 20
    for most in (test_users, TINY_CITY.users):
        monkeypatch.setattr(evaluate, "_MOST_TEST_USERS", most)
        assert run_here(clustering_training.main, CLUSTERS_K="7") == 0
        readers.append(ContractReader(db))
        (run,) = db["TrainingRuns"].find({"run_id": {"$in": list(readers[-1].run_ids)}})
        figures.append(run["metrics"]["clusters"])
    assert [of_run["clustered_once"] for of_run in figures] == [True, False]
    once, reader = figures[0], readers[0]
    assert 5 < once["held_out"]["users"] <= test_users
    assert once["held_out"]["ndcg"] > once["held_out"]["popular"]["ndcg"]
    assert (reader.centroids != readers[1].centroids).any()
    labels = [reader.cluster_of(user) for user in rated_by_user(db).values()]
    assert np.bincount(labels).tolist() == reader.sizes
    assert sum(reader.sizes) == TINY_CITY.users
    rated = sum(document["ratings"] for document in reader.clusters.values())
    assert rated == sum(map(len, rated_by_user(db).values()))


def test_invalid_reviews_end_with_65_and_leave_the_published_model(
    run_here: Callable[..., int], db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    db["Clusters"].insert_one({"cluster_id": 0, "run_id": "old"})
    db["Reviews"].insert_one({"user_id": "u", "gmap_id": "r", "rating": "NaN"})
    assert run_here(clustering_training.main) == 65
    assert "rating_not_a_number" in capsys.readouterr().err.splitlines()[-1]
    assert db["Clusters"].count_documents({"run_id": "old"}) == 1


def test_the_module_does_not_need_spark() -> None:
    assert "pyspark" not in vars(clustering_training)
