"""The K-Means job: its matrix, its scores, its documents, and the whole of it by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import adjusted_rand_score

import clustering_training
from clustering_training import (
    UserMatrix,
    cluster,
    curve,
    held_out_quality,
    score,
    user_matrix,
    with_factors,
    with_previous_ids,
)
from dists import distance, silhouette
from recommender import store
from recommender.city import populate, review_blocks
from recommender.errors import DataError
from recommender.evaluation import hold_out
from recommender.factors import factors_document
from recommender.foldin import Preferences, preferences_of
from recommender.lease import Lease
from recommender.mongo import MongoDatabase
from recommender.ratings import BLOCK_SCHEMA, Ratings, clean_block, decode_ids, gather
from recommender.scoring import rating_means
from recommender.settings import Settings, load_settings
from recommender.tastes import TasteClusters
from tests.support import TINY_CITY, ContractReader, ratings_of, run_script, write_tiny_city


@pytest.fixture
def ratings() -> Ratings:
    """Eleven ratings: "a" is rated by 4 users, "b" by 4, "c" by 2, "d" by 1."""
    return ratings_of(
        [
            *(("u1", r, 5) for r in "abcd"),
            *(("u2", r, 4) for r in "abc"),
            *(("u3", r, 3) for r in "ab"),
            ("u4", "a", 2),
            ("u5", "b", 1),
        ]
    )


def settings_with(**overrides: Any) -> Settings:
    return load_settings(**overrides)


@pytest.fixture(autouse=True)
def _clean(clean_environment: object) -> None:
    """No setting of the developer's counts."""


def test_all_users_and_restaurants_take_part_by_default(ratings: Ratings) -> None:
    matrix = user_matrix(ratings, settings_with())
    assert decode_ids(ratings.restaurants.take(matrix.columns)) == ["a", "b", "c", "d"]
    assert matrix.rows.toarray().tolist() == [
        [5, 5, 5, 5],
        [4, 4, 4, 0],
        [3, 3, 0, 0],
        [2, 0, 0, 0],
        [0, 1, 0, 0],
    ]
    assert (matrix.users_left_out, matrix.restaurants_left_out) == (0, 0)


@pytest.mark.parametrize(
    ("limits", "users", "columns"),
    [
        ({"clusters_min_restaurant_ratings": 2}, [0, 1, 2, 3, 4], [0, 1, 2]),
        ({"clusters_max_restaurants": 1}, [0, 1, 2, 3], [0]),
        ({"clusters_min_user_ratings": 2}, [0, 1, 2], [0, 1, 2, 3]),
        ({"clusters_max_users": 1}, [0], [0, 1, 2, 3]),
    ],
)
def test_limits_keep_the_most_rated_and_the_most_active(
    ratings: Ratings, limits: dict[str, int], users: list[int], columns: list[int]
) -> None:
    matrix = user_matrix(ratings, settings_with(**limits))
    assert matrix.users.tolist() == users
    assert matrix.columns.tolist() == columns
    assert matrix.users_left_out == 5 - len(users)
    assert matrix.restaurants_left_out == 4 - len(columns)


def test_limits_that_leave_nothing_say_so(ratings: Ratings) -> None:
    with pytest.raises(DataError, match="no user is left to cluster"):
        user_matrix(ratings, settings_with(clusters_min_restaurant_ratings=9))


