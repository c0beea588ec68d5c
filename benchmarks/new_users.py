"""Quality of the clusters for new users, on a file of ratings.

``python -m benchmarks.new_users ratings.csv --map user_id=a --map gmap_id=b --map rating=c``
prints, for all users and for those with three ratings and more, as means over several splits:

- NDCG@13, hit rate and coverage for test users, for each space that can be clustered;
- the lists of scikit-learn's KMeans on the ratings, by the members' means; and of folding the test
  users in with item factors fitted to the training users;
- the lists of the same clusters by other scores.

Ratings are on the scale of ``RATING_MIN`` to ``RATING_MAX``, as in a training.
"""

import argparse
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.cluster import KMeans

from benchmarks.datasets import add_columns_options, read_file
from recommender.als.choose_preference import preference_embedding
from recommender.als.fold_in import (
    PreferenceModel,
    popularity_scores,
    preference_model,
    with_embedding,
)
from recommender.als.sweeps import implicit_step, random_factors, sweep
from recommender.als.top_n import top_n
from recommender.clustering.evaluate import evaluate_clusters
from recommender.clustering.fit import Clustering, cluster
from recommender.clustering.member_preferences import score_clusters
from recommender.clustering.scoring import best_items, score
from recommender.clustering.user_matrix import UserMatrix, user_matrix
from recommender.core.script import run_script
from recommender.core.settings import Settings, load_settings
from recommender.data.ratings import Ratings
from recommender.evaluation.metrics import ranking_quality
from recommender.evaluation.splitting import choose_test_users, relevant_items, split
from recommender.load import columns_of

_SPACES = ("tastes", "ratings")
_TEST_SHARE = 0.1
_ALPHA, _REG_PARAM = 20.0, 4.0
_RANK, _EMBEDDING_WEIGHT = 64, 0.5
_SHRINKAGE = 100
_BAYESIAN_RATINGS = 10

Floats = NDArray[np.float64]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    logging.getLogger().setLevel(logging.ERROR)
    settings = load_settings(clusters_k=arguments.k)
    columns = columns_of(arguments.preset, arguments.map, parser)
    all_ratings = read_file(arguments.file, settings, columns)
    for least in arguments.least:
        ratings = of_active_users(all_ratings, least)
        print(
            f"\n{len(ratings.users):,} users with {least} or more of {len(ratings):,} ratings, "
            f"k={arguments.k}"
        )
        for table in (spaces, others, scores):
            print()
            for line in table(ratings, settings, range(arguments.splits)):
                print(line, flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.new_users",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", help="CSV or JSON lines, as for recommender.load")
    add_columns_options(parser)
    parser.add_argument(
        "--least", type=int, nargs="+", default=[1, 3], help="least ratings of a user"
    )
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("-k", type=int, default=50)
    return parser


def of_active_users(ratings: Ratings, least: int) -> Ratings:
    """Return the ratings of the users who have at least ``least``."""
    active = np.bincount(ratings.user, minlength=len(ratings.users)) >= least
    chosen = ratings.rows(active[ratings.user])
    user = (np.cumsum(active) - 1).astype(np.int32)[chosen.user]
    return replace(chosen, users=ratings.users.filter(pa.array(active)), user=user)


def spaces(ratings: Ratings, settings: Settings, seeds: Sequence[int]) -> Iterator[str]:
    """Evaluate each space that can be clustered."""
    yield f"{'space':<10} {'NDCG':>7} {'hits':>7} {'coverage':>9} {'users':>7} {'seconds':>8}"
    for space in _SPACES:
        started, figures = time.perf_counter(), []
        for seed in seeds:
            train, _, of_split = _split(
                ratings, settings.with_values({"clusters_space": space}), seed
            )
            clusters, reviews = of_split.clusters, of_split.reviews
            matrix = user_matrix(ratings, clusters.k, reviews.rating_min)
            preferences = _preferences(train, of_split)
            figures.append(evaluate_clusters(ratings, matrix, of_split, preferences=preferences))
        seconds = (time.perf_counter() - started) / len(seeds)
        yield f"{_lists_line(space, figures)} {_mean(figures, 'users'):7.0f} {seconds:8.1f}"
    yield _lists_line("popular", [one["popular"] for one in figures])


