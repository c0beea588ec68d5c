"""The benchmark of the clusters, on a small file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import clusters
from clustering_training import cluster, user_matrix
from recommender.settings import load_settings
from tests.support import ratings_of


def test_the_clusters_are_judged_on_a_file(
    clean_environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    path = clean_environment / "ratings.csv"
    rows = [
        f"{user},{10 * (user % 3) + place},{rng.integers(1, 6)}"
        for user in range(300)
        for place in rng.choice(10, 2 + user % 4, replace=False)
    ]
    path.write_text("\n".join(["who,where,stars", *rows]))
    columns = ["--user", "who", "--restaurant", "where", "--rating", "stars"]
    clusters.main([str(path), *columns, "-k", "3", "--splits", "2", "--least", "1", "3"])
    printed = capsys.readouterr().out
    assert f"300 users with 1 or more of {len(rows):,} ratings, k=3" in printed
    assert "225 users with 3 or more" in printed
    lines = {line.split()[0]: line.split() for line in printed.splitlines() if line}
    assert float(lines["tastes"][4]) <= 0  # the largest rise
    found = [line for line in printed.splitlines() if line.startswith(("tastes", "popular "))]
    assert float(found[0].split()[1]) > 1.5 * float(found[1].split()[1])
    assert "nan" not in printed


def test_the_scores_compared_are_what_they_are_called() -> None:
    rows = [("u", "a", 5), ("u", "b", 3), ("v", "a", 4), ("v", "c", 1)]
    settings = load_settings(clusters_k=1)
    matrix = user_matrix(ratings_of([(u, p, float(r)) for u, p, r in rows]), settings)
    found = clusters.scored(matrix, cluster(matrix, settings), settings)
    assert found["member mean, unrated 0"].tolist() == [[4.5, 1.5, 0.5]]
    assert found["... leaning by 100"] == pytest.approx(np.array([[4.5, 1.5, 0.5]]))
    assert found["positives"].tolist() == [[1, 0, 0]]
    mean = 13 / 4
    bayesian = [2 * (9 + 10 * mean) / 12, (3 + 10 * mean) / 11, (1 + 10 * mean) / 11]
    assert found["count x Bayesian mean"] == pytest.approx(np.array([bayesian]))
    assert found["popular list"].tolist() == [[4.5, 1.5, 0.5]]
