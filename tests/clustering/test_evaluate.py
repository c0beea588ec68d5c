"""Evaluation of the clusters on users who were left out."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from recommender.clustering import evaluate
from recommender.clustering.evaluate import evaluate_clusters
from recommender.clustering.fit import Clustering, cluster
from recommender.clustering.user_matrix import UserMatrix, user_matrix
from recommender.core.settings import ClustersSettings, load_settings
from recommender.evaluation.metrics import RANKING
from recommender.evaluation.splitting import split_users
from tests.small_cities import DEGENERATE, DRAWN, some_users, tiny_ratings
from tests.support import ratings_of


@pytest.fixture(autouse=True)
def _clean(clean_environment: object) -> None:
    """Ignore the settings of the developer."""


def test_test_users_are_served_better_than_by_one_list_for_all() -> None:
    settings = load_settings(clusters_k=4)
    ratings = tiny_ratings()
    quality = evaluate_clusters(user_matrix(ratings, settings), settings)
    assert quality["users"] > 20
    assert quality["shown"] == 13
    assert 0 < quality["ndcg_error"] < 0.1
    assert quality["popular"]["ndcg_error"] > 0
    assert quality["ndcg"] > quality["popular"]["ndcg"] > 0
    assert quality["coverage"] > quality["popular"]["coverage"]
    assert quality == evaluate_clusters(user_matrix(ratings, settings), settings)


def test_without_a_second_rating_there_is_a_reason_instead_of_figures() -> None:
    settings = load_settings()
    matrix = user_matrix(ratings_of(DEGENERATE["one rating each"]), settings)
    quality = evaluate_clusters(matrix, settings)
    assert [quality[name] for name in RANKING] == [None] * 7
    assert quality["reason"]


def test_test_users_are_no_training_users(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(clusters_k=4)
    matrix = user_matrix(tiny_ratings(), settings)
    trained_on: list[UserMatrix] = []

    def spied(train: UserMatrix, clusters: ClustersSettings, seed: int) -> Clustering:
        trained_on.append(train)
        return cluster(train, clusters, seed)

    monkeypatch.setattr(evaluate, "cluster", spied)
    evaluate_clusters(matrix, settings)
    (train,) = trained_on
    users = matrix.rows.shape[0]
    expected = split_users(matrix.ratings, 0, seed=settings.seed).train_users
    assert train.rows.shape[0] == train.ratings.shape[0] == len(expected) == users - users // 10
    assert (train.rows.toarray() == matrix.rows[expected].toarray()).all()


def test_on_a_scale_from_zero_test_users_are_assigned_by_raw_ratings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load_settings(clusters_k=4, rating_min=0, rating_max=2)
    rows = some_users(DRAWN, lambda u, i: (u + 2 * i) % 3)
    assigned, assign = [], Clustering.assign

    def spied(clustering: Clustering, rows: csr_array) -> NDArray[np.int32]:
        assigned.append(rows)
        return assign(clustering, rows)

    monkeypatch.setattr(Clustering, "assign", spied)
    evaluate_clusters(user_matrix(ratings_of(rows, rating_max=2), settings), settings)
    assert [set(rows.data) for rows in assigned] == [{0, 1, 2}]


def test_without_a_rating_above_zero_in_training_there_is_a_reason() -> None:
    settings = load_settings(rating_min=0, rating_max=2)
    zeros = [(f"s{i}", "a", 0) for i in range(9)]
    matrix = user_matrix(
        ratings_of([*zeros, ("u", "a", 2), ("u", "b", 2), ("u", "c", 1)], rating_max=2), settings
    )
    alone = next(s for s in range(99) if split_users(matrix.ratings, 2, seed=s).seen.nnz)
    quality = evaluate_clusters(matrix, settings.with_values({"seed": alone}))
    assert quality["ndcg"] is None
    assert quality["reason"]
