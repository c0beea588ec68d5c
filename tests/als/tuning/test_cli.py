"""``als_training.py --tune``, on a real Spark."""

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

import als_training
from recommender.als import fit as fitting
from recommender.als.choose_damping import choose_damping
from recommender.als.evaluate import evaluate_ratings
from recommender.als.tuning import cli as searching
from recommender.als.tuning.space import PREFERENCE, RATING, Search
from recommender.core.errors import DataError
from recommender.core.mongo import MongoDatabase
from recommender.core.settings import Settings
from recommender.data.ratings import Ratings
from recommender.runs.lease import Lease
from recommender.runs.ledger import Ledger


@pytest.mark.usefixtures("clean_environment")
def test_invalid_options_are_a_usage_error() -> None:
    for options in (
        ["--budget", "5"],
        ["--grid", "ALS_RANK=5"],
        ["--tune", "--budget", "nan"],
        ["--tune", "--folds", "0"],
        ["--tune", "--grid", "ALS_RANK=0"],
    ):
        with pytest.raises(SystemExit) as caught:
            als_training.main(options)
        assert caught.value.code == 2, options


def test_the_measure_is_that_of_a_training(
    spark: SparkSession, city: Ratings, quick_settings: Settings
) -> None:
    ((train, test),) = searching.split_folds(city, quick_settings, 1)
    rating = searching.measure(spark, RATING, train, test, quick_settings)
    model = fitting.fit_rating(spark, train, quick_settings, choose_damping(train, quick_settings))
    _, error = evaluate_ratings(model, train, test, quick_settings)
    assert rating == pytest.approx(error["rmse"], rel=1e-3)
    none_relevant = test.rows(test.rating < 4)
    with pytest.raises(DataError):
        searching.measure(spark, PREFERENCE, train, none_relevant, quick_settings)


def test_folds_have_different_test_sets_or_are_refused(
    city: Ratings, db_settings: Settings
) -> None:
    (_, first), (_, second) = searching.split_folds(city, db_settings, 2)
    assert np.array_equal(first.user, second.user)
    assert not np.array_equal(first.restaurant, second.restaurant)
    one_rating_each = city.rows(np.diff(city.user, prepend=-1) > 0)
    with pytest.raises(DataError):
        searching.split_folds(one_rating_each, db_settings, 2)


@pytest.mark.usefixtures("tiny_city")
def test_tuning_runs_beside_a_training_publishes_nothing_and_continues(
    train_here: Callable[..., int],
    db: MongoDatabase,
    db_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    measure, measured = searching.measure, defaultdict[Any, list[float]](list)

    def measure_first(spark: SparkSession, search: Search, *fold: Any) -> float:
        done = measured[search]  # of each search, Spark does the first fit alone
        done.append(done[-1] + 0.01 if done else measure(spark, search, *fold))
        return done[-1]

    monkeypatch.setattr(searching, "measure", measure_first)
    Lease(db, 60).acquire("1999-training")
    Ledger(db).add("1999-training", "api", db_settings, None)
    grid = ("--tune", "--grid", "ALS_ALPHA=20", "--grid", "ALS_RANK=3", "--folds", "2")
    small = {"ALS_PREFERENCE_RANK": "4", "ALS_ALPHA": "5"}
    assert train_here(als_training.main, *grid, **small) == 0
    printed = capsys.readouterr().out
    assert train_here(als_training.main, *grid, "--budget=0", "--json", **small) == 0
    outcome = json.loads(capsys.readouterr().out)
    tables = {name: entry["table"] for name, entry in outcome["searches"].items()}
    sizes = {name: len(table) for name, table in tables.items()}
    assert sizes == {"rating": 2, "preference": 2}
    assert all(sum(row["in_force"] for row in table) == 1 for table in tables.values())
    best = tables["rating"][0]["parameters"] | tables["preference"][0]["parameters"]
    values = ["" if best[n] is None else f"{best[n]:g}" for n in ("als_rank", "als_alpha")]
    lines = [f"ALS_RANK={values[0]}", f"ALS_ALPHA={values[1]}"]
    assert printed.splitlines()[-2:] == lines
    assert db["Tuning"].count_documents({"figure": {"$gt": 0}}) == 2 * (2 + 2)
    assert not {"Recommendations", "Clusters", "Metadata"} & set(db.list_collection_names())
    assert [run["state"] for run in Ledger(db).recent(9)] == ["queued"]
    assert [f"{name}={value}" for name, value in outcome["best"].items()] == lines