def others(ratings: Ratings, settings: Settings, seeds: Sequence[int]) -> Iterator[str]:
    """Evaluate other models of the same training users."""
    for name, model in (("euclidean", _euclidean), ("folded in", _folded_in)):
        splits = (_split(ratings, settings, seed) for seed in seeds)
        yield _lists_line(name, [model(*split) for split in splits])


class TestUsers(NamedTuple):
    """The test users' ratings, split in two: (test users, items)."""

    seen: csr_array
    relevant: csr_array


def _split(
    ratings: Ratings, settings: Settings, seed: int
) -> tuple[UserMatrix, TestUsers, Settings]:
    """Return the training users' matrix, the test users and the settings of one split."""
    of_split = settings.with_values({"seed": seed})
    matrix = user_matrix(ratings, settings.clusters.k, settings.reviews.rating_min)
    is_test = choose_test_users(len(ratings.users), _TEST_SHARE, seed)
    train_set, test_set = split(ratings, settings.als, seed, is_test)
    users, relevant = relevant_items(test_set, settings.reviews.relevant_from)
    test = TestUsers(csr_array(train_set.matrix(matrix.shift)[users]), relevant)
    return matrix.subset(np.flatnonzero(~is_test)), test, of_split


def _preferences(train: UserMatrix, settings: Settings) -> PreferenceModel:
    """Return a preference model of the training users: ALS and the embedding."""
    confidence = train.confidence
    rows = csr_array(confidence[np.diff(confidence.indptr) >= 2])
    alpha = _ALPHA / float(confidence.data.mean())
    step = partial(implicit_step, alpha=alpha, reg_param=_REG_PARAM)
    start = random_factors(rows.shape[1], _RANK, settings.seed)
    factors = sweep(step, rows, start, settings.als.max_iter, 0)
    popularity = popularity_scores(confidence.indices, confidence.data, confidence.shape[1])
    model = preference_model(factors, popularity, alpha=alpha, reg_param=_REG_PARAM)
    return with_embedding(model, preference_embedding(rows, settings.seed), _EMBEDDING_WEIGHT)


def _euclidean(train: UserMatrix, test: TestUsers, settings: Settings) -> Mapping[str, Any]:
    """Evaluate scikit-learn's KMeans: each test user gets the members' means."""
    model = KMeans(min(settings.clusters.k, train.rows.shape[0]), random_state=settings.seed)
    labels = model.fit_predict(_narrow(train.rows))
    gains = _gains(train.ratings, train)
    sizes, sums = np.bincount(labels)[:, None], members_of(labels, len(labels)) @ gains
    lists = best_items(np.vstack([sums.toarray() / sizes, _city(gains)]), settings.clusters.top_n)
    nearest = model.predict(_narrow(test.seen[:, train.columns]))
    return ranking_quality(lists[nearest], test.seen, test.relevant, settings.als.top_n)


def _folded_in(train: UserMatrix, test: TestUsers, settings: Settings) -> Mapping[str, Any]:
    """Evaluate test users folded in with item factors of the training users."""
    preferences = _preferences(train, settings)
    users, shown = preferences.user_factors(_gains(test.seen, train)), settings.als.top_n
    lists, _ = top_n(users, preferences.item_factors, shown, test.seen)
    return ranking_quality(lists, test.seen, test.relevant, shown)


def _gains(ratings: csr_array, matrix: UserMatrix) -> csr_array:
    """Return the ratings above 0, as the scores of the clusters count them."""
    values = ratings.data + (matrix.lowest == 0)
    return csr_array((values, ratings.indices, ratings.indptr), shape=ratings.shape)


