"""The published factors: a reader ranks with them as the training does."""

from typing import Any, cast

import bson
import numpy as np
import pyarrow as pa
import pytest
from bson.int64 import Int64

from recommender.als.fold_in import PreferenceModel, preference_model
from recommender.als.published_factors import (
    PublishedFactors,
    factors_document,
    load_factors,
    with_shown,
)
from recommender.core.errors import DataError
from recommender.core.mongo import Document, MongoDatabase
from recommender.data.ids import encode_id
from recommender.publishing.bson_size import MAX_DOCUMENT_BYTES
from tests.support import ratings_of, some_factors

COUNT = 30


def some_preferences(count: int = COUNT, rank: int = 5) -> PreferenceModel:
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((count, rank), np.float32)
    return preference_model(factors, rng.permutation(count) + 1, alpha=2.5, reg_param=0.5)


def ids_of(count: int = COUNT) -> pa.StringArray:
    ids: list[Any] = [i if i % 7 == 0 else f"r{i}" for i in range(count)]
    return pa.array([encode_id(i) for i in ids], pa.string())


def document_of(*not_shown: int) -> Document:
    shown = ~np.isin(np.arange(COUNT), not_shown)
    return factors_document(some_preferences(), ids_of(), shown, "r1", 0.5)


def by_hand(document: Document, rated: dict[Any, float]) -> dict[Any, float]:
    """Fold a user in by the formula of the contract."""
    v = np.frombuffer(document["factors"], "<f4").reshape(-1, document["rank"]).astype(float)
    position = [document["gmap_ids"].index(gmap_id) for gmap_id in rated]
    r = np.array(list(rated.values())) + document["rating_shift"]
    normal = np.diag(document["spectrum"]) + document["reg_param"] * len(r) * np.eye(v.shape[1])
    normal += (v[position].T * (document["alpha"] * r)) @ v[position]
    u = np.linalg.solve(normal, v[position].T @ (1 + document["alpha"] * r))
    scores = dict(zip(document["gmap_ids"], v @ u, strict=True))
    return {gmap_id: score for gmap_id, score in scores.items() if gmap_id not in rated}


@pytest.fixture
def factors(db: MongoDatabase) -> PublishedFactors:
    db["Metadata"].insert_one(document_of())
    return cast(PublishedFactors, load_factors(db))


def test_a_user_is_folded_in_by_the_formula_of_the_contract(db: MongoDatabase) -> None:
    db["Metadata"].insert_one(document_of(3, 4))
    factors = load_factors(db)
    assert factors is not None
    rated = {"r1": 5.0, 7: 2.0, "r12": 4.0}
    for numeric in (7, 7.0, Int64(7)):  # one id to MongoDB
        ratings = ratings_of([("u", "r1", 5.0), ("u", numeric, 2.0), ("u", "r12", 4.0)])
        entries = factors.recommend(ratings, 10)
        expected = by_hand(document_of(), rated)
        best = sorted((i for i in expected if i not in ("r3", "r4")), key=lambda i: -expected[i])
        assert [entry["gmap_id"] for entry in entries] == best[:10]
        scores = [entry["score"] for entry in entries]
        assert scores == pytest.approx([expected[i] for i in best[:10]], abs=1e-4)
        because = [entry["because"] for entry in entries]
        assert all(len(reasons) <= 2 and set(reasons) <= set(rated) for reasons in because)
        assert max(map(len, because)) == 2


def test_restaurants_also_rated_are_left_out(factors: PublishedFactors) -> None:
    ratings = ratings_of([("u", "r1", 5.0)])
    first, second, third = (entry["gmap_id"] for entry in factors.recommend(ratings, 3))
    also = pa.array([str(encode_id(i)) for i in (first, third, "elsewhere")])
    assert factors.recommend(ratings, 1, also)[0]["gmap_id"] == second
    assert factors.recommend(ratings, 1)[0]["gmap_id"] == first
    assert factors.recommend(ratings, 3, factors.restaurants) == []


def test_a_user_of_unknown_restaurants_gets_the_popular_ones(factors: PublishedFactors) -> None:
    entries = factors.recommend(ratings_of([("u", "elsewhere", 4)]), 5)
    assert [entry["gmap_id"] for entry in entries] == document_of()["gmap_ids"][:5]
    assert all(entry["because"] == [] for entry in entries)


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


def test_an_invalid_document_is_a_data_error(db: MongoDatabase) -> None:
    assert load_factors(db) is None
    for change in ({"rank": 4}, {"factors": b"123"}, {"gmap_ids": ["a"]}, {"spectrum": None}):
        db["Metadata"].replace_one({"_id": "item_factors"}, document_of() | change, upsert=True)
        with pytest.raises(DataError):
            load_factors(db)
        assert with_shown(document_of() | change, ids_of(1), np.ones(1, bool), "r2") is None


def test_restaurants_closed_since_the_fit_are_not_shown() -> None:
    live = some_factors("r1")
    keys = pa.array([str(encode_id(i)) for i in ("c", "new", 5)])
    document = with_shown(live, keys, np.array([False, False, True]), "r2") or {}
    assert np.frombuffer(document["shown"], np.bool_).tolist() == [True, True, False]
    assert document == {**live, "run_id": "r2", "shown": document["shown"]}
