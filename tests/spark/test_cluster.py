"""A training on a Spark cluster of two workers, each in a process of its own."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyspark
import pytest

from recommender.core.child_process import Guarded
from recommender.core.mongo import MongoDatabase
from recommender.core.ports import LOOPBACK, listens
from recommender.core.settings import Settings
from recommender.demo.synthetic_city import City, write_city
from tests.support import QUICK_JAVA, free_port, run_script
from tests.waiting import until

pytestmark = pytest.mark.nightly

SPARK = Path(pyspark.__file__).parent
# More reviews than the driver reads by itself, and more blocks of users than it recommends to.
CITY = City(users=25_000, restaurants=300, reviews=130_000, seed=5, tastes=6)


@pytest.fixture
def master(tmp_path: Path) -> Iterator[str]:
    """The URL of a cluster of two workers of one core, each with a folder of its own."""
    port = free_port()
    url = f"spark://{LOOPBACK}:{port}"
    # Neither this environment nor this folder: workers find the project only in what Spark ships.
    env = {"PATH": os.environ["PATH"], "SPARK_LOCAL_IP": LOOPBACK, "SPARK_HOME": str(SPARK)}
    env |= {"JAVA_HOME": home} if (home := os.environ.get("JAVA_HOME")) else {}
    env |= {"JDK_JAVA_OPTIONS": QUICK_JAVA}

    def start(kind: str, *arguments: str) -> Guarded:
        folder = tmp_path / kind
        folder.mkdir()
        role = f"org.apache.spark.deploy.{kind.partition('-')[0]}"
        spark = f"{SPARK}/bin/spark-class", role, "--host", LOOPBACK, "--webui-port", "0"
        command = "env", "-C", str(folder), *spark, *arguments
        return Guarded(command, grace_seconds=5, env=env, output=(folder / "log").open("wb"))

    with ExitStack() as stack:
        stack.enter_context(start("master.Master", "--port", str(port)))
        until(lambda: listens(LOOPBACK, port))
        for worker in ("worker.Worker-1", "worker.Worker-2"):
            options = "--cores", "1", "--memory", "2g", "--work-dir", str(tmp_path / worker)
            stack.enter_context(start(worker, *options, url))
        yield url


def lists_of(db: MongoDatabase) -> dict[Any, list[Any]]:
    """Return each user's restaurants, best first."""
    lists = {d["user_id"]: d["recommendations"] for d in db["Recommendations"].find()}
    return {user: [entry["gmap_id"] for entry in entries] for user, entries in lists.items()}


@pytest.mark.timeout(900)  # a training on a cluster whose processes share two cores
def test_the_lists_of_a_cluster_are_those_of_one_machine(
    master: str, tmp_path: Path, db: MongoDatabase, db_settings: Settings
) -> None:
    write_city(db, CITY, db_settings.reviews.fields)
    options = {"SPARK_EXECUTOR_CORES": "1", "SPARK_EXECUTOR_MEMORY": "1g"}
    lists = []
    for where in ("local[2]", master):
        train = "als_training.py", "--no-clustering"
        done = run_script(*train, settings=db_settings, SPARK_MASTER=where, **options)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("spark.authenticate.secret") == (where == master)
        lists.append(lists_of(db))
    assert len([*tmp_path.glob("worker.Worker-*/app-*")]) == 2  # both workers had executors
    alone, on_cluster = lists
    assert alone.keys() == on_cluster.keys()
    # Spark adds what executors send in the order of its arrival, so last digits may differ.
    same = sum(alone[user] == restaurants for user, restaurants in on_cluster.items())
    assert same >= 0.999 * len(alone)
