"""``als_training.py --tune``: a search for better parameters, with the fits that trainings use."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.recommendation import ALS
from pyspark.ml.tuning import ParamGridBuilder
from pyspark.sql import SparkSession

from recommender.confidence import find_confidence
from recommender.errors import DataError
from recommender.fitting import fit_preferences, fit_rating, offsets_alone
from recommender.grids import (
    BASELINE,
    PREFERENCE,
    RATING,
    Axes,
    Parameters,
    Search,
    parameters_of,
    read_grid,
    told,
)
from recommender.judging import judge_lists, judge_ratings
from recommender.models import Model
from recommender.mongo import connect, database
from recommender.mongo_source import read_ratings
from recommender.ratings import Ratings, counts_of
from recommender.runs import SideRun, side_run
from recommender.settings import Settings
from recommender.spark import spark_session
from recommender.splits import of_fold, split
from recommender.standings import best_of, document_of, svg_of, table_of
from recommender.tuned import KeptFits, adopt, fingerprint, forget, take_over_adopted
from recommender.tuning import Budget, Candidate, explore
from recommender.weights import Weights, find_weights

_FOLDS = 3
_PARAMS: dict[str, Param[Any]] = {
    "als_user_weight": Param(Params._dummy(), "userWeight", "", TypeConverters.toFloat),
    "als_restaurant_weight": Param(Params._dummy(), "restaurantWeight", "", TypeConverters.toFloat),
    "als_rank": ALS.rank,
    "als_reg_param": ALS.regParam,
    "als_max_iter": ALS.maxIter,
    "als_preference_rank": ALS.rank,
    "als_preference_reg_param": ALS.regParam,
    "als_preference_max_iter": ALS.maxIter,
    "als_alpha": ALS.alpha,
    "als_half_life_days": Param(Params._dummy(), "halfLifeDays", "", TypeConverters.toFloat),
}

log = logging.getLogger(__name__)


def add_tuning_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--tune``, what belongs to it, and ``--forget``."""
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--tune",
        action="store_true",
        help="only search for better parameters, show them, and publish nothing; called again, it "
        "goes on where it ended",
    )
    instead.add_argument(
        "--forget", action="store_true", help="only forget what --tune --adopt has stored"
    )
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="NAME=VALUE,...",
        help="with --tune: try these values of a setting, and only of those so named",
    )
    parser.add_argument(
        "--budget",
        type=_minutes,
        metavar="MINUTES",
        help="with --tune: begin no fit after so long",
    )
    parser.add_argument(
        "--folds", type=_folds, help=f"with --tune: how often each is tried (default {_FOLDS})"
    )
    parser.add_argument(
        "--adopt",
        action="store_true",
        help="with --tune: make the next trainings use the best; a setting given by hand wins",
    )


def asked_axes(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, settings: Settings
) -> dict[str, Axes]:
    """Return what ``--grid`` asks for, as :func:`read_grid` does; else end as for bad usage."""
    try:
        return read_grid(arguments.grid, settings)
    except ValueError as error:
        parser.error(str(error))


