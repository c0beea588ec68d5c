"""How well clusters foretell what people like: the protocol of every training, on a file.

``python -m benchmarks.clusters ratings.csv --user user_id --restaurant item_id --rating rating``
prints, for all users and for those with three ratings and more, as means over several splits:

- NDCG@13, hit rate and coverage of new users, and the RMSE of what clusters foretell of ratings
  beside that of the city's means and of one mean, for each space that can be clustered;
- the lists of two that do not help: scikit-learn's KMeans on the ratings, its own reader and its
  members' means; and the best of five starts on the map of tastes;
- with ``--factors``, which needs Java, the lists of clusters on the map of ALS's factors, those
  fitted without the users kept out, and of folding these users in with the same factors;
- the same lists by other scores, of the same clusters;
- how each clustering descended: its updates, and the largest rise of its inertia from one to the
  next as a share of it. Below 0 it always fell; above 0 there can be rounding, and nothing else.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from scipy.sparse import csr_array
from sklearn.cluster import KMeans

from clustering_training import held_out_quality, liked_from, list_quality, score
from recommender.clusters import Clustering, cluster
from recommender.confidence import find_confidence
from recommender.evaluation import HeldOut, hold_out, ranking_quality
from recommender.fitting import fit_preferences
from recommender.load import RATING, RESTAURANT, USER, Columns, read_file
from recommender.ratings import Ratings
from recommender.scoring import lists_of
from recommender.settings import Settings, load_settings
from recommender.spark import spark_session
from recommender.topn import top_n
from recommender.user_matrix import UserMatrix, user_matrix

_SPACES = ("tastes", "ratings")
_STARTS = 5
_SHRINKAGE = 100
_BAYESIAN_RATINGS = 10

Floats = NDArray[np.float64]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    given = _parser().parse_args(argv)
    logging.basicConfig(level=logging.ERROR)
    settings = load_settings(
        clusters_k=given.k, rating_min=given.rating_min, rating_max=given.rating_max
    )
    names = {USER: given.user, RESTAURANT: given.restaurant, RATING: given.rating}
    everything = read_file(given.file, settings, Columns(names))
    for least in given.least:
        ratings = of_active_users(everything, least)
        users = len(np.unique(ratings.user))
        print(f"\n{users:,} users with {least} or more of {len(ratings):,} ratings, k={given.k}")
        by_factors = (factors,) if given.factors else ()
        for table in (spaces, others, *by_factors, scores, descents):
            print()
            for line in table(ratings, settings, range(given.splits)):
                print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.clusters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", help="CSV or JSON lines, as for recommender.load")
    parser.add_argument("--user", default=USER, help="the column of users")
    parser.add_argument("--restaurant", default=RESTAURANT, help="the column of restaurants")
    parser.add_argument("--rating", default=RATING, help="the column of ratings")
    parser.add_argument("--rating-min", type=float, default=1)
    parser.add_argument("--rating-max", type=float, default=5)
    parser.add_argument(
        "--least", type=int, nargs="+", default=[1, 3], help="least ratings of a user"
    )
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("-k", type=int, default=50)
    parser.add_argument("--factors", action="store_true", help="judge CLUSTERS_SPACE=factors, too")
    return parser


def of_active_users(ratings: Ratings, least: int) -> Ratings:
    """Return the ratings of the users who have at least so many."""
    return ratings.rows(np.bincount(ratings.user)[ratings.user] >= least)


def spaces(ratings: Ratings, settings: Settings, seeds: Sequence[int]) -> Iterator[str]:
    """Judge each space that can be clustered."""
    yield (
        f"{'space':<10} {'NDCG':>7} {'hits':>7} {'coverage':>9} {'RMSE':>7} {'city':>7} "
        f"{'mean':>7} {'users':>7} {'seconds':>8}"
    )
    for space in _SPACES:
        began, found = time.perf_counter(), []
        for seed in seeds:
            of_split = settings.model_copy(update={"clusters_space": space, "seed": seed})
            found.append(held_out_quality(user_matrix(ratings, of_split), of_split))
        seconds = (time.perf_counter() - began) / len(seeds)
        errors = [one["ratings"] for one in found]
        yield (
            f"{_lists_line(space, found)} {_mean(errors, 'rmse'):7.4f} "
            f"{_mean(errors, 'city_rmse'):7.4f} {_mean(errors, 'mean_rmse'):7.4f} "
            f"{_mean(found, 'users'):7.0f} {seconds:8.1f}"
        )
    yield _lists_line("popular", [one["popular"] for one in found])


def others(ratings: Ratings, settings: Settings, seeds: Sequence[int]) -> Iterator[str]:
    """Judge what was tried and does not help."""
    euclidean, starts = [], []
    for seed in seeds:
        of_split = settings.model_copy(update={"seed": seed, "clusters_starts": _STARTS})
        matrix = user_matrix(ratings, of_split)
        held = hold_out(matrix.everything, liked_from(of_split), seed=seed)
        part = matrix.part(held.kept)
        starts.append(list_quality(held, part, cluster(part, of_split), of_split))
        euclidean.append(_euclidean(part, held, of_split))
    yield _lists_line("euclidean", euclidean)
    yield f"{_lists_line('tastes', starts)}, the best of {_STARTS} starts"


def _euclidean(part: UserMatrix, held: HeldOut, settings: Settings) -> Mapping[str, Any]:
    """Judge scikit-learn's KMeans, each user kept out being shown the means of the nearest."""
    found = KMeans(min(settings.clusters_k, len(part.users)), random_state=settings.seed)
    labels = found.fit_predict(_narrow(part.rows))
    sizes, sums = np.bincount(labels)[:, None], members_of(labels, len(labels)) @ part.everything
    lists = lists_of(sums.toarray() / sizes, _city(part), settings.clusters_top_n)
    nearest = found.predict(_narrow(part.unshifted(held.seen)[:, part.columns]))
    return asdict(ranking_quality(lists[nearest], held.seen, held.hidden, settings.als_top_n))


