"""Trains Spark ALS on the reviews and publishes every user's top restaurants.

The data's way: read -> split -> train -> evaluate -> refit on all -> recommend -> publish -> chain
into the clustering. Run it by hand for a retrain at once; the service runs the same file. By
``--tune`` it searches for better parameters instead, with the same fits on the same kind of split.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.recommendation import ALS
from pyspark.ml.tuning import ParamGridBuilder
from pyspark.sql import DataFrame, SparkSession

import clustering_training
from recommender.baseline import Baseline, fit_baseline, no_baseline
from recommender.errors import DataError, ModelRejectedError
from recommender.evaluation import held_out_rows
from recommender.foldin import Preferences, preferences_of
from recommender.gate import (
    add_force_option,
    check_finite,
    check_recommendations,
    settings_as_asked,
)
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
from recommender.models import Model, RatingModel, visits_of
from recommender.mongo import connect, database
from recommender.mongo_source import read_reviews
from recommender.newcomers import find_newcomers, stacked
from recommender.ratings import Ratings, counts_of, gather
from recommender.recommend import COUNTS_SCHEMA, RecommendTask
from recommender.restaurants import shown_restaurants
from recommender.runs import SideRun, TrainingRun, side_run, training_run
from recommender.scripts import configure_logging, run_script, script_parser
from recommender.settings import Settings
from recommender.spark import spark_session
from recommender.standings import best_of, document_of, svg_of, table_of
from recommender.store import RECOMMENDATIONS, publish, staged
from recommender.summary import summary_of
from recommender.tuned import KeptFits, adopt, fingerprint, forget, in_force
from recommender.tuning import Budget, Candidate, explore

_SEVERAL = 2
# A few, so that no core waits long for the last.
_PARTS_A_CORE = 4
_REMEDY = "raise ALS_REG_PARAM or lower ALS_RANK"
_FOLDS = 3
_SEEDS = 2**31
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
}

log = logging.getLogger("als_training")


def read(spark: SparkSession, settings: Settings) -> Ratings:
    """Read and clean Reviews in Spark's executors, and number users and restaurants here.

    Only what is clean comes here, as Arrow blocks. Numbering them in one process takes a tenth of
    the time of Spark's StringIndexer, and the clustering works on the same numbers.
    """
    ranges = 2 * spark.sparkContext.defaultParallelism
    return gather(read_reviews(spark, settings, ranges).toArrow())


def split(ratings: Ratings, settings: Settings) -> tuple[Ratings, Ratings]:
    """Divide the ratings of each user into a training part and a held-out one.

    At random or, by ``ALS_TEST_SPLIT=time``, the latest are held out; who has rated once stays in
    training. The same seed and ratings give the same parts.
    """
    time = ratings.time if settings.als_test_split == "time" else None
    fraction, seed = settings.als_test_fraction, settings.seed
    held_out = held_out_rows(ratings.user, fraction, seed=seed, time=time)
    return ratings.rows(~held_out), ratings.rows(held_out)


def fit(spark: SparkSession, ratings: Ratings, settings: Settings) -> Model:
    """Fit what the settings ask for: ratings, and preferences unless ``ALS_OBJECTIVE=rating``."""
    rating = fit_rating(spark, ratings, settings)
    if settings.als_objective == "rating":
        return Model(rating, preferences=None)
    return Model(rating, fit_preferences(spark, ratings, settings))


def fit_rating(spark: SparkSession, ratings: Ratings, settings: Settings) -> RatingModel:
    """Fit how much a user would like a restaurant.

    A regularised baseline is taken out first, and ALS explains the rest; if the foretold rating is
    what ranks, ALS is fitted to the ratings as they are.
    """
    shape = len(ratings.users), len(ratings.restaurants)
    if settings.als_objective == "rating":
        baseline, bounds = no_baseline(shape), (-np.inf, np.inf)
    else:
        baseline, bounds = offsets(ratings, settings), (settings.rating_min, settings.rating_max)
    table = _table(ratings, ratings.rating - baseline.predict(ratings.user, ratings.restaurant))
    als = _als(spark, settings).setRank(settings.als_rank).setRegParam(settings.als_reg_param)
    als = als.setMaxIter(settings.als_max_iter)
    model = als.fit(_frame(spark, table, als))
    return RatingModel(
        baseline,
        factor_matrix(model.userFactors, shape[0], model.rank),
        factor_matrix(model.itemFactors, shape[1], model.rank),
        bounds,
    )


def offsets(ratings: Ratings, settings: Settings) -> Baseline:
    """Fit how high each user rates, and how high each restaurant is rated."""
    return fit_baseline(
        ratings.user,
        ratings.restaurant,
        ratings.rating,
        (len(ratings.users), len(ratings.restaurants)),
        user_weight=settings.als_user_weight,
        restaurant_weight=settings.als_restaurant_weight,
    )


def fit_preferences(spark: SparkSession, ratings: Ratings, settings: Settings) -> Preferences:
    """Fit who would go where, a rating saying how sure that is.

    Only restaurants are fitted, by the users who have rated two or more: one rating says nothing
    of what goes together, and of who has given it there are so many that it drowns what does. Any
    user's factors follow from those of the restaurants, so that not all users need take part.
    """
    visits = visits_of(ratings, settings)
    alpha = settings.als_alpha / float(visits.data.mean())
    reg_param = settings.als_preference_reg_param
    factors = np.full((len(ratings.restaurants), settings.als_preference_rank), np.nan, np.float32)
    rows = _teachers(np.diff(visits.indptr), settings)[ratings.user]
    if rows.any():
        als = _als(spark, settings).setRank(settings.als_preference_rank).setRegParam(reg_param)
        als = als.setImplicitPrefs(True).setAlpha(alpha).setMaxIter(settings.preference_iterations)
        table = _table(ratings, visits.data).filter(pa.array(rows))
        model = als.fit(_frame(spark, table, als))
        factors = factor_matrix(model.itemFactors, len(ratings.restaurants), model.rank)
    else:
        log.warning("nobody has rated two restaurants: the most popular ones are recommended")
    popularity = np.bincount(ratings.restaurant, minlength=len(ratings.restaurants))
    return preferences_of(factors, popularity, alpha=alpha, reg_param=reg_param)


def _teachers(counts: NDArray[np.int64], settings: Settings) -> NDArray[np.bool_]:
    """Return which users teach the preference, by their counts of ratings."""
    several = np.flatnonzero(counts >= _SEVERAL)
    rng = np.random.default_rng(settings.seed)
    most = min(len(several), settings.als_preference_users)
    teachers = np.zeros(len(counts), dtype=bool)
    teachers[rng.choice(several, most, replace=False)] = True
    return teachers


def _als(spark: SparkSession, settings: Settings) -> ALS:
    blocks = settings.als_blocks or max(2, spark.sparkContext.defaultParallelism)
    return ALS(
        coldStartStrategy=settings.als_cold_start_strategy,
        checkpointInterval=settings.als_checkpoint_interval,
        numUserBlocks=blocks,
        numItemBlocks=blocks,
        seed=settings.seed,
        userCol="user",
        itemCol="restaurant",
        ratingCol="rating",
    )


def _table(ratings: Ratings, values: NDArray[np.float64]) -> pa.Table:
    columns = [ratings.user, ratings.restaurant, values.astype(np.float32)]
    return pa.table(columns, names=["user", "restaurant", "rating"])


def _frame(spark: SparkSession, table: pa.Table, als: ALS) -> DataFrame:
    return spark.createDataFrame(table).coalesce(als.getNumUserBlocks())


def factor_matrix(factors: DataFrame, count: int, rank: int) -> NDArray[np.float32]:
    """Bring a model's factors here.

    Parameters
    ----------
    factors
        ``userFactors`` or ``itemFactors`` of a model.
    count
        Number of users or restaurants.
    rank
        Number of factors of each.

    Returns
    -------
    float32 (count, rank)
        NaN in the rows of those that the model did not see.

    Raises
    ------
    ModelRejectedError
        If a factor is not finite, as after a fit that did not hold.
    """
    matrix = np.full((count, rank), np.nan, dtype=np.float32)
    for batch in factors.toArrow().to_batches():
        flat = batch["features"].flatten().to_numpy(zero_copy_only=False)
        check_finite("ALS's factors", flat, remedy=_REMEDY)
        matrix[batch["id"].to_numpy()] = flat.reshape(batch.num_rows, rank)
    return matrix


def recommend(
    spark: SparkSession, model: Model, ratings: Ratings, run: TrainingRun, stage: str
) -> int:
    """Stage every user's top restaurants that the user has not rated.

    Users without a review whom ``Users`` knows get theirs, too, unless ratings alone rank.

    Spark's own ``recommendForAllUsers`` takes many times as long and leaves in what is rated.

    Parameters
    ----------
    stage
        Name of the collection to write to.

    Returns
    -------
    int
        Count of the users.

    Raises
    ------
    ModelRejectedError
        If a score is not finite, as after a fit that did not hold.
    """
    visits, users = visits_of(ratings, run.settings), ratings.users
    if model.preferences is not None:
        newcomers = find_newcomers(run.db, ratings, run.settings)
        run.record(newcomers=len(newcomers.users))
        model = model.with_newcomers(len(newcomers.users))
        visits = stacked(visits, newcomers.visits)
        users = pa.concat_arrays([users, newcomers.users])
    task = RecommendTask(
        settings=run.settings,
        run_id=run.run_id,
        stage=stage,
        model=model,
        visits=visits,
        shown=shown_restaurants(run.db, ratings.restaurants, run.settings),
        users=users,
        restaurants=ratings.restaurants,
    )
    shared = spark.sparkContext.broadcast(task)
    parts = _PARTS_A_CORE * spark.sparkContext.defaultParallelism
    numbers = spark.range(0, len(users), numPartitions=parts)
    counts = numbers.mapInArrow(lambda batches: shared.value.run(batches), COUNTS_SCHEMA)
    totals = counts.groupBy().sum().toArrow().to_pylist()[0]
    if totals["sum(broken)"]:
        raise ModelRejectedError(
            f"{totals['sum(broken)']:,} users have scores that are not finite; nothing was "
            f"published; {_REMEDY}"
        )
    return int(totals["sum(users)"])


def train(run: TrainingRun) -> tuple[Ratings, Preferences | None]:
    """Do the whole ALS job, up to the published ``Recommendations``.

    Returns
    -------
    ratings
        What it trained on.
    preferences
        What it found of them, if that is what ranks.
    """
    settings = take_over_adopted(run)
    with spark_session(settings, f"als_training {run.run_id}") as spark:
        with run.phase("read"):
            ratings = read(spark, settings)
            run.record(**counts_of(ratings))
        with run.phase("train"):
            part, held_out = split(ratings, settings)
            model = fit(spark, part, settings)
        with run.phase("evaluate"):
            share, rating_figures = judge_ratings(model.rating, part, held_out, settings)
            run.record(**{"metrics.als": rating_figures})
            run.record(**{"metrics.lists": judge_lists(model, part, held_out, settings)})
        with run.phase("refit"):
            model = fit(spark, ratings, settings).believing(share)
        with staged(run.db, RECOMMENDATIONS, run.run_id, "user_id", keep_others=True) as stage:
            with run.phase("recommend"):
                users = recommend(spark, model, ratings, run, stage.name)
            with run.phase("publish recommendations"):
                stage.seal(users)
                check_recommendations(run, stage.name)
                publish(run.db, stage, before_switching=run.may_publish)
    return ratings, model.preferences


def take_over_adopted(run: TrainingRun | SideRun) -> Settings:
    """Put what was adopted of a search into force; return the settings to train with."""
    run.settings, adopted = in_force(run.db, run.settings)
    if adopted:
        run.record(settings=run.settings.public(), adopted=adopted)
    return run.settings


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
        model = Model(offsets_alone(part, settings), fit_preferences(spark, part, settings))
        figures = judge_lists(model, part, held_out, settings)
        figure = figures["ndcg"]
    else:
        alone = search is BASELINE
        rating = offsets_alone(part, settings) if alone else fit_rating(spark, part, settings)
        _, figures = judge_ratings(rating, part, held_out, settings)
        figure = figures["rmse"]
    if figure is None:
        raise DataError(f"no {search.measure}: {figures['reason']}")
    return float(figure)


def offsets_alone(ratings: Ratings, settings: Settings) -> RatingModel:
    """Return the rating's fit without ALS, which foretells the same pairs."""
    user, restaurant = (
        np.where(np.bincount(of, minlength=len(ids)) > 0, 0, np.nan).astype(np.float32)[:, None]
        for of, ids in ((ratings.user, ratings.users), (ratings.restaurant, ratings.restaurants))
    )
    bounds = settings.rating_min, settings.rating_max
    return RatingModel(offsets(ratings, settings), user, restaurant, bounds)