def _minutes(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (minutes := float(text)) < np.inf:
            return minutes
    raise argparse.ArgumentTypeError(f"expected minutes, such as 30, found {text!r}")


def _folds(text: str) -> int:
    with suppress(ValueError):
        if (folds := int(text)) >= 1:
            return folds
    raise argparse.ArgumentTypeError(f"expected a number of folds, 1 or more, found {text!r}")


def check_tuning_options(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End as for bad usage where an option of ``--tune`` is given without it."""
    of_tuning = (arguments.grid, arguments.adopt)
    numbers = (arguments.budget, arguments.folds)
    if not arguments.tune and (any(of_tuning) or any(number is not None for number in numbers)):
        parser.error("--grid, --budget, --folds and --adopt are for --tune")
    if arguments.folds is None:
        arguments.folds = _FOLDS


def reached(
    spark: SparkSession, search: Search, part: Ratings, held_out: Ratings, settings: Settings
) -> float:
    """Fit what a search is about to ``part``, and return its measure on what is held out.

    Raises
    ------
    DataError
        If there is nothing to measure.
    ModelRejectedError
        If the fit did not hold.
    """
    if search is PREFERENCE:
        figures = _lists_reached(spark, part, held_out, settings)
        figure = figures["ndcg"]
    else:
        figures = _ratings_reached(spark, part, held_out, settings, alone=search is BASELINE)
        figure = figures["rmse"]
    if figure is None:
        raise DataError(f"no {search.measure}: {figures['reason']}")
    return float(figure)


def _lists_reached(
    spark: SparkSession, part: Ratings, held_out: Ratings, settings: Settings
) -> dict[str, Any]:
    confidence = find_confidence(spark, part, settings)
    preferences = fit_preferences(spark, part, settings, confidence)
    model = Model(offsets_alone(part, settings, Weights()), preferences)
    return judge_lists(model, part, held_out, settings)


def _ratings_reached(
    spark: SparkSession, part: Ratings, held_out: Ratings, settings: Settings, *, alone: bool
) -> dict[str, Any]:
    """Fit the offsets ``alone``, or ALS on top of them."""
    weights = None if settings.als_objective == "rating" else find_weights(part, settings)
    if alone and weights:
        rating = offsets_alone(part, settings, weights)
    else:
        rating = fit_rating(spark, part, settings, weights)
    return judge_ratings(rating, part, held_out, settings)[1]


def folds_of(ratings: Ratings, settings: Settings, folds: int) -> list[tuple[Ratings, Ratings]]:
    """Divide the ratings as :func:`split` does, once for each fold, with a seed of its own.

    Raises
    ------
    DataError
        If nothing can be held out.
    """
    parts = [split(ratings, of_fold(settings, fold)) for fold in range(folds)]
    if not len(parts[0][1]):
        raise DataError(
            "no user has rated two restaurants, so that none can be held out to tune by; load more "
            "reviews"
        )
    if settings.als_test_split == "time":
        log.warning("ALS_TEST_SPLIT=time holds the same out in each fold: deviations are too small")
    return parts


def candidates_of(
    search: Search, axes: Axes, settings: Settings, around: Settings
) -> list[Candidate]:
    """Return what a search tries: what is in force, and each combination of the axes' values.

    Parameters
    ----------
    settings
        Those in force.
    around
        Where the values of all other parameters are from.
    """
    now, fixed = parameters_of(search, settings), parameters_of(search, around)
    builder = ParamGridBuilder()
    for name, values in axes.items():
        builder = builder.addGrid(_PARAMS[name], list(values))
    points = [{name: point[_PARAMS[name]] for name in axes} for point in builder.build()]
    tried: list[Parameters] = [{**fixed, **point} for point in points]
    others = [Candidate(search, parameters) for parameters in tried if parameters != now]
    return [Candidate(search, now, in_force=True), *others]


def tune(run: SideRun, axes: dict[str, Axes], folds: int, budget: Budget) -> list[Candidate]:
    """Try parameters on several folds, and return all candidates with what they reached.

    The baseline is searched for first, alone, which takes no Spark; then the rating on top of the
    best, and the preference, whose candidates take turns.
    """
    settings = take_over_adopted(run)
    found: list[Candidate] = []
    with spark_session(settings, f"als_training --tune {run.run_id}") as spark:
        with run.phase("read"):
            ratings = read_ratings(spark, settings)
            run.record(**counts_of(ratings))
            parts = folds_of(ratings, settings, folds)
        kept = KeptFits(run.db, run.run_id, settings, fingerprint(ratings))

        def fit_one(candidate: Candidate, fold: int) -> float:
            tried = of_fold(settings, fold).model_copy(update=candidate.parameters)
            return reached(spark, candidate.search, *parts[fold], tried)

        def look(candidates: list[Candidate]) -> None:
            found.extend(candidates)
            explore(candidates, folds, fit_one, kept, budget, seed=settings.seed)

        try:
            with run.phase("search"):
                if of_baseline := axes.get(BASELINE.name):
                    look(candidates_of(BASELINE, of_baseline, settings, settings))
                best = best_of(found, BASELINE, folds)
                around = settings.model_copy(update=best.parameters if best else {})
                look(_als_candidates(axes, settings, around))
        finally:
            searches = dict.fromkeys(candidate.search for candidate in found)
            tables = {search.name: document_of(found, search, folds) for search in searches}
            run.record(metrics={"tuning": {"folds": folds, "searches": tables}})
    return found


def _als_candidates(axes: dict[str, Axes], settings: Settings, around: Settings) -> list[Candidate]:
    found = []
    if axes.get(RATING.name) or axes.get(BASELINE.name):
        found += candidates_of(RATING, axes[RATING.name], settings, around)
    if of_preference := axes.get(PREFERENCE.name):
        found += candidates_of(PREFERENCE, of_preference, settings, settings)
    return found


def run_search(
    settings: Settings, arguments: argparse.Namespace, axes: dict[str, Axes]
) -> Iterator[str]:
    """Search, yield how the candidates stand, and draw it to ``tuning.svg`` in ``WORK_DIR``.

    Nothing is published and no lease is taken: it may run beside a training.

    Raises
    ------
    DataError
        If no candidate has a figure, as no fit can be measured.
    """
    minutes, folds = arguments.budget, arguments.folds
    settings.make_folder(settings.work_dir)
    budget = Budget(None if minutes is None else minutes * 60)
    with side_run(settings, "tune") as run:
        found = tune(run, axes, folds, budget)
        searches = list(dict.fromkeys(candidate.search for candidate in found))
        drawing = settings.work_dir / "tuning.svg"
        drawing.write_text(svg_of(found, searches, folds), encoding="utf-8")
        yield "\n\n".join(table_of(found, search, folds) for search in searches)
        yield f"\nsearch {run.run_id}, drawn in {drawing}"
        best = [best_of(found, search, folds) for search in (RATING, PREFERENCE)]
        winners = [candidate for candidate in best if candidate]
        reasons = [candidate.reason for candidate in found if candidate.reason]
        if reasons and not winners:
            raise DataError(f"no candidate has a figure, such as: {reasons[0]}; load more reviews")
        for winner in winners:
            yield f"best {winner.search.name}: {told(winner.parameters)}"
        if arguments.adopt:
            yield from _adopted(run, winners, axes)


def _adopted(run: SideRun, winners: list[Candidate], axes: dict[str, Axes]) -> Iterator[str]:
    if not winners:
        yield "nothing is adopted: no candidate is finished; tune again to go on"
        return
    searched = {
        RATING.name: [*axes.get(BASELINE.name, ()), *axes[RATING.name]],
        PREFERENCE.name: [*axes.get(PREFERENCE.name, ())],
    }
    taken = [(winner, searched[winner.search.name]) for winner in winners]
    adopted = adopt(run.db, run.run_id, run.settings, taken)
    yield f"adopted, for the next trainings: {told(adopted)}"
    by_hand = sorted(name.upper() for name in set(adopted) & run.settings.model_fields_set)
    if by_hand:
        yield f"but {', '.join(by_hand)} is set by hand, which wins"


def forget_adopted(settings: Settings) -> str:
    """Forget what was adopted, and return what trainings use now."""
    with connect(settings) as client:
        was = forget(database(client, settings))
    before = "forgotten" if was else "nothing was adopted"
    return f"{before}: the next trainings use the settings alone"
