"""The test vectors for readers, against a reader written from the contract."""

import numpy as np
import pytest

from recommender.clustering.reader_checks import distance_checks, user_checks


def plain_distance(x: list[float], c: list[float]) -> float:
    larger = max(sum(v * v for v in x), sum(v * v for v in c))
    return 1 - sum(a * b for a, b in zip(x, c, strict=True)) / larger if larger else 1.0


def test_the_pairs_have_the_distances_of_the_contract() -> None:
    checks = distance_checks()
    for check in checks:
        assert check["distance"] == pytest.approx(plain_distance(check["x"], check["c"]), abs=1e-15)
    distances = {check["distance"] for check in checks}
    assert {0, 1} < distances


def test_each_user_is_in_the_cluster_of_the_check() -> None:
    centroids = np.random.default_rng(0).dirichlet(np.full(20, 0.2), size=14)
    ids = [f"r{i}" for i in range(20)]
    for shift in (0.0, 3.0):
        checks = list(user_checks(centroids, ids, (5, 1), shift))
        assert checks[0] == {"ratings": [], "cluster_id": None, "distance": 1.0}
        assert len(checks) > 5
        for check in checks[1:]:
            rated = {entry["gmap_id"]: entry["rating"] + shift for entry in check["ratings"]}
            x = [rated.get(i, 0.0) for i in ids]
            distances = [plain_distance(x, centroid.tolist()) for centroid in centroids]
            assert check["cluster_id"] == np.argmin(distances)
            assert check["distance"] == pytest.approx(min(distances))


def test_users_between_two_clusters_are_left_out() -> None:
    assert len(list(user_checks(np.ones((2, 2)), ["a", "b"], (5,), 0))) == 1
    assert len(list(user_checks(np.zeros((1, 1)), ["a"], (5,), 0))) == 1
    _, check = user_checks(np.ones((1, 1)), ["a"], (5,), 0)
    assert check["cluster_id"] == 0
