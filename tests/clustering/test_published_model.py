"""The published model as a reader sees it: complete and of one run, or an error."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
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
from recommender.data.cleaning import clean_block
from recommender.data.ratings import Ratings, gather
from recommender.publishing.publish import publish_clusters
from recommender.runs.lease import Lease
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
    """Write a model into the collections without the staging of a training."""
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


def test_the_complete_model_is_read(db: MongoDatabase) -> None:
    model = model_of(db)
    assert model.run_id == "r1"
    assert model.centroids.tolist() == CENTROIDS
    assert model.centroids.dtype == np.float64
    assert len(model.columns) == 3
    assert (model.sizes, model.rating_shift) == ([3, 2], 1.0)
    assert [cluster["cluster_id"] for cluster in model.clusters] == [0, 1]
    assert model.fallback == [{"gmap_id": "a", "score": 4.0}]


def test_parts_beyond_the_contract_may_be_missing(db: MongoDatabase) -> None:
    parts = metadata()
    del parts["fallback"], parts["kmeans_clusters"]["rating_shift"]
    write(db, parts)
    model = load_model(db)
    assert (model.fallback, model.rating_shift) == ([], 0.0)


def test_other_documents_and_fields_are_ignored(db: MongoDatabase) -> None:
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


def test_vectors_of_any_ratings_follow_the_contract(db: MongoDatabase) -> None:
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


def test_a_missing_part_is_named(db: MongoDatabase) -> None:
    for missing in ("train_columns", "kmeans_centroids", "kmeans_clusters"):
        parts = metadata()
        del parts[missing]
        write(db, parts)
        assert missing in refusal(db)
    write(db, found=[])
    assert "Clusters" in refusal(db)
    write(db, {}, [])
    message = refusal(db)
    assert "train_columns" in message
    assert "Clusters" in message


def test_parts_of_different_trainings_are_rejected(db: MongoDatabase) -> None:
    for part in ("train_columns", "kmeans_centroids", "kmeans_clusters", None):
        parts = metadata()
        if part:
            parts[part]["run_id"] = "r2"
        write(db, parts, clusters("r1" if part else "r2"))
        message = refusal(db)
        assert "r1" in message
        assert "r2" in message
    write(db, found=[*clusters("r1", (0,)), *clusters("r2", (1,))])
    assert "r2" in refusal(db)


def test_centroids_of_another_length_than_the_columns_are_rejected(db: MongoDatabase) -> None:
    for centroids in ([[1.0, 2.0], [1.0, 2.0, 3.0]], [[1.0, 2.0]] * 2, [[1.0] * 4] * 2, []):
        parts = metadata()
        parts["kmeans_centroids"]["centroids"] = centroids
        write(db, parts)
        lengths = sorted({len(row) for row in centroids})
        assert f"{lengths} values where there are 3 columns" in refusal(db)


def test_centroids_that_are_not_finite_are_rejected(db: MongoDatabase) -> None:
    for value in (float("nan"), float("inf"), -float("inf")):
        parts = metadata()
        parts["kmeans_centroids"]["centroids"][1][2] = value
        write(db, parts)
        assert "not finite" in refusal(db)


def test_cluster_ids_that_do_not_match_the_centroids_are_rejected(db: MongoDatabase) -> None:
    for ids in ((1, 2), (0,), (0, 1, 2), (0, 0), (0, None), ("0", "1")):
        write(db, found=clusters(ids=ids))
        assert "2 centroids" in refusal(db)


def test_columns_that_are_no_valid_ids_are_rejected(db: MongoDatabase) -> None:
    for column in (None, ["a"], "x" * 1025, float("nan")):
        parts = metadata()
        parts["train_columns"]["columns"][0] = column
        write(db, parts)
        assert "train_columns" in refusal(db)


def test_each_user_has_the_cluster_that_the_reader_finds(db: MongoDatabase) -> None:
    ratings = ratings_of([("u", "a", 3.0), ("v", 7, 4.5), ("w", "unknown", 2.0)])
    assert model_of(db).labels(ratings).tolist() == [0, 1, -1]
    previous = previous_labels(db, ratings)
    assert previous is not None
    assert previous.tolist() == [0, 1, -1]


def test_without_a_usable_model_there_are_no_previous_labels(db: MongoDatabase) -> None:
    ratings = ratings_of([("u", "a", 3.0)])
    assert previous_labels(db, ratings) is None
    for centroids in ("none", [[1.0]], [[0.0, float("nan")]]):
        parts = metadata()
        parts["kmeans_centroids"]["centroids"] = centroids
        write(db, parts)
        assert previous_labels(db, ratings) is None


def refusal(db: MongoDatabase) -> str:
    """Return the error of a model that is rejected."""
    with pytest.raises(DataError) as caught:
        load_model(db)
    assert caught.value.exit_code == 65
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_mongodb_the_database_is_unavailable() -> None:
    with (
        MongoClient[Document]("127.0.0.1", 9, serverSelectionTimeoutMS=50) as client,
        pytest.raises(DatabaseUnavailableError, match="while reading the published model"),
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


def test_a_user_of_unknown_restaurants_has_an_empty_vector(db: MongoDatabase) -> None:
    ratings: Ratings = ratings_of([("u", "not a column", 5.0)])
    vectors = model_of(db).vectors(ratings)
    assert (vectors.shape, vectors.nnz) == ((1, 3), 0)


def write_parts(db: MongoDatabase, changes: dict[str, Any], removed: str | None = None) -> None:
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
    write_parts(db, {}, removed=field)
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
    write_parts(db, changes)
    with pytest.raises(DataError):
        load_model(db)


@pytest.mark.parametrize("odd", [{"_id": {"a": 1}}, {"_id": 5, "at": DatetimeMS(2**60)}])
def test_any_more_documents_of_metadata_are_passed_over(
    db: MongoDatabase, odd: dict[str, Any]
) -> None:
    write_parts(db, {})
    db["Metadata"].insert_one(odd)
    assert load_model(db).run_id == "r"


@pytest.mark.parametrize("rated", [7, 7.0, Int64(7)])
def test_a_number_that_mongodb_holds_equal_is_the_same_column(
    db: MongoDatabase, rated: object
) -> None:
    write_parts(db, {})
    block = clean_block(["u"], [rated], [4], [None], rating_min=1, rating_max=5)
    ratings = gather(pa.Table.from_batches([block]))
    assert load_model(db).vectors(ratings).toarray().tolist() == [[0.0, 4.0]]
