"""Every user's recommendations, staged by a real Spark."""

import pickle
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.ml.recommendation import ALS
from pyspark.sql import SparkSession
from scipy.sparse import vstack

import als_training
from recommender.als.bias import Bias
from recommender.als.choose_damping import choose_damping
from recommender.als.confidence import confidence_matrix, popularity_of
from recommender.als.item_item import item_item_weights
from recommender.als.model import Model, RatingModel
from recommender.als.recommend import user_blocks
from recommender.als.reuse import choose_parameters
from recommender.core.errors import ModelRejectedError
from recommender.core.mongo import Document, MongoDatabase
from recommender.core.mongo_collections import RECOMMENDATIONS
from recommender.core.settings import Settings
from recommender.data.ids import decode_ids
from recommender.data.ratings import Ratings
from recommender.data.restaurants import shown_restaurants
from recommender.publishing.staging import staged
from recommender.runs.run import training_run
from tests.als.fits import fit_model
from tests.support import scores_of

Fitted = Callable[[str], tuple[Model, Settings]]
StageLists = Callable[..., dict[Any, Document]]


@pytest.fixture
def stage_lists(
    spark: SparkSession, city: Ratings, db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> StageLists:
    """Return a function that stages a model's lists and returns the documents by user.

    Executors stage them and, of several times, this process does all but the first.
    """

    def documents_of(model: Model, settings: Settings, times: int = 1) -> dict[Any, Document]:
        with (
            training_run(settings) as run,
            staged(db, RECOMMENDATIONS, run.run_id) as stage,
        ):
            excluded = settings.reviews.restaurants_exclude
            shown = shown_restaurants(db, city.restaurants, excluded)
            for turn in range(times):
                monkeypatch.setattr(als_training, "_FEW_BLOCKS", 10 * turn)
                users = als_training.recommend(spark, model, city, shown, run, stage.name)
                assert users == db[stage.name].count_documents({})
            documents = {d["user_id"]: d for d in db[stage.name].find()}
        assert {d["run_id"] for d in documents.values()} == {run.run_id}
        return documents

    return documents_of


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    """Models of the city by objective, for :func:`fitted`."""
    return {}


@pytest.fixture
def fitted(
    spark: SparkSession, city: Ratings, quick_settings: Settings, models: dict[str, Model]
) -> Fitted:
    """Return a function that gives an objective's own copy of a model, and its settings."""

    def model_of(objective: str) -> tuple[Model, Settings]:
        settings = quick_settings.with_values({"als_objective": objective})
        if objective not in models:
            chosen = None
            if objective == "preference":
                damping = choose_damping(city, settings)
                chosen = choose_parameters(city, settings, damping, len(city))
            models[objective] = fit_model(spark, city, settings, chosen)
        return deepcopy(models[objective]), settings

    return model_of


def test_the_blocks_together_are_all_users(city: Ratings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recommender.als.recommend._BLOCK_WORK", 100)
    confidence, users = city.matrix(), len(city.users)
    rating = RatingModel(
        Bias(3.0, np.arange(users, dtype=np.float64), np.zeros(len(city.restaurants))),
        np.arange(2 * users, dtype=np.float32).reshape(users, 2),
        np.zeros((len(city.restaurants), 2), np.float32),
    )
    blocks = list(user_blocks(Model(rating, None), city.users, confidence, confidence > 2))
    assert len(blocks) > 10
    assert max(b.confidence.nnz for b in blocks) < 100 + np.bincount(city.user).max()
    lengths = [len(b.users) for b in blocks]
    assert [b.first for b in blocks] == [0, *np.cumsum(lengths[:-1])]
    assert pa.concat_arrays([b.users for b in blocks]) == city.users
    # A block takes its own keys along, not those of all users.
    assert sum(len(pickle.dumps(b.users)) for b in blocks) < 2 * len(pickle.dumps(city.users))
    assert np.array_equal(np.concatenate([b.bias for b in blocks]), rating.bias.users)
    assert np.array_equal(np.concatenate([b.factors for b in blocks]), rating.user_factors)
    for name, whole in (("confidence", confidence), ("rated", confidence > 2)):
        rows = vstack([getattr(b, name) for b in blocks])
        assert np.array_equal(rows.toarray(), whole.toarray())


@pytest.mark.parametrize("objective", ["rating", "preference"])
def test_every_user_gets_the_best_unrated_restaurants(
    city: Ratings, fitted: Fitted, stage_lists: StageLists, objective: str
) -> None:
    model, settings = fitted(objective)
    scores = scores_of(model, city, settings)
    scores[city.user, city.restaurant] = -np.inf
    documents = stage_lists(model, settings, times=2)  # Spark may run a block twice
    assert len(documents) == len(city.users)
    ids = decode_ids(city.restaurants)
    for user, user_id in enumerate(decode_ids(city.users)):
        entries = documents[user_id]["recommendations"]
        expected = np.sort(scores[user])[::-1][:13]
        assert [e["score"] for e in entries] == pytest.approx(expected, rel=1e-4)
        own = [scores[user, ids.index(e["gmap_id"])] for e in entries]
        assert own == pytest.approx(expected, rel=1e-4)
        items = np.array([ids.index(e["gmap_id"]) for e in entries], dtype=np.int32)
        ratings = [e.get("rating") for e in entries]
        pairs = np.full(len(items), user, dtype=np.int32), items
        predicted = model.rating.predict(*pairs) if model.preferences else [None] * len(items)
        assert ratings == pytest.approx(predicted)


def test_staged_lists_are_refined_by_the_item_item_regression(
    city: Ratings, fitted: Fitted, stage_lists: StageLists
) -> None:
    model, settings = fitted("preference")
    assert model.preferences
    confidence = confidence_matrix(city, settings.reviews)
    weights = item_item_weights(confidence)
    preferences = replace(model.preferences, item_item=weights, item_item_weight=0.7)
    refining = replace(model, preferences=preferences)
    users = model.preferences.user_factors(confidence)
    items, scores = refining.best(users, confidence, 13, confidence)
    assert (items != model.best(users, confidence, 13, confidence)[0]).any(axis=1).mean() > 0.5
    documents, ids = stage_lists(refining, settings), decode_ids(city.restaurants)
    for user, user_id in enumerate(decode_ids(city.users)):
        entries = documents[user_id]["recommendations"]
        assert [entry["score"] for entry in entries] == pytest.approx(scores[user], rel=1e-4)
        assert {entry["gmap_id"] for entry in entries} == {ids[item] for item in items[user]}


def test_by_rating_the_lists_are_those_of_sparks_als_without_rated_ones(
    spark: SparkSession, city: Ratings, fitted: Fitted, stage_lists: StageLists
) -> None:
    """The seed configuration but for its iterations, by Spark's own ``recommendForAllUsers``."""
    fit, settings = fitted("rating")
    als = ALS(rank=10, maxIter=2, regParam=0.1, coldStartStrategy="drop", seed=settings.seed)
    als = als.setUserCol("user").setItemCol("restaurant").setNumBlocks(2)
    columns = [city.user, city.restaurant, city.rating.astype(np.float32)]
    table = pa.table(columns, names=["user", "restaurant", "rating"])
    model = als.fit(spark.createDataFrame(table).coalesce(2))
    rows = model.recommendForAllUsers(len(city.restaurants)).toArrow().to_pylist()
    rated = set(zip(city.user.tolist(), city.restaurant.tolist(), strict=True))
    expected = {
        row["user"]: {
            one["restaurant"]: one["rating"]
            for one in row["recommendations"]
            if (row["user"], one["restaurant"]) not in rated
        }
        for row in rows
    }
    documents = stage_lists(fit, settings)
    number = {gmap_id: i for i, gmap_id in enumerate(decode_ids(city.restaurants))}
    assert len(expected) == len(documents) == len(city.users)
    for user, user_id in enumerate(decode_ids(city.users)):
        best = sorted(expected[user].values(), reverse=True)[:13]
        entries = documents[user_id]["recommendations"]
        assert [e["score"] for e in entries] == pytest.approx(best, rel=1e-4)
        own = [expected[user][number[e["gmap_id"]]] for e in entries]
        assert own == pytest.approx(best, rel=1e-4)


def test_by_rating_newcomers_get_the_most_popular_ones(
    city: Ratings, db: MongoDatabase, fitted: Fitted, stage_lists: StageLists
) -> None:
    model, settings = fitted("rating")
    popularity = popularity_of(city, settings.reviews)
    best = [decode_ids(city.restaurants)[i] for i in np.argsort(-popularity, kind="stable")]
    rating = {"gmap_id": best[0], "rating": 5}
    db["Users"].insert_many([{"user_id": "rated", "ratings": [rating]}, {"user_id": "blank"}])
    known = scores_of(model, city, settings)
    lists = {user: d["recommendations"] for user, d in stage_lists(model, settings).items()}
    assert len(lists) == len(city.users) + 2
    assert [entry["gmap_id"] for entry in lists["blank"]] == best[:13]
    assert [entry["gmap_id"] for entry in lists["rated"]] == best[1:14]
    first = decode_ids(city.users)[0]
    item = decode_ids(city.restaurants).index(lists[first][0]["gmap_id"])
    assert lists[first][0]["score"] == pytest.approx(known[0, item], rel=1e-4)


@pytest.mark.parametrize("objective", ["rating", "preference"])
def test_one_factor_that_is_not_finite_rejects_the_model(
    db: MongoDatabase, fitted: Fitted, stage_lists: StageLists, objective: str
) -> None:
    model, settings = fitted(objective)
    if model.preferences is None:
        model.rating.user_factors[7] = np.inf
    else:
        model.preferences.factors[0] = np.nan
    with pytest.raises(ModelRejectedError):
        stage_lists(model, settings)
    assert db[RECOMMENDATIONS].count_documents({}) == 0
