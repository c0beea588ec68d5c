"""What tuning keeps in MongoDB, and what trainings take over of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recommender.grids import PREFERENCE, RATING
from recommender.mongo import MongoDatabase
from recommender.settings import Settings, load_settings
from recommender.tuned import KeptFits, adopt, fingerprint, forget, in_force
from recommender.tuning import Candidate, Outcome
from tests.support import ratings_of

FOUND: dict[str, Any] = {"als_alpha": 40.0, "als_preference_rank": 32}


def winner(**parameters: Any) -> Candidate:
    outcomes = {fold: Outcome(figure, 1.0) for fold, figure in enumerate((0.1, 0.2))}
    return Candidate(PREFERENCE, {**FOUND, **parameters}, outcomes=outcomes)


def put_adopted(db: MongoDatabase, **fields: Any) -> None:
    document = {"_id": "adopted", "objective": "preference", "run_id": "t1", "parameters": FOUND}
    db["Tuning"].insert_one({**document, **fields})


def test_what_a_fit_reached_is_found_again(db: MongoDatabase, db_settings: Settings) -> None:
    kept = KeptFits(db, "t1", db_settings, "data")
    assert kept.get(winner(), 0) is None
    kept.put(winner(), 0, Outcome(0.5, 2.0))
    kept.put(winner(), 1, Outcome(None, 2.0, "not finite"))
    kept.put(winner(), 0, Outcome(0.5, 2.0))  # two searches at once
    again = KeptFits(db, "t2", db_settings, "data")
    assert again.get(winner(), 0) == Outcome(0.5, 2.0)
    assert again.get(winner(), 1) == Outcome(None, 2.0, "not finite")
    assert again.get(winner(), 2) is None
    assert {d["run_id"] for d in db["Tuning"].find()} == {"t1"}


def test_what_decides_a_figure_tells_fits_apart(db: MongoDatabase, db_settings: Settings) -> None:
    KeptFits(db, "t1", db_settings, "data").put(winner(), 0, Outcome(0.5, 2.0))

    def known(data: str = "data", candidate: Candidate | None = None, **changes: Any) -> bool:
        settings = db_settings.model_copy(update=changes)
        return bool(KeptFits(db, "t2", settings, data).get(candidate or winner(), 0))

    assert known()
    assert known(als_rank=99, clusters_k=3, port=1)  # these do not
    assert not known(data="others")
    assert not known(seed=1)
    assert not known(als_top_n=5)
    assert not known(als_test_fraction=0.5)
    assert not known(candidate=winner(als_alpha=5.0))
    assert not known(candidate=winner(als_half_life_days=30.0))
    assert not known(candidate=replace(winner(), search=RATING))


@pytest.mark.parametrize(
    "broken", [{}, {"figure": "x"}, {"figure": None, "reason": None, "seconds": 1}, {"figure": 1}]
)
def test_a_figure_that_cannot_be_read_is_fitted_again(
    db: MongoDatabase, db_settings: Settings, broken: dict[str, Any]
) -> None:
    kept = KeptFits(db, "t1", db_settings, "data")
    kept.put(winner(), 0, Outcome(0.5, 2.0))
    db["Tuning"].replace_one({}, broken)
    assert kept.get(winner(), 0) is None


def test_ratings_are_told_from_others() -> None:
    rows = [("a", "x", 3.0), ("a", "y", 4.0), ("b", "x", 5.0)]
    assert fingerprint(ratings_of(rows)) == fingerprint(ratings_of(rows[::-1]))
    others = [rows[:2], [*rows[:2], ("b", "x", 4.5)], [*rows[:2], ("b", "y", 5.0)]]
    assert len({fingerprint(ratings_of(r)) for r in [rows, *others]}) == 4


def test_without_anything_adopted_the_settings_are_what_is_in_force(
    db: MongoDatabase, db_settings: Settings
) -> None:
    assert in_force(db, db_settings) == (db_settings, None)


def test_what_was_adopted_is_in_force_where_nothing_is_set_by_hand(
    db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = adopt(db, "t1", db_settings, [(winner(), ["als_alpha", "als_preference_rank"])])
    assert parameters == FOUND
    settings, adopted = in_force(db, load_settings())
    assert (settings.als_alpha, settings.als_preference_rank) == (40, 32)
    assert adopted == {"run_id": "t1", "parameters": FOUND, "by_hand": []}
    monkeypatch.setenv("ALS_ALPHA", "20")  # which is the default, but by hand
    Path(".env").write_text("ALS_PREFERENCE_RANK=16\n")
    settings, adopted = in_force(db, load_settings())
    assert (settings.als_alpha, settings.als_preference_rank) == (20, 16)
    assert adopted == {
        "run_id": "t1",
        "parameters": {},
        "by_hand": ["als_alpha", "als_preference_rank"],
    }


def test_iterations_by_hand_are_the_preferences_too(
    db: MongoDatabase, db_settings: Settings
) -> None:
    put_adopted(db, parameters={"als_preference_max_iter": 20})
    assert in_force(db, load_settings())[0].preference_iterations == 20
    by_hand = load_settings(als_max_iter=3)
    assert in_force(db, by_hand)[0].preference_iterations == 3


def test_what_was_not_searched_for_stays_adopted(db: MongoDatabase, db_settings: Settings) -> None:
    put_adopted(db, parameters={"als_rank": 5, "als_alpha": 1.0}, figures={"rating": {"mean": 1}})
    assert adopt(db, "t2", db_settings, [(winner(), ["als_alpha"])]) == {
        "als_rank": 5,
        "als_alpha": 40,
    }
    stored = db["Tuning"].find_one({"_id": "adopted"})
    assert stored
    assert stored["figures"]["rating"] == {"mean": 1}
    assert stored["figures"]["preference"]["mean"] == pytest.approx(0.15)
    assert stored["figures"]["preference"]["run_id"] == stored["run_id"] == "t2"


@pytest.mark.parametrize(
    "broken",
    [
        {"parameters": {"als_alpha": -1}},
        {"parameters": {"als_alpha": "much"}},
        {"parameters": {"als_alpha": float("nan")}},
        {"parameters": {"als_rank": None}},
        {"parameters": {"als_rank": 1.5}},
        {"parameters": {"mongo_uri": "mongodb://elsewhere/"}},
        {"parameters": {"als_top_n": 5}},
        {"parameters": ["als_alpha"]},
        {"parameters": None},
    ],
)
def test_what_cannot_be_is_not_used_and_said(
    db: MongoDatabase,
    db_settings: Settings,
    broken: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    put_adopted(db, **broken)
    assert in_force(db, db_settings) == (db_settings, None)
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("what was adopted is not used: ")
    assert "--forget" in line
    assert adopt(db, "t2", db_settings, [(winner(), ["als_alpha"])]) == {"als_alpha": 40}


def test_what_was_adopted_for_another_objective_is_not_used(
    db: MongoDatabase, db_settings: Settings
) -> None:
    put_adopted(db, parameters={"als_rank": 5})
    by_rating = db_settings.model_copy(update={"als_objective": "rating"})
    assert in_force(db, by_rating) == (by_rating, None)
    assert in_force(db, db_settings)[0].als_rank == 5


def test_what_is_forgotten_is_no_longer_in_force(db: MongoDatabase, db_settings: Settings) -> None:
    put_adopted(db)
    assert forget(db)
    assert in_force(db, db_settings) == (db_settings, None)
    assert not forget(db)