def test_columns_beyond_the_document_limit_are_left_out(
    ratings: Ratings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_with(clusters_k=1000)  # but there are five users
    monkeypatch.setattr(store, "MAX_DOCUMENT_BYTES", 4096 + 280)
    matrix = user_matrix(ratings, settings)
    assert matrix.columns.tolist() == [0, 1, 2]
    assert matrix.restaurants_left_out == 1
    assert "1 restaurants take no part" in caplog.text


def test_a_scale_from_zero_is_shifted() -> None:
    ratings = ratings_of([("u", "a", 0), ("u", "b", 2)])
    matrix = user_matrix(ratings, settings_with(rating_min=0, rating_max=2))
    assert matrix.rows.toarray().tolist() == [[1, 3]]


@pytest.mark.parametrize("space", ["ratings", "tastes"])
def test_k_above_the_users_that_differ_is_lowered_and_said(
    ratings: Ratings, caplog: pytest.LogCaptureFixture, space: str
) -> None:
    settings = settings_with(clusters_k=50, clusters_space=space)
    found = cluster(user_matrix(ratings, settings), settings)
    assert (len(found.centroids), found.space) == (5, space)
    assert "CLUSTERS_K lowered from 50 to 5," in caplog.text


def some_users(places: list[tuple[Any, ...]], rating: Any) -> list[tuple[Any, Any, float]]:
    """Rows of users who have rated these places, each as ``rating`` says of user and place."""
    return [(u, p, float(rating(u, p))) for u, rated in enumerate(places) for p in rated]


DRAWN = [
    tuple(np.random.default_rng(u).choice(15, 1 + u % 4, replace=False).tolist()) for u in range(40)
]
DEGENERATE = {
    "one user of one place": some_users([(0,)], lambda u, p: 3),
    "one user": some_users([(0, 1, 2)], lambda u, p: 3),
    "all users equal": some_users([(0, 1)] * 9, lambda u, p: 4),
    "users who differ in magnitude only": some_users([(0, 1)] * 9, lambda u, p: 1 + u % 5),
    "one rating each": some_users([(u % 6,) for u in range(40)], lambda u, p: 1 + u % 5),
    "one place": some_users([(0,)] * 40, lambda u, p: 1 + u % 5),
    "all ratings equal": some_users(DRAWN, lambda u, p: 5),
    "a user who rated everything": some_users([tuple(range(15)), *DRAWN], lambda u, p: 1 + p % 5),
    "users within users": some_users([tuple(range(n)) for n in range(1, 9)], lambda u, p: 5),
    "two groups": some_users([(0, 1), (2, 3)] * 9, lambda u, p: 2),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("space", ["tastes", "ratings"])
def test_there_are_as_many_clusters_as_asked_for_unless_fewer_users_differ(
    name: str, space: str
) -> None:
    ratings = ratings_of(DEGENERATE[name])
    for k in (1, 2, 7, 30):
        settings = settings_with(clusters_k=k, clusters_space=space)
        matrix = user_matrix(ratings, settings)
        found = cluster(matrix, settings)
        differ = len(np.unique(matrix.rows.toarray(), axis=0))
        assert len(found.centroids) == len(found.sizes) == min(k, differ)
        assert found.sizes.min() > 0
        assert found.landed == 1
        assert found.closeness[found.labels >= 0] == pytest.approx(0.5, abs=0.5 + 1e-9)
        assert np.isfinite(score(matrix, found, settings).scores).all()
        held_out_quality(matrix, settings)


def test_users_who_differ_by_rounding_keep_the_clusters_of_tastes() -> None:
    settings = settings_with(clusters_k=2)
    ratings = ratings_of([("u", "a", 5), ("v", "a", 5), ("v", "b", 5e-9)])
    found = cluster(user_matrix(ratings, settings), settings)
    assert (found.space, found.sizes.tolist()) == ("tastes", [2])


@pytest.mark.parametrize(("low", "high"), [(0, 2), (1, 10), (-1, 1)])
def test_scales_of_other_sources_are_clustered(low: int, high: int) -> None:
    rows = some_users(DRAWN, lambda u, p: low + (u + p) % (high - low + 1))
    users, places, values = zip(*rows, strict=True)
    block = clean_block(users, places, values, [None] * len(rows), rating_min=low, rating_max=high)
    ratings = gather(pa.Table.from_batches([block], schema=BLOCK_SCHEMA))
    settings = settings_with(rating_min=low, rating_max=high, clusters_k=6)
    matrix = user_matrix(ratings, settings)
    assert len(ratings) == len(rows)
    assert matrix.rows.data.min() > 0
    found = cluster(matrix, settings)
    assert len(found.centroids) == 6
    assert found.landed == 1


@pytest.mark.parametrize(
    "rows",
    [
        [("u", "a", 3)],
        [("u", "a", 3), ("v", "a", 3)],
        [("u", "a", 3), ("v", "b", 3), ("w", "b", 1)],
    ],
)
def test_without_two_ratings_of_anybody_the_ratings_are_clustered(
    rows: list[tuple[str, str, float]], caplog: pytest.LogCaptureFixture
) -> None:
    ratings, settings = ratings_of(rows), settings_with()
    matrix = user_matrix(ratings, settings)
    found = cluster(matrix, settings)
    assert found.space == "ratings"
    assert found.distances == pytest.approx(0)
    assert "clustering ratings" in caplog.text
    scored = score(matrix, found, settings)
    for scores in scored.scores:
        assert (np.argsort(-scores) == np.argsort(-scored.city)).all()
    assert held_out_quality(matrix, settings)["reason"]


@pytest.mark.parametrize("k", [1, 2])
def test_equal_users_of_two_places_are_one_cluster(k: int) -> None:
    ratings = ratings_of([(user, place, 4) for user in "uvw" for place in "ab"])
    settings = settings_with(clusters_k=k)
    found = cluster(user_matrix(ratings, settings), settings)
    assert found.sizes.tolist() == [3]
    assert found.closeness == pytest.approx(1)


def tiny_ratings() -> Ratings:
    return ratings_of(
        [
            (int(u), int(i), float(r))
            for block in review_blocks(populate(TINY_CITY))
            for u, i, r in zip(block.user, block.restaurant, block.rating, strict=True)
        ]
    )


@pytest.mark.parametrize("space", ["tastes", "ratings"])
def test_ratings_that_are_all_equal_still_tell_who_goes_where(space: str) -> None:
    varied = tiny_ratings()
    ratings = replace(varied, rating=np.full_like(varied.rating, 4))
    settings = settings_with(clusters_space=space, clusters_k=8)
    matrix = user_matrix(ratings, settings)
    found = cluster(matrix, settings)
    assert len(found.sizes) > 1
    assert found.sizes.sum() == (found.labels >= 0).sum()
    assert np.isfinite(score(matrix, found, settings).scores).all()


def two_camps(ratings: Ratings) -> Preferences:
    """Factors by which restaurants of odd and even number are opposites."""
    odd = np.arange(len(ratings.restaurants)) % 2
    factors = np.column_stack([odd, 1 - odd]).astype(np.float32)
    return preferences_of(factors, np.bincount(ratings.restaurant), alpha=1, reg_param=1)


def test_users_are_clustered_by_the_factors_of_als(db: MongoDatabase) -> None:
    ratings = tiny_ratings()
    settings = settings_with(clusters_k=2, clusters_space="factors")
    matrix = with_factors(user_matrix(ratings, settings), ratings, two_camps(ratings), db)
    found = cluster(matrix, settings)
    odd = matrix.columns % 2 == 1
    share = matrix.rows[:, odd].sum(axis=1) / matrix.rows.sum(axis=1)
    assert (found.space, found.landed) == ("factors", 1)
    by_cluster = sorted(
        (share[found.labels == label].min(), share[found.labels == label].max())
        for label in range(2)
    )
    assert by_cluster[0][1] <= by_cluster[1][0]
    figures = held_out_quality(matrix, settings)
    assert (figures["ndcg"], "fitted to all users" in figures["reason"]) == (None, True)


def test_published_factors_are_the_map_of_a_clustering_alone(db: MongoDatabase) -> None:
    ratings = tiny_ratings()
    settings = settings_with(clusters_k=2, clusters_space="factors")
    matrix = user_matrix(ratings, settings)
    with pytest.raises(DataError, match="no training has published factors"):
        with_factors(matrix, ratings, None, db)
    preferences, shown = two_camps(ratings), np.ones(len(ratings.restaurants), dtype=bool)
    document = factors_document(preferences, ratings.restaurants, shown, "r1", 0.0)
    db["Metadata"].insert_one(document)
    own = with_factors(matrix, ratings, preferences, db).places
    read = with_factors(matrix, ratings, None, db).places
    assert own is not None
    assert read == pytest.approx(own)


@pytest.mark.parametrize("limits", [{}, {"clusters_max_restaurants": 20}])
@pytest.mark.parametrize("scale", [{}, {"rating_min": -3}, {"rating_min": 0.5}])
@pytest.mark.parametrize("space", ["tastes", "ratings"])
def test_a_reader_finds_users_where_the_training_put_them(
    limits: dict[str, int], scale: dict[str, float], space: str
) -> None:
    settings = settings_with(clusters_k=9, clusters_space=space, **limits, **scale)
    matrix = user_matrix(tiny_ratings(), settings)
    found = cluster(matrix, settings)
    assert found.landed > 0.99
    for row, label, far in zip(matrix.rows.toarray(), found.labels, found.distances, strict=True):
        nearest = [distance(row, centroid) for centroid in found.centroids]
        assert min(nearest) == pytest.approx(far)
        assert label == (np.argmin(nearest) if min(nearest) < 1 else -1)
    assert found.sizes.min() > 0
    assert found.sizes.sum() == (found.labels >= 0).sum()


def test_clusters_that_no_reader_finds_are_left_out() -> None:
    settings = settings_with()
    matrix = user_matrix(ratings_of([("u", "a", 2), ("v", "b", 2), ("w", "c", 2)]), settings)
    centroids = np.array([[1.0, 0, 0], [0, 0, 0], [0, 1, 0]])
    trained = TasteClusters(
        centroids, np.array([0, 2, 1], np.int32), np.array([1, 1, np.nan]), 0.5, (), 0, True
    )
    found = clustering_training._as_read(
        matrix, trained, trained.labels, trained.closeness, "tastes"
    )
    assert found.labels.tolist() == [0, 1, -1]
    assert found.sizes.tolist() == [1, 1]
    assert found.centroids.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert found.landed == pytest.approx(2 / 3)


def test_new_users_are_served_better_than_by_one_list_for_all() -> None:
    settings = settings_with(clusters_k=4)
    ratings = tiny_ratings()
    quality = held_out_quality(user_matrix(ratings, settings), settings)
    assert quality["users"] > 20
    assert quality["shown"] == 13
    assert quality["ndcg"] > quality["popular"]["ndcg"] > 0
    assert quality["coverage"] > quality["popular"]["coverage"]
    assert quality == held_out_quality(user_matrix(ratings, settings), settings)


def test_the_error_of_the_clusters_ratings_is_on_ratings_of_any_value() -> None:
    settings = settings_with(clusters_k=4)
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
    settings = settings_with()
    matrix = user_matrix(ratings_of(DEGENERATE["one rating each"]), settings)
    quality = held_out_quality(matrix, settings)
    assert quality["ndcg"] is None
    assert quality["ratings"]["rmse"] is quality["ratings"]["city_rmse"] is None
    assert quality["ratings"]["reason"] == "no rating was held out"


def test_users_who_liked_nothing_are_foretold_all_the_same() -> None:
    settings = settings_with(clusters_k=3)
    ratings = ratings_of(some_users(DRAWN, lambda u, p: 1 + p % 2))
    quality = held_out_quality(user_matrix(ratings, settings), settings)
    assert (quality["users"], quality["ndcg"]) == (0, None)
    assert quality["ratings"]["rmse"] < quality["ratings"]["mean_rmse"]


def test_users_kept_out_do_not_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_with(clusters_k=4)
    ratings = tiny_ratings()
    matrix = user_matrix(ratings, settings)
    trained_on: list[UserMatrix] = []

    def remember(part: UserMatrix, settings: Settings) -> clustering_training.Clustering:
        trained_on.append(part)
        return cluster(part, settings)

    monkeypatch.setattr(clustering_training, "cluster", remember)
    held_out_quality(matrix, settings)
    (part,) = trained_on
    assert len(part.users) == part.rows.shape[0] == len(matrix.users) - len(matrix.users) // 10
    position = np.searchsorted(matrix.users, part.users)
    assert (part.rows.toarray() == matrix.rows[position].toarray()).all()


@pytest.mark.parametrize("space", ["tastes", "ratings"])
def test_the_planted_tastes_of_active_users_are_found(space: str) -> None:
    population = populate(TINY_CITY)
    blocks = list(review_blocks(population))
    user = np.concatenate([block.user for block in blocks])
    restaurant = np.concatenate([block.restaurant for block in blocks])
    rating = np.concatenate([block.rating for block in blocks])
    active = np.flatnonzero(np.bincount(user) >= 15)
    rows = [
        (int(u), int(i), float(r))
        for u, i, r in zip(user, restaurant, rating, strict=True)
        if u in set(active.tolist())
    ]
    ratings = ratings_of(rows)
    settings = settings_with(clusters_k=TINY_CITY.tastes, clusters_starts=5, clusters_space=space)
    matrix = user_matrix(ratings, settings)
    found = cluster(matrix, settings)
    tastes = population.users.taste[[decode_ids(ratings.users)[u] for u in matrix.users]]
    assert adjusted_rand_score(tastes, found.labels) > 0.6


def test_scores_cover_restaurants_that_are_no_columns() -> None:
    settings = settings_with(clusters_k=4, clusters_max_restaurants=20)
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


def test_ids_stay_put_from_one_training_to_the_next(
    db: MongoDatabase, db_settings: Settings
) -> None:
    write_tiny_city(db, db_settings)
    settings = {"CLUSTERS_K": "7", "CLUSTERS_EVALUATE": "false"}
    readers, moved = [], []
    for seed in ("1", "1", "2"):
        done = run_script("clustering_training.py", settings=db_settings, SEED=seed, **settings)
        assert done.returncode == 0, done.stderr
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
    ratings, settings = tiny_ratings(), settings_with(clusters_k=4)
    matrix = user_matrix(ratings, settings)
    found = cluster(matrix, settings)
    assert with_previous_ids(found, ratings, matrix, db) == (found, None)
    assert "cluster ids start anew" in caplog.text


def test_an_unfit_database_ends_with_65_and_leaves_the_old_model(
    db: MongoDatabase, db_settings: Settings
) -> None:
    db["Clusters"].insert_one({"cluster_id": 0, "run_id": "old"})
    db["Reviews"].insert_one({"user_id": "u", "gmap_id": "r", "rating": "NaN"})
    done = run_script("clustering_training.py", settings=db_settings)
    assert done.returncode == 65
    assert "none of the 1 reviews is valid (1 rating_not_a_number)" in done.stderr
    assert db["Clusters"].count_documents({"run_id": "old"}) == 1


def test_the_curve_is_that_of_the_clusterings_and_ends_where_k_does(ratings: Ratings) -> None:
    settings = settings_with(clusters_space="ratings")
    matrix = user_matrix(ratings, settings)
    points = curve(matrix, [1, 3, 9, 10], settings)
    assert [point.k for point in points] == [1, 3, 5]
    for point in points:
        found = cluster(matrix, settings_with(clusters_space="ratings", clusters_k=point.k))
        assert point.inertia == found.inertia
        assert point.silhouette == silhouette(matrix.rows, found.labels, seed=settings.seed)
        assert point.seconds > 0


def test_the_elbow_is_shown_beside_a_training_and_publishes_nothing(
    db: MongoDatabase, db_settings: Settings
) -> None:
    write_tiny_city(db, db_settings)
    Lease(db, 60).acquire("another training")
    done = run_script("clustering_training.py", "--elbow", "2:8:2", settings=db_settings)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:5]] == ["2", "4", "6", "8"]
    assert (db_settings.work_dir / "elbow.svg").read_text().startswith("<svg")
    names = db.list_collection_names()
    assert not {"Clusters", "Metadata", "TrainingRuns"} & set(names)


def test_an_elbow_of_another_form_is_a_usage_error(db_settings: Settings) -> None:
    done = run_script("clustering_training.py", "--elbow", "9:1:1", settings=db_settings)
    assert done.returncode == 2


def test_the_module_does_not_need_spark() -> None:
    assert "pyspark" not in vars(clustering_training)
