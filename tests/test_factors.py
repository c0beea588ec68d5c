"""The published factors: what a reader makes of them is what the training knew."""

from __future__ import annotations

from typing import Any

import bson
import numpy as np
import pyarrow as pa
import pytest

from recommender.errors import DataError
from recommender.factors import factors_document, load_factors, still_shown
from recommender.foldin import Preferences, preferences_of
from recommender.mongo import Document, MongoDatabase
from recommender.ratings import encode_id
from recommender.store import MAX_DOCUMENT_BYTES
from tests.support import ratings_of, some_factors

COUNT = 30


def some_preferences(count: int = COUNT, rank: int = 5) -> Preferences:
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((count, rank), np.float32)
    return preferences_of(factors, rng.permutation(count) + 1, alpha=2.5, reg_param=0.5)


def ids_of(count: int = COUNT) -> pa.StringArray:
    ids: list[Any] = [i if i % 7 == 0 else f"r{i}" for i in range(count)]
    return pa.array([encode_id(i) for i in ids], pa.string())


def document_of(hidden: list[int] | None = None) -> Document:
    mask = np.ones(COUNT, dtype=bool)
    mask[hidden or []] = False
    return factors_document(some_preferences(), ids_of(), mask, "r1", 0.5)


def by_hand(document: Document, rated: dict[Any, float]) -> dict[Any, float]:
    """Fold somebody in as the README tells a backend to."""
    v = np.frombuffer(document["factors"], "<f4").reshape(-1, document["rank"]).astype(float)
    place = [document["gmap_ids"].index(gmap_id) for gmap_id in rated]
    r = np.array(list(rated.values())) + document["rating_shift"]
    normal = np.diag(document["spectrum"]) + document["reg_param"] * len(r) * np.eye(v.shape[1])
    normal += (v[place].T * (document["alpha"] * r)) @ v[place]
    u = np.linalg.solve(normal, v[place].T @ (1 + document["alpha"] * r))
    scores = dict(zip(document["gmap_ids"], v @ u, strict=True))
    return {gmap_id: score for gmap_id, score in scores.items() if gmap_id not in rated}


def test_a_reader_finds_what_the_training_would(db: MongoDatabase) -> None:
    db["Metadata"].insert_one(document_of(hidden=[3, 4]))
    factors = load_factors(db)
    assert factors is not None
    rated = {"r1": 5.0, 7: 2.0, "r12": 4.0}
    given = ratings_of([("u", gmap_id, rating) for gmap_id, rating in rated.items()])
    found = factors.recommend(given, 10)
    expected = by_hand(document_of(), rated)
    hidden = {"r3", "r4"}
    best = sorted((i for i in expected if str(i) not in hidden), key=lambda i: -expected[i])
    assert [entry["gmap_id"] for entry in found] == best[:10]
    scores = [entry["score"] for entry in found]
    assert scores == pytest.approx([expected[i] for i in best[:10]], abs=1e-4)


def test_what_else_was_rated_is_not_recommended(db: MongoDatabase) -> None:
    db["Metadata"].insert_one(document_of())
    factors = load_factors(db)
    assert factors is not None
    given = ratings_of([("u", "r1", 5.0)])
    first, second, third = (entry["gmap_id"] for entry in factors.recommend(given, 3))
    also = pa.array([str(encode_id(i)) for i in (first, third, "elsewhere")])
    assert factors.recommend(given, 1, also)[0]["gmap_id"] == second
    assert factors.recommend(given, 1)[0]["gmap_id"] == first
    assert factors.recommend(given, 3, factors.restaurants) == []


def test_somebody_of_unknown_places_gets_the_popular_ones(db: MongoDatabase) -> None:
    document = document_of()
    db["Metadata"].insert_one(document)
    factors = load_factors(db)
    assert factors is not None
    found = factors.recommend(ratings_of([("u", "elsewhere", 4)]), 5)
    assert [entry["gmap_id"] for entry in found] == document["gmap_ids"][:5]


def test_as_many_restaurants_are_published_as_fit_the_most_popular_ones() -> None:
    count, rank = 70_000, 64
    preferences = some_preferences(count, rank)
    document = factors_document(preferences, ids_of(count), np.ones(count, bool), "r", 0.0)
    kept = len(document["gmap_ids"])
    assert MAX_DOCUMENT_BYTES * 0.97 < len(bson.encode(document)) <= MAX_DOCUMENT_BYTES
    assert document["restaurants_left_out"] == count - kept
    assert len(document["factors"]) == 4 * rank * kept
    order = np.argsort(-preferences.popularity, kind="stable")[:kept]
    popularity = np.frombuffer(document["popularity"], "<f4")
    assert (popularity == preferences.popularity[order]).all()


def test_nothing_published_is_none(db: MongoDatabase) -> None:
    assert load_factors(db) is None


@pytest.mark.parametrize(
    "change", [{"rank": 4}, {"factors": b"123"}, {"gmap_ids": ["a"]}, {"spectrum": None}]
)
def test_a_document_of_another_shape_is_a_clear_error(
    db: MongoDatabase, change: dict[str, Any]
) -> None:
    db["Metadata"].insert_one(document_of() | change)
    with pytest.raises(DataError, match="item_factors is of another shape"):
        load_factors(db)


def test_what_closed_since_the_fit_is_not_shown_any_more() -> None:
    live = some_factors("r1")
    keys = pa.array([str(encode_id(i)) for i in ("c", "new", 5)])
    found = still_shown(live, keys, np.array([False, False, True]), "r2")
    assert np.frombuffer(found["shown"], np.bool_).tolist() == [True, True, False]
    assert found == {**live, "run_id": "r2", "shown": found["shown"]}
