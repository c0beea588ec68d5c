"""The published model as a reader sees it: complete and of one run, or an error."""

import contextlib
import math
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from bson import Int64, ObjectId
from bson.datetime_ms import DatetimeMS
from pymongo import MongoClient
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from recommender.clustering.published_model import PublishedModel, load_model, previous_labels
from recommender.core.errors import DatabaseUnavailableError, DataError
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.settings import Settings
from recommender.publishing.publish import publish_clusters
from recommender.runs.lease import Lease
from tests.support import ratings_of

COLUMNS: list[Any] = ["a", 7, ObjectId("0123456789abcdef01234567")]
CENTROIDS = [[4.0, 0.0, 1.0], [0.0, 2.5, 0.0]]


def metadata(run_id: str = "r1", /, **changes: dict[str, Any]) -> dict[str, Document]:
    """Return valid documents of Metadata by ``_id``, with some fields changed."""
    documents: dict[str, Document] = {
        "train_columns": {"columns": list(COLUMNS)},
        "kmeans_centroids": {"centroids": [list(row) for row in CENTROIDS]},
        "kmeans_clusters": {"sizes": [3, 2], "rating_shift": 1.0},
        "fallback": {"recommendations": [{"gmap_id": "a", "score": 4.0}]},
    }
    return {
        name: {"_id": name, "run_id": run_id, **fields, **changes.get(name, {})}
        for name, fields in documents.items()
    }


def clusters(run_id: str = "r1", ids: tuple[Any, ...] = (1, 0)) -> list[Document]:
    return [{"cluster_id": i, "run_id": run_id, "recommendations": []} for i in ids]


def write(
    db: MongoDatabase,
    parts: dict[str, Document] | None = None,
    documents: list[Document] | None = None,
) -> None:
    """Write a model into the collections without the staging of a training."""
    for name, rows in (
        ("Metadata", list((metadata() if parts is None else parts).values())),
        ("Clusters", clusters() if documents is None else documents),
    ):
        db[name].delete_many({})
        if rows:
            db[name].insert_many(rows)


def model_of(db: MongoDatabase, **changes: dict[str, Any]) -> PublishedModel:
    write(db, metadata(**changes))
    return load_model(db)


def error_of(db: MongoDatabase) -> str:
    """Return the error of a model that is rejected."""
    with pytest.raises(DataError) as caught:
        load_model(db)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_complete_model_is_read(db: MongoDatabase) -> None:
    model = model_of(db)
    assert model.run_id == "r1"
    assert model.centroids.tolist() == CENTROIDS
    assert model.centroids.dtype == np.float64
    assert len(model.columns) == 3
    assert (model.sizes, model.rating_shift) == ([3, 2], 1.0)
    assert [cluster["cluster_id"] for cluster in model.clusters] == [0, 1]
    assert model.fallback == [{"gmap_id": "a", "score": 4.0}]


def test_parts_beyond_the_contract_may_be_missing_or_added(db: MongoDatabase) -> None:
    parts: dict[Any, Document] = {
        **metadata(train_columns={"more": 1}),
        5: {"_id": 5, "run_id": "other", "at": DatetimeMS(2**60)},
        6: {"_id": {"a": 1}},
    }
    del parts["fallback"], parts["kmeans_clusters"]["rating_shift"]
    write(db, parts)
    model = load_model(db)
    assert (model.run_id, model.fallback, model.rating_shift) == ("r1", [], 0.0)


def test_vectors_of_any_ratings_follow_the_contract(db: MongoDatabase) -> None:
    model = model_of(db)
    rng = np.random.default_rng(4)
    restaurants = [*COLUMNS, "x", "7"]
    for _ in range(20):
        rows = [
            (f"u{user}", restaurants[item], float(rng.integers(0, 6)))
            for user in range(4)
            for item in rng.permutation(5)[: rng.integers(1, 5)]
        ]
        vectors = model.vectors(ratings_of(rows))
        rated = {(user, item): rating for user, item, rating in rows}
        expected = [
            [rated[f"u{user}", c] + 1 if (f"u{user}", c) in rated else 0 for c in COLUMNS]
            for user in range(4)
        ]
        assert vectors.toarray().tolist() == expected


def test_equal_numbers_are_one_column_whatever_their_type(db: MongoDatabase) -> None:
    model = model_of(db, train_columns={"columns": ["a", Int64(2**40), 7]})
    for number, column in ((2**40, 1), (7, 2), (7.0, 2), (Int64(7), 2)):
        vector = model.vectors(ratings_of([("u", number, 2.0)])).toarray()[0]
        assert vector.tolist() == [3.0 * (i == column) for i in range(3)]


def test_a_missing_part_is_named(db: MongoDatabase) -> None:
    for missing in ("train_columns", "kmeans_centroids", "kmeans_clusters"):
        parts = metadata()
        del parts[missing]
        write(db, parts)
        assert missing in error_of(db)
    write(db, documents=[])
    assert "Clusters" in error_of(db)
    write(db, {}, [])
    assert {"train_columns", "Clusters"} <= {*re.findall(r"\w+", error_of(db))}


