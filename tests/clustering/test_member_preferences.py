"""Members' preferences in the scores of clusters, against a loop over the members."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from recommender.als.fold_in import PreferenceModel, preference_model
from recommender.clustering import member_preferences
from recommender.clustering.fit import cluster
from recommender.clustering.member_preferences import mean_preferences, score_clusters
from recommender.clustering.scoring import score
from recommender.clustering.user_matrix import user_matrix
from recommender.core.settings import load_settings
from tests.small_cities import tiny_ratings


def preferences(items: int) -> PreferenceModel:
    factors = np.random.default_rng(1).standard_normal((items, 3)).astype(np.float32)
    return preference_model(factors, np.arange(items), alpha=2.0, reg_param=0.5)


def test_the_mean_is_that_of_the_members_with_two_ratings() -> None:
    rng = np.random.default_rng(0)
    confidence = csr_array(rng.integers(1, 6, (40, 12)) * (rng.random((40, 12)) < 0.2) * 1.0)
    labels, model = rng.integers(-1, 3, 40).astype(np.int32), preferences(12)
    means = mean_preferences(model, confidence, labels, 4, seed=0)
    scores = model.user_factors(confidence) @ model.item_factors.T
    several = np.diff(confidence.indptr) >= 2
    assert (labels[~several] >= 0).any()
    for k in range(3):
        expected = scores[(labels == k) & several].mean(axis=0)
        assert (expected < 0).any()
        assert means[k] == pytest.approx(np.maximum(expected, 1e-4 * expected.max()), rel=1e-5)
    assert (means[3] == 1).all()  # no member


def test_a_sample_of_the_members_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_preferences, "_MOST_MEMBERS", 5)
    confidence, model = csr_array(np.random.default_rng(0).random((40, 12))), preferences(12)
    labels = np.zeros(40, np.int32)
    one, same, other = (mean_preferences(model, confidence, labels, 1, seed) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


@pytest.mark.usefixtures("clean_environment")
def test_a_score_is_the_geometric_mean_of_both() -> None:
    settings = load_settings(clusters_k=4)
    matrix = user_matrix(tiny_ratings(), settings.clusters.k, settings.reviews.rating_min)
    clustering = cluster(matrix, settings.clusters, settings.seed)
    alone = score(matrix.confidence, matrix.ratings, clustering.centroids, matrix.columns)
    model = preferences(matrix.ratings.shape[1])
    means = mean_preferences(model, matrix.confidence, clustering.labels, 4, seed=0)
    scored = score_clusters(clustering, matrix, model, seed=0)
    assert scored.scores == pytest.approx(np.sqrt(alone.scores * means))
    assert (scored.fallback == alone.fallback).all()
    assert (score_clusters(clustering, matrix, None, seed=0).scores == alone.scores).all()
