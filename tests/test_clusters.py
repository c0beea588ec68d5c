"""The clusters, of any ratings: as many as can be, and where a reader finds the users."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import adjusted_rand_score

from clustering_training import held_out_quality, score
from dists import distance, distances
from recommender.city import populate, review_blocks
from recommender.clusters import as_read, cluster
from recommender.mongo import MongoDatabase
from recommender.ratings import BLOCK_SCHEMA, clean_block, decode_ids, gather
from recommender.settings import load_settings
from recommender.tastes import TasteClusters
from recommender.user_matrix import user_matrix, with_factors
from tests.small_cities import DEGENERATE, DRAWN, few_ratings, some_users, tiny_ratings, two_camps
from tests.support import TINY_CITY, ratings_of


@pytest.fixture(autouse=True)
def _clean(clean_environment: object) -> None:
    """No setting of the developer's counts."""


@pytest.mark.parametrize("space", ["ratings", "tastes"])
def test_k_above_the_users_that_differ_is_lowered_and_said(
    caplog: pytest.LogCaptureFixture, space: str
) -> None:
    ratings = few_ratings()
    settings = load_settings(clusters_k=50, clusters_space=space)
    found = cluster(user_matrix(ratings, settings), settings)
    assert (len(found.centroids), found.space) == (5, space)
    assert "CLUSTERS_K lowered from 50 to 5," in caplog.text


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("space", ["tastes", "ratings"])
def test_there_are_as_many_clusters_as_asked_for_unless_fewer_users_differ(
    name: str, space: str
) -> None:
    ratings = ratings_of(DEGENERATE[name])
    for k in (1, 2, 7, 30):
        settings = load_settings(clusters_k=k, clusters_space=space)
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
    settings = load_settings(clusters_k=2)
    ratings = ratings_of([("u", "a", 5), ("v", "a", 5), ("v", "b", 5e-9)])
    found = cluster(user_matrix(ratings, settings), settings)
    assert (found.space, found.sizes.tolist()) == ("tastes", [2])


@pytest.mark.parametrize(("low", "high"), [(0, 2), (1, 10), (-1, 1)])
def test_scales_of_other_sources_are_clustered(low: int, high: int) -> None:
    rows = some_users(DRAWN, lambda u, p: low + (u + p) % (high - low + 1))
    users, places, values = zip(*rows, strict=True)
    block = clean_block(users, places, values, [None] * len(rows), rating_min=low, rating_max=high)
    ratings = gather(pa.Table.from_batches([block], schema=BLOCK_SCHEMA))
    settings = load_settings(rating_min=low, rating_max=high, clusters_k=6)
    matrix = user_matrix(ratings, settings)
    assert len(ratings) == len(rows)
    assert matrix.rows.data.min() > 0
    found = cluster(matrix, settings)
    assert len(found.centroids) == 6
    assert found.landed == 1


@pytest.mark.parametrize("space", ["tastes", "ratings"])
def test_who_gave_nothing_but_zero_is_in_no_cluster(space: str) -> None:
    rows = [*some_users(DRAWN, lambda u, p: (u + p) % 3), ("z", "p0", 0), ("z", "p1", 0)]
    ratings = ratings_of(rows, rating_max=2)
    settings = load_settings(rating_min=0, rating_max=2, clusters_k=6, clusters_space=space)
    matrix = user_matrix(ratings, settings)
    found = cluster(matrix, settings)
    silent = np.asarray(matrix.rows.sum(axis=1)).ravel() == 0
    assert silent[decode_ids(ratings.users).index("z")]
    assert ((found.labels == -1) == silent).all()
    assert ((found.distances == 1) == silent).all()
    assert (np.isnan(found.closeness) == silent).all()
    assert found.sizes.sum() == np.count_nonzero(~silent)
    assert found.landed == 1
    for row, label in zip(matrix.rows.toarray(), found.labels, strict=True):
        far = [distance(row, centroid) for centroid in found.centroids]
        assert label == (int(np.argmin(far)) if row.any() else -1)


