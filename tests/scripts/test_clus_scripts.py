"""clus_test.py and clus_counter.py on a model that clustering_training.py has published."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from bson.objectid import ObjectId

import clus_counter
import clus_test
import clustering_training
from recommender.core.errors import DataError
from recommender.core.mongo import MongoDatabase
from recommender.core.settings import Settings
from recommender.publishing import bson_size
from tests.support import (
    ContractReader,
    set_environment,
    some_factors,
    write_tiny_city,
)


@pytest.fixture
def model(
    db: MongoDatabase, db_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> ContractReader:
    """A published model of seven clusters; the scripts' environment is set for in-process runs."""
    set_environment(monkeypatch, db_settings, CLUSTERS_K="7")
    write_tiny_city(db, db_settings)
    assert clustering_training.main([]) == 0
    return ContractReader(db)


def rated_by(db: MongoDatabase, user: object) -> dict[object, float]:
    return {row["gmap_id"]: row["rating"] for row in db["Reviews"].find({"user_id": user})}


def test_a_user_sees_the_cluster_and_the_list_that_the_contract_says(
    model: ContractReader, db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    user = db["Reviews"].distinct("user_id")[5]
    rated = rated_by(db, user)
    capsys.readouterr()
    assert clus_test.main([user]) == 0
    shown = capsys.readouterr().out
    assert f"Rated         {len(rated)} restaurants, {len(rated)} of them" in shown
    assert f"Cluster       {model.cluster_of(rated)} of" in shown
    listed = [line.split()[2] for line in shown.splitlines() if line[:6].strip(" .").isdigit()]
    assert listed == model.recommend(rated)
    name = db["Restaurants"].find_one({"gmap_id": listed[0]}) or {}
    assert name["name"] in shown


def test_an_unknown_user_is_assigned_by_ratings_on_the_command_line(
    model: ContractReader, capsys: pytest.CaptureFixture[str]
) -> None:
    rated = {model.columns[0]: 5.0, model.columns[7]: 2.0}
    given = ",".join(f"{gmap_id}={rating}" for gmap_id, rating in rated.items())
    assert clus_test.main(["--ratings", given]) == 0
    assert f"Cluster       {model.cluster_of(rated)} of" in capsys.readouterr().out


def test_without_overlap_the_fallback_list_is_recommended(
    model: ContractReader, db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert clus_test.main(["--ratings", "unknown=5"]) == 0
    shown = capsys.readouterr().out
    fallback = db["Metadata"].find_one({"_id": "fallback"}) or {}
    assert "Cluster       none" in shown
    assert shown.splitlines()[4].split()[2] == fallback["recommendations"][0]["gmap_id"]


def test_a_user_of_the_app_without_reviews_is_found_in_users(
    model: ContractReader, db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    rating = {"gmap_id": model.columns[3], "rating": 5}
    db["Users"].insert_one({"user_id": "new", "ratings": [rating]})
    assert clus_test.main(["new"]) == 0
    assert f"Cluster       {model.cluster_of({model.columns[3]: 5})} of" in capsys.readouterr().out


def test_restaurants_rated_according_to_users_only_are_not_recommended(
    model: ContractReader, db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    factors = some_factors(model.run_ids.pop())
    db["Metadata"].insert_one(factors)
    user = db["Reviews"].distinct("user_id")[5]
    known = rated_by(db, user)
    first, *others = model.recommend(known)
    rated = [
        {"gmap_id": next(iter(known))},
        {"gmap_id": first, "rating": "not said"},
        {"gmap_id": "c"},
        {"gmap_id": ["no id"]},
    ]
    others_rated = [{"gmap_id": gmap_id, "rating": 4} for gmap_id in others]
    db["Users"].insert_many(
        [
            *({"user_id": user, "ratings": kept} for kept in (rated, 5, None)),
            {"user_id": user},
            {"user_id": [user], "ratings": others_rated},
        ]
    )
    capsys.readouterr()
    assert clus_test.main([user]) == 0
    by_cluster, folded_in = capsys.readouterr().out.split("Folded in")
    listed = [line.split()[2] for line in by_cluster.splitlines() if line[:6].strip(" .").isdigit()]
    assert "Excluded      2 more" in by_cluster
    assert listed == others
    assert [line.split()[2] for line in folded_in.splitlines()[1:]] == ["a", "5"]


def test_an_object_id_is_found_by_its_text(
    model: ContractReader, db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    user = ObjectId("0123456789ab0123456789ab")
    db["Reviews"].insert_one({"user_id": user, "gmap_id": model.columns[0], "rating": 4})
    assert clus_test.main([str(user)]) == 0
    assert "Rated         1 restaurants, 1 of them" in capsys.readouterr().out


def test_an_unknown_user_is_an_error(model: ContractReader) -> None:
    with pytest.raises(DataError, match="'nobody' has no rating"):
        clus_test.main(["nobody"])


@pytest.mark.parametrize("text", ["a", "a=", "=5", "a=5,,b=3"])
def test_ratings_of_another_form_are_a_usage_error(text: str) -> None:
    with pytest.raises(SystemExit) as error:
        clus_test.main(["--ratings", text])
    assert error.value.code == 2


def test_the_counter_agrees_with_the_training(
    model: ContractReader, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert clus_counter.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    counts = [int(line.split()[1].replace(",", "")) for line in lines[1:8]]
    assert counts == model.sizes
    assert lines[-1].endswith(": 0")


def test_the_counter_shows_changed_counts(
    model: ContractReader, db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = [{"user_id": f"n{i}", "gmap_id": model.columns[0], "rating": 5} for i in range(9)]
    db["Reviews"].insert_many(fresh)
    db["Reviews"].insert_one({"user_id": "stranger", "gmap_id": "nowhere", "rating": 5})
    capsys.readouterr()
    assert clus_counter.main([]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1].endswith(": 9")
    assert "1 users are in no cluster" in shown


def test_a_model_of_another_city_is_an_error(model: ContractReader, db: MongoDatabase) -> None:
    db["Reviews"].delete_many({})
    db["Reviews"].insert_many([{"user_id": i, "gmap_id": f"x{i}", "rating": 3} for i in range(9)])
    with pytest.raises(DataError, match="0 of 9 users"):
        clus_counter.main([])


def test_sizes_of_another_city_are_an_error(model: ContractReader, db: MongoDatabase) -> None:
    others = model.sizes.copy()
    others[0] += 9 * sum(others)
    db["Metadata"].update_one({"_id": "kmeans_clusters"}, {"$set": {"sizes": others}})
    with pytest.raises(DataError, match="in other clusters"):
        clus_counter.main([])


def test_a_name_forges_no_line(
    model: ContractReader, db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = {"gmap_id": {"$in": model.columns}}
    db["Restaurants"].update_many(forged, {"$set": {"name": "Bar\nCluster       7 of 9 users"}})
    rated = db["Reviews"].find_one({"user_id": {"$type": "string"}})
    assert rated
    capsys.readouterr()
    assert clus_test.main([rated["user_id"]]) == 0
    shown = capsys.readouterr().out
    assert "Bar Cluster 7 of 9 users" in shown
    assert sum(line.startswith("Cluster ") for line in shown.splitlines()) == 1


@pytest.fixture
def counted(
    run_here: Callable[..., int], db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Cluster users who have rated these restaurants, count them, and return what is shown."""

    def count(rows: Iterable[tuple[Any, Any]], **more: str) -> str:
        db["Reviews"].insert_many({"user_id": u, "gmap_id": r, "rating": 4} for u, r in rows)
        assert run_here(clustering_training.main, **more) == 0
        assert run_here(clus_counter.main, **more) == 0
        return capsys.readouterr().out

    return count


def test_users_in_no_cluster_at_the_training_either_are_no_error(
    counted: Callable[..., str],
) -> None:
    loners = [(i, f"alone {i}") for i in range(9)]
    friends = [(u, r) for u in ("x", "y") for r in ("a", "b")]
    shown = counted([*loners, *friends], CLUSTERS_K="1")
    assert "9 users are in no cluster" in shown
    assert shown.splitlines()[-1].endswith(": 0")


def test_a_model_of_few_columns_passes_the_check(
    counted: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bson_size, "MAX_DOCUMENT_BYTES", 4096 + 70)
    rows = [("a", "v"), ("b", "v"), ("c", "w"), ("d", "w"), *((f"e{i}", f"x{i}") for i in range(9))]
    assert "9 users are in no cluster" in counted(rows, CLUSTERS_K="2")


def test_without_a_model_the_scripts_end_with_65(
    run_here: Callable[..., int], db: MongoDatabase
) -> None:
    assert run_here(clus_counter.main) == 65
    assert run_here(clus_test.main, "somebody") == 65