def _narrow(rows: csr_array) -> csr_array:
    """Return the rows with indices of 32 bits, which scikit-learn requires."""
    parts = rows.data, rows.indices.astype(np.int32), rows.indptr.astype(np.int32)
    return csr_array(parts, shape=rows.shape)


def members_of(labels: NDArray[Any], users: int) -> csr_array:
    """Return 1 for each user of each cluster: (k, users)."""
    clustered = np.flatnonzero(labels >= 0)
    shape = int(labels.max()) + 1, users
    return csr_array((np.ones(len(clustered)), (labels[clustered], clustered)), shape)


def _city(gains: csr_array) -> Floats:
    """Return the scores of the popular list, (items,)."""
    return np.asarray(gains.sum(axis=0)) / gains.shape[0]


def scores(ratings: Ratings, settings: Settings, seeds: Sequence[int]) -> Iterator[str]:
    """Evaluate other scores by the lists of the same clusters."""
    yield f"{'score':<24} {'NDCG':>7} {'hits':>7} {'coverage':>9}"
    figures: dict[str, list[Mapping[str, Any]]] = {}
    for seed in seeds:
        train, test, of_split = _split(ratings, settings, seed)
        clustering = cluster(train, of_split.clusters, of_split.seed)
        labels = clustering.assign(test.seen[:, train.columns])
        city = _city(_gains(train.ratings, train))
        for name, of_clusters in scored(train, clustering, of_split).items():
            lists = best_items(np.vstack([of_clusters, city]), of_split.clusters.top_n)
            quality = ranking_quality(lists[labels], test.seen, test.relevant, of_split.als.top_n)
            figures.setdefault(name, []).append(quality)
    for name, qualities in figures.items():
        yield _lists_line(name, qualities, width=24)


def scored(train: UserMatrix, clustering: Clustering, settings: Settings) -> dict[str, Floats]:
    """Return the scores of all items for each cluster, (k, items), by several methods."""
    gains, k = _gains(train.ratings, train), len(clustering.centroids)
    members = members_of(clustering.labels, gains.shape[0])
    sizes: NDArray[Any] = np.asarray(members.sum(axis=1))[:, None]
    rated = csr_array((np.ones(gains.nnz), gains.indices, gains.indptr), shape=gains.shape)
    is_relevant = train.ratings.data >= settings.reviews.relevant_from + train.shift
    relevant = csr_array((is_relevant, gains.indices, gains.indptr), gains.shape)
    sums, counts = (members @ gains).toarray(), (members @ rated).toarray()
    city = _city(gains)
    bayesian = (sums + _BAYESIAN_RATINGS * gains.data.mean()) / (counts + _BAYESIAN_RATINGS)
    leave_one_out = score(gains, train.ratings, clustering.centroids, train.columns)
    preferences = _preferences(train, settings)
    published = score_clusters(clustering, train, preferences, settings.seed)
    return {
        "published": published.scores,
        "leave one out alone": leave_one_out.scores,
        "member mean, unrated 0": sums / sizes,
        f"... damped by {_SHRINKAGE}": (sums + _SHRINKAGE * city) / (sizes + _SHRINKAGE),
        "share of relevant": np.asarray((members @ relevant).toarray() / sizes),
        "count x Bayesian mean": counts * bayesian,
        "popular list": np.tile(city, (k, 1)),
    }


def _lists_line(name: str, figures: Sequence[Mapping[str, Any]], width: int = 10) -> str:
    ndcg, hits, coverage = (_mean(figures, key) for key in ("ndcg", "hit_rate", "coverage"))
    return f"{name:<{width}} {ndcg:7.4f} {hits:7.4f} {coverage:9.3f}"


def _mean(figures: Sequence[Mapping[str, Any]], name: str) -> float:
    """Average over the splits that have the figure."""
    values = [one[name] for one in figures if one.get(name) is not None]
    return float(np.mean(values)) if values else np.nan


if __name__ == "__main__":
    raise SystemExit(run_script(main))
