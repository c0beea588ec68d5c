"""The search for better parameters: which are tried, in what order, for how long, and which won."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Protocol

import numpy as np

from recommender.errors import DataError, ModelRejectedError
from recommender.grids import Parameters, Search, told

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What one fit reached.

    Attributes
    ----------
    figure
        The search's measure; None where there is none.
    seconds
        How long it took.
    reason
        Why there is no figure.
    """

    figure: float | None
    seconds: float
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class Candidate:
    """Parameters that are tried, once on each fold.

    Attributes
    ----------
    search
        What they are of.
    parameters
        All parameters of that fit.
    in_force
        Whether these are what a training uses now.
    outcomes
        What it reached, by fold; filled by :func:`explore`.
    """

    search: Search
    parameters: Parameters
    in_force: bool = False
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    @property
    def figures(self) -> list[float]:
        """The figures that there are."""
        return [o.figure for o in self.outcomes.values() if o.figure is not None]

    @property
    def reason(self) -> str | None:
        """Why a fold has no figure, if one was tried and has none."""
        return next((o.reason for o in self.outcomes.values() if o.figure is None), None)

    @property
    def mean(self) -> float:
        """The mean over the folds."""
        return fmean(self.figures)

    @property
    def deviation(self) -> float | None:
        """The standard deviation over the folds, None of a single one."""
        return stdev(self.figures) if len(self.figures) > 1 else None

    @property
    def seconds(self) -> float:
        """What all its fits took."""
        return sum(outcome.seconds for outcome in self.outcomes.values())


class Kept(Protocol):
    """Remembers what fits have reached, also from one call to the next."""

    def get(self, candidate: Candidate, fold: int) -> Outcome | None:
        """Return what is known of a fit."""

    def put(self, candidate: Candidate, fold: int, outcome: Outcome) -> None:
        """Remember what a fit has reached."""


class Budget:
    """The time until which fits may be begun.

    Parameters
    ----------
    seconds
        From now on; None: as long as it takes.
    clock
        Returns the time, in seconds from any start.
    """

    def __init__(
        self, seconds: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock = clock
        self._end = math.inf if seconds is None else clock() + seconds

    @property
    def left(self) -> float:
        """Seconds left, 0 where none are."""
        return max(0.0, self._end - self.clock())


def explore(
    candidates: Sequence[Candidate],
    folds: int,
    fit: Callable[[Candidate, int], float],
    kept: Kept,
    budget: Budget,
    *,
    seed: int,
) -> None:
    """Fit each candidate on each fold, and write down what it reaches.

    First what is in force, then the others in random order, so that a search that ends early has
    looked everywhere. A candidate is finished before the next one is begun. One of a fit that fails
    is not tried on other folds.

    Parameters
    ----------
    candidates
        Without outcomes yet.
    folds
        Count of the folds.
    fit
        Returns the measure; raises DataError or ModelRejectedError where there is none.
    kept
        What has been found before is not fitted again, and is found also when the time is up.
    budget
        No fit is begun when it is used up.
    seed
        Of the order.
    """
    chance = np.random.default_rng(seed).permutation(len(candidates))
    order = sorted(chance.tolist(), key=lambda i: not candidates[i].in_force)
    plan = [(candidates[i], fold) for i in order for fold in range(folds)]
    known = [kept.get(candidate, fold) for candidate, fold in plan]
    seconds: dict[str, list[float]] = {}
    for number, ((candidate, fold), before) in enumerate(zip(plan, known, strict=True), start=1):
        if candidate.reason:
            continue
        if before is None and not budget.left:
            continue
        outcome = before or _tried(candidate, fold, fit, budget.clock)
        if before is None:
            kept.put(candidate, fold, outcome)
        candidate.outcomes[fold] = outcome
        seconds.setdefault(candidate.search.name, []).append(outcome.seconds)
        rest = [c for (c, _), k in zip(plan[number:], known[number:], strict=True) if k is None]
        left = "as before" if before else _in_words(_estimate(rest, seconds), budget.left)
        progress = f"{candidate.search.name} {number} of {len(plan)}"
        log.info("%s, fold %d: %s", progress, fold + 1, _line(candidate, outcome, left))


def _tried(
    candidate: Candidate,
    fold: int,
    fit: Callable[[Candidate, int], float],
    clock: Callable[[], float],
) -> Outcome:
    began = clock()
    try:
        figure = fit(candidate, fold)
    except (DataError, ModelRejectedError) as error:
        return Outcome(None, clock() - began, str(error))
    return Outcome(figure, clock() - began)


def _estimate(rest: Sequence[Candidate], seconds: dict[str, list[float]]) -> float:
    """Return how long the fits to come may take: each as those of its kind, or as all."""
    everything = fmean(s for of_one in seconds.values() for s in of_one)
    means = {name: fmean(of_one) for name, of_one in seconds.items()}
    return sum(means.get(candidate.search.name, everything) for candidate in rest)


def _in_words(estimate: float, left: float) -> str:
    minutes = f"some {min(estimate, left) / 60:.1f} min left"
    return minutes if estimate <= left else f"{minutes} by the budget, {estimate / 60:.1f} for all"


def _line(candidate: Candidate, outcome: Outcome, left: str) -> str:
    measure = candidate.search.measure
    found = f"{measure} {outcome.figure:.4f}" if outcome.figure is not None else outcome.reason
    return f"{told(candidate.parameters)}: {found}, {outcome.seconds:.1f} s; {left}"


def ranked(candidates: Sequence[Candidate], search: Search, folds: int) -> list[Candidate]:
    """Return a search's candidates that have a figure for each fold, best first.

    Of equal ones what is in force comes first: there is no reason to change it.
    """
    complete = [c for c in candidates if c.search is search and len(c.figures) == folds]
    return sorted(complete, key=lambda c: (-search.sign * c.mean, not c.in_force))
