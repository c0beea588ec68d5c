"""Quality of ratings and lists for known users, beside other libraries, on rating sets.

``python -m benchmarks.known_users ratings.csv --map user_id=a --map gmap_id=b --map rating=c``
prints two tables for all users of a file, and two for those with three ratings or more: errors of
predicted ratings and quality of lists, as mean and deviation over several splits; the difference to
the last row, this service, on the same split; and the median seconds of a fit.
``python -m benchmarks.known_users --generated`` prints them for generated sets. ``--regret`` prints
instead, without Spark, what the parameters that each training chooses lose against the best fixed
ones in hindsight.

Each split is that of a training (`recommender.evaluation.splitting.split`): a fifth of each user's
ratings, at least one of two, is the test set, the same for all methods. Ratings: the test ratings
of restaurants in the train set. Lists: at most 20,000 users with a relevant test item, as in
`recommender.als.evaluate`; all restaurants that a user has no training rating of are ranked.

The peers are in `requirements.txt` beside this file; a peer that is not installed is left out.
"""

import argparse
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from benchmarks.datasets import GENERATED, add_columns_options, generate, read_file
from benchmarks.new_users import of_active_users
from benchmarks.peers import Fitted, Method, Predict, Score, ranking_methods, rating_methods
from recommender.als.choose_preference import (
    REG_PARAM_SHARE,
    WEIGHTS,
    PreferenceParameters,
    choose_preference_parameters,
    ndcg_by_weights,
    validation_split_of,
)
from recommender.als.evaluate import EVALUATED_USERS
from recommender.core.script import run_script
from recommender.core.settings import Settings, load_settings
from recommender.data.ratings import Ratings
from recommender.evaluation.metrics import ranking_quality, rating_error
from recommender.evaluation.splitting import relevant_items, split
from recommender.load import columns_of
from recommender.spark.session import spark_session

OF_RATINGS = ("RMSE", "MAE")
# Figures of `recommender.evaluation.metrics.ranking_quality`.
OF_LISTS = ("ndcg", "recall", "hit_rate", "map", "coverage", "popularity")
_BLOCK = 1024
_FIXED_ALPHAS = (1.0, 5.0, 10.0, 20.0, 40.0, 60.0)
_FIXED_RANK = 64


@dataclass(frozen=True, eq=False)
class Split:
    """A train and a test set."""

    settings: Settings  # with the split's seed
    train: Ratings
    test: Ratings  # of restaurants in the train set
    users: NDArray[np.int64]  # the test users
    seen: csr_array  # their training ratings, (test users, restaurants)
    relevant: csr_array  # their relevant test items, (test users, restaurants)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not (arguments.file or arguments.generated):
        parser.error("expected a file, or --generated")
    logging.getLogger().setLevel(logging.ERROR)
    settings = load_settings()
    sets: dict[str, Ratings] = {}
    if arguments.file:
        columns = columns_of(arguments.preset, arguments.map, parser)
        sets[arguments.file] = read_file(arguments.file, settings, columns)
    if arguments.generated:
        sets |= {name: generate(law, settings) for name, law in GENERATED.items()}
    if arguments.regret:
        for name, least in product(sets, arguments.least):
            ratings = of_active_users(sets[name], least)
            splits = [split_of(ratings, settings, seed) for seed in range(arguments.splits)]
            print(f"\n{name}, users with {least} or more ratings, {len(splits)} splits\n")
            for line in regret_table(splits):
                print(line, flush=True)
        return 0
    with spark_session(settings, "known_users") as spark_thread:
        for name, least in product(sets, arguments.least):
            ratings = of_active_users(sets[name], least)
            splits = [split_of(ratings, settings, seed) for seed in range(arguments.splits)]
            users = len(np.unique(ratings.user))
            print(f"\n{name}: {users:,} users with {least} or more of {len(ratings):,} ratings;")
            print(f"{len(splits)} splits, mean ± deviation; seconds to fit, median")
            for table in (
                ratings_table(splits, rating_methods(spark_thread.session())),
                lists_table(splits, ranking_methods(spark_thread.session())),
            ):
                print()
                for line in table:
                    print(line, flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.known_users",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", nargs="?", help="CSV or JSON lines, as for recommender.load")
    parser.add_argument("--generated", action="store_true", help="evaluate generated sets")
    parser.add_argument("--regret", action="store_true", help="compare the choice of parameters")
    add_columns_options(parser)
    parser.add_argument("--splits", type=int, default=3, help="number of splits (default 3)")
    parser.add_argument(
        "--least", type=int, nargs="+", default=[1, 3], help="least ratings of a user (1 3)"
    )
    return parser


def split_of(ratings: Ratings, settings: Settings, seed: int) -> Split:
    """Split the ratings by a seed."""
    settings = settings.with_values({"seed": seed})
    train, test = split(ratings, settings.als, seed)
    known = test.rows(np.isin(test.restaurant, train.restaurant))
    users, relevant = relevant_items(test, settings.reviews.relevant_from, EVALUATED_USERS, seed)
    seen = csr_array(train.matrix(1.0)[users])
    return Split(settings, train, known, users.astype(np.int64), seen, relevant)


def ratings_table(splits: Sequence[Split], methods: Sequence[Method[Predict]]) -> Iterator[str]:
    """Yield the lines of a table of the errors of predicted ratings."""
    return _table("rating", OF_RATINGS, splits, methods, _rating_errors)


def lists_table(splits: Sequence[Split], methods: Sequence[Method[Score]]) -> Iterator[str]:
    """Yield the lines of a table of the quality of lists."""
    return _table("list", OF_LISTS, splits, methods, _list_quality)


