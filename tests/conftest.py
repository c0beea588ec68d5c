import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from xdist.scheduler import LoadFileScheduling

import als_training
from recommender.als import choose_preference
from recommender.als.tuning import cli as tuning_cli
from recommender.core.mongo import MongoDatabase, connect, database
from recommender.core.script import run_script
from recommender.core.settings import _OWN_PREFIXES, Settings, load_settings, setting_fields
from recommender.data.ratings import Ratings
from recommender.data.reviews import read_ratings
from recommender.spark.session import SparkThread, spark_errors, spark_session
from tests.mongods import shared_mongod
from tests.support import PROJECT, QUICK_ALS, QUICK_JAVA, set_environment, write_tiny_city

_LONG = {"tests/service/test_api.py", "tests/faults/test_faults.py", "tests/demo/test_commands.py"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--ratings",
        action="append",
        default=[],
        metavar="FILE[:USER,RESTAURANT,RATING]",
        help="test the descent of K-Means on real ratings, too: CSV or JSON lines, and its columns",
    )
    parser.addoption(
        "--write-docs", action="store_true", help="write the generated parts of the documentation"
    )


class OneSpark(LoadFileScheduling):  # type: ignore[misc]
    """Run the tests of a file in one process, and those of all files that use Spark, too."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return "spark" if _uses_spark(file) else file


@cache
def _uses_spark(file: str) -> bool:
    text = (PROJECT / file).read_text()
    return "spark: SparkSession" in text or "train_here" in text


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneSpark | None:
    return OneSpark(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with Spark, then the other files that take long, so that all processes end together."""
    files = {item: item.nodeid.partition("::")[0] for item in items}
    items.sort(key=lambda item: (not _uses_spark(files[item]), files[item] not in _LONG))


@pytest.fixture(scope="session")
def mongo_uri() -> Iterator[str]:
    """A real mongod for this test process."""
    with shared_mongod() as uri:
        yield uri


@pytest.fixture
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No setting of the developer's reaches the test; the current folder is empty."""
    for name in list(os.environ):
        if name.upper() in setting_fields() or name.upper().startswith(_OWN_PREFIXES):
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
def quick_settings(db_settings: Settings, quick_choice: None) -> Settings:
    """``db_settings`` for fits of which only the form is looked at."""
    return db_settings.with_values(QUICK_ALS)


@pytest.fixture
def db(db_settings: Settings) -> Iterator[MongoDatabase]:
    """The database of ``db_settings``, dropped afterwards."""
    with connect(db_settings.mongo) as client:
        yield database(client, db_settings.mongo)
        client.drop_database(db_settings.mongo.db)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A real Spark for this test process, in which no test may start another."""
    folder = tmp_path_factory.mktemp("spark")
    small = {"spark_driver_memory": "1g", "spark_shuffle_partitions": 4}
    settings = load_settings(work_dir=folder, spark_master="local[2]", **small)
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JDK_JAVA_OPTIONS", QUICK_JAVA)
            session = stack.enter_context(spark_session(settings, "tests")).session()
        yield session
    assert list(folder.iterdir()) == []  # nothing of Spark's is left behind


@contextmanager
def signals_and_logging_kept() -> Iterator[None]:
    """Undo what scripts do to signals, to their timer (pytest-timeout's too) and to logging."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM)
    handlers = {number: signal.getsignal(number) for number in numbers}
    root, hook = logging.getLogger(), sys.unraisablehook
    level, installed = root.level, root.handlers[:]
    (left, _), began = signal.getitimer(signal.ITIMER_REAL), time.monotonic()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        root.handlers[:] = installed
        root.setLevel(level)
        sys.unraisablehook = hook
        if left:
            rest = left - (time.monotonic() - began)
            signal.setitimer(signal.ITIMER_REAL, max(rest, 0.001))


@pytest.fixture
def signals_and_logging_stay_as_they_are() -> Iterator[None]:
    """Let a test do in this process what scripts do."""
    with signals_and_logging_kept():
        yield


@pytest.fixture
def run_here(db_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a script in this process, to its exit code."""

    def run(main: Callable[[Sequence[str]], int], *arguments: str, **more: str) -> int:
        with monkeypatch.context() as patch, signals_and_logging_kept():
            set_environment(patch, db_settings, **more)
            return run_script(lambda _: main(arguments))

    return run


@pytest.fixture
def quick_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose alpha on each user once, as on large data."""
    monkeypatch.setattr(choose_preference, "_REPEATS", 1)


@pytest.fixture
def spark_thread(spark: SparkSession) -> Iterator[SparkThread]:
    """The thread of a Spark that has started: the tests' own."""
    thread = SparkThread()
    thread._started = thread._add(lambda: spark)
    yield thread
    thread._thread.shutdown()


@pytest.fixture
def train_here(
    run_here: Callable[..., int],
    spark_thread: SparkThread,
    quick_choice: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., int]:
    """Run a script in this process, to its exit code, with the tests' Spark."""

    @contextmanager
    def started(*_: object, brief: bool = False) -> Iterator[SparkThread]:
        with spark_errors():
            yield spark_thread

    monkeypatch.setattr(als_training, "spark_session", started)
    monkeypatch.setattr(tuning_cli, "spark_session", started)
    return run_here


@pytest.fixture
def tiny_city(db: MongoDatabase, db_settings: Settings) -> None:
    """A city that trains in seconds, in the database of ``db_settings``."""
    write_tiny_city(db, db_settings)


@pytest.fixture
def city(tiny_city: None, db_settings: Settings) -> Ratings:
    return read_ratings(db_settings)


@pytest.fixture(scope="session")
def replica_set_uri() -> Iterator[str]:
    """A real mongod that is the primary of a replica set of one."""
    with shared_mongod(replica_set=True) as uri:
        yield uri


@pytest.fixture
def replica_set(replica_set_uri: str, clean_environment: Path) -> Iterator[MongoDatabase]:
    """A database of a replica set of one, which has transactions and change streams."""
    settings = load_settings(mongo_uri=replica_set_uri, mongo_db=f"test-{uuid.uuid4().hex}")
    with connect(settings.mongo) as client:
        yield database(client, settings.mongo)
        client.drop_database(settings.mongo.db)


@pytest.fixture(params=["db", "replica_set"])
def either(request: pytest.FixtureRequest) -> MongoDatabase:
    """A database of a standalone mongod, and one of a replica set."""
    either_db: MongoDatabase = request.getfixturevalue(request.param)
    return either_db
