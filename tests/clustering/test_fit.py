"""Clusterings of any ratings: the number of clusters, and the clusters that a reader finds."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import adjusted_rand_score

from dists import KMeansResult, distance, distances
from recommender.clustering.evaluate import evaluate_clusters
from recommender.clustering.fit import Clustering, as_read, cluster
from recommender.clustering.scoring import score
from recommender.clustering.user_matrix import UserMatrix, user_matrix
from recommender.core.settings import Settings, load_settings
from recommender.data.cleaning import BLOCK_SCHEMA, clean_block
from recommender.data.ids import decode_ids
from recommender.data.ratings import Ratings, gather
from recommender.demo.synthetic_city import populate, review_blocks
from recommender.publishing import bson_size
from tests.small_cities import DEGENERATE, DRAWN, few_ratings, some_users, tiny_ratings
from tests.support import TINY_CITY, ratings_of

SPACES = ("tastes", "ratings")


@pytest.fixture(autouse=True)
def _clean(clean_environment: object) -> None:
    """Ignore the settings of the developer."""


def clustered(ratings: Ratings, settings: Settings) -> tuple[UserMatrix, Clustering]:
    matrix = user_matrix(ratings, settings.clusters.k, settings.reviews.rating_min)
    return matrix, cluster(matrix, settings.clusters, settings.seed)


def check_against_reader(matrix: UserMatrix, clustering: Clustering) -> None:
    """Check labels and distances against the documented distance, of some hundred users."""
    some = slice(None, None, 1 + len(clustering.labels) // 100)
    for row, label, nearest in zip(
        matrix.rows.toarray()[some],
        clustering.labels[some],
        clustering.distances[some],
        strict=True,
    ):
        to_centroids = [distance(row, centroid) for centroid in clustering.centroids]
        assert min(to_centroids) == pytest.approx(nearest)
        assert label == (int(np.argmin(to_centroids)) if min(to_centroids) < 1 else -1)
    in_clusters = clustering.labels[clustering.labels >= 0]
    assert clustering.sizes.tolist() == np.bincount(in_clusters).tolist()
    assert clustering.sizes.min() > 0


@pytest.mark.parametrize("space", SPACES)
def test_k_is_lowered_to_the_number_of_different_users(
    caplog: pytest.LogCaptureFixture, space: str
) -> None:
    _, clustering = clustered(few_ratings(), load_settings(clusters_k=50, clusters_space=space))
    assert (len(clustering.centroids), clustering.space) == (5, space)
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


@pytest.mark.parametrize("space", SPACES)
def test_degenerate_ratings_make_as_many_clusters_as_users_differ(space: str) -> None:
    for rows in DEGENERATE.values():
        for k in (1, 2, 7, 30):
            settings = load_settings(clusters_k=k, clusters_space=space)
            ratings = ratings_of(rows)
            matrix, clustering = clustered(ratings, settings)
            differ = len(np.unique(matrix.rows.toarray(), axis=0))
            assert len(clustering.centroids) == len(clustering.sizes) == min(k, differ)
            assert clustering.sizes.min() > 0
            assert clustering.reader_agreement == 1
            closeness = clustering.closeness[clustering.labels >= 0]
            assert closeness == pytest.approx(0.5, abs=0.5 + 1e-9)
            scored = score(matrix.confidence, matrix.ratings, clustering.centroids, matrix.columns)
            assert np.isfinite(scored.scores).all()
            evaluate_clusters(ratings, matrix, settings)


def test_users_who_differ_by_rounding_stay_in_one_cluster() -> None:
    ratings = ratings_of([("u", "a", 5), ("v", "a", 5), ("v", "b", 5e-9)])
    _, clustering = clustered(ratings, load_settings(clusters_k=2))
    assert (clustering.space, clustering.sizes.tolist()) == ("tastes", [2])


def test_scales_of_other_sources_are_clustered() -> None:
    for low, high in ((0, 2), (1, 10), (-1, 1)):
        rows = some_users(DRAWN, lambda u, i, low=low, n=high - low + 1: low + (u + i) % n)
        users, items, values = zip(*rows, strict=True)
        block = clean_block(
            users, items, values, [None] * len(rows), rating_min=low, rating_max=high
        )
        ratings = gather(pa.Table.from_batches([block], schema=BLOCK_SCHEMA))
        settings = load_settings(rating_min=low, rating_max=high, clusters_k=6)
        matrix, clustering = clustered(ratings, settings)
        assert matrix.ratings.nnz == len(rows)
        assert matrix.rows.data.min() > 0
        assert len(clustering.centroids) == 6
        assert clustering.reader_agreement == 1


@pytest.mark.parametrize("space", SPACES)
def test_users_of_zeros_only_are_in_no_cluster(space: str) -> None:
    rows = [*some_users(DRAWN, lambda u, i: (u + i) % 3), ("z", "p0", 0), ("z", "p1", 0)]
    ratings = ratings_of(rows, rating_max=2)
    settings = load_settings(rating_min=0, rating_max=2, clusters_k=6, clusters_space=space)
    matrix, clustering = clustered(ratings, settings)
    empty = np.asarray(matrix.rows.sum(axis=1)).ravel() == 0
    assert empty[decode_ids(ratings.users).index("z")]
    assert ((clustering.labels == -1) == empty).all()
    assert ((clustering.distances == 1) == empty).all()
    assert (np.isnan(clustering.closeness) == empty).all()
    assert clustering.reader_agreement == 1
    check_against_reader(matrix, clustering)


@pytest.mark.parametrize("rating_max", [2, 1e10])
def test_ratings_just_above_zero_are_clustered_as_a_reader_finds_them(rating_max: float) -> None:
    for least in (0.5, 1e-7, 1e-30, 1e-300):
        rows = some_users(DRAWN, lambda u, i, least=least: 2.0 if (u + i) % 3 else least)
        ratings = ratings_of(rows, rating_max=rating_max)
        settings = load_settings(rating_min=0, rating_max=rating_max, clusters_k=6)
        matrix, clustering = clustered(ratings, settings)
        to_centroids = distances(ratings.matrix()[:, matrix.columns], clustering.centroids)
        expected = np.where(to_centroids.min(axis=1) < 1, to_centroids.argmin(axis=1), -1)
        assert clustering.labels.tolist() == expected.tolist()
        assert (clustering.labels >= 0)[matrix.rows.max(axis=1).toarray() == 2].all()
        assert clustering.space == "tastes"


def test_the_highest_valid_rating_does_not_change_the_clusters() -> None:
    rows = some_users(DRAWN, lambda u, i: 1 + (u + i) % 5)
    one, other = (
        clustered(ratings_of(rows, 1, high), load_settings(rating_max=high, clusters_k=6))[1]
        for high in (5, 1e10)
    )
    assert np.array_equal(one.centroids, other.centroids)


@pytest.mark.parametrize(
    "rows",
    [
        [("u", "a", 3)],
        [("u", "a", 3), ("v", "a", 3)],
        [("u", "a", 3), ("v", "b", 3), ("w", "b", 1)],
    ],
)
def test_without_a_user_of_two_ratings_the_ratings_are_clustered(
    rows: list[tuple[str, str, float]], caplog: pytest.LogCaptureFixture
) -> None:
    settings, ratings = load_settings(), ratings_of(rows)
    matrix, clustering = clustered(ratings, settings)
    assert clustering.space == "ratings"
    assert clustering.distances == pytest.approx(0)
    assert "WARNING" in [record.levelname for record in caplog.records]
    scored = score(matrix.confidence, matrix.ratings, clustering.centroids, matrix.columns)
    for scores in scored.scores:
        assert (np.argsort(-scores) == np.argsort(-scored.fallback)).all()
    assert evaluate_clusters(ratings, matrix, settings)["reason"]


def test_equal_users_are_one_cluster() -> None:
    ratings = ratings_of([(user, item, 4) for user in "uvw" for item in "ab"])
    for k in (1, 2):
        _, clustering = clustered(ratings, load_settings(clusters_k=k))
        assert clustering.sizes.tolist() == [3]
        assert clustering.closeness == pytest.approx(1)


@pytest.mark.parametrize("space", SPACES)
def test_equal_ratings_are_clustered_by_who_rates_what(space: str) -> None:
    varied = tiny_ratings()
    ratings = replace(varied, rating=np.full_like(varied.rating, 4))
    matrix, clustering = clustered(ratings, load_settings(clusters_space=space, clusters_k=8))
    assert len(clustering.sizes) > 1
    assert clustering.sizes.sum() == (clustering.labels >= 0).sum()
    scored = score(matrix.confidence, matrix.ratings, clustering.centroids, matrix.columns)
    assert np.isfinite(scored.scores).all()


@pytest.mark.parametrize("few_columns", [False, True])
@pytest.mark.parametrize("space", SPACES)
def test_a_reader_finds_the_clusters_of_the_training(
    few_columns: bool, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if few_columns:
        monkeypatch.setattr(bson_size, "MAX_DOCUMENT_BYTES", 4096 + 9 * 20 * 12)
    for rating_min in (1, -3, 0.5):
        settings = load_settings(clusters_k=9, clusters_space=space, rating_min=rating_min)
        matrix, clustering = clustered(tiny_ratings(), settings)
        assert (len(matrix.columns) < 30) == few_columns
        assert clustering.reader_agreement > 0.99
        check_against_reader(matrix, clustering)


def test_clusters_that_no_reader_finds_are_dropped() -> None:
    ratings = ratings_of([("u", "a", 2), ("v", "b", 2), ("w", "c", 2)])
    rows = user_matrix(ratings, k=3, rating_min=1).rows
    centroids = np.array([[1.0, 0, 0], [0, 0, 0], [0, 1, 0]])
    labels, gaps = np.array([0, 2, 1], np.int32), np.array([0, 0.5, np.nan])
    trained = KMeansResult(centroids, labels, gaps, 0.5)
    clustering = as_read(rows, trained, "tastes")
    assert clustering.closeness == pytest.approx([1, 0.5, np.nan], nan_ok=True)
    assert clustering.labels.tolist() == [0, 1, -1]
    assert clustering.sizes.tolist() == [1, 1]
    assert clustering.centroids.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert clustering.reader_agreement == pytest.approx(2 / 3)


@pytest.mark.parametrize("space", SPACES)
def test_planted_groups_of_active_users_are_found(space: str) -> None:
    population = populate(TINY_CITY)
    blocks = list(review_blocks(population))
    user, item, rating = (
        np.concatenate([getattr(block, name) for block in blocks])
        for name in ("user", "restaurant", "rating")
    )
    active = (np.bincount(user) >= 15)[user]
    ratings = ratings_of(
        [
            (int(u), int(i), float(r))
            for u, i, r in zip(user[active], item[active], rating[active], strict=True)
        ]
    )
    settings = load_settings(clusters_k=TINY_CITY.tastes, clusters_space=space)
    of_seeds = (clustered(ratings, settings.with_values({"seed": seed}))[1] for seed in range(5))
    clustering = min(of_seeds, key=lambda clustering: clustering.inertia)
    groups = population.taste[decode_ids(ratings.users)]
    assert adjusted_rand_score(groups, clustering.labels) > 0.6
