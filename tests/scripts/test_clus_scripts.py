"""clus_test.py and clus_counter.py on a model that clustering_training.py has published."""

import json
import os
import runpy
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from bson.decimal128 import Decimal128
from bson.objectid import ObjectId

import clus_counter
import clus_test
import clustering_training
from recommender.core.errors import DataError
from recommender.core.mongo import MongoDatabase
from recommender.core.settings import Settings
from recommender.publishing import bson_size
from tests.support import (
    PROJECT,
    ContractReader,
    set_environment,
    some_factors,
    write_tiny_city,
)

Show = Callable[..., dict[str, Any]]


@pytest.fixture
def model(
    db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> ContractReader:
    """A published model of seven clusters; the scripts' environment is set for in-process runs."""
    set_environment(monkeypatch, db_settings, CLUSTERS_K="7")
    write_tiny_city(db, db_settings)
    assert clustering_training.main([]) == 0
    return ContractReader(db)


@pytest.fixture
def show(model: ContractReader, capsys: pytest.CaptureFixture[str]) -> Show:
    """Run clus_test.py; return its JSON, with the ids alone of each list."""

    def run(*arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        assert clus_test.main([*arguments, "--json"]) == 0
        shown: dict[str, Any] = json.loads(capsys.readouterr().out)
        for name in ("served", "recommendations", "folded_in"):
            shown[f"{name} ids"] = [entry["gmap_id"] for entry in shown[name]]
        return shown

    return run


def rated_by(db: MongoDatabase, user: object) -> dict[object, float]:
    return {row["gmap_id"]: row["rating"] for row in db["Reviews"].find({"user_id": user})}


def test_a_user_gets_the_cluster_and_the_list_of_the_contract(
    model: ContractReader, db: MongoDatabase, show: Show
) -> None:
    user = db["Reviews"].distinct("user_id")[5]
    rated = rated_by(db, user)
    shown = show(user)
    assert {entry["gmap_id"]: entry["rating"] for entry in shown["rated"]} == rated
    assert shown["common"] == len(rated)
    assert shown["nearest"][0]["cluster_id"] == model.cluster_of(rated)
    assert shown["recommendations ids"] == model.recommend(rated)
    names = {d["gmap_id"]: d["name"] for d in db["Restaurants"].find()}
    for entry in (*shown["rated"], *shown["recommendations"]):
        assert entry["name"] == names[entry["gmap_id"]]


def test_what_the_backend_serves_is_shown(
    model: ContractReader, db: MongoDatabase, show: Show, capsys: pytest.CaptureFixture[str]
) -> None:
    user, other = db["Reviews"].distinct("user_id")[5:7]
    entries = [{"gmap_id": model.columns[0], "score": 0.5, "rating": 4.2}]
    entries += [{"gmap_id": gmap_id, "score": 1} for gmap_id in ("x", Decimal128("1.5"))]
    invalid = [5, {"score": 1}, {"gmap_id": ["no id"], "score": 1}, {"gmap_id": "a"}]
    db["Recommendations"].insert_one(
        {"user_id": user, "run_id": "r7", "recommendations": [*entries, *invalid]}
    )
    shown = show(user)
    assert (shown["served_by"], shown["served ids"]) == (
        "r7",
        [model.columns[0], "x", {"$numberDecimal": "1.5"}],
    )
    assert show(other)["served"] == []
    assert clus_test.main([user]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if " 4.2 " in line)
    name = (db["Restaurants"].find_one({"gmap_id": model.columns[0]}) or {})["name"]
    assert line.split() == ["1", *name.split(), "4.2", "0.5"]


def test_a_user_has_the_ratings_of_the_command_line_or_of_users(
    model: ContractReader, db: MongoDatabase, show: Show
) -> None:
    rated = {model.columns[0]: 5.0, model.columns[7]: 2.0}
    text = ",".join(f"{gmap_id}={rating}" for gmap_id, rating in rated.items())
    assert show("--ratings", text)["nearest"][0]["cluster_id"] == model.cluster_of(rated)
    rating = {"gmap_id": model.columns[3], "rating": 5}
    db["Users"].insert_one({"user_id": "new", "ratings": [rating]})
    assert show("new")["nearest"][0]["cluster_id"] == model.cluster_of({model.columns[3]: 5})
    user = ObjectId("0123456789ab0123456789ab")
    db["Reviews"].insert_one({"user_id": user, "gmap_id": model.columns[0], "rating": 4})
    assert len(show(str(user))["rated"]) == 1


def test_without_overlap_the_fallback_list_is_recommended(db: MongoDatabase, show: Show) -> None:
    shown = show("--ratings", "unknown=5")
    fallback = db["Metadata"].find_one({"_id": "fallback"}) or {}
    assert shown["nearest"] == []
    ids = [entry["gmap_id"] for entry in fallback["recommendations"]]
    assert shown["recommendations ids"] == ids


def test_restaurants_rated_according_to_users_only_are_not_recommended(
    model: ContractReader, db: MongoDatabase, show: Show
) -> None:
    db["Metadata"].insert_one(some_factors(model.run_ids.pop()))
    user = db["Reviews"].distinct("user_id")[5]
    known = rated_by(db, user)
    first, *others = model.recommend(known)
    rated = [
        {"gmap_id": next(iter(known))},
        {"gmap_id": first, "rating": "unknown"},
        {"gmap_id": "c"},
        {"gmap_id": ["no id"]},
    ]
    others_rated = [{"gmap_id": gmap_id, "rating": 4} for gmap_id in others]
    db["Users"].insert_many(
        [
            *({"user_id": user, "ratings": ratings} for ratings in (rated, 5, None)),
            {"user_id": user},
            {"user_id": [user], "ratings": others_rated},
        ]
    )
    shown = show(user)
    assert shown["also_rated"] == 2
    assert shown["recommendations ids"] == others
    assert shown["folded_in ids"] == ["a", 5]


def test_a_name_cannot_forge_a_line(
    model: ContractReader, db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = {"$set": {"name": "[red]Bar\n  cluster  7 of 9 users"}}
    db["Restaurants"].update_many({"gmap_id": {"$in": model.columns}}, forged)
    user = db["Reviews"].distinct("user_id")[5]
    capsys.readouterr()
    assert clus_test.main([user]) == 0
    lines = capsys.readouterr().out.splitlines()
    (cluster,) = (line for line in lines if line.startswith("  cluster"))
    assert cluster.split()[1] == str(model.cluster_of(rated_by(db, user)))
    assert any("[red]Bar cluster 7 of 9 users" in line for line in lines)


def test_invalid_users_are_errors(model: ContractReader, db: MongoDatabase) -> None:
    row = {"gmap_id": model.columns[0], "rating": 4}
    db["Reviews"].insert_many([{**row, "user_id": 77}, {**row, "user_id": "77"}])
    for user in ("nobody", "77", os.fsdecode(b"\xff")):
        with pytest.raises(DataError):
            clus_test.main([user])
    for text in ("a", "a=", "=5", "a=5,,b=3"):
        with pytest.raises(SystemExit) as caught:
            clus_test.main(["--ratings", text])
        assert caught.value.code == 2


def counted(capsys: pytest.CaptureFixture[str]) -> tuple[list[int], int, int]:
    """Run clus_counter.py; return the counts of users by cluster and in none, and the changes."""
    capsys.readouterr()
    assert clus_counter.main([]) == 0
    _, _, *lines, unclustered, changed = capsys.readouterr().out.splitlines()
    counts = [int(line.split()[1].replace(",", "")) for line in lines]
    assert clus_counter.main(["--json"]) == 0
    counted = json.loads(capsys.readouterr().out)
    assert [cluster["users"] for cluster in counted["clusters"]] == counts
    figures = int(unclustered.split()[0]), int(changed.split()[-1])
    assert figures == (counted["unclustered"], counted["changed"])
    return counts, *figures


def test_the_counter_agrees_with_the_training_until_reviews_change(
    model: ContractReader, db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    assert counted(capsys) == (model.sizes, 0, 0)
    new = [{"user_id": f"n{i}", "gmap_id": model.columns[0], "rating": 5} for i in range(9)]
    db["Reviews"].insert_many([*new, {"user_id": "stranger", "gmap_id": "nowhere", "rating": 5}])
    counts, unclustered, changed = counted(capsys)
    assert (sum(counts), unclustered, changed) == (sum(model.sizes) + 9, 1, 9)


def test_users_in_no_cluster_are_counted(
    db: MongoDatabase,
    db_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def unclustered(rows: Iterable[tuple[Any, Any]], k: int) -> tuple[int, int]:
        """Cluster and count users who have rated these restaurants."""
        db["Reviews"].delete_many({})
        db["Reviews"].insert_many({"user_id": u, "gmap_id": r, "rating": 4} for u, r in rows)
        set_environment(monkeypatch, db_settings, CLUSTERS_K=str(k))
        assert clustering_training.main([]) == 0
        return counted(capsys)[1:]

    alone = [(f"u{i}", f"r{i}") for i in range(9)]
    assert unclustered([*alone, *((u, r) for u in "xy" for r in "ab")], 1) == (9, 0)
    monkeypatch.setattr(bson_size, "MAX_DOCUMENT_BYTES", 4096 + 70)  # a model of few columns
    assert unclustered([*alone, ("a", "v"), ("b", "v"), ("c", "w"), ("d", "w")], 2)[0] == 9


@pytest.mark.usefixtures("db", "signals_and_logging_stay_as_they_are")
def test_without_a_model_or_reviews_the_scripts_end_with_65(
    db_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_environment(monkeypatch, db_settings)
    for command in (["clus_counter.py"], ["clus_test.py", "a user"], ["clustering_training.py"]):
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(PROJECT / command[0]), run_name="__main__")
        out, err = capsys.readouterr()
        assert (caught.value.code, out) == (65, "")
        assert [line[:7] for line in err.splitlines() if " INFO " not in line] == ["error: "]
