"""The benchmarks of known and new users, on small data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from benchmarks import datasets
from benchmarks import known_users as quality
from benchmarks import new_users as clusters
from benchmarks import peers as contenders
from recommender.clustering.fit import cluster
from recommender.clustering.user_matrix import user_matrix
from recommender.core.settings import load_settings
from recommender.data.ratings import Ratings
from tests.support import ratings_of

pytestmark = pytest.mark.nightly


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
    assert float(lines["folded"][2]) > 1.5 * float(found[1].split()[1])
    assert "nan" not in printed


def test_the_scores_compared_are_what_they_are_called() -> None:
    rows = [("u", "a", 5), ("u", "b", 3), ("v", "a", 4), ("v", "c", 1)]
    settings = load_settings(clusters_k=1)
    matrix = user_matrix(ratings_of([(u, p, float(r)) for u, p, r in rows]), settings)
    found = clusters.scored(matrix, cluster(matrix, settings), settings)
    assert found["member mean, unrated 0"].tolist() == [[4.5, 1.5, 0.5]]
    assert found["... damped by 100"] == pytest.approx(np.array([[4.5, 1.5, 0.5]]))
    assert found["share of relevant"].tolist() == [[1, 0, 0]]
    mean = 13 / 4
    bayesian = [2 * (9 + 10 * mean) / 12, (3 + 10 * mean) / 11, (1 + 10 * mean) / 11]
    assert found["count x Bayesian mean"] == pytest.approx(np.array([bayesian]))
    assert found["popular list"].tolist() == [[4.5, 1.5, 0.5]]


def test_methods_that_use_more_of_the_data_rank_higher() -> None:
    settings = load_settings(als_top_n=5)
    splits = [quality.split_of(_tiny_city(), settings, seed) for seed in range(2)]
    assert (splits[0].train.rating.size, splits[0].test.rating.size) != (0, 0)
    ratings = _rows(quality.ratings_table(splits, contenders.PLAIN_RATING))
    assert ratings["bias, damping 5"][0] < 0.9 * ratings["global mean"][0]
    lists = _rows(quality.lists_table(splits, contenders.PLAIN_RANKING))
    assert lists["random"][0] < lists["popular"][0] < 0.8 * lists["EASE"][0]
    assert lists["random"][quality.OF_LISTS.index("coverage")] == 1
    figures = len(quality.OF_LISTS)
    behind = lists["random"][figures]
    assert behind == pytest.approx(lists["random"][0] - lists["EASE"][0], abs=2e-4)
    assert all(0 <= figure <= 1 for row in lists.values() for figure in row[:figures])


def test_missing_peers_are_left_out() -> None:
    splits = [quality.split_of(_tiny_city(), load_settings(), 0)]
    absent = replace(contenders.PLAIN_RANKING[0], name="a peer", needs="no_such_package")
    small = replace(contenders.PLAIN_RANKING[0], name="another", most_restaurants=10)
    lines = list(quality.lists_table(splits, [absent, *contenders.PLAIN_RANKING, small]))
    assert lines[-2:] == [
        "Left out: a peer, as no_such_package is not installed.",
        "Left out: another, as more than 10 restaurants.",
    ]


def test_ties_are_ranked_by_popularity() -> None:
    rows = [
        ("u", "a", 5),
        ("u", "b", 5),
        ("v", "b", 5),
        ("v", "c", 5),
        ("w", "b", 5),
        ("w", "c", 5),
    ]
    ratings = ratings_of([(u, p, float(r)) for u, p, r in rows])
    one = replace(
        quality.split_of(ratings, load_settings(), 0),
        train=ratings,
        users=np.array([0, 1]),
        seen=ratings.matrix()[[0, 1]],
    )
    alike = quality.lists_of(lambda users: np.zeros((len(users), 3)), one, 4)
    assert alike.tolist() == [[2, -1, -1, -1], [0, -1, -1, -1]]
    one = replace(one, seen=csr_array((2, 3)))
    assert (
        quality.lists_of(lambda users: np.zeros((len(users), 3)), one, 2).tolist() == [[1, 2]] * 2
    )
    scored = quality.lists_of(lambda users: np.tile([0, 1, 2], (len(users), 1)), one, 2)
    assert scored.tolist() == [[2, 1]] * 2


def test_the_generated_sets_follow_their_laws() -> None:
    settings, law = load_settings(), datasets.Law(users=600, items=50, mean_ratings=5)
    ratings = datasets.generate(law, settings)
    again = datasets.generate(law, settings)
    assert np.array_equal(ratings.rating, again.rating)
    assert len(ratings.users) == 600
    assert 4 < len(ratings) / 600 < 6
    assert set(ratings.rating) <= {1, 2, 3, 4, 5}
    flat = datasets.generate(replace(law, skew=0.0), settings)
    largest, flattest = (np.bincount(one.restaurant).max() for one in (ratings, flat))
    assert largest > 1.5 * flattest
    lists = _rows(
        quality.lists_table([quality.split_of(ratings, settings, 0)], contenders.PLAIN_RANKING)
    )
    assert lists["random"][0] < lists["EASE"][0]


def _tiny_city() -> Ratings:
    """Ratings of users in three quarters, mostly of restaurants of their own quarter."""
    rng = np.random.default_rng(1)
    rows = []
    for user in range(240):
        strict = rng.integers(0, 2)
        weights = np.where(np.arange(36) // 12 == user % 3, 8.0, 1.0) / np.arange(1, 37) ** 0.2
        for place in rng.choice(36, 8, replace=False, p=weights / weights.sum()):
            stars = 5 - 2 * strict - place % 2 + rng.integers(0, 2)
            rows.append((user, int(place), float(np.clip(stars, 1, 5))))
    return ratings_of(rows)


def _rows(table: Iterable[str]) -> dict[str, list[float]]:
    """Return the means, and the seconds, of each row of a Markdown table."""
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table][2:]
    return {name: [float(cell.split()[0]) for cell in row] for name, *row in cells}
