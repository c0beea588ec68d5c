"""Every user's list, made by a real Spark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.ml.recommendation import ALS
from pyspark.sql import SparkSession

import als_training
from recommender import fitting
from recommender.errors import ModelRejectedError
from recommender.models import Model, popularity_of
from recommender.mongo import Document, MongoDatabase
from recommender.ratings import Ratings, decode_ids
from recommender.runs import training_run
from recommender.settings import Settings
from recommender.store import RECOMMENDATIONS, staged
from tests.support import scores_of

StageLists = Callable[..., dict[Any, Document]]


@pytest.fixture
def stage_lists(spark: SparkSession, city: Ratings, db: MongoDatabase) -> StageLists:
    """Stage a model's lists, a given number of times; give the documents by user."""

    def documents_of(model: Model, settings: Settings, times: int = 1) -> dict[Any, Document]:
        with (
            training_run(settings) as run,
            staged(db, RECOMMENDATIONS, run.run_id, "user_id") as stage,
        ):
            for _ in range(times):
                told = als_training.recommend(spark, model, city, run, stage.name)
                assert told == db[stage.name].count_documents({})
            documents = {d["user_id"]: d for d in db[stage.name].find()}
        assert {d["run_id"] for d in documents.values()} == {run.run_id}
        return documents

    return documents_of


def fitted(spark: SparkSession, city: Ratings, settings: Settings) -> Model:
    return fitting.fit(spark, city, settings, fitting.choose(spark, city, settings))


@pytest.mark.parametrize("objective", ["rating", "preference"])
def test_every_user_gets_the_best_of_what_the_user_has_not_rated(
    spark: SparkSession,
    city: Ratings,
    quick_settings: Settings,
    stage_lists: StageLists,
    objective: str,
) -> None:
    settings = quick_settings.model_copy(update={"als_objective": objective})
    model = fitted(spark, city, settings)
    scores = scores_of(model, city, settings)
    scores[city.user, city.restaurant] = -np.inf
    documents = stage_lists(model, settings, times=2)  # a block that Spark runs twice is there once
    assert len(documents) == len(city.users)
    ids = decode_ids(city.restaurants)
    for user, user_id in enumerate(decode_ids(city.users)):
        entries = documents[user_id]["recommendations"]
        expected = np.sort(scores[user])[::-1][:13]
        assert [e["score"] for e in entries] == pytest.approx(expected, rel=1e-4)
        own = [scores[user, ids.index(e["gmap_id"])] for e in entries]
        assert own == pytest.approx(expected, rel=1e-4)
        items = np.array([ids.index(e["gmap_id"]) for e in entries], dtype=np.int32)
        foretold = [e.get("rating") for e in entries]
        pairs = np.full(len(items), user, dtype=np.int32), items
        beside = model.rating.predict(*pairs) if model.preferences else [None] * len(items)
        assert foretold == pytest.approx(beside)


def test_by_rating_the_lists_are_those_of_sparks_als_less_what_is_rated(
    spark: SparkSession, city: Ratings, db_settings: Settings, stage_lists: StageLists
) -> None:
    """The seed configuration to the letter, by Spark's own ``recommendForAllUsers``."""
    als = ALS(rank=10, maxIter=10, regParam=0.1, coldStartStrategy="drop", seed=db_settings.seed)
    als = als.setUserCol("user").setItemCol("restaurant").setNumBlocks(2)
    columns = [city.user, city.restaurant, city.rating.astype(np.float32)]
    table = pa.table(columns, names=["user", "restaurant", "rating"])
    theirs = als.fit(spark.createDataFrame(table).coalesce(2))
    rows = theirs.recommendForAllUsers(len(city.restaurants)).toArrow().to_pylist()
    rated = set(zip(city.user.tolist(), city.restaurant.tolist(), strict=True))
    expected = {
        row["user"]: {
            one["restaurant"]: one["rating"]
            for one in row["recommendations"]
            if (row["user"], one["restaurant"]) not in rated
        }
        for row in rows
    }
    settings = db_settings.model_copy(update={"als_objective": "rating"})
    documents = stage_lists(fitted(spark, city, settings), settings)
    number = {gmap_id: i for i, gmap_id in enumerate(decode_ids(city.restaurants))}
    assert len(expected) == len(documents) == len(city.users)
    for user, user_id in enumerate(decode_ids(city.users)):
        best = sorted(expected[user].values(), reverse=True)[:13]
        entries = documents[user_id]["recommendations"]
        assert [e["score"] for e in entries] == pytest.approx(best, rel=1e-4)
        own = [expected[user][number[e["gmap_id"]]] for e in entries]
        assert own == pytest.approx(best, rel=1e-4)


def test_by_rating_newcomers_get_the_most_popular_ones(
    spark: SparkSession,
    city: Ratings,
    db: MongoDatabase,
    quick_settings: Settings,
    stage_lists: StageLists,
) -> None:
    settings = quick_settings.model_copy(update={"als_objective": "rating"})
    popularity = popularity_of(city, settings)
    best = [decode_ids(city.restaurants)[i] for i in np.argsort(-popularity, kind="stable")]
    rating = {"gmap_id": best[0], "rating": 5}
    db["Users"].insert_many([{"user_id": "rated", "ratings": [rating]}, {"user_id": "blank"}])
    model = fitting.fit(spark, city, settings, None)
    known = scores_of(model, city, settings)
    lists = {user: d["recommendations"] for user, d in stage_lists(model, settings).items()}
    assert len(lists) == len(city.users) + 2
    assert [entry["gmap_id"] for entry in lists["blank"]] == best[:13]
    assert [entry["gmap_id"] for entry in lists["rated"]] == best[1:14]
    first = decode_ids(city.users)[0]
    place = decode_ids(city.restaurants).index(lists[first][0]["gmap_id"])
    assert lists[first][0]["score"] == pytest.approx(known[0, place], rel=1e-4)


@pytest.mark.parametrize("objective", ["rating", "preference"])
def test_one_factor_that_is_not_finite_is_found(
    spark: SparkSession,
    city: Ratings,
    db: MongoDatabase,
    quick_settings: Settings,
    stage_lists: StageLists,
    objective: str,
) -> None:
    settings = quick_settings.model_copy(update={"als_objective": objective})
    model = fitted(spark, city, settings)
    if model.preferences is None:
        model.rating.user_factors[7] = np.inf
        told = "1 users have scores that are not finite"
    else:
        model.preferences.factors[0] = np.nan
        told = "users have scores that are not finite"
    with pytest.raises(ModelRejectedError, match=told):
        stage_lists(model, settings)
    assert db[RECOMMENDATIONS].count_documents({}) == 0
