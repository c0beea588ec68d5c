"""The search: its order, its budget, what it remembers, and who wins."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from recommender.errors import DataError, ModelRejectedError, SparkError
from recommender.grids import BASELINE, PREFERENCE, RATING, Search
from recommender.tuning import Budget, Candidate, Outcome, explore, ranked

Fit = Callable[[Candidate, int], float]


class Notes:
    """Remembers in this process."""

    def __init__(self) -> None:
        self.known: dict[tuple[Any, int], Outcome] = {}

    def get(self, candidate: Candidate, fold: int) -> Outcome | None:
        return self.known.get((number(candidate), fold))

    def put(self, candidate: Candidate, fold: int, outcome: Outcome) -> None:
        self.known[number(candidate), fold] = outcome


def number(candidate: Candidate) -> int:
    found: int = candidate.parameters["als_rank"]
    return found


def candidates(count: int, search: Search = RATING, in_force: int | None = None) -> list[Candidate]:
    return [Candidate(search, {"als_rank": i}, in_force=i == in_force) for i in range(count)]


class Fits:
    """Takes a minute of its own clock for each fit, and writes down what it was asked for."""

    def __init__(self, figure: Fit = lambda c, fold: number(c) + fold / 10) -> None:
        self.done: list[tuple[int, int]] = []
        self.now = 0.0
        self._figure = figure

    def __call__(self, candidate: Candidate, fold: int) -> float:
        self.done.append((number(candidate), fold))
        self.now += 60
        return self._figure(candidate, fold)

    def explore(
        self, of: list[Candidate], kept: Notes, *, seed: int = 1, budget: float | None = None
    ) -> list[Candidate]:
        explore(of, 3, self, kept, Budget(budget, lambda: self.now), seed=seed)
        return of


def test_each_candidate_is_fitted_once_on_each_fold_and_finished_before_the_next() -> None:
    fits = Fits()
    found = fits.explore(candidates(6), Notes())
    assert sorted(fits.done) == [(i, fold) for i in range(6) for fold in range(3)]
    assert [fold for _, fold in fits.done] == [0, 1, 2] * 6
    assert all(len({i for i, _ in fits.done[at : at + 3]}) == 1 for at in range(0, 18, 3))
    assert found[4].figures == [4, 4.1, 4.2]
    assert found[4].mean == pytest.approx(4.1)
    assert found[4].deviation == pytest.approx(0.1)
    assert found[4].seconds == 180


def test_what_is_in_force_comes_first_and_the_rest_in_an_order_of_the_seed() -> None:
    orders = []
    for seed in (1, 1, 2):
        fits = Fits()
        fits.explore(candidates(12, in_force=7), Notes(), seed=seed)
        orders.append([i for i, fold in fits.done if fold == 0])
    assert orders[0][0] == 7
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][1:] != sorted(orders[0][1:])


def test_no_fit_is_begun_when_the_budget_is_used_up() -> None:
    fits = Fits()
    found = fits.explore(candidates(6), Notes(), budget=4.5 * 60)
    assert len(fits.done) == 5  # the fifth was begun in time
    assert len(ranked(found, RATING, 3)) == 1
    assert fits.explore(candidates(6), Notes(), budget=0)
    assert len(fits.done) == 5


def test_another_call_takes_up_what_is_finished_also_without_time() -> None:
    kept, fits = Notes(), Fits()
    fits.explore(candidates(6), kept, budget=7 * 60)
    assert len(fits.done) == 7
    for seed in (1, 5):  # another order finds it, too
        found = fits.explore(candidates(6), kept, seed=seed, budget=0)
        assert len(fits.done) == 7
        assert sum(len(c.figures) for c in found) == 7
    found = fits.explore(candidates(6), kept)
    assert sorted(fits.done) == [(i, fold) for i in range(6) for fold in range(3)]
    assert [c.figures for c in found] == [c.figures for c in Fits().explore(candidates(6), Notes())]


@pytest.mark.parametrize("error", [DataError("none"), ModelRejectedError("none")])
def test_a_fit_that_fails_costs_its_candidate_alone(error: Exception) -> None:
    def figure(candidate: Candidate, fold: int) -> float:
        if (number(candidate), fold) == (2, 1):
            raise error
        return 1.0

    kept = Notes()
    fits = Fits(figure)
    found = fits.explore(candidates(4), kept)
    assert (2, 2) not in fits.done
    assert found[2].reason == "none"
    assert [number(c) for c in ranked(found, RATING, 3)] == [0, 1, 3]
    again = Fits(figure)
    assert again.explore(candidates(4), kept)[2].reason == "none"
    assert again.done == []


def test_a_spark_that_fails_ends_the_search_and_what_was_found_is_kept() -> None:
    def figure(_candidate: Candidate, fold: int) -> float:
        if fold == 2:
            raise SparkError("out of memory")
        return 1.0

    kept = Notes()
    with pytest.raises(SparkError):
        Fits(figure).explore(candidates(4), kept)
    assert len(kept.known) == 2


@pytest.mark.parametrize(
    ("search", "first"), [(RATING, 0), (BASELINE, 0), (PREFERENCE, 3)], ids=lambda s: str(s)
)
def test_the_least_error_or_the_most_gain_wins(search: Search, first: int) -> None:
    found = Fits().explore(candidates(4, search), Notes())
    assert number(ranked(found, search, 3)[0]) == first
    assert ranked(found, search, 4) == []  # of candidates that lack a fold


def test_of_equal_ones_what_is_in_force_wins() -> None:
    found = Fits(lambda _c, _f: 1.0).explore(candidates(4, in_force=2), Notes())
    assert number(ranked(found, RATING, 3)[0]) == 2


def test_each_fit_is_told_with_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    kept = Notes()
    Fits().explore(candidates(2), kept, budget=60)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        Fits().explore(candidates(2), kept, budget=2.5 * 60)
    first, second, *_ = (record.getMessage() for record in caplog.records)
    assert len(caplog.records) == 4
    assert first.startswith("rating 1 of 6, fold 1: ALS_RANK=")
    assert first.endswith("60.0 s; as before")
    assert second.endswith("60.0 s; some 1.5 min left by the budget, 4.0 for all")
