"""What several tests share: small cities, scripts run as people run them, a contract's reader."""

import os
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from benchmarks.datasets import read_file
from recommender.als.confidence import confidence_matrix
from recommender.als.fold_in import preference_model
from recommender.als.model import Model
from recommender.als.published_factors import factors_document
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.ports import LOOPBACK
from recommender.core.settings import Settings, load_settings
from recommender.data.cleaning import BLOCK_SCHEMA, clean_block
from recommender.data.files import RATING, RESTAURANT, USER
from recommender.data.ids import encode_id
from recommender.data.ratings import Ratings, gather
from recommender.demo.synthetic_city import City, write_city

PROJECT = Path(__file__).parent.parent
# Quick to start rather than quick in the long run.
QUICK_JAVA = (
    "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
    " -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote"
)
# Enough to fit something, where it does not matter how well.
QUICK_ALS = {"als_preference_rank": 16, "als_max_iter": 2}
TINY_CITY = City(users=300, restaurants=60, reviews=2_000, seed=3, tastes=4)


def free_port() -> int:
    """Return a free port of the loopback address."""
    with socket.create_server((LOOPBACK, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def environment(settings: Settings, **more: str) -> dict[str, str]:
    """Return the environment of a script that is to run with the test's database and folder."""
    return {
        **os.environ,
        "MONGO_URI": settings.mongo.uri.get_secret_value(),
        "MONGO_DB": settings.mongo.db,
        "WORK_DIR": str(settings.work_dir),
        "SPARK_DRIVER_MEMORY": "1g",
        "SPARK_SHUFFLE_PARTITIONS": "4",
        "JDK_JAVA_OPTIONS": QUICK_JAVA,
        **{name.upper(): str(value) for name, value in QUICK_ALS.items()},
        **more,
    }


def set_environment(patch: pytest.MonkeyPatch, settings: Settings, **more: str) -> None:
    """Let a script's ``main`` in this process find what :func:`environment` gives a script."""
    for name, value in environment(settings, **more).items():
        patch.setenv(name, value)


def run_script(
    name: str, *arguments: str, settings: Settings, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a top-level script to its end, from a folder that is not the project's."""
    return subprocess.run(
        [sys.executable, str(PROJECT / name), *arguments],
        env=environment(settings, **more),
        cwd=settings.work_dir,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def jvms(pid: int) -> list[psutil.Process]:
    """Return the JVMs of Spark that a process has started, itself or by others.

    Two come before it: one for Java's version, and one for how Spark is started.
    """
    started = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # of those that come and go
            if process.name() == "java" and _is_of_spark(process.cmdline()):
                started.append(process)
    return started


def _is_of_spark(command: list[str]) -> bool:
    classes = [word for word in command if word.startswith("org.apache.spark.")]
    return classes[:1] == ["org.apache.spark.deploy.SparkSubmit"]


def write_tiny_city(db: MongoDatabase, settings: Settings) -> None:
    """Fill Reviews with a city that trains in seconds."""
    write_city(db, TINY_CITY, settings.reviews.fields)


def rated_by_user(db: MongoDatabase) -> dict[Any, dict[Any, float]]:
    """Return the valid ratings in Reviews, by user and restaurant."""
    rated: dict[Any, dict[Any, float]] = defaultdict(dict)
    for row in db["Reviews"].find({"user_id": {"$exists": True}, "rating": {"$type": "number"}}):
        rated[row["user_id"]][row["gmap_id"]] = row["rating"]
    return rated


def ratings_of(
    rows: list[tuple[Any, Any, float]], rating_min: float = 0, rating_max: float = 5
) -> Ratings:
    """Return (user, restaurant, rating) rows as ratings on a scale, by default of 0 to 5."""
    users, restaurants, values = ([row[i] for row in rows] for i in range(3))
    times = [None] * len(rows)
    block = clean_block(
        users, restaurants, values, times, rating_min=rating_min, rating_max=rating_max
    )
    return gather(pa.Table.from_batches([block], schema=BLOCK_SCHEMA))


def real_rows(text: str) -> csr_array:
    """Read what the option ``--ratings`` names: users by restaurants, on any scale above -1."""
    name, _, names = text.partition(":")
    fields = (USER, RESTAURANT, RATING)
    columns = dict(zip(fields, names.split(",") if names else fields, strict=True))
    ratings = read_file(name, load_settings(rating_min=0, rating_max=100), columns)
    return ratings.matrix(1.0)


def some_factors(run_id: str) -> Document:
    """Return ``item_factors`` of three restaurants: a user who likes ``a`` gets ``c``."""
    factors = np.array([[1.0, 0], [0, 1], [0.5, 0.1]], dtype=np.float32)
    preferences = preference_model(factors, np.array([3, 2, 1]), alpha=4.0, reg_param=0.1)
    keys = pa.array([str(encode_id(i)) for i in ("a", 5, "c")])
    return factors_document(preferences, keys, np.ones(3, dtype=bool), run_id, 0.0)


class ContractReader:
    """A backend that knows the contract's text and nothing of this project's code."""

    def __init__(self, db: MongoDatabase) -> None:
        named = ("train_columns", "kmeans_centroids", "kmeans_clusters")
        metadata = {d["_id"]: d for d in db["Metadata"].find({"_id": {"$in": named}})}
        self.columns: list[Any] = metadata["train_columns"]["columns"]
        self.centroids = np.array(metadata["kmeans_centroids"]["centroids"])
        self.sizes: list[int] = metadata["kmeans_clusters"]["sizes"]
        self.shift: float = metadata["kmeans_clusters"]["rating_shift"]
        self.clusters = {document["cluster_id"]: document for document in db["Clusters"].find()}
        self.run_ids = {d["run_id"] for d in (*metadata.values(), *self.clusters.values())}

    def vector(self, rated: Mapping[Any, float]) -> NDArray[np.float64]:
        """Return a user's vector over the columns, 0 where unrated."""
        return np.array([rated[c] + self.shift if c in rated else 0.0 for c in self.columns])

    def cluster_of(self, rated: Mapping[Any, float]) -> int:
        """Return the nearest centroid's number by the contract's distance."""
        x = self.vector(rated)
        far = [1 - x @ c / max(x @ x, c @ c, 1e-300) for c in self.centroids]
        return int(np.argmin(far))

    def recommend(self, rated: Mapping[Any, float]) -> list[Any]:
        """Return the cluster's restaurants less what the user has rated, best first."""
        entries = self.clusters[self.cluster_of(rated)]["recommendations"]
        return [entry["gmap_id"] for entry in entries if entry["gmap_id"] not in rated]


def scores_of(model: Model, ratings: Ratings, settings: Settings) -> NDArray[np.float64]:
    """Return what ranks, (users, restaurants)."""
    users = np.arange(len(ratings.users), dtype=np.int32)
    factors = model.user_factors(users, confidence_matrix(ratings, settings.reviews)).astype(
        np.float64
    )
    return np.asarray(factors @ model.restaurant_factors.T.astype(np.float64))
