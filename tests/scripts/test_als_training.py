"""The ALS training as a script: its exit codes, its ledger entry and its collections."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import als_training
import clus_test
import clustering_training
from recommender.als.confidence import popularity_of
from recommender.clustering.evaluate import evaluate_clusters
from recommender.clustering.member_preferences import score_clusters
from recommender.clustering.scoring import ClusterScores
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.mongo_collections import PUBLISHED
from recommender.core.settings import Settings
from recommender.evaluation.splitting import split
from recommender.runs.lease import Lease
from recommender.runs.ledger import Ledger
from tests.support import (
    PROJECT,
    TINY_CITY,
    ContractReader,
    environment,
    jvms,
    rated_by_user,
)
from tests.waiting import TRAINING_SECONDS, until


def files_in(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()]


@pytest.mark.usefixtures("tiny_city")
def test_a_filter_that_mongodb_refuses_ends_a_training_before_its_fits(
    train_here: Callable[..., int], db: MongoDatabase
) -> None:
    assert train_here(als_training.main, RESTAURANTS_EXCLUDE='{"$foo": 1}') == 78
    assert (db["TrainingRuns"].find_one() or {})["phases"] == []


@pytest.mark.usefixtures("tiny_city")
def test_the_script_rejects_a_worse_model_and_forced_publishes_it_with_the_clusters(
    train_here: Callable[..., int],
    db: MongoDatabase,
    db_settings: Settings,
    capsys: pytest.CaptureFixture[str],
) -> None:
    db["Reviews"].insert_many([{"user_id": "x", "gmap_id": "y", "rating": "bad"}, {"rating": 3}])
    live = [{"user_id": f"u{i}", "run_id": "r0", "recommendations": [{}]} for i in range(700)]
    db["Recommendations"].insert_many(live)
    closed, known, allowed = close_restaurants_and_add_users(db)
    options = {"RESTAURANTS_EXCLUDE": '{"closed": true}', "ALS_RANK": "8", "ALS_ALPHA": "20"}
    assert train_here(als_training.main, **options) == 76
    rejected = Ledger(db).recent(1)[0]
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {rejected['error']}"
    assert (rejected["state"], rejected["exit_code"]) == ("rejected", 76)
    assert db["Recommendations"].distinct("run_id") == ["r0"]
    assert "Clusters" not in db.list_collection_names()
    # With --force, parameters that could be reused are chosen anew.
    db["Recommendations"].update_many({}, {"$set": {"run_id": rejected["run_id"]}})
    assert train_here(als_training.main, "--force", **options) == 0
    printed = capsys.readouterr().out
    run = Ledger(db).recent(1)[0]
    assert (run["state"], run["exit_code"], run["trigger"]) == ("succeeded", 0, "script")
    assert run["forced"]
    assert run["chosen"]["from_run"] is None
    assert run["rows_rejected"] == {"rating_not_a_number": 1, "user_missing": 1}
    assert run["settings"]["als_rank"] == 8
    assert 0 < run["metrics"]["als"]["rmse"] < 2
    assert (run["metrics"]["clusters"]["k"], run["newcomers"]) == (50, 2)
    assert run["run_id"] in printed
    assert "rating_not_a_number" in printed
    lists = check_recommendations(db, run, closed, known)
    assert {entry["gmap_id"] for entry in lists[known]} == allowed
    check_clusters(db, run)
    check_metadata(db, run, closed, lists["blank"])
    assert not [name for name in db.list_collection_names() if "staged" in name]
    logs = {f"logs/{of_run['run_id']}.log" for of_run in (rejected, run)}
    assert {*files_in(db_settings.work_dir)} == logs
    the_clustering_alone_keeps_the_factors(train_here, db, **options)
    capsys.readouterr()
    assert train_here(clus_test.main, "rated", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    ids = [entry["gmap_id"] for entry in lists["rated"]]
    for name in ("folded_in", "served"):
        assert [entry["gmap_id"] for entry in shown[name]] == ids


def close_restaurants_and_add_users(db: MongoDatabase) -> tuple[set[str], str, set[str]]:
    """Return the closed restaurants, a user with ratings in Users, too, and what is left to it."""
    restaurants = db["Restaurants"].distinct("gmap_id")
    closed, rating = restaurants[:20], {"gmap_id": restaurants[30], "rating": 5}
    db["Restaurants"].update_many({"gmap_id": {"$in": closed}}, {"$set": {"closed": True}})
    db["Users"].insert_many([{"user_id": "rated", "ratings": [rating]}, {"user_id": "blank"}])
    known, reviewed = next(iter(rated_by_user(db).items()))
    unreviewed = [key for key in restaurants[20:] if key not in reviewed]
    more = [{"gmap_id": key, "rating": 3} for key in unreviewed[5:]]
    db["Users"].insert_one({"user_id": known, "ratings": more})
    return set(closed), known, set(unreviewed[:5])


def check_recommendations(
    db: MongoDatabase, run: Document, closed: set[str], known: str
) -> dict[str, list[Document]]:
    rated = rated_by_user(db)
    documents = list(db["Recommendations"].find())
    assert len(documents) == TINY_CITY.users + 2
    assert db["Recommendations"].index_information()["user_id_1"]["unique"]
    for document in documents:
        entries = document["recommendations"]
        scores = [entry["score"] for entry in entries]
        assert len(entries) == 13 or document["user_id"] == known
        assert scores == sorted(scores, reverse=True)
        ids = {entry["gmap_id"] for entry in entries}
        assert not ids & (closed | set(rated[document["user_id"]]))
        assert document["run_id"] == run["run_id"]
    return {document["user_id"]: document["recommendations"] for document in documents}


def check_clusters(db: MongoDatabase, run: Document) -> None:
    reader = ContractReader(db)
    assert reader.run_ids == {run["run_id"]}
    assert sorted(reader.clusters) == list(range(50))
    rated = rated_by_user(db)
    labels = [reader.cluster_of(user) for user in rated.values()]
    assert np.bincount(labels, minlength=50).tolist() == reader.sizes
    assert all(reader.recommend(user) for user in rated.values())


def check_metadata(
    db: MongoDatabase, run: Document, closed: set[str], of_a_blank_user: list[Document]
) -> None:
    metadata = {d["_id"]: d for d in db["Metadata"].find()}
    assert metadata["item_factors"]["run_id"] == run["run_id"]
    fallback = metadata["fallback"]["recommendations"]
    shown = [fallback, *(cluster["recommendations"] for cluster in db["Clusters"].find())]
    assert not {entry["gmap_id"] for entries in shown for entry in entries} & closed
    assert [e["gmap_id"] for e in of_a_blank_user] == [e["gmap_id"] for e in fallback[:13]]


def the_clustering_alone_keeps_the_factors(
    train_here: Callable[..., int], db: MongoDatabase, **options: str
) -> None:
    factors = db["Metadata"].find_one({"_id": "item_factors"}) or {}
    assert train_here(clustering_training.main, **options) == 0
    alone = Ledger(db).recent(1)[0]["run_id"]
    assert db["Metadata"].distinct("run_id") == [alone]
    kept = {**factors, "run_id": alone}
    assert db["Metadata"].find_one({"_id": "item_factors"}) == kept


@pytest.mark.usefixtures("tiny_city")
def test_a_dry_run_has_its_verdict_and_publishes_nothing(
    train_here: Callable[..., int],
    db: MongoDatabase,
    db_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clustered, evaluated = [], []

    def score(*arguments: Any) -> ClusterScores:
        clustered.append(arguments)
        return score_clusters(*arguments)

    def evaluate(*arguments: Any) -> dict[str, Any]:
        evaluated.append(arguments)
        return evaluate_clusters(*arguments)

    monkeypatch.setattr(clustering_training, "score_clusters", score)
    monkeypatch.setattr(clustering_training, "evaluate_clusters", evaluate)
    assert train_here(als_training.main, "--dry-run", CLUSTERS_K="5") == 0
    run = Ledger(db).recent(1)[0]
    assert (run["state"], run["kind"]) == ("succeeded", "dry_run")
    assert set(run["gate"]) == {"recommendations", "clusters"}
    assert not [name for name in db.list_collection_names() if name.startswith(tuple(PUBLISHED))]
    # The clusters' lists are published by all ratings, and evaluated without the test ratings.
    ((_, _, published, _),), ((ratings, *_, without_test),) = clustered, evaluated
    train_set, _ = split(ratings, db_settings.als, db_settings.seed)
    for model, seen in ((published, ratings), (without_test, train_set)):
        popularity = popularity_of(seen, db_settings.reviews)
        assert model.popularity == pytest.approx(popularity / popularity.max())


def test_a_rollback_without_a_previous_generation_ends_with_its_code(
    run_here: Callable[..., int], db: MongoDatabase
) -> None:
    assert run_here(als_training.main, "--rollback") == 66
    run = Ledger(db).recent(1)[0]
    assert (run["state"], run["exit_code"], run["kind"]) == ("failed", 66, "rollback")
    with pytest.raises(SystemExit) as caught:
        run_here(als_training.main, "--rollback", "--tune")
    assert caught.value.code == 2


def test_without_the_clustering_only_recommendations_are_published(
    train_here: Callable[..., int], db: MongoDatabase
) -> None:
    db["Reviews"].insert_one({"user_id": "only", "gmap_id": "one", "rating": 4})
    assert train_here(als_training.main, "--no-clustering") == 0
    assert [d["recommendations"] for d in db["Recommendations"].find()] == [[]]
    assert db["Clusters"].count_documents({}) == 0
    assert train_here(als_training.main, "--no-clustering", GATE="off") == 0
    again, first = Ledger(db).recent(2)
    assert first["metrics"]["als"]["rmse"] is None
    assert first["chosen"]["from_run"] is None
    assert again["chosen"] == {**first["chosen"], "from_run": first["run_id"]}


def test_an_empty_database_ends_with_65_and_changes_nothing(
    train_here: Callable[..., int], db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    db["Recommendations"].insert_one({"user_id": "u", "recommendations": [{"gmap_id": "r"}]})
    before = list(db["Recommendations"].find())
    assert train_here(als_training.main) == 65
    error = capsys.readouterr().err.splitlines()[-1]
    assert list(db["Recommendations"].find()) == before
    run = Ledger(db).recent(1)[0]
    assert (run["state"], run["exit_code"]) == ("failed", 65)
    assert error == f"error: {run['error']}"


def test_a_training_in_progress_ends_the_script_with_75(
    run_here: Callable[..., int], db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    Lease(db, 60).acquire("the-other-run")
    assert run_here(als_training.main) == 75
    assert "the-other-run" in capsys.readouterr().err


def test_each_failure_has_its_code_and_one_line(
    run_here: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    no_answer = "mongodb://me:s3cret@127.0.0.1:1/?serverSelectionTimeoutMS=200"
    for name, value, code, word in (
        ("ALS_RANK", "many", 78, "ALS_RANK='many'"),
        ("ALS_RNAK", "5", 78, "ALS_RANK?"),
        ("JAVA_HOME", "/nowhere", 78, "Java"),
        ("MONGO_URI", no_answer, 69, "MongoDB"),
        ("MONGO_URI", "mongodb://me:s3cret/x@127.0.0.1:1/", 78, "MONGO_URI"),
    ):
        assert run_here(als_training.main, **{name: value}) == code
        out, err = capsys.readouterr()
        assert word in err.splitlines()[-1]
        assert "s3cret" not in out + err


def test_a_run_id_goes_with_a_lease_and_not_with_tuning(run_here: Callable[..., int]) -> None:
    assert run_here(als_training.main, "--run-id", "by-hand") == 75
    with pytest.raises(SystemExit) as caught:
        run_here(als_training.main, "--tune", "--run-id", "by-hand")
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("moment", "signum", "code"),
    [
        # By day, the test of a service that is killed does this.
        pytest.param("Spark starts", signal.SIGTERM, 143, marks=pytest.mark.nightly),
        ("train", signal.SIGINT, 130),
    ],
)
@pytest.mark.usefixtures("tiny_city")
def test_a_signal_cancels_the_training_and_cleans_up(
    db: MongoDatabase, db_settings: Settings, moment: str, signum: signal.Signals, code: int
) -> None:
    folder = db_settings.work_dir / "a folder with spaces"
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "als_training.py")],
        env=environment(db_settings, WORK_DIR=str(folder), ALS_ALPHA="20"),
        stderr=subprocess.PIPE,
        text=True,
    )
    if moment == "Spark starts":
        until(lambda: jvms(process.pid), TRAINING_SECONDS)
    else:  # Spark has started, and fits
        until(lambda: list(folder.glob("spark-scratch-*/recommender.zip")), TRAINING_SECONDS)
        in_phase = {"phase": moment}
        until(lambda: db["TrainingRuns"].count_documents(in_phase), TRAINING_SECONDS)
    started = jvms(process.pid)
    process.send_signal(signum)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == code
    assert "Traceback" not in errors
    run = Ledger(db).recent(1)[0]
    assert errors.splitlines()[-1] == f"error: {run['error']}"
    assert (run["state"], run["exit_code"]) == ("cancelled", code)
    assert signum.name in run["error"]
    assert files_in(folder) == [f"logs/{run['run_id']}.log"]
    assert started
    assert [jvm for jvm in started if jvm.is_running()] == []
    Lease(db, 60).acquire("next")  # the lease is free


def test_a_failure_inside_spark_has_its_code_one_line_and_a_ledger_entry(
    train_here: Callable[..., int], db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    db["Reviews"].insert_many(
        [{"user_id": f"u{i}", "gmap_id": f"r{i % 3}", "rating": 1 + i % 5} for i in range(40)]
    )
    singular = {"ALS_OBJECTIVE": "rating", "ALS_REG_PARAM": "0", "ALS_RANK": "60"}
    assert train_here(als_training.main, **singular) == 70
    run = Ledger(db).recent(1)[0]
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {run['error']}"
    assert (run["state"], run["exit_code"]) == ("failed", 70)
    assert db["Recommendations"].count_documents({}) == 0


HANGS_IN_SPARK = """
import time
from recommender.runs.run import training_run
from recommender.core.script import run_script
from recommender.core.settings import load_settings
from recommender.spark.session import spark_session

def main(argv):
    settings = load_settings()
    with training_run(settings), spark_session(settings, "hangs") as spark_thread:
        spark = spark_thread.session()
        print("hangs", flush=True)
        spark.sparkContext.parallelize([600], 1).foreach(time.sleep)

raise SystemExit(run_script(main))
"""


@pytest.mark.nightly
def test_a_training_that_hangs_in_spark_is_ended_by_its_limit(
    db: MongoDatabase, db_settings: Settings
) -> None:
    limits = {"TRAIN_TIMEOUT_MINUTES": "0.4", "STOP_GRACE_SECONDS": "60"}
    done = subprocess.run(
        [sys.executable, "-c", HANGS_IN_SPARK],
        env={**environment(db_settings, **limits), "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stdout) == (124, "hangs\n"), done.stderr
    assert not re.search("Traceback| ERROR ", done.stderr)
    assert "TRAIN_TIMEOUT_MINUTES=0.4" in done.stderr.splitlines()[-1]
    run = Ledger(db).recent(1)[0]
    assert (run["state"], run["exit_code"]) == ("failed", 124)
    assert files_in(db_settings.work_dir) == [f"logs/{run['run_id']}.log"]
    Lease(db, 60).acquire("next")  # the lease is free
