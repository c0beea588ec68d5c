"""The K-Means job: its matrix, its scores, its documents, and the whole of it by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

import clus_counter
import clustering_training
from clustering_training import held_out_quality, score
from dists import distance
from recommender.clusters import Clustering, cluster, with_previous_ids
from recommender.evaluation import RankingQuality, hold_out
from recommender.foldin import alternate, preferences_of
from recommender.models import popularity_of
from recommender.mongo import MongoDatabase
from recommender.scoring import ClusterScores, leave_one_out_scores, rating_means
from recommender.settings import Settings, load_settings
from recommender.user_matrix import (
    UserMatrix,
    user_matrix,
    with_factors,
)
from tests.small_cities import DEGENERATE, DRAWN, some_users, tiny_ratings
from tests.support import (
    TINY_CITY,
    ContractReader,
    rated_by_user,
    ratings_of,
    run_script,
    write_tiny_city,
)


@pytest.fixture(autouse=True)
def _clean(clean_environment: object) -> None:
    """No setting of the developer's counts."""


def test_new_users_are_served_better_than_by_one_list_for_all() -> None:
    settings = load_settings(clusters_k=4)
    ratings = tiny_ratings()
    quality = held_out_quality(user_matrix(ratings, settings), settings)
    assert quality["users"] > 20
    assert quality["shown"] == 13
    assert quality["ndcg"] > quality["popular"]["ndcg"] > 0
    assert quality["coverage"] > quality["popular"]["coverage"]
    assert quality == held_out_quality(user_matrix(ratings, settings), settings)


