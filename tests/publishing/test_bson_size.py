"""Sizes of documents, against real BSON encodings around MongoDB's limit."""

from typing import Any

import bson
from bson import ObjectId

from recommender.publishing.bson_size import (
    MAX_DOCUMENT_BYTES,
    bytes_of_ids,
    columns_that_fit,
    entries_that_fit,
)

MARGIN = 4096 + 64
LONG_ID = "0123456789" * 102


def centroids_size(k: int, columns: int) -> int:
    """Return the size of the centroids' document, from the encoding of one row."""
    row = len(bson.encode({"": [0.5] * columns})) - 7
    rows = sum(2 + len(str(position)) + row for position in range(k))
    empty = {"_id": "kmeans_centroids", "run_id": "r" * 25, "centroids": []}
    return len(bson.encode(empty)) + rows


def columns_size(columns: list[Any]) -> int:
    return len(bson.encode({"_id": "train_columns", "run_id": "r" * 25, "columns": columns}))


def test_bytes_of_ids_are_those_of_their_array() -> None:
    ids = ["a", "é" * 500, 7, 2**40, ObjectId(), b"\0" * 1000, 0.5] * 200
    array = len(bson.encode({"ids": ids})) - len(bson.encode({"ids": []}))
    assert bytes_of_ids(ids).sum() == array
    assert bytes_of_ids([]).tolist() == []


def test_fixed_bytes_leave_room_for_fewer_entries() -> None:
    entries = bytes_of_ids(["x" * 1000] * 20_000)
    kept, fewer = entries_that_fit(entries), entries_that_fit(entries, 10**6)
    assert entries[:kept].sum() < MAX_DOCUMENT_BYTES < entries[: kept + 5].sum() + MARGIN
    assert abs(entries[fewer:kept].sum() - 10**6) <= entries.max()


def test_centroids_fill_the_document() -> None:
    document = {"_id": "kmeans_centroids", "run_id": "r" * 25, "centroids": [[0.5] * 123] * 1_001}
    assert centroids_size(1_001, 123) == len(bson.encode(document))
    for k in (50, 1_000, 200_000):
        ids = list(range(MAX_DOCUMENT_BYTES // (10 * k) + 10))
        kept = columns_that_fit(k, ids)
        assert 0 < kept < len(ids)
        assert centroids_size(k, kept) <= MAX_DOCUMENT_BYTES
        assert centroids_size(k, kept + 1) > MAX_DOCUMENT_BYTES - MARGIN


def test_ids_fill_the_document() -> None:
    for column in (LONG_ID, "é" * 500, b"\0" * 1000, "x" * 60):
        count = MAX_DOCUMENT_BYTES // len(bson.encode({"": column})) + 10
        kept = columns_that_fit(1, [column] * count)
        assert 0 < kept < count
        assert columns_size([column] * kept) <= MAX_DOCUMENT_BYTES
        assert columns_size([column] * (kept + 1)) > MAX_DOCUMENT_BYTES - MARGIN


def test_the_first_columns_are_kept() -> None:
    columns = ["s"] * 1_000 + [LONG_ID * 100] * 200
    kept = columns_that_fit(1, columns)
    assert 1_000 < kept < 1_200
    assert columns_size(columns[:kept]) <= MAX_DOCUMENT_BYTES
    assert columns_size(columns[: kept + 1]) > MAX_DOCUMENT_BYTES - MARGIN
    assert columns_that_fit(50, ["a", 1, ObjectId()]) == 3
    assert columns_that_fit(50, []) == columns_that_fit(1_000_000, ["a", "b"]) == 0