def _narrow(rows: csr_array) -> csr_array:
    """Return the rows with the indices of 32 bits that scikit-learn insists on."""
    parts = rows.data, rows.indices.astype(np.int32), rows.indptr.astype(np.int32)
    return csr_array(parts, shape=rows.shape)


def members_of(labels: NDArray[Any], users: int) -> csr_array:
    """Return 1 for each user of each cluster: (k, users)."""
    placed = np.flatnonzero(labels >= 0)
    shape = int(labels.max()) + 1, users
    return csr_array((np.ones(len(placed)), (labels[placed], placed)), shape)


def _city(part: UserMatrix) -> Floats:
    return np.asarray(part.everything.sum(axis=0)) / len(part.users)


def factors(ratings: Ratings, settings: Settings, seeds: Sequence[int]) -> Iterator[str]:
    """Judge the lists by factors that saw nobody who is kept out: of clusters, and folded in."""
    with spark_session(settings, "clusters") as spark:
        yield from judged_factors(spark, ratings, settings, seeds)


def judged_factors(
    spark: SparkSession, ratings: Ratings, settings: Settings, seeds: Sequence[int]
) -> Iterator[str]:
    """Judge the lists by factors, which this Spark fits."""
    found, folded_in, shares, began = [], [], [], time.perf_counter()
    for seed in seeds:
        of_split = settings.model_copy(update={"clusters_space": "factors", "seed": seed})
        matrix = user_matrix(ratings, of_split)
        held = hold_out(matrix.everything, liked_from(of_split), seed=seed)
        kept = ratings.rows(np.isin(ratings.user, matrix.users[held.kept]))
        confidence = find_confidence(spark, kept, of_split)
        preferences = fit_preferences(spark, kept, of_split, confidence)
        part = replace(matrix.part(held.kept), preferences=preferences)
        clustering = cluster(part, of_split)
        found.append(list_quality(held, part, clustering, of_split))
        shares.append(clustering.landed)
        users, shown = preferences.user_factors(held.seen), of_split.als_top_n
        lists, _ = top_n(users, preferences.restaurant_factors, shown, held.seen)
        quality = ranking_quality(lists.astype(np.int64), held.seen, held.hidden, shown)
        folded_in.append(asdict(quality))
    seconds = (time.perf_counter() - began) / len(seeds)
    line = _lists_line("factors", found)
    yield f"{line}; {np.mean(shares):.1%} landed; {seconds:.1f} seconds"
    yield _lists_line("folded in", folded_in)