def test_the_error_of_the_clusters_ratings_is_on_ratings_of_any_value() -> None:
    settings = load_settings(clusters_k=4)
    matrix = user_matrix(tiny_ratings(), settings)
    quality = held_out_quality(matrix, settings)["ratings"]
    held = hold_out(matrix.everything, 0, seed=settings.seed)
    part = matrix.part(held.kept)
    found = cluster(part, settings)
    means = rating_means(part.everything, found.labels, 4)
    errors, guesses = [], []
    for seen, hidden in zip(held.seen.toarray(), held.hidden.toarray(), strict=True):
        far = [distance(seen[matrix.columns], centroid) for centroid in found.centroids]
        label = int(np.argmin(far)) if min(far) < 1 else -1
        errors += [hidden[i] - means[label, i] for i in np.flatnonzero(hidden)]
        guesses += [hidden[i] - part.everything.data.mean() for i in np.flatnonzero(hidden)]
    assert held.hidden.data.min() < 4
    assert (quality["rows"], quality["cold"]) == (len(errors), 0)
    assert quality["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    assert quality["mean_rmse"] == pytest.approx(np.sqrt(np.mean(np.square(guesses))))
    assert max(quality["rmse"], quality["city_rmse"]) < quality["mean_rmse"]
    assert quality["rmse"] != quality["city_rmse"]


def test_without_a_second_rating_there_is_no_error_but_a_reason() -> None:
    settings = load_settings()
    matrix = user_matrix(ratings_of(DEGENERATE["one rating each"]), settings)
    quality = held_out_quality(matrix, settings)
    figures = [field.name for field in fields(RankingQuality)]
    assert [quality[name] for name in figures] == [None] * 6
    assert quality["reason"] == "no user kept out has liked one restaurant of two"
    assert quality["ratings"]["rmse"] is quality["ratings"]["city_rmse"] is None
    assert quality["ratings"]["reason"] == "no rating was held out"


def test_users_who_liked_nothing_are_foretold_all_the_same() -> None:
    settings = load_settings(clusters_k=3)
    ratings = ratings_of(some_users(DRAWN, lambda u, p: 1 + p % 2))
    quality = held_out_quality(user_matrix(ratings, settings), settings)
    assert (quality["users"], quality["ndcg"]) == (0, None)
    assert quality["ratings"]["rmse"] < quality["ratings"]["mean_rmse"]


def remembered(monkeypatch: pytest.MonkeyPatch) -> list[UserMatrix]:
    """Return a list to which each matrix is added that is clustered from now on."""
    trained_on: list[UserMatrix] = []

    def remember(part: UserMatrix, settings: Settings) -> Clustering:
        trained_on.append(part)
        return cluster(part, settings)

    monkeypatch.setattr(clustering_training, "cluster", remember)
    return trained_on


def test_users_kept_out_do_not_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(clusters_k=4)
    ratings = tiny_ratings()
    matrix = user_matrix(ratings, settings)
    trained_on = remembered(monkeypatch)
    held_out_quality(matrix, settings)
    (part,) = trained_on
    assert len(part.users) == part.rows.shape[0] == len(matrix.users) - len(matrix.users) // 10
    position = np.searchsorted(matrix.users, part.users)
    assert (part.rows.toarray() == matrix.rows[position].toarray()).all()


def test_clusters_of_factors_are_judged_by_factors_that_have_not_seen_those_kept_out(
    db: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(clusters_k=4, clusters_space="factors")
    ratings = tiny_ratings()
    visits = ratings.matrix(0.0)
    fit = partial(alternate, rank=4, alpha=5.0, reg_param=1.0, iterations=10, seed=settings.seed)
    usable = partial(
        preferences_of, popularity=popularity_of(ratings, settings), alpha=5.0, reg_param=1.0
    )
    seen = usable(fit(visits))
    matrix = with_factors(user_matrix(ratings, settings), ratings, seen, db)
    trained_on = remembered(monkeypatch)
    quality = held_out_quality(matrix, settings)
    assert quality["ndcg"] > quality["popular"]["ndcg"] > 0
    (part,) = trained_on
    several = np.diff(part.everything.indptr) >= 2
    unseen = usable(fit(csr_array(part.everything[several])))
    assert part.preferences
    assert np.array_equal(part.preferences.factors, unseen.factors)
    assert not np.array_equal(unseen.factors, seen.factors)


def from_zero() -> tuple[UserMatrix, Settings]:
    """Return the matrix of ratings on a scale of 0 to 2, with many a 0."""
    settings = load_settings(clusters_k=4, rating_min=0, rating_max=2)
    rows = some_users(DRAWN, lambda u, p: (u + 2 * p) % 3)
    return user_matrix(ratings_of(rows, rating_max=2), settings), settings


def test_on_a_scale_from_zero_scores_are_of_where_a_reader_finds_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrix, settings = from_zero()
    found = cluster(matrix, settings)
    asked = []

    def spied(rows: csr_array, cluster_of: NDArray[np.int32], *rest: Any) -> ClusterScores:
        asked.append((rows, cluster_of))
        return leave_one_out_scores(rows, cluster_of, *rest)

    monkeypatch.setattr(clustering_training, "leave_one_out_scores", spied)
    score(matrix, found, settings)
    ((rows, cluster_of),) = asked
    expected = []
    for row in rows.toarray():
        for place in np.flatnonzero(row):
            rest = np.where(row > 0, row - 1, 0)
            rest[place] = 0
            far = [distance(rest[matrix.columns], centroid) for centroid in found.centroids]
            expected.append(int(np.argmin(far)) if min(far) < 1 else -1)
    assert cluster_of.tolist() == expected


def test_on_a_scale_from_zero_who_is_kept_out_is_placed_by_raw_ratings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrix, settings = from_zero()
    placed, place = [], Clustering.place

    def spied(found: Clustering, rows: csr_array) -> Any:
        placed.append(rows)
        return place(found, rows)

    monkeypatch.setattr(Clustering, "place", spied)
    held_out_quality(matrix, settings)
    assert [set(rows.data) for rows in placed] == [{0, 1, 2}, {0, 1, 2}]


def test_without_a_rating_above_zero_in_training_there_is_no_figure() -> None:
    settings = load_settings(rating_min=0, rating_max=2)
    silent = [(f"s{i}", "a", 0) for i in range(9)]
    matrix = user_matrix(
        ratings_of([*silent, ("u", "a", 2), ("u", "b", 2), ("u", "c", 1)], rating_max=2), settings
    )
    alone = next(s for s in range(99) if hold_out(matrix.everything, 3, seed=s).seen.nnz)
    quality = held_out_quality(matrix, settings.model_copy(update={"seed": alone}))
    assert quality["reason"] == "the users who are left gave nothing but 0"
    assert (quality["ndcg"], quality["ratings"]["rmse"]) == (None, None)
    assert quality["ratings"]["reason"]


def test_scores_cover_restaurants_that_are_no_columns() -> None:
    settings = load_settings(clusters_k=4, clusters_max_restaurants=20)
    ratings = tiny_ratings()
    matrix = user_matrix(ratings, settings)
    scored = score(matrix, cluster(matrix, settings), settings)
    assert scored.scores.shape == (4, len(ratings.restaurants))
    assert (scored.scores > 0).all()


def test_by_hand_it_publishes_what_a_contract_reader_can_use(
    db: MongoDatabase, db_settings: Settings
) -> None:
    write_tiny_city(db, db_settings)
    foreign = {"_id": "of the backend", "value": 1}
    db["Metadata"].insert_one(foreign)
    done = run_script("clustering_training.py", settings=db_settings, CLUSTERS_K="7")
    assert done.returncode == 0, done.stderr
    run = db["TrainingRuns"].find_one() or {}
    assert run["state"] == "succeeded"
    figures = run["metrics"]["clusters"]
    assert -1 <= figures["silhouette"] <= 1
    assert figures["landed"] > 0.95
    assert "landed_unshifted" not in figures
    assert 0 < figures["held_out"]["ndcg"] <= 1
    assert 0 < figures["held_out"]["ratings"]["rmse"] < 4
    reader = ContractReader(db)
    assert reader.run_ids == {run["run_id"]}
    assert sorted(reader.clusters) == list(range(7))
    assert sum(reader.sizes) == TINY_CITY.users
    for document in reader.clusters.values():
        scores = [entry["score"] for entry in document["recommendations"]]
        assert len(scores) == 40
        assert scores == sorted(scores, reverse=True)
        assert document["size"] == reader.sizes[document["cluster_id"]]
        assert 0 < document["tightness"] <= 1
        assert 1 <= document["mean_rating"] <= 5
        for entry in document["stands_out"]:
            assert 2 * entry["city_share"] <= entry["share"] <= 1
    assert any(document["stands_out"] for document in reader.clusters.values())
    checks = db["Metadata"].find_one({"_id": "reader_checks"}) or {}
    assert len(checks["users"]) > 3
    for check in checks["users"][1:]:
        rated = {entry["gmap_id"]: entry["rating"] for entry in check["ratings"]}
        assert reader.cluster_of(rated) == check["cluster_id"]
    assert db["Metadata"].find_one({"_id": "of the backend"}) == foreign


def test_on_a_scale_from_zero_a_reader_of_raw_ratings_lands(
    run_here: Callable[..., int],
    db: MongoDatabase,
    db_settings: Settings,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_tiny_city(db, db_settings)
    lowered = {"$max": [0, {"$subtract": ["$rating", 3]}]}
    db["Reviews"].update_many({}, [{"$set": {"rating": lowered}}])
    scale = {"RATING_MIN": "0", "RATING_MAX": "2", "CLUSTERS_K": "7"}
    assert run_here(clustering_training.main, **scale) == 0
    figures = (db["TrainingRuns"].find_one() or {})["metrics"]["clusters"]
    assert figures["landed"] > 0.95
    assert "landed_unshifted" not in figures
    assert figures["held_out"]["ndcg"] > figures["held_out"]["popular"]["ndcg"]
    reader, rated = ContractReader(db), rated_by_user(db).values()
    found = [reader.cluster_of(user) for user in rated if any(user.values())]
    assert (reader.shift, np.bincount(found).tolist()) == (0, reader.sizes)
    assert figures["users_without_overlap"] == len(rated) - len(found) > 0
    checks = db["Metadata"].find_one({"_id": "reader_checks"}) or {}
    _, zero, *others = checks["users"]
    assert ([entry["rating"] for entry in zero["ratings"]], zero["cluster_id"]) == ([0], None)
    for check in others:
        given = {entry["gmap_id"]: entry["rating"] for entry in check["ratings"]}
        assert reader.cluster_of(given) == check["cluster_id"]
    assert run_here(clus_counter.main, **scale) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "the counts are those of the training"


def test_on_a_scale_below_zero_a_reader_adds_the_shift(
    run_here: Callable[..., int], db: MongoDatabase, db_settings: Settings
) -> None:
    write_tiny_city(db, db_settings)
    db["Reviews"].update_many({}, [{"$set": {"rating": {"$subtract": ["$rating", 3]}}}])
    scale = {
        "RATING_MIN": "-2",
        "RATING_MAX": "2",
        "CLUSTERS_K": "7",
        "CLUSTERS_EVALUATE": "false",
    }
    assert run_here(clustering_training.main, **scale) == 0
    run = db["TrainingRuns"].find_one() or {}
    rated = rated_by_user(db).values()
    reader = ContractReader(db)
    found = [reader.cluster_of(user) for user in rated]
    assert (reader.shift, np.bincount(found).tolist()) == (3, reader.sizes)
    reader.shift = 0
    without = [reader.cluster_of(user) if any(user.values()) else -1 for user in rated]
    share = np.mean(np.equal(found, without))
    assert run["metrics"]["clusters"]["landed_unshifted"] == pytest.approx(share)
    assert share < 1


def test_ids_stay_put_from_one_training_to_the_next(
    run_here: Callable[..., int], db: MongoDatabase, db_settings: Settings
) -> None:
    write_tiny_city(db, db_settings)
    settings = {"CLUSTERS_K": "7", "CLUSTERS_EVALUATE": "false"}
    readers, moved = [], []
    for seed in ("1", "1", "2"):
        assert run_here(clustering_training.main, SEED=seed, **settings) == 0
        readers.append(ContractReader(db))
        (run,) = db["TrainingRuns"].find({"run_id": {"$in": list(readers[-1].run_ids)}})
        moved.append(run["metrics"]["clusters"]["users_moved"])
        assert "held_out" not in run["metrics"]["clusters"]
    assert (readers[0].centroids == readers[1].centroids).all()
    assert moved[:2] == [None, 0]
    assert 0 < moved[2] < TINY_CITY.users * 0.7
    rated: dict[str, dict[str, float]] = {}
    for row in db["Reviews"].find():
        rated.setdefault(row["user_id"], {})[row["gmap_id"]] = row["rating"]
    changed = [
        readers[1].cluster_of(user) != readers[2].cluster_of(user) for user in rated.values()
    ]
    assert sum(changed) == moved[2]
    assert [readers[2].clusters[i]["size"] for i in range(7)] == readers[2].sizes


@pytest.mark.parametrize("centroids", [None, "none", [[1.0]], [[0.0, float("nan")]]])
def test_without_a_previous_model_of_its_shape_ids_start_anew(
    db: MongoDatabase, centroids: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    if centroids:
        db["Clusters"].insert_one({"cluster_id": 0})
        db["Metadata"].insert_many(
            [
                {"_id": "train_columns", "columns": [1, 2]},
                {"_id": "kmeans_centroids", "centroids": centroids},
                {"_id": "kmeans_clusters", "sizes": [1]},
            ]
        )
    ratings, settings = tiny_ratings(), load_settings(clusters_k=4)
    matrix = user_matrix(ratings, settings)
    found = cluster(matrix, settings)
    assert with_previous_ids(found, ratings, matrix, db) == (found, None)
    assert "cluster ids start anew" in caplog.text


def test_an_unfit_database_ends_with_65_and_leaves_the_old_model(
    run_here: Callable[..., int], db: MongoDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    db["Clusters"].insert_one({"cluster_id": 0, "run_id": "old"})
    db["Reviews"].insert_one({"user_id": "u", "gmap_id": "r", "rating": "NaN"})
    assert run_here(clustering_training.main) == 65
    told = "none of the 1 reviews is valid (1 rating_not_a_number)"
    assert told in capsys.readouterr().err.splitlines()[-1]
    assert db["Clusters"].count_documents({"run_id": "old"}) == 1


def test_the_module_does_not_need_spark() -> None:
    assert "pyspark" not in vars(clustering_training)
