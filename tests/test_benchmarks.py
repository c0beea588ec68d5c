"""The benchmarks of known and new users, on small data."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from benchmarks import datasets, known_users, new_users, peers
from recommender.clustering.fit import cluster
from recommender.clustering.user_matrix import user_matrix
from recommender.core.settings import load_settings
from recommender.data.ratings import Ratings
from tests.support import ratings_of

pytestmark = pytest.mark.nightly


def test_the_clusters_are_evaluated_on_a_file(
    clean_environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    path = clean_environment / "ratings.csv"
    rows = [
        f"{user},{10 * (user % 3) + item},{rng.integers(1, 6)}"
        for user in range(300)
        for item in rng.choice(10, 2 + user % 4, replace=False)
    ]
    path.write_text("\n".join(["user,place,stars", *rows]))
    maps = ("user_id=user", "gmap_id=place", "rating=stars")
    columns = [text for each in maps for text in ("--map", each)]
    new_users.main([str(path), *columns, "-k", "3", "--splits", "2", "--least", "1", "3"])
    printed = capsys.readouterr().out
    assert f"300 users with 1 or more of {len(rows):,} ratings, k=3" in printed
    assert "225 users with 3 or more" in printed
    lines = {line.split()[0]: line.split() for line in printed.splitlines() if line}
    listed = [line for line in printed.splitlines() if line.startswith(("tastes", "popular "))]
    clusters, popular = (float(line.split()[1]) for line in listed[:2])
    assert clusters > 1.5 * popular
    assert float(lines["folded"][2]) > 1.5 * popular
    assert "nan" not in printed


def test_the_compared_scores_follow_their_definitions() -> None:
    rows = [("u", "a", 5), ("u", "b", 3), ("v", "a", 4), ("v", "c", 1)]
    settings = load_settings(clusters_k=1)
    matrix = user_matrix(ratings_of([(u, p, float(r)) for u, p, r in rows]), k=1, rating_min=1)
    clustering = cluster(matrix, settings.clusters, settings.seed)
    scores = new_users.scored(matrix, clustering, settings)
    assert scores["member mean, unrated 0"].tolist() == [[4.5, 1.5, 0.5]]
    assert scores["... damped by 100"] == pytest.approx(np.array([[4.5, 1.5, 0.5]]))
    assert scores["share of relevant"].tolist() == [[1, 0, 0]]
    mean = 13 / 4
    bayesian = [2 * (9 + 10 * mean) / 12, (3 + 10 * mean) / 11, (1 + 10 * mean) / 11]
    assert scores["count x Bayesian mean"] == pytest.approx(np.array([bayesian]))
    assert scores["popular list"].tolist() == [[4.5, 1.5, 0.5]]


def test_methods_that_use_more_of_the_data_rank_higher() -> None:
    settings = load_settings(als_top_n=5)
    splits = [known_users.split_of(_tiny_city(), settings, seed) for seed in range(2)]
    assert (splits[0].train.rating.size, splits[0].test.rating.size) != (0, 0)
    ratings = _rows(known_users.ratings_table(splits, peers.PLAIN_RATING))
    assert ratings["bias, damping 5"][0] < 0.9 * ratings["global mean"][0]
    lists = _rows(known_users.lists_table(splits, peers.PLAIN_RANKING))
    assert lists["random"][0] < lists["popular"][0] < 0.8 * lists["EASE, lambda 50"][0]
    assert lists["random"][known_users.OF_LISTS.index("coverage")] == 1
    figures = len(known_users.OF_LISTS)
    behind, last = lists["random"][figures], [*lists.values()][-1]
    assert behind == pytest.approx(lists["random"][0] - last[0], abs=2e-4)
    assert all(0 <= figure <= 1 for row in lists.values() for figure in row[:figures])


def test_no_fixed_parameters_in_the_table_are_better_than_those_of_the_regret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(known_users, "_FIXED_ALPHAS", (5.0, 20.0))
    settings = load_settings(als_alpha=20.0, als_preference_rank=64)
    splits = [known_users.split_of(_tiny_city(), settings, 0)]
    lines = list(known_users.regret_table(splits))
    rows = _rows(lines)
    regret = float(lines[-1].split()[2].rstrip("%,")) / 100
    assert rows["chosen"][0] in rows["20"]
    assert regret == pytest.approx(1 - rows["chosen"][0] / max(rows["5"] + rows["20"]), abs=0.002)


def test_missing_peers_are_left_out() -> None:
    splits = [known_users.split_of(_tiny_city(), load_settings(), 0)]
    absent = replace(peers.PLAIN_RANKING[0], name="a peer", needs="no_such_package")
    small = replace(peers.PLAIN_RANKING[0], name="another", most_restaurants=10)
    lines = list(known_users.lists_table(splits, [absent, *peers.PLAIN_RANKING, small]))
    assert ["no_such_package" in line for line in lines[-2:]] == [True, False]
    assert not any(line.startswith(("| a peer", "| another")) for line in lines)


def test_ties_are_ranked_by_popularity() -> None:
    ratings = ratings_of([(*pair, 5.0) for pair in ("ua", "ub", "vb", "vc", "wb", "wc")])
    sets = replace(
        known_users.split_of(ratings, load_settings(), 0),
        train=ratings,
        users=np.array([0, 1]),
        seen=ratings.matrix()[[0, 1]],
    )
    unseen = replace(sets, seen=csr_array((2, 3)))

    def lists(sets: known_users.Split, n: int, scores: list[float]) -> list[list[int]]:
        score = lambda users: np.tile(scores, (len(users), 1))  # noqa: E731
        ranked: list[list[int]] = known_users.lists_of(score, sets, n).tolist()
        return ranked

    assert lists(sets, 4, [0, 0, 0]) == [[2, -1, -1, -1], [0, -1, -1, -1]]
    assert lists(unseen, 2, [0, 0, 0]) == [[1, 2]] * 2
    assert lists(unseen, 2, [0, 1, 2]) == [[2, 1]] * 2


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
        known_users.lists_table([known_users.split_of(ratings, settings, 0)], peers.PLAIN_RANKING)
    )
    assert lists["random"][0] < lists["EASE, lambda 50"][0]


def _tiny_city() -> Ratings:
    """Ratings of users in three quarters, mostly of restaurants of their own quarter."""
    rng = np.random.default_rng(1)
    rows = []
    for user in range(240):
        strict = rng.integers(0, 2)
        weights = np.where(np.arange(36) // 12 == user % 3, 8.0, 1.0) / np.arange(1, 37) ** 0.2
        for item in rng.choice(36, 8, replace=False, p=weights / weights.sum()):
            stars = 5 - 2 * strict - item % 2 + rng.integers(0, 2)
            rows.append((user, int(item), float(np.clip(stars, 1, 5))))
    return ratings_of(rows)


def _rows(table: Iterable[str]) -> dict[str, list[float]]:
    """Return the means, and the seconds, of each row of a Markdown table."""
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table][2:]
    return {name: [float(cell.split()[0]) for cell in row] for name, *row in cells}