def folds_of(ratings: Ratings, settings: Settings, folds: int) -> list[tuple[Ratings, Ratings]]:
    """Divide the ratings as :func:`split` does, once for each fold, with a seed of its own.

    Raises
    ------
    DataError
        If nothing can be held out.
    """
    parts = [split(ratings, _of_fold(settings, fold)) for fold in range(folds)]
    if not len(parts[0][1]):
        raise DataError(
            "no user has rated two restaurants, so that none can be held out to tune by; load more "
            "reviews"
        )
    if settings.als_test_split == "time":
        log.warning("ALS_TEST_SPLIT=time holds the same out in each fold: deviations are too small")
    return parts


def _of_fold(settings: Settings, fold: int) -> Settings:
    return settings.model_copy(update={"seed": (settings.seed + fold) % _SEEDS})


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
            ratings = read(spark, settings)
            run.record(**counts_of(ratings))
            parts = folds_of(ratings, settings, folds)
        kept = KeptFits(run.db, run.run_id, settings, fingerprint(ratings))

        def fit_one(candidate: Candidate, fold: int) -> float:
            tried = _of_fold(settings, fold).model_copy(update=candidate.parameters)
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


def show_tuning(settings: Settings, arguments: argparse.Namespace, axes: dict[str, Axes]) -> None:
    """Search, print how the candidates stand, and draw it to ``tuning.svg`` in ``WORK_DIR``.

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
        print("\n\n".join(table_of(found, search, folds) for search in searches))
        print(f"\nsearch {run.run_id}, drawn in {drawing}")
        best = [best_of(found, search, folds) for search in (RATING, PREFERENCE)]
        winners = [candidate for candidate in best if candidate]
        reasons = [candidate.reason for candidate in found if candidate.reason]
        if reasons and not winners:
            raise DataError(f"no candidate has a figure, such as: {reasons[0]}; load more reviews")
        for winner in winners:
            print(f"best {winner.search.name}: {told(winner.parameters)}")
        if arguments.adopt:
            _adopt(run, winners, axes)


def _adopt(run: SideRun, winners: list[Candidate], axes: dict[str, Axes]) -> None:
    if not winners:
        print("nothing is adopted: no candidate is finished; tune again to go on")
        return
    searched = {
        RATING.name: [*axes.get(BASELINE.name, ()), *axes[RATING.name]],
        PREFERENCE.name: [*axes.get(PREFERENCE.name, ())],
    }
    taken = [(winner, searched[winner.search.name]) for winner in winners]
    adopted = adopt(run.db, run.run_id, run.settings, taken)
    print(f"adopted, for the next trainings: {told(adopted)}")
    by_hand = sorted(name.upper() for name in set(adopted) & run.settings.model_fields_set)
    if by_hand:
        print(f"but {', '.join(by_hand)} is set by hand, which wins")


def forget_adopted(settings: Settings) -> None:
    """Forget what was adopted, and say what trainings use now."""
    with connect(settings) as client:
        was = forget(database(client, settings))
    print("forgotten: " if was else "nothing was adopted: ", end="")
    print("the next trainings use the settings alone")


def main(argv: Sequence[str] | None = None) -> int:
    """Train on the reviews in MongoDB, publish, and chain into the clustering."""
    parser = script_parser("Train Spark ALS, publish Recommendations, then cluster the users.")
    parser.add_argument(
        "--no-clustering", action="store_true", help="publish Recommendations and end there"
    )
    add_force_option(parser)
    _add_tuning_options(parser)
    # How the service hands the lease that it has taken over to its child.
    parser.add_argument("--adopt-run", metavar="RUN_ID", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    _check_tuning_options(parser, arguments)
    settings = settings_as_asked(arguments)
    configure_logging(settings)
    if arguments.forget:
        forget_adopted(settings)
        return 0
    if arguments.tune:
        try:
            axes = read_grid(arguments.grid, settings)
        except ValueError as error:
            parser.error(str(error))
        show_tuning(settings, arguments, axes)
        return 0
    with training_run(settings, adopted=arguments.adopt_run) as run:
        ratings, preferences = train(run)
        if not arguments.no_clustering:
            clustering_training.train(run, ratings, preferences)
    print(summary_of(run.document))
    return 0


def _add_tuning_options(parser: argparse.ArgumentParser) -> None:
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


def _check_tuning_options(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    of_tuning = (arguments.grid, arguments.adopt)
    numbers = (arguments.budget, arguments.folds)
    if not arguments.tune and (any(of_tuning) or any(number is not None for number in numbers)):
        parser.error("--grid, --budget, --folds and --adopt are for --tune")
    if arguments.folds is None:
        arguments.folds = _FOLDS


if __name__ == "__main__":
    raise SystemExit(run_script(main))
