"""Evaluation of the clusters on users who were left out."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.als.fold_in import preference_model
from recommender.clustering import evaluate
from recommender.clustering.evaluate import evaluate_clusters
from recommender.clustering.fit import Clustering, cluster
from recommender.clustering.user_matrix import UserMatrix, user_matrix
from recommender.core.settings import ClustersSettings, Settings, load_settings
from recommender.data.ratings import Ratings
from recommender.evaluation.metrics import RANKING
from recommender.evaluation.splitting import choose_test_users
from tests.small_cities import DEGENERATE, DRAWN, some_users, tiny_ratings
from tests.support import ratings_of


@pytest.fixture(autouse=True)
def _clean(clean_environment: object) -> None:
    """Ignore the settings of the developer."""


def matrix_of(ratings: Ratings, settings: Settings) -> UserMatrix:
    return user_matrix(ratings, settings.clusters.k, settings.reviews.rating_min)


def test_test_users_are_served_better_than_by_one_list_for_all() -> None:
    settings = load_settings(clusters_k=4)
    ratings = tiny_ratings()
    matrix = matrix_of(ratings, settings)
    quality = evaluate_clusters(ratings, matrix, settings)
    assert quality["users"] > 15
    assert quality["shown"] == 13
    assert 0 < quality["ndcg_error"] < 0.1
    assert quality["popular"]["ndcg_error"] > 0
    assert quality["ndcg"] > quality["popular"]["ndcg"] > 0
    assert quality["coverage"] > quality["popular"]["coverage"]
    assert quality == evaluate_clusters(ratings, matrix, settings)


def test_without_a_second_rating_there_is_a_reason_instead_of_figures() -> None:
    settings, ratings = load_settings(), ratings_of(DEGENERATE["one rating each"])
    quality = evaluate_clusters(ratings, matrix_of(ratings, settings), settings)
    assert [quality[name] for name in RANKING] == [None] * 7
    assert quality["reason"]


def test_test_users_are_no_training_users(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, ratings = load_settings(clusters_k=4), tiny_ratings()
    matrix = matrix_of(ratings, settings)
    trained_on: list[UserMatrix] = []

    def spied(train: UserMatrix, clusters: ClustersSettings, seed: int) -> Clustering:
        trained_on.append(train)
        return cluster(train, clusters, seed)

    monkeypatch.setattr(evaluate, "cluster", spied)
    evaluate_clusters(ratings, matrix, settings)
    (train,) = trained_on
    users = matrix.rows.shape[0]
    expected = ~choose_test_users(users, 0.1, settings.seed)
    assert train.rows.shape[0] == train.ratings.shape[0] == expected.sum() == users - users // 10
    assert (train.rows.toarray() == matrix.rows[expected].toarray()).all()


def test_on_a_scale_from_zero_test_users_are_assigned_by_raw_ratings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load_settings(clusters_k=4, rating_min=0, rating_max=2, als_test_fraction=0.5)
    rows = some_users(DRAWN, lambda u, i: (u + 2 * i) % 3)
    ratings = ratings_of(rows, rating_max=2)
    assigned, assign = [], Clustering.assign

    def spied(clustering: Clustering, rows: csr_array) -> NDArray[np.int32]:
        assigned.append(rows)
        return assign(clustering, rows)

    monkeypatch.setattr(Clustering, "assign", spied)
    evaluate_clusters(ratings, matrix_of(ratings, settings), settings)
    (rows_of_test_users,) = assigned
    assert {0, 2} <= set(rows_of_test_users.data) <= {0, 1, 2}


def test_without_a_rating_above_zero_in_training_there_is_a_reason() -> None:
    settings = load_settings(rating_min=0, rating_max=2, als_test_fraction=0.5)
    zeros = [(f"s{i}", "a", 0) for i in range(9)]
    ratings = ratings_of([*zeros, ("u", "a", 2), ("u", "b", 2), ("u", "c", 2)], rating_max=2)
    # The seed leaves out the one user with ratings above 0.
    alone = next(s for s in range(99) if choose_test_users(10, 0.1, s)[9])
    settings = settings.with_values({"seed": alone})
    quality = evaluate_clusters(ratings, matrix_of(ratings, settings), settings)
    assert quality["ndcg"] is None
    assert "training users" in quality["reason"]


def test_the_preferences_of_the_training_members_take_part() -> None:
    """Members' preferences that are against their ratings make the clusters' lists worse."""
    settings, ratings = load_settings(clusters_k=4), tiny_ratings()
    matrix = matrix_of(ratings, settings)
    counts = np.bincount(ratings.restaurant)
    rarely_rated = (1 / (1 + counts)[:, None]).astype(np.float32)
    against = preference_model(rarely_rated, np.zeros(len(counts)), alpha=1, reg_param=1)
    alone = evaluate_clusters(ratings, matrix, settings)
    quality = evaluate_clusters(ratings, matrix, settings, preferences=against)
    assert quality["ndcg"] < alone["ndcg"]
    assert quality["popular"] == alone["popular"]