@pytest.mark.parametrize("least", [0.5, 1e-7, 1e-30, 1e-300])
@pytest.mark.parametrize("rating_max", [2, 1e10])
def test_ratings_just_above_zero_find_what_a_reader_finds(least: float, rating_max: float) -> None:
    rows = some_users(DRAWN, lambda u, p: 2.0 if (u + p) % 3 else least)
    ratings = ratings_of(rows, rating_max=rating_max)
    settings = load_settings(rating_min=0, rating_max=rating_max, clusters_k=6)
    matrix = user_matrix(ratings, settings)
    found = cluster(matrix, settings)
    far = distances(ratings.matrix()[matrix.users][:, matrix.columns], found.centroids)
    assert found.labels.tolist() == np.where(far.min(axis=1) < 1, far.argmin(axis=1), -1).tolist()
    assert (found.labels >= 0)[matrix.rows.max(axis=1).toarray() == 2].all()
    assert found.space == "tastes"


def test_no_limit_of_ratings_changes_the_clusters() -> None:
    rows = some_users(DRAWN, lambda u, p: 1 + (u + p) % 5)
    found = []
    for rating_max in (5, 1e10):
        settings = load_settings(rating_min=1, rating_max=rating_max, clusters_k=6)
        matrix = user_matrix(ratings_of(rows, 1, rating_max), settings)
        found.append(cluster(matrix, settings).centroids)
    assert np.array_equal(found[0], found[1])


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
    ratings, settings = ratings_of(rows), load_settings()
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
    settings = load_settings(clusters_k=k)
    found = cluster(user_matrix(ratings, settings), settings)
    assert found.sizes.tolist() == [3]
    assert found.closeness == pytest.approx(1)


@pytest.mark.parametrize("space", ["tastes", "ratings"])
def test_ratings_that_are_all_equal_still_tell_who_goes_where(space: str) -> None:
    varied = tiny_ratings()
    ratings = replace(varied, rating=np.full_like(varied.rating, 4))
    settings = load_settings(clusters_space=space, clusters_k=8)
    matrix = user_matrix(ratings, settings)
    found = cluster(matrix, settings)
    assert len(found.sizes) > 1
    assert found.sizes.sum() == (found.labels >= 0).sum()
    assert np.isfinite(score(matrix, found, settings).scores).all()


def test_users_are_clustered_by_the_factors_of_als(db: MongoDatabase) -> None:
    ratings = tiny_ratings()
    settings = load_settings(clusters_k=2, clusters_space="factors")
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


@pytest.mark.parametrize("limits", [{}, {"clusters_max_restaurants": 20}])
@pytest.mark.parametrize("scale", [{}, {"rating_min": -3}, {"rating_min": 0.5}])
@pytest.mark.parametrize("space", ["tastes", "ratings"])
def test_a_reader_finds_users_where_the_training_put_them(
    limits: dict[str, int], scale: dict[str, float], space: str
) -> None:
    settings = load_settings(clusters_k=9, clusters_space=space, **limits, **scale)
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
    settings = load_settings()
    matrix = user_matrix(ratings_of([("u", "a", 2), ("v", "b", 2), ("w", "c", 2)]), settings)
    centroids = np.array([[1.0, 0, 0], [0, 0, 0], [0, 1, 0]])
    trained = TasteClusters(
        centroids, np.array([0, 2, 1], np.int32), np.array([1, 1, np.nan]), 0.5, (), 0, True
    )
    found = as_read(matrix, trained, trained.labels, trained.closeness, "tastes")
    assert found.labels.tolist() == [0, 1, -1]
    assert found.sizes.tolist() == [1, 1]
    assert found.centroids.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert found.landed == pytest.approx(2 / 3)


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
    settings = load_settings(clusters_k=TINY_CITY.tastes, clusters_starts=5, clusters_space=space)
    matrix = user_matrix(ratings, settings)
    found = cluster(matrix, settings)
    tastes = population.users.taste[[decode_ids(ratings.users)[u] for u in matrix.users]]
    assert adjusted_rand_score(tastes, found.labels) > 0.6
