"""Evaluation of the clusters, and predicted ratings, against loops over users."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dists import distance
from recommender.clustering import evaluate
from recommender.clustering.evaluate import evaluate_clusters, rating_means
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


def test_predicted_ratings_are_evaluated_on_ratings_of_any_value() -> None:
    settings = load_settings(clusters_k=4)
    matrix = user_matrix(tiny_ratings(), settings)
    quality = evaluate_clusters(matrix, settings)["ratings"]
    test = split_users(matrix.ratings, 0, seed=settings.seed)
    train = matrix.subset(test.train_users)
    clustering = cluster(train, settings.clusters, settings.seed)
    means = rating_means(train.ratings, clustering.labels, 4)
    errors, errors_of_mean = [], []
    for seen, unseen in zip(test.seen.toarray(), test.relevant.toarray(), strict=True):
        distances = [distance(seen[matrix.columns], centroid) for centroid in clustering.centroids]
        label = int(np.argmin(distances)) if min(distances) < 1 else -1
        errors += [unseen[i] - means[label, i] for i in np.flatnonzero(unseen)]
        errors_of_mean += [unseen[i] - train.ratings.data.mean() for i in np.flatnonzero(unseen)]
    assert test.relevant.data.min() < 4
    assert (quality["rows"], quality["cold"]) == (len(errors), 0)
    assert quality["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    assert quality["mean_rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors_of_mean))))
    assert max(quality["rmse"], quality["city_rmse"]) < quality["mean_rmse"]
    assert quality["rmse"] != quality["city_rmse"]


def test_without_a_second_rating_there_is_a_reason_instead_of_figures() -> None:
    settings = load_settings()
    matrix = user_matrix(ratings_of(DEGENERATE["one rating each"]), settings)
    quality = evaluate_clusters(matrix, settings)
    assert [quality[name] for name in RANKING] == [None] * 7
    assert quality["reason"]
    assert quality["ratings"]["rmse"] is quality["ratings"]["city_rmse"] is None
    assert quality["ratings"]["reason"]


def test_ratings_are_predicted_for_users_without_relevant_items() -> None:
    settings = load_settings(clusters_k=3)
    ratings = ratings_of(some_users(DRAWN, lambda u, i: 1 + i % 2))
    quality = evaluate_clusters(user_matrix(ratings, settings), settings)
    assert (quality["users"], quality["ndcg"]) == (0, None)
    assert quality["ratings"]["rmse"] < quality["ratings"]["mean_rmse"]


def test_test_users_do_not_take_part_in_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert [set(rows.data) for rows in assigned] == [{0, 1, 2}, {0, 1, 2}]


def test_without_a_rating_above_zero_in_training_there_is_a_reason() -> None:
    settings = load_settings(rating_min=0, rating_max=2)
    zeros = [(f"s{i}", "a", 0) for i in range(9)]
    matrix = user_matrix(
        ratings_of([*zeros, ("u", "a", 2), ("u", "b", 2), ("u", "c", 1)], rating_max=2), settings
    )
    alone = next(s for s in range(99) if split_users(matrix.ratings, 2, seed=s).seen.nnz)
    quality = evaluate_clusters(matrix, settings.with_values({"seed": alone}))
    assert (quality["ndcg"], quality["ratings"]["rmse"]) == (None, None)
    assert quality["reason"]
    assert quality["ratings"]["reason"]


def slow_means(rows: csr_array, labels: list[int], k: int) -> NDArray[np.float64]:
    """The definition, rating by rating, with damping from a grid."""
    rated = [
        (u, i, r) for u, row in enumerate(rows.toarray().tolist()) for i, r in enumerate(row) if r
    ]
    mean = np.mean([r for _, _, r in rated])
    grid = np.exp(np.linspace(-14, 14, 400))

    def average(others: list[float], prior: float, w: float) -> float:
        return float((sum(others) + w * prior) / (len(others) + w))

    def of_item(i: int, without: int | None = None) -> list[float]:
        return [r for v, j, r in rated if j == i and v != without]

    def of_cluster(c: int, i: int, without: int | None = None) -> list[float]:
        return [r for v, j, r in rated if (labels[v], j) == (c, i) and v != without]

    def errors(w: float, priors: list[float], others: list[list[float]], on: list[float]) -> float:
        triples = zip(others, priors, on, strict=True)
        return sum((r - average(rest, prior, w)) ** 2 for rest, prior, r in triples)

    rest = [of_item(i, u) for u, i, _ in rated]
    on = [r for _, _, r in rated]
    v = min(grid, key=lambda w: errors(w, [mean] * len(on), rest, on))
    within = [(u, i, r, others) for (u, i, r), others in zip(rated, rest, strict=True)]
    within = [entry for entry in within if labels[entry[0]] >= 0]
    priors = [average(others, mean, v) for _, _, _, others in within]
    rest = [of_cluster(labels[u], i, u) for u, i, _, _ in within]
    on = [r for _, _, r, _ in within]
    w = min(grid, key=lambda w: errors(w, priors, rest, on))
    city = [average(of_item(i), mean, v) for i in range(rows.shape[1])]
    means = [
        [average(of_cluster(c, i), city[i], w) for i in range(rows.shape[1])] for c in range(k)
    ]
    return np.array([*means, city])


def opinionated(seed: int) -> tuple[csr_array, NDArray[np.int32]]:
    """Two clusters that rate different items highly, and some users without one."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 2, 60).astype(np.int32)
    means = np.where(labels[:, None] == np.arange(10) % 2, 4.5, 1.5)
    ratings = np.clip(np.round(means + 0.7 * rng.normal(size=(60, 10))), 1, 5)
    return csr_array(ratings * (rng.random((60, 10)) < 0.3)), labels


def test_the_damping_of_mean_ratings_predicts_them_best() -> None:
    for seed in range(2):
        rows, labels = opinionated(seed)
        means = rating_means(rows, labels, 2)
        assert means == pytest.approx(slow_means(rows, labels.tolist(), 2), abs=0.01)
        assert means[0, 0] > 3.5 > 2.5 > means[0, 1]


def test_where_clusters_agree_their_means_are_those_of_all_users() -> None:
    rng = np.random.default_rng(0)
    quality = rng.uniform(1, 5, 12)
    rows = csr_array((quality + 0.5 * rng.normal(size=(400, 12))) * (rng.random((400, 12)) < 0.4))
    means = rating_means(rows, rng.integers(0, 4, 400).astype(np.int32), 4)
    assert means[-1] == pytest.approx(quality, abs=0.15)
    assert np.abs(means[:-1] - means[-1]).max() < 0.1


def test_an_item_without_ratings_has_no_mean_and_one_rating_is_that_of_every_cluster() -> None:
    means = rating_means(csr_array(np.array([[0, 4.0]])), np.array([-1], np.int32), 2)
    assert np.isnan(means[:, 0]).all()
    assert means[:, 1] == pytest.approx(4)
