"""``als_training.py --tune``: its options, and the search with the fits that trainings use."""

import argparse
import logging
import math
import sys
import time
from collections.abc import Callable
from itertools import chain
from typing import Any

from pyspark.sql import SparkSession

from recommender.als.bias import BiasDamping
from recommender.als.choose_damping import choose_damping
from recommender.als.choose_preference import choose_preference_parameters
from recommender.als.evaluate import evaluate_lists, evaluate_ratings
from recommender.als.fit import fit_bias_only, fit_preferences, fit_rating, fit_rating_alone
from recommender.als.model import Model
from recommender.als.tuning.report import env_lines, print_search
from recommender.als.tuning.search import ResultStore, Trial, make_trials, run_trials, summarize
from recommender.als.tuning.space import PREFERENCE, SEARCHES, Axes, Search, parse_grid
from recommender.core.errors import DataError
from recommender.core.mongo import connected
from recommender.core.settings import Settings
from recommender.core.terminal import print_json
from recommender.data.ratings import Ratings
from recommender.evaluation.splitting import fold_seed, split
from recommender.spark.reviews_source import count_reviews, read_reviews
from recommender.spark.session import spark_session

_FOLDS = 3
_TO_CONTINUE = "no trial is complete; run the same command again to continue"

log = logging.getLogger(__name__)


def add_tuning_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that go with ``--tune``."""
    add = parser.add_argument_group("options of --tune").add_argument
    add("--grid", action="append", default=[], metavar="NAME=VALUE,...", help="values to try")
    add("--budget", type=float, default=math.inf, metavar="MINUTES", help="start no fit later")
    add("--folds", type=int, default=_FOLDS, help=f"splits to try each on (default {_FOLDS})")


def tuning_axes(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, settings: Settings
) -> Axes:
    """Return the values to try; end with a usage error if the tuning options are invalid."""
    options = (arguments.grid, arguments.budget, arguments.folds)
    if arguments.kind != "tune" and options != ([], math.inf, _FOLDS):
        parser.error("--grid, --budget and --folds need --tune")
    if not (arguments.budget >= 0 and arguments.folds >= 1):
        parser.error("expected --budget of 0 or more minutes, and --folds of 1 or more")
    try:
        return parse_grid(arguments.grid, settings.als.objective)
    except ValueError as error:
        parser.error(str(error))


def run_tuning(settings: Settings, arguments: argparse.Namespace, axes: Axes) -> None:
    """Search, and print the trials and the best values."""
    deadline = time.monotonic() + 60 * arguments.budget
    entries = tune(settings, axes, arguments.folds, lambda: time.monotonic() >= deadline)
    lines = env_lines(entries.values(), axes)
    failed = [failure for entry in entries.values() for failure in entry["failed"]]
    if not arguments.json:
        for name, entry in entries.items():
            print_search(name, entry)
    if failed and not lines:
        raise DataError(f"no trial is complete; the first failed: {failed[0]['reason']}")
    if arguments.json:
        best = dict(line.split("=", 1) for line in lines)
        print_json({"searches": entries, "best": best})
        return
    outcome = "best values, as lines for .env:" if lines else _TO_CONTINUE
    sys.stdout.write("\n".join([outcome, *lines, ""]))


def tune(settings: Settings, axes: Axes, folds: int, expired: Callable[[], bool]) -> dict[str, Any]:
    """Search, and return the entry of each search for the report, by its name."""
    in_force = settings.public()
    with connected(settings.mongo) as db, spark_session(settings, "tune") as spark:
        ratings = read_reviews(spark, settings, count_reviews(db))
        splits = split_folds(ratings, settings, folds)
        store = ResultStore(db, in_force, ratings)

        def fit(trial: Trial, fold: int) -> float:
            seed = fold_seed(settings.seed, fold)
            of_fold = settings.with_values({"seed": seed, **trial.parameters})
            return measure(spark.session(), trial.search, *splits[fold], of_fold)

        searches = [s for s in SEARCHES[settings.als.objective] if axes.keys() & s.grid]
        groups = [make_trials(search, axes, in_force) for search in searches]
        trials = list(chain(*groups))
        run_trials(trials, folds, fit, store, seed=settings.seed, expired=expired)
    return {group[0].search.name: summarize(group, folds) for group in groups}


def split_folds(ratings: Ratings, settings: Settings, folds: int) -> list[tuple[Ratings, Ratings]]:
    """Split the ratings with another seed for each fold; DataError if the test set is empty."""
    splits = [split(ratings, settings.als, fold_seed(settings.seed, n)) for n in range(folds)]
    if not len(splits[0][1]):
        raise DataError("no user has two ratings, so the test set is empty; load more reviews")
    if settings.als.test_split == "time":
        log.warning("with ALS_TEST_SPLIT=time all folds are equal: deviations are too small")
    return splits


def measure(
    spark: SparkSession, search: Search, train: Ratings, test: Ratings, settings: Settings
) -> float:
    """Return the measure of a training's fit; DataError if the test set has nothing to measure."""
    if search is PREFERENCE:
        parameters = choose_preference_parameters(train, settings)
        preferences = fit_preferences(spark, train, settings, parameters)
        model = Model(fit_bias_only(train, settings.reviews, BiasDamping()), preferences)
        metrics = evaluate_lists(model, train, test, settings)
    else:
        if settings.als.objective == "rating":
            rating = fit_rating_alone(spark, train, settings.als, settings.seed)
        else:
            rating = fit_rating(spark, train, settings, choose_damping(train, settings))
        metrics = evaluate_ratings(rating, train, test, settings)[1]
    figure = metrics[search.measure.lower()]
    if figure is None:
        raise DataError(f"no {search.measure}: {metrics['reason']}")
    return float(figure)