def test_parts_of_different_trainings_are_rejected(db: MongoDatabase) -> None:
    for part in ("train_columns", "kmeans_centroids", "kmeans_clusters"):
        write(db, metadata(**{part: {"run_id": "r2"}}))
        assert "(r1, r2)" in error_of(db)
    for documents in (clusters("r2"), [*clusters("r1", (0,)), *clusters("r2", (1,))]):
        write(db, documents=documents)
        assert "(r1, r2)" in error_of(db)


def test_invalid_parts_are_rejected(db: MongoDatabase) -> None:
    invalid: list[tuple[str, dict[str, Any]]] = [
        ("train_columns", {"columns": 5}),
        *(("train_columns", {"columns": [c, 7, 8]}) for c in (None, ["a"], "x" * 1025, math.nan)),
        ("kmeans_centroids", {"centroids": None}),
        ("kmeans_centroids", {"centroids": []}),
        ("kmeans_centroids", {"centroids": [3, 4]}),
        ("kmeans_centroids", {"centroids": [["x", 1.0, 2.0]] * 2}),
        ("kmeans_centroids", {"centroids": [[1.0, 2.0], [1.0, 2.0, 3.0]]}),
        ("kmeans_centroids", {"centroids": [[1.0] * 4] * 2}),
        *(("kmeans_centroids", {"centroids": [[1.0, v, 2.0]] * 2}) for v in (math.nan, -math.inf)),
        ("kmeans_clusters", {"sizes": [1]}),
        ("kmeans_clusters", {"rating_shift": "x"}),
    ]
    for part, change in invalid:
        write(db, metadata(**{part: change}))
        error_of(db)
    for part, field in zip(metadata(), ("columns", "centroids", "sizes"), strict=False):
        parts = metadata()
        del parts[part][field]
        write(db, parts)
        assert field in error_of(db)
    for ids in ((1, 2), (0,), (0, 1, 2), (0, 0), (0, None), ("0", "1")):
        write(db, documents=clusters(ids=ids))
        error_of(db)


def test_each_user_has_the_nearest_cluster_or_none(db: MongoDatabase) -> None:
    ratings = ratings_of([("u", "a", 3.0), ("v", 7, 4.5), ("w", "unknown", 2.0)])
    assert model_of(db).labels(ratings).tolist() == [0, 1, -1]
    previous = previous_labels(db, ratings)
    assert previous is not None
    assert previous.tolist() == [0, 1, -1]


def test_without_a_usable_model_there_are_no_previous_labels(db: MongoDatabase) -> None:
    ratings = ratings_of([("u", "a", 3.0)])
    assert previous_labels(db, ratings) is None
    for centroids in ("none", [[1.0]], [[0.0, math.nan]]):
        write(db, metadata(kmeans_centroids={"centroids": centroids}))
        assert previous_labels(db, ratings) is None


def test_without_mongodb_the_database_is_unavailable() -> None:
    with (
        MongoClient[Document]("127.0.0.1", 9, serverSelectionTimeoutMS=50) as client,
        pytest.raises(DatabaseUnavailableError),
    ):
        load_model(client["x"])


def test_while_models_are_published_a_reader_gets_a_complete_one(db: MongoDatabase) -> None:
    lease = Lease(db, 60)
    lease.acquire("the publisher")

    def publish(number: int) -> None:
        run_id = f"r{number}"
        parts = metadata(run_id)
        parts["kmeans_centroids"]["centroids"][0][0] = float(number)
        publish_clusters(db, run_id, clusters(run_id), list(parts.values()), lease=lease)

    publish(0)
    stop, started = threading.Event(), threading.Event()

    def read() -> set[str]:
        seen = set()
        while not stop.is_set():
            # Between the two switches there is no complete model.
            with contextlib.suppress(DataError):
                model = load_model(db)
                assert model.run_id == f"r{model.centroids[0, 0]:.0f}"
                assert {cluster["run_id"] for cluster in model.clusters} == {model.run_id}
                seen.add(model.run_id)
                started.set()
        return seen

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        try:
            assert started.wait(30)
            for number in range(1, 16):
                publish(number)
        finally:
            stop.set()
        assert len(reader.result()) > 1


class SwitchInBetween(CommandListener):
    """Publishes another model after a reader has read Metadata and before it reads Clusters."""

    def __init__(self, db: MongoDatabase) -> None:
        self._db = db
        self.done = False

    def started(self, event: CommandStartedEvent) -> None:
        if event.command.get("find") == "Clusters" and not self.done:
            self.done = True
            write(self._db, metadata("r2"), clusters("r2"))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass


def test_a_reader_between_two_models_reads_again(db: MongoDatabase, db_settings: Settings) -> None:
    write(db)
    listener = SwitchInBetween(db)
    uri = db_settings.mongo.uri.get_secret_value()
    with MongoClient[Document](uri, event_listeners=[listener]) as client:
        assert load_model(client[db.name]).run_id == "r2"
    assert listener.done
