"""Faults that were found once; each stays mended."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import bson
import pyarrow as pa
import pytest
from bson import Int64
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from pydantic import SecretStr

from recommender.clock import TrainingClock
from recommender.data.cleaning import clean_block
from recommender.data.one_user import ratings_of_user
from recommender.demo import PROJECT
from recommender.errors import ConfigurationError, DataError
from recommender.java import find_java
from recommender.lease import Lease
from recommender.ledger import Ledger
from recommender.mongo import MongoDatabase, connect, secrets_of
from recommender.published import load_model
from recommender.ratings import gather
from recommender.reviews import plan, read, read_ratings
from recommender.runs import training_run
from recommender.schedule import Schedule
from recommender.scripts import RedactingFormatter
from recommender.settings import Settings, load_settings
from recommender.store import publish as put
from recommender.store import staged
from tests.waiting import until

REVIEW: dict[str, Any] = {"user_id": "u", "gmap_id": "g", "rating": 4}
STOP_IN_A_TICK = """
import sys, threading, time
sys.path.insert(0, PROJECT)
from recommender.clock import TrainingClock
from recommender.mongo import connect, database
from recommender.schedule import Schedule
from recommender.settings import load_settings
settings = load_settings()
db = database(connect(settings), settings)
inside, go = threading.Event(), threading.Event()
clock = TrainingClock(Schedule(db, 0.1), lambda: (inside.set(), go.wait(10)), 0.1)
clock.start()
inside.wait(10)
threading.Timer(0.3, go.set).start()
clock.stop()
print("stopped", flush=True)
"""


def test_stopping_the_clock_during_a_tick_ends(db: MongoDatabase, db_settings: Settings) -> None:
    environment = {**os.environ, "MONGO_URI": db_settings.mongo_uri.get_secret_value()}
    done = subprocess.run(
        [sys.executable, "-c", STOP_IN_A_TICK.replace("PROJECT", repr(str(PROJECT)))],
        env=environment | {"MONGO_DB": db_settings.mongo_db},
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert done.stdout == "stopped\n"
    assert "JobLookupError" not in done.stderr


def test_after_any_failure_to_start_the_time_left_is_that_of_the_next_slot(
    db: MongoDatabase,
) -> None:
    failed = threading.Event()

    def start() -> None:
        failed.set()
        raise OSError("No space left on device")

    Schedule(db, 600).seconds_left()
    db["TrainingState"].update_one(
        {"_id": "schedule"}, [{"$set": {"next_at": {"$add": ["$$NOW", -1]}}}]
    )
    clock = TrainingClock(Schedule(db, 600), start, 600)
    clock.start()
    try:
        assert failed.wait(20)
        until(lambda: clock.seconds_left() > 500)
    finally:
        clock.stop()


def test_a_password_that_is_cut_by_the_lines_limit_does_not_reach_the_ledger(
    db: MongoDatabase, db_settings: Settings
) -> None:
    password = "Sup3rS3cretPassword"
    db.command("createUser", "t", pwd=password, roles=["readWrite"])
    uri = db_settings.mongo_uri.get_secret_value().replace("://", f"://t:{password}@")
    settings = db_settings.model_copy(
        update={"mongo_uri": SecretStr(f"{uri}?authSource={db.name}")}
    )
    try:
        with contextlib.suppress(ValueError), training_run(settings):
            raise ValueError("x" * 485 + " " + password)
    finally:
        db.command("dropAllUsersFromDatabase")
    assert "Sup3r" not in Ledger(db).recent(1)[0]["error"]


def script(body: str, **environment: str) -> subprocess.Popen[str]:
    program = (
        f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n"
        "from recommender.scripts import run_script, configure_logging\n"
        "from recommender.settings import load_settings\n"
        f"def main(argv):\n    {body}\n    return 0\nraise SystemExit(run_script(main))\n"
    )
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=inherited | environment,
    )


@pytest.mark.parametrize("kind", ["RuntimeError", "DataErr"])
def test_the_last_line_of_a_script_shows_no_password(kind: str) -> None:
    uri = "mongodb://u:s3cret@h/"
    raised = kind if kind == "RuntimeError" else "__import__('recommender.errors').errors.DataError"
    process = script(
        f"configure_logging(load_settings()); raise {raised}('no way to {uri}')", MONGO_URI=uri
    )
    assert "s3cret" not in process.communicate()[1]


def test_a_line_break_in_an_exception_forges_no_line() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(RedactingFormatter([]))
    logger = logging.Logger("x")
    logger.addHandler(handler)
    try:
        raise ValueError("a\n2026-01-01 00:00:00,000 INFO recommender: all is well")
    except ValueError:
        logger.exception("failed")
    assert not any(line.startswith("2026-01-01 00:00") for line in stream.getvalue().splitlines())


@pytest.mark.usefixtures("clean_environment")
def test_a_certificate_that_is_not_there_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError):
        connect(load_settings(mongo_uri="mongodb://u:s3cret@h/?tls=true&tlsCAFile=/nope"))


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://user:s3cret@host/?appName=a@b",
        "mongodb://host/?tls=true&tlsCertificateKeyFilePassword=s3cret",
    ],
)
def test_every_password_of_a_uri_is_a_secret(uri: str) -> None:
    assert "s3cret" in secrets_of(load_settings(mongo_uri=uri))


@pytest.mark.usefixtures("clean_environment")
def test_a_file_that_is_no_text_is_a_configuration_error() -> None:
    Path(".env").write_bytes(b"PORT=\xff\n")
    with pytest.raises(ConfigurationError, match=r"\.env"):
        load_settings()


@pytest.mark.parametrize("mode", [0o644, 0o755])
def test_a_java_that_cannot_be_run_is_a_configuration_error(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").write_text("no program")
    (tmp_path / "bin" / "java").chmod(mode)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ConfigurationError):
        find_java()


def publish(db: MongoDatabase) -> None:
    with staged(db, "Recommendations", "r", "user_id", keep_others=True) as stage:
        stage.insert([{"user_id": "a", "run_id": "r"}])
        stage.seal(1)
        lease = Lease(db, 60)
        lease.acquire("r")
        put(db, stage, lease=lease)


@pytest.mark.parametrize("odd", ["date", "text"])
def test_any_document_of_the_backends_is_carried_over_byte_by_byte(
    db: MongoDatabase, odd: str
) -> None:
    raw = bson.encode(
        {"_id": 1, "user_id": "b", "x": DatetimeMS(2**60) if odd == "date" else "AAAA"}
    )
    db["Recommendations"].insert_one(RawBSONDocument(raw.replace(b"AAAA", b"\xff\xfeab")))
    publish(db)
    assert db["Recommendations"].count_documents({}) == 2


def test_an_index_of_the_backends_whose_name_is_that_of_ours_is_no_failure(
    db: MongoDatabase,
) -> None:
    db["Recommendations"].create_index([("user_id", -1)], name="user_id_1")
    publish(db)
    keys = [index["key"] for index in db["Recommendations"].index_information().values()]
    assert [("user_id", -1)] in keys
    assert [("user_id", 1)] in keys


def test_an_index_of_the_backends_with_a_collation_lives_on(db: MongoDatabase) -> None:
    db["Recommendations"].create_index("user_id", name="theirs", collation={"locale": "en"})
    publish(db)
    assert "theirs" in db["Recommendations"].index_information()


def write_model(db: MongoDatabase, changes: dict[str, Any], removed: str | None = None) -> None:
    parts: dict[str, Any] = {
        "train_columns": {"columns": ["a", 7]},
        "kmeans_centroids": {"centroids": [[1.0, 0.0], [0.0, 1.0]]},
        "kmeans_clusters": {"sizes": [1, 1]},
    }
    for name, part in parts.items():
        document = {"_id": name, "run_id": "r", **part, **changes.get(name, {})}
        document.pop(removed or "", None)
        db["Metadata"].insert_one(document)
    db["Clusters"].insert_many(
        [{"cluster_id": i, "run_id": "r", "recommendations": []} for i in range(2)]
    )


@pytest.mark.parametrize("field", ["columns", "centroids", "sizes"])
def test_a_part_without_its_field_is_a_data_error(db: MongoDatabase, field: str) -> None:
    write_model(db, {}, removed=field)
    with pytest.raises(DataError):
        load_model(db)


@pytest.mark.parametrize(
    "changes",
    [
        {"kmeans_centroids": {"centroids": [["x", 1.0], [0.0, 1.0]]}},
        {"kmeans_centroids": {"centroids": [3, 4]}},
        {"kmeans_centroids": {"centroids": None}},
        {"train_columns": {"columns": 5}},
        {"kmeans_clusters": {"sizes": [1]}},
        {"kmeans_clusters": {"rating_shift": "x"}},
    ],
)
def test_a_part_of_another_shape_is_a_data_error(
    db: MongoDatabase, changes: dict[str, Any]
) -> None:
    write_model(db, changes)
    with pytest.raises(DataError):
        load_model(db)


@pytest.mark.parametrize("odd", [{"_id": {"a": 1}}, {"_id": 5, "at": DatetimeMS(2**60)}])
def test_any_more_documents_of_metadata_are_passed_over(
    db: MongoDatabase, odd: dict[str, Any]
) -> None:
    write_model(db, {})
    db["Metadata"].insert_one(odd)
    assert load_model(db).run_id == "r"


@pytest.mark.parametrize("rated", [7, 7.0, Int64(7)])
def test_a_number_that_mongodb_holds_equal_is_the_same_column(
    db: MongoDatabase, rated: object
) -> None:
    write_model(db, {})
    block = clean_block(["u"], [rated], [4], [None], rating_min=1, rating_max=5)
    ratings = gather(pa.Table.from_batches([block]))
    assert load_model(db).vectors(ratings).toarray().tolist() == [[0.0, 4.0]]


@pytest.mark.parametrize("found", [5, ["x"], {"a": 1}, [None], "text"])
def test_ratings_in_users_of_another_shape_are_a_data_error(
    db: MongoDatabase, db_settings: Settings, found: object
) -> None:
    db["Users"].insert_one({"user_id": "u", "ratings": found})
    with pytest.raises(DataError):
        ratings_of_user(db_settings, "u")


def test_a_user_id_that_is_no_text_is_a_data_error(db_settings: Settings) -> None:
    with pytest.raises(DataError):
        ratings_of_user(db_settings, os.fsdecode(b"\xff"))


def test_ids_that_are_no_utf8_are_read(db: MongoDatabase, db_settings: Settings) -> None:
    rows = [bson.encode({"_id": f"AAAA{i:05}", **REVIEW}) for i in range(100)]
    db["Reviews"].insert_many(
        [RawBSONDocument(row.replace(b"AAAA", b"\xff\xfeab")) for row in rows]
    )
    ranges = plan(db_settings, 4, batch_rows=10)
    assert sum(b.num_rows for part in ranges for b in read(db_settings, part)) == 100


def test_a_text_that_only_python_takes_for_a_number_is_only_a_text(
    db: MongoDatabase, db_settings: Settings
) -> None:
    db["Reviews"].insert_one({**REVIEW, "user_id": 1000})
    for text in ("1_000", " 1000 ", "+1000", "\u0661\u0660\u0660\u0660"):
        with pytest.raises(DataError):
            ratings_of_user(db_settings, text)


def test_pruning_removes_logs_in_the_log_folder_only(
    db: MongoDatabase, db_settings: Settings, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.touch()
    db["TrainingRuns"].insert_one({"_id": "0", "state": "failed", "log": str(precious)})
    with training_run(db_settings.model_copy(update={"runs_kept": 1})):
        pass
    assert precious.exists()


def test_the_id_of_reviews_may_be_the_users_field(db: MongoDatabase, db_settings: Settings) -> None:
    db["Reviews"].insert_one({"_id": "u", "gmap_id": "g", "rating": 4})
    settings = db_settings.model_copy(update={"reviews_user_field": "_id"})
    assert len(read_ratings(settings)) == 1