def scores(ratings: Ratings, settings: Settings, seeds: Sequence[int]) -> Iterator[str]:
    """Judge scores by the lists that they give new users of the same clusters."""
    yield f"{'score':<24} {'NDCG':>7} {'hits':>7} {'coverage':>9}"
    found: dict[str, list[Mapping[str, Any]]] = {}
    for seed in seeds:
        of_split = settings.model_copy(update={"seed": seed})
        matrix = user_matrix(ratings, of_split)
        held = hold_out(matrix.everything, liked_from(of_split), seed=seed)
        part = matrix.part(held.kept)
        clustering = cluster(part, of_split)
        labels, _ = clustering.place(part.unshifted(held.seen)[:, part.columns])
        for name, of_clusters in scored(part, clustering, of_split).items():
            lists = lists_of(of_clusters, _city(part), of_split.clusters_top_n)
            shown = ranking_quality(lists[labels], held.seen, held.hidden, of_split.als_top_n)
            found.setdefault(name, []).append(asdict(shown))
    for name, qualities in found.items():
        yield _lists_line(name, qualities, width=24)


def scored(part: UserMatrix, found: Clustering, settings: Settings) -> dict[str, Floats]:
    """Return the scores of all restaurants for each cluster, (k, restaurants), in several ways."""
    rows, k = part.everything, len(found.centroids)
    members = members_of(found.labels, rows.shape[0])
    sizes: NDArray[Any] = np.asarray(members.sum(axis=1))[:, None]
    rated = csr_array((np.ones(rows.nnz), rows.indices, rows.indptr), shape=rows.shape)
    liked = csr_array((rows.data >= liked_from(settings), rows.indices, rows.indptr), rows.shape)
    sums, counts = (members @ rows).toarray(), (members @ rated).toarray()
    city = _city(part)
    bayesian = (sums + _BAYESIAN_RATINGS * rows.data.mean()) / (counts + _BAYESIAN_RATINGS)
    return {
        "leave one out, published": score(part, found, settings).scores,
        "member mean, unrated 0": sums / sizes,
        f"... leaning by {_SHRINKAGE}": (sums + _SHRINKAGE * city) / (sizes + _SHRINKAGE),
        "positives": np.asarray((members @ liked).toarray() / sizes),
        "count x Bayesian mean": counts * bayesian,
        "popular list": np.tile(city, (k, 1)),
    }


def descents(ratings: Ratings, settings: Settings, seeds: Sequence[int]) -> Iterator[str]:
    """Show how the inertia fell."""
    yield f"{'space':<10} {'seed':>5} {'updates':>8} {'inertia':>12} {'rise':>9} converged"
    for space in _SPACES:
        for seed in seeds:
            of_seed = settings.model_copy(update={"clusters_space": space, "seed": seed})
            found = cluster(user_matrix(ratings, of_seed), of_seed)
            rise = (np.diff(found.history) / found.history[:-1]).max()
            yield (
                f"{found.space:<10} {seed:>5} {found.iterations:>8} {found.inertia:>12.2f} "
                f"{rise:>9.0e} {'yes' if found.converged else 'no'}"
            )


def _lists_line(name: str, found: Sequence[Mapping[str, Any]], width: int = 10) -> str:
    ndcg, hits, coverage = (_mean(found, name) for name in ("ndcg", "hit_rate", "coverage"))
    return f"{name:<{width}} {ndcg:7.4f} {hits:7.4f} {coverage:9.3f}"


def _mean(found: Sequence[Mapping[str, Any]], name: str) -> float:
    """Average over the splits that have the figure."""
    values = [one[name] for one in found if one.get(name) is not None]
    return float(np.mean(values)) if values else np.nan


if __name__ == "__main__":
    main()
