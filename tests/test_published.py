"""The published model as a reader sees it: whole and of one run, or a clear error."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from bson import Int64, ObjectId
from pymongo import MongoClient
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from recommender.errors import DatabaseUnavailableError, DataError
from recommender.lease import Lease
from recommender.mongo import Document, MongoDatabase
from recommender.published import PublishedModel, load_model
from recommender.ratings import Ratings
from recommender.settings import Settings
from recommender.store import publish_clusters
from tests.support import ratings_of

COLUMNS: list[Any] = ["a", 7, ObjectId("0123456789abcdef01234567")]
CENTROIDS = [[4.0, 0.0, 1.0], [0.0, 2.5, 0.0]]


def metadata(run_id: str = "r1") -> dict[str, Document]:
    documents: list[Document] = [
        {"_id": "train_columns", "columns": list(COLUMNS)},
        {"_id": "kmeans_centroids", "centroids": [list(row) for row in CENTROIDS]},
        {"_id": "kmeans_clusters", "sizes": [3, 2], "rating_shift": 1.0},
        {"_id": "fallback", "recommendations": [{"gmap_id": "a", "score": 4.0}]},
    ]
    return {document["_id"]: {**document, "run_id": run_id} for document in documents}


def clusters(run_id: str = "r1", ids: tuple[Any, ...] = (1, 0)) -> list[Document]:
    return [{"cluster_id": i, "run_id": run_id, "recommendations": []} for i in ids]


def write(
    db: MongoDatabase, parts: dict[str, Document] | None = None, found: list[Document] | None = None
) -> None:
    """Write a model straight into the collections, as nobody should."""
    for name, documents in (
        ("Metadata", list((metadata() if parts is None else parts).values())),
        ("Clusters", clusters() if found is None else found),
    ):
        db[name].delete_many({})
        if documents:
            db[name].insert_many(documents)


def model_of(db: MongoDatabase) -> PublishedModel:
    write(db)
    return load_model(db)


def test_the_whole_model_is_read(db: MongoDatabase) -> None:
    model = model_of(db)
    assert model.run_id == "r1"
    assert model.centroids.tolist() == CENTROIDS
    assert model.centroids.dtype == np.float64
    assert len(model.columns) == 3
    assert (model.sizes, model.rating_shift) == ([3, 2], 1.0)
    assert [cluster["cluster_id"] for cluster in model.clusters] == [0, 1]
    assert model.fallback == [{"gmap_id": "a", "score": 4.0}]


def test_what_only_we_publish_may_be_missing(db: MongoDatabase) -> None:
    parts = metadata()
    del parts["fallback"], parts["kmeans_clusters"]["rating_shift"]
    write(db, parts)
    model = load_model(db)
    assert (model.fallback, model.rating_shift) == ([], 0.0)


def test_more_documents_and_fields_are_passed_over(db: MongoDatabase) -> None:
    parts: dict[Any, Document] = {**metadata(), 5: {"_id": 5, "run_id": "other"}}
    parts["train_columns"]["more"] = 1
    write(db, parts)
    assert load_model(db).run_id == "r1"


def test_a_users_vector_has_the_shifted_ratings_in_the_columns_order(db: MongoDatabase) -> None:
    ratings = ratings_of(
        [
            ("u", COLUMNS[2], 0.0),
            ("u", "a", 3.0),
            ("u", "not a column", 5.0),
            ("v", 7, 4.5),
            ("w", "7", 4.5),
        ]
    )
    vectors = model_of(db).vectors(ratings)
    assert vectors.toarray().tolist() == [[4.0, 0.0, 1.0], [0.0, 5.5, 0.0], [0.0, 0.0, 0.0]]
    assert vectors.nnz == 3


def test_the_vectors_follow_the_contracts_paragraph_for_any_ratings(db: MongoDatabase) -> None:
    model = model_of(db)
    chance = np.random.default_rng(4)
    restaurants = [*COLUMNS, "x", "y"]
    for _ in range(20):
        rows = [
            (f"u{user}", restaurants[item], float(chance.integers(0, 6)))
            for user in range(4)
            for item in chance.permutation(5)[: chance.integers(1, 5)]
        ]
        vectors = model.vectors(ratings_of(rows)).toarray()
        rated = {(user, item): rating for user, item, rating in rows}
        expected = [
            [rated[f"u{user}", c] + 1 if (f"u{user}", c) in rated else 0 for c in COLUMNS]
            for user in range(4)
        ]
        assert vectors.tolist() == expected


def test_a_whole_number_is_one_column_whatever_its_width(db: MongoDatabase) -> None:
    parts = metadata()
    parts["train_columns"]["columns"] = ["a", Int64(2**40), "b"]
    write(db, parts)
    ratings = ratings_of([("u", 2**40, 2.0)])
    assert load_model(db).vectors(ratings).toarray().tolist() == [[0, 3, 0]]


@pytest.mark.parametrize("missing", ["train_columns", "kmeans_centroids", "kmeans_clusters"])
def test_a_missing_part_is_named(db: MongoDatabase, missing: str) -> None:
    parts = metadata()
    del parts[missing]
    write(db, parts)
    assert f"Metadata's {missing} is missing; run als_training.py first" in refusal(db)


def test_missing_clusters_are_named(db: MongoDatabase) -> None:
    write(db, found=[])
    assert "no model is published: Clusters is missing" in refusal(db)


def test_nothing_published_names_everything(db: MongoDatabase) -> None:
    told = refusal(db)
    assert told.startswith("no model is published: Metadata's train_columns, ")
    assert "Clusters is missing" in told


@pytest.mark.parametrize("part", ["train_columns", "kmeans_centroids", "kmeans_clusters", None])
def test_parts_of_different_trainings_are_refused(db: MongoDatabase, part: str | None) -> None:
    parts = metadata()
    found = clusters()
    if part:
        parts[part]["run_id"] = "r2"
    else:
        found = clusters("r2")
    write(db, parts, found)
    told = refusal(db)
    assert "are of different trainings" in told
    assert "r1" in told
    assert "r2" in told


def test_clusters_of_two_trainings_are_refused(db: MongoDatabase) -> None:
    write(db, found=[*clusters("r1", (0,)), *clusters("r2", (1,))])
    assert "are of different trainings" in refusal(db)


@pytest.mark.parametrize(
    "centroids", [[[1.0, 2.0], [1.0, 2.0, 3.0]], [[1.0, 2.0]] * 2, [[1.0] * 4] * 2, []]
)
def test_centroids_of_another_length_than_the_columns_are_refused(
    db: MongoDatabase, centroids: list[list[float]]
) -> None:
    parts = metadata()
    parts["kmeans_centroids"]["centroids"] = centroids
    write(db, parts)
    lengths = sorted({len(row) for row in centroids})
    assert f"the centroids have {lengths} values where there are 3 columns" in refusal(db)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_centroid_that_is_not_finite_is_refused(db: MongoDatabase, value: float) -> None:
    parts = metadata()
    parts["kmeans_centroids"]["centroids"][1][2] = value
    write(db, parts)
    assert "a centroid holds a value that is not finite" in refusal(db)


@pytest.mark.parametrize("ids", [(1, 2), (0,), (0, 1, 2), (0, 0), (0, None), ("0", "1")])
def test_cluster_ids_that_do_not_count_the_centroids_are_refused(
    db: MongoDatabase, ids: tuple[Any, ...]
) -> None:
    write(db, found=clusters(ids=ids))
    assert "where there are 2 centroids" in refusal(db)


@pytest.mark.parametrize("column", [None, ["a"], "x" * 1025, float("nan")])
def test_a_column_that_cannot_be_a_restaurant_is_refused(db: MongoDatabase, column: Any) -> None:
    parts = metadata()
    parts["train_columns"]["columns"][0] = column
    write(db, parts)
    assert "cannot be a restaurant's id" in refusal(db)


def refusal(db: MongoDatabase) -> str:
    """Return what is said of a model that cannot be used."""
    with pytest.raises(DataError) as caught:
        load_model(db)
    assert caught.value.exit_code == 65
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_mongodb_that_is_said() -> None:
    with (
        MongoClient[Document]("127.0.0.1", 9, serverSelectionTimeoutMS=50) as client,
        pytest.raises(DatabaseUnavailableError, match="while reading the published model"),
    ):
        load_model(client["x"])


def test_while_models_are_published_a_reader_gets_a_whole_one(db: MongoDatabase) -> None:
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
            # Between the two switches there is no whole one, and that is said.
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


def test_a_reader_that_was_between_two_models_reads_again(
    db: MongoDatabase, db_settings: Settings
) -> None:
    write(db)
    listener = SwitchInBetween(db)
    uri = db_settings.mongo_uri.get_secret_value()
    with MongoClient[Document](uri, event_listeners=[listener]) as client:
        assert load_model(client[db.name]).run_id == "r2"
    assert listener.done


def test_a_user_of_nothing_that_is_known_has_an_empty_vector(db: MongoDatabase) -> None:
    ratings: Ratings = ratings_of([("u", "not a column", 5.0)])
    vectors = model_of(db).vectors(ratings)
    assert (vectors.shape, vectors.nnz) == ((1, 3), 0)
