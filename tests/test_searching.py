"""The search for better parameters, on a real Spark."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pyspark.sql import SparkSession

import als_training
from recommender import fitting, searching
from recommender.errors import DataError
from recommender.grids import BASELINE, PREFERENCE, RATING
from recommender.judging import judge_ratings
from recommender.lease import Lease
from recommender.ledger import Ledger
from recommender.mongo import MongoDatabase
from recommender.ratings import Ratings
from recommender.settings import Settings
from recommender.weights import find_weights
from tests.support import write_tiny_city


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--adopt"], "are for --tune"),
        (["--budget", "5"], "are for --tune"),
        (["--tune", "--forget"], "not allowed with"),
        (["--tune", "--budget", "nan"], "expected minutes"),
        (["--tune", "--folds", "0"], "1 or more"),
        (["--tune", "--grid", "ALS_TOP_N=5"], "with one of ALS_USER_WEIGHT, "),
        (["--tune", "--grid", "ALS_RANK=0"], "ALS_RANK='0'"),
    ],
)
def test_a_search_that_cannot_be_is_a_usage_error(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], db_settings: Settings
) -> None:
    with pytest.raises(SystemExit) as caught:
        als_training.main(arguments)
    assert caught.value.code == 2
    assert told in capsys.readouterr().err


def test_a_fit_is_told_from_what_cannot_be_measured(
    spark: SparkSession, city: Ratings, quick_settings: Settings
) -> None:
    ((part, held_out),) = searching.folds_of(city, quick_settings, 1)
    ratings = part.rows(part.rating < 4)
    alone, on_top = (
        searching.reached(spark, search, part, held_out, quick_settings)
        for search in (BASELINE, RATING)
    )
    model = fitting.fit_rating(spark, part, quick_settings, find_weights(part, quick_settings))
    _, error = judge_ratings(model, part, held_out, quick_settings)
    assert alone == pytest.approx(error["baseline_rmse"], rel=1e-12)
    assert on_top == pytest.approx(error["rmse"], rel=1e-3)
    with pytest.raises(DataError, match="no NDCG: no rating held out"):
        searching.reached(spark, PREFERENCE, part, ratings, quick_settings)
    single = city.rows(np.diff(city.user, prepend=-1) > 0)
    with pytest.raises(DataError, match="no user has rated two restaurants"):
        searching.folds_of(single, quick_settings, 2)


def test_folds_hold_out_different_ratings(city: Ratings, db_settings: Settings) -> None:
    (_, first), (_, second) = searching.folds_of(city, db_settings, 2)
    assert np.array_equal(first.user, second.user)
    assert not np.array_equal(first.restaurant, second.restaurant)


def test_candidates_are_what_is_in_force_and_all_combinations(db_settings: Settings) -> None:
    around = db_settings.model_copy(update={"als_user_weight": 6.0})
    axes = {"als_rank": (10, 20), "als_reg_param": (0.1, 1.0)}
    found = searching.candidates_of(RATING, axes, db_settings, around)
    tried = [
        tuple(c.parameters[n] for n in ("als_user_weight", "als_rank", "als_reg_param"))
        for c in found
    ]
    assert [c.in_force for c in found] == [True, False, False, False, False]
    assert tried[0] == (None, 10, 0.1)
    assert sorted(tried[1:]) == [(6, 10, 0.1), (6, 10, 1), (6, 20, 0.1), (6, 20, 1)]
    again = searching.candidates_of(RATING, axes, db_settings, db_settings)
    assert len(again) == 4  # what is in force is tried once


def test_what_was_adopted_can_be_forgotten(
    run_here: Callable[..., int], db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    db["Tuning"].insert_many([{"_id": "adopted"}, {"_id": "a figure"}])
    assert run_here(als_training.main, "--forget") == 0
    assert run_here(als_training.main, "--forget") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("forgotten: ")
    assert second.startswith("nothing was adopted: ")
    assert [d["_id"] for d in db["Tuning"].find()] == ["a figure"]


def test_tuning_searches_beside_a_training_and_goes_on_where_it_ended(
    train_here: Callable[..., int],
    db: MongoDatabase,
    db_settings: Settings,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_tiny_city(db, db_settings)
    Lease(db, 60).acquire("1999-training")
    Ledger(db).open("1999-training", "api", db_settings, None)
    grid = ("--tune", "--grid", "ALS_ALPHA=20,40", "--grid", "ALS_USER_WEIGHT=3", "--folds", "2")
    small = {"ALS_PREFERENCE_RANK": "4"}
    assert train_here(als_training.main, *grid, "--adopt", **small) == 0
    printed = capsys.readouterr().out
    assert printed.count("<- in force") == 3  # of the baseline, the rating, the preference
    assert "preference: NDCG, most first, over 2 folds" in printed
    assert (db_settings.work_dir / "tuning.svg").read_text().startswith("<svg")
    run = Ledger(db).recent(1)[0]
    assert (run["state"], run["trigger"], run["exit_code"]) == ("succeeded", "tune", 0)
    table = run["metrics"]["tuning"]["searches"]["preference"]["table"]
    assert {row["parameters"]["als_alpha"] for row in table} == {None, 20, 40}
    assert db["Tuning"].count_documents({"figure": {"$gt": 0}}) == 2 * (2 + 2 + 3)
    assert not {"Recommendations", "Clusters", "Metadata"} & set(db.list_collection_names())
    other = Ledger(db).get("1999-training")
    assert other
    assert other["state"] == "queued"
    adopted = db["Tuning"].find_one({"_id": "adopted"})
    assert adopted
    assert adopted["parameters"] == {"als_alpha": table[0]["parameters"]["als_alpha"]} | {
        "als_user_weight": 3
    }
    assert train_here(als_training.main, *grid, "--budget=0", **small) == 0
    again = capsys.readouterr()
    assert again.err.count("as before") == again.err.count(", fold ") > 0
    # What was adopted is in force now, and is not tried twice.
    assert figures_in(again.out) <= figures_in(printed)


def figures_in(table: str) -> set[str]:
    lines = (line.removesuffix("  <- in force") for line in table.splitlines())
    return {line for line in lines if line.startswith("  0.")}
