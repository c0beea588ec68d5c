from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from recommender.embedded import EmbeddedMongo
from recommender.mongo import MongoDatabase, connect, database
from recommender.ratings import Ratings
from recommender.reviews import read_ratings
from recommender.settings import Settings, load_settings
from recommender.spark import spark_session
from tests.support import write_tiny_city

_FOREIGN_PREFIXES = ("ALS_", "CLUSTERS_", "RATING_", "REVIEWS_", "TRAIN_", "LEASE_", "GATE_")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--ratings",
        action="append",
        default=[],
        metavar="FILE[:USER,RESTAURANT,RATING]",
        help="test the descent of K-Means on real ratings, too: CSV or JSON lines, and its columns",
    )


@pytest.fixture(scope="session")
def mongo_uri() -> Iterator[str]:
    """A real mongod for this test process."""
    with EmbeddedMongo() as mongo:
        yield mongo.uri


@pytest.fixture
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No setting of the developer's reaches the test; the current folder is empty."""
    for name in list(os.environ):
        if name.lower() in Settings.model_fields or name.upper().startswith(_FOREIGN_PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def db_settings(mongo_uri: str, clean_environment: Path) -> Settings:
    """Settings with a database and a work folder that are this test's alone."""
    return load_settings(
        mongo_uri=mongo_uri, mongo_db=f"test-{uuid.uuid4().hex}", work_dir=clean_environment
    )


@pytest.fixture
def db(db_settings: Settings) -> Iterator[MongoDatabase]:
    """The database of ``db_settings``, dropped afterwards."""
    with connect(db_settings) as client:
        yield database(client, db_settings)
        client.drop_database(db_settings.mongo_db)


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    folder = tmp_path_factory.mktemp("spark")
    settings = load_settings(work_dir=folder, spark_driver_memory="1g", spark_master="local[2]")
    with spark_session(settings, "tests") as session:
        yield session
    assert list(folder.iterdir()) == []  # nothing of Spark's is left behind


@pytest.fixture
def city(db: MongoDatabase, db_settings: Settings) -> Ratings:
    write_tiny_city(db, db_settings)
    return read_ratings(db_settings)
