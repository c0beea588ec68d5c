"""The search: its order, its budget, its stored results, and the ranking."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from recommender.als.tuning.search import (
    Result,
    ResultStore,
    Trial,
    fingerprint,
    make_trials,
    run_trials,
    summarize,
)
from recommender.als.tuning.space import PREFERENCE, RATING, Search
from recommender.core.errors import DataError, ModelRejectedError, SparkError
from recommender.core.mongo import MongoDatabase
from recommender.core.settings import Settings
from tests.support import ratings_of

Fit = Callable[[Trial, int], float]
ROWS = [("a", "x", 3.0), ("a", "y", 4.0), ("b", "x", 5.0)]


@pytest.fixture
def store(db: MongoDatabase, db_settings: Settings) -> ResultStore:
    return ResultStore(db, db_settings.public(), ratings_of(ROWS))


def ranks_of(trials: list[Trial], folds: int) -> list[int]:
    """Return the ranks of the trials in the summary's table, best first."""
    return [row["parameters"]["als_rank"] for row in summarize(trials, folds)["table"]]


def rank(trial: Trial) -> int:
    value: int = trial.parameters["als_rank"]
    return value


def make(count: int, search: Search = RATING, in_force: int | None = None) -> list[Trial]:
    return [Trial(search, {"als_rank": i}, in_force=i == in_force) for i in range(count)]


class Fits:
    """Records the fits, and allows a number of them."""

    def __init__(self, figure: Fit = lambda trial, fold: rank(trial) + fold / 10) -> None:
        self.done: list[tuple[int, int]] = []
        self._figure = figure

    def __call__(self, trial: Trial, fold: int) -> float:
        self.done.append((rank(trial), fold))
        return self._figure(trial, fold)

    def run(
        self, trials: list[Trial], store: ResultStore, *, seed: int = 1, most: int = 99
    ) -> list[Trial]:
        expired = lambda: len(self.done) >= most  # noqa: E731
        run_trials(trials, 3, self, store, seed=seed, expired=expired)
        return trials


def test_the_trial_in_force_is_first_and_the_others_in_the_order_of_the_seed(
    db: MongoDatabase, db_settings: Settings
) -> None:
    orders = []
    for data, seed in enumerate((1, 1, 2)):
        fits = Fits()
        ratings = ratings_of(ROWS[data:])
        store = ResultStore(db, db_settings.public(), ratings)
        fits.run(make(12, in_force=7), store, seed=seed)
        ranks = [i for i, fold in fits.done if fold == 0]
        assert fits.done == [(i, fold) for i in ranks for fold in range(3)]
        orders.append(ranks)
    assert orders[0][0] == orders[2][0] == 7
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])


def test_an_interrupted_search_continues_from_its_stored_results(store: ResultStore) -> None:
    fits = Fits()
    trials = fits.run(make(6), store, most=7)
    assert len(fits.done) == 7
    assert len(ranks_of(trials, 3)) == 2
    for seed in (1, 5):  # also in another order, and without time
        again = Fits()
        trials = again.run(make(6), store, seed=seed, most=0)
        assert again.done == []
        assert sum(len(trial.figures) for trial in trials) == 7
    assert [trial.figures for trial in fits.run(make(6), store)] == [
        [i, i + 0.1, i + 0.2] for i in range(6)
    ]
    assert len(set(fits.done)) == len(fits.done) == 18


def test_a_failed_fit_ends_its_trial_alone(store: ResultStore) -> None:
    def figure(trial: Trial, fold: int) -> float:
        if (rank(trial), fold) == (2, 1):
            raise DataError("none")
        if (rank(trial), fold) == (3, 2):
            raise ModelRejectedError("diverged")
        return 1.0

    fits = Fits(figure)
    for _ in range(2):  # the failure is stored, too
        trials = fits.run(make(4), store)
        assert [failed["reason"] for failed in summarize(trials, 3)["failed"]] == [
            "none",
            "diverged",
        ]
        assert ranks_of(trials, 3) == [0, 1]
    assert len(fits.done) == 11


def test_a_failure_of_spark_ends_the_search_and_stores_nothing(
    store: ResultStore, db: MongoDatabase
) -> None:
    def figure(_trial: Trial, fold: int) -> float:
        if fold == 2:
            raise SparkError("out of memory")
        return 1.0

    with pytest.raises(SparkError):
        Fits(figure).run(make(4), store)
    assert db["Tuning"].count_documents({}) == 2