def regret_table(splits: Sequence[Split]) -> Iterator[str]:
    """Yield the lines of a table of the NDCG of fixed parameters, and of the chosen ones' regret.

    The regret on a split is 1 less the NDCG of the chosen parameters over that of the fixed ones
    with the best mean over all splits. Fits are those of the choice, on all training users.
    """
    fixed: dict[float, list[NDArray[np.float64]]] = {alpha: [] for alpha in _FIXED_ALPHAS}
    chosen, descriptions = [], []
    for sets in splits:
        n, seed = sets.settings.als.top_n, sets.settings.seed
        validation = validation_split_of(sets.train, sets.test, sets.settings.reviews, seed)
        if validation is None:
            continue
        for alpha, of_alpha in fixed.items():
            parameters = PreferenceParameters(alpha, alpha * REG_PARAM_SHARE, _FIXED_RANK)
            of_alpha.append(ndcg_by_weights(validation, parameters, n, seed).mean(axis=1))
        own = choose_preference_parameters(sets.train, sets.settings)
        by_weights = ndcg_by_weights(validation, own, n, seed).mean(axis=1)
        of_own = own.embedding_weight, own.item_item_weight
        chosen.append(by_weights[WEIGHTS.index(of_own)])
        descriptions.append(
            f"{own.alpha:g}/{own.rank}/{own.embedding_weight:g}+{own.item_item_weight:g}"
        )
    ndcg = np.array([fixed[alpha] for alpha in _FIXED_ALPHAS])  # (alphas, splits, weights)
    yield f"| alpha | {' | '.join(f'weights {first:g}+{second:g}' for first, second in WEIGHTS)} |"
    yield f"| ---: |{' ---: |' * len(WEIGHTS)}"
    for alpha, of_alpha in zip(_FIXED_ALPHAS, ndcg, strict=True):
        yield f"| {alpha:g} | {' | '.join(_cell(column) for column in of_alpha.T)} |"
    mean = ndcg.mean(axis=1)
    row, column = np.unravel_index(mean.argmax(), mean.shape)
    regret = 1 - np.array(chosen) / ndcg[row, :, column]
    yield f"| chosen | {_cell(np.array(chosen))} |{' |' * (len(WEIGHTS) - 1)}"
    yield ""
    yield f"Regret: mean {regret.mean():.2%}, worst {regret.max():.2%}; {', '.join(descriptions)}"


def _table(
    kind: str,
    measures: Sequence[str],
    splits: Sequence[Split],
    methods: Sequence[Method[Fitted]],
    evaluate: Callable[[Fitted, Split], list[float]],
) -> Iterator[str]:
    rows: dict[str, NDArray[np.float64]] = {}
    seconds: dict[str, float] = {}
    left_out = []
    for method in methods:
        if obstacle := method.obstacle(splits[0].train):
            left_out.append(f"Left out: {method.name}: {obstacle}.")
            continue
        values, times = zip(*_runs(method, splits, evaluate), strict=True)
        rows[method.name] = np.array(values)
        seconds[method.name] = median(times)
    yield f"| {kind} | {' | '.join(measures)} | {measures[0]} less the last's | seconds |"
    yield f"| --- |{' ---: |' * (len(measures) + 2)}"
    last = list(rows.values())[-1]
    for name, table in rows.items():
        columns = [*table.T, table[:, 0] - last[:, 0]]
        cells = " | ".join(_cell(column) for column in columns)
        yield f"| {name} | {cells} | {seconds[name]:.1f} |"
    if left_out:
        yield ""
        yield from left_out


def _runs(
    method: Method[Fitted],
    splits: Sequence[Split],
    evaluate: Callable[[Fitted, Split], list[float]],
) -> Iterator[tuple[list[float], float]]:
    for sets in splits:
        started = time.perf_counter()
        fitted = method.fit(sets.train, sets.settings)
        seconds = time.perf_counter() - started
        yield evaluate(fitted, sets), seconds


def _cell(values: NDArray[np.float64]) -> str:
    deviation = values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{values.mean():.4f} ± {deviation:.4f}"


def _rating_errors(predict: Predict, sets: Split) -> list[float]:
    error = rating_error(predict(sets.test), sets.test.rating, float(sets.train.rating.mean()))
    return [np.nan if figure is None else figure for figure in (error["rmse"], error["mae"])]


def _list_quality(score: Score, sets: Split) -> list[float]:
    if not len(sets.users):
        return [np.nan] * len(OF_LISTS)
    n = sets.settings.als.top_n
    quality = ranking_quality(lists_of(score, sets, n), sets.seen, sets.relevant, n)
    return [quality[measure] for measure in OF_LISTS]


def lists_of(score: Score, sets: Split, n: int) -> NDArray[np.int64]:
    """Return the lists of the test users, (test users, n): their unseen items.

    Items of equal score are in the order of their popularity.
    """
    counts = np.bincount(sets.train.restaurant, minlength=len(sets.train.restaurants))
    popular_first = np.argsort(-counts, kind="stable")
    lists = np.full((len(sets.users), n), -1, dtype=np.int64)
    for start in range(0, len(sets.users), _BLOCK):
        rows = slice(start, start + _BLOCK)
        scores = np.array(score(sets.users[rows]), dtype=np.float32)
        scores[sets.seen[rows].toarray() > 0] = -np.inf
        scores = scores[:, popular_first]
        order = np.argsort(-scores, axis=1, kind="stable")[:, :n]
        unseen = np.take_along_axis(scores, order, axis=1) > -np.inf
        lists[rows, : order.shape[1]] = np.where(unseen, popular_first[order], -1)
    return lists


if __name__ == "__main__":
    raise SystemExit(run_script(main))