def test_a_stored_result_is_used_only_for_the_same_fit(
    db: MongoDatabase, db_settings: Settings, store: ResultStore
) -> None:
    trial = Trial(PREFERENCE, {"als_alpha": 40.0})
    results = [Result(0.5, 2.0), Result(None, 2.0, "not finite")]
    for fold, result in enumerate(results):
        store.put(trial, fold, result)
        store.put(trial, fold, result)
    assert [store.get(trial, fold) for fold in range(3)] == [*results, None]

    def is_known(
        rows: list[tuple[str, str, float]] = ROWS, trial: Trial = trial, **changes: Any
    ) -> bool:
        settings = db_settings.with_values(changes).public()
        return ResultStore(db, settings, ratings_of(rows)).get(trial, 0) is not None

    assert is_known(als_rank=99, clusters_k=3, port=1)
    assert not is_known(ROWS[1:])
    for changes in ({"seed": 1}, {"als_top_n": 5}, {"als_test_fraction": 0.5}):
        assert not is_known(**changes)
    assert not is_known(trial=Trial(PREFERENCE, {"als_alpha": 5.0}))
    assert not is_known(trial=replace(trial, search=RATING))


def test_the_fingerprint_depends_on_the_ratings_and_not_on_their_order() -> None:
    assert fingerprint(ratings_of(ROWS)) == fingerprint(ratings_of(ROWS[::-1]))
    others = [ROWS[:2], [*ROWS[:2], ("b", "x", 4.5)], [*ROWS[:2], ("b", "y", 5.0)]]
    assert len({fingerprint(ratings_of(rows)) for rows in [ROWS, *others]}) == 4


def test_trials_are_the_one_in_force_and_all_other_combinations(db_settings: Settings) -> None:
    axes = {"als_rank": (10, 20), "als_reg_param": (0.1, 1.0), "als_alpha": (5.0,)}
    settings = db_settings.public()
    trials = make_trials(RATING, axes, settings)
    assert [trial.in_force for trial in trials] == [True, False, False, False]
    names = ("als_rank", "als_reg_param")
    assert [tuple(trial.parameters) for trial in trials] == [tuple(trials[0].parameters)] * 4
    points = [tuple(trial.parameters[name] for name in names) for trial in trials]
    assert points[0] == (10, 0.1)
    assert set(points[1:]) == {(10, 1.0), (20, 0.1), (20, 1.0)}
    assert "als_alpha" not in trials[0].parameters


def test_the_lowest_error_or_the_highest_gain_is_best_and_in_force_among_equals() -> None:
    for search, best in ((RATING, 0), (PREFERENCE, 3)):
        trials = make(4, search)
        for trial in trials:
            trial.results.append(Result(float(rank(trial)), 1.0))
        assert ranks_of(trials, 1)[0] == best
        assert ranks_of(trials, 2) == []
        equal = make(4, search, in_force=2)
        for trial in equal:
            trial.results.append(Result(1.0, 1.0))
        assert ranks_of(equal, 1)[0] == 2


def test_the_ledger_gets_all_figures() -> None:
    trials = make(4, PREFERENCE, in_force=0)
    trials[0].results.extend([Result(0.1, 1.0), Result(0.2, 2.0)])
    trials[1].results.extend([Result(0.3, 1.0), Result(0.31, 2.5)])
    trials[2].results.append(Result(None, 1.0, "not finite"))
    entry = summarize(trials, 2)
    assert (entry["candidates"], entry["complete"], entry["measure"]) == (4, 2, "NDCG")
    best, other = entry["table"]
    assert best["parameters"] == {"als_rank": 1}
    assert (best["mean"], best["deviation"]) == pytest.approx((0.305, 0.5**0.5 / 100))
    assert (best["folds"], best["seconds"], best["in_force"]) == ([0.3, 0.31], 3.5, False)
    assert other["in_force"]
    assert entry["failed"] == [{"parameters": {"als_rank": 2}, "reason": "not finite"}]
    trials[0].results.pop()
    assert summarize(trials[:1], 1)["table"][0]["deviation"] is None
