"""The parameter search: trials, the order and budget of their fits, and their stored results."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from operator import itemgetter
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np

from recommender.als.tuning.space import DEPENDS_ON, Axes, Parameters, Search
from recommender.core.errors import DataError, ModelRejectedError
from recommender.core.mongo import MongoDatabase, mongo_errors
from recommender.data.ratings import Ratings
from recommender.runs.ledger import now

COLLECTION = "Tuning"
_VERSION = 4  # increase it when the measure of an unchanged fit changes

log = logging.getLogger(__name__)


class Result(NamedTuple):
    """Outcome of one fit: its measure, or the reason why it has none."""

    figure: float | None
    seconds: float
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class Trial:
    """Parameters to fit once on each fold, and the results so far."""

    search: Search
    parameters: Parameters
    in_force: bool = False  # trainings use these parameters now
    results: list[Result] = field(default_factory=list)

    @property
    def figures(self) -> list[float]:
        """Measures of the folds that have one."""
        return [result.figure for result in self.results if result.figure is not None]


Fit = Callable[[Trial, int], float]  # returns the measure on a fold
Expired = Callable[[], bool]


class ResultStore:
    """Keeps results in the collection ``Tuning``, under a digest of all that determines them."""

    def __init__(self, db: MongoDatabase, settings: Mapping[str, Any], ratings: Ratings) -> None:
        self._collection = db[COLLECTION]
        self._settings, self._data = settings, fingerprint(ratings)

    def get(self, trial: Trial, fold: int) -> Result | None:
        """Return the stored result of a fit, or None."""
        with mongo_errors(f"reading {COLLECTION}"):
            document = self._collection.find_one(self._key(trial, fold))
        return Result(*(document[name] for name in Result._fields)) if document else None

    def put(self, trial: Trial, fold: int, result: Result) -> None:
        """Store the result of a fit."""
        fit = {"search": trial.search.name, "parameters": trial.parameters, "fold": fold}
        origin = {"data": self._data, "at": now()}
        document = fit | result._asdict() | origin
        with mongo_errors(f"writing to {COLLECTION}"):
            self._collection.replace_one(self._key(trial, fold), document, upsert=True)

    def _key(self, trial: Trial, fold: int) -> Parameters:
        settings = {name: self._settings[name] for name in DEPENDS_ON} | trial.parameters
        basis = [_VERSION, self._data, trial.search.name, fold, settings]
        text = json.dumps(basis, sort_keys=True)
        return {"_id": hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}


def fingerprint(ratings: Ratings) -> str:
    """Return a digest of the ratings."""
    digest = hashlib.blake2b(digest_size=16)
    for array in (ratings.user, ratings.restaurant, ratings.rating, ratings.time):
        digest.update(array.tobytes())
    return digest.hexdigest()


def make_trials(search: Search, axes: Axes, settings: Mapping[str, Any]) -> list[Trial]:
    """Return the trial in force, and one for each other combination of the search's axes."""
    in_force = {name: settings[name] for name in search.grid}
    names = [name for name in search.grid if name in axes]
    combinations = product(*(axes[name] for name in names))
    points = [in_force | dict(zip(names, values, strict=True)) for values in combinations]
    others = [Trial(search, point) for point in points if point != in_force]
    return [Trial(search, in_force, in_force=True), *others]


def run_trials(
    trials: list[Trial], folds: int, fit: Fit, store: ResultStore, *, seed: int, expired: Expired
) -> None:
    """Fit each trial on each fold, unless its result is stored, and add the results to the trial.

    Those in force come first, then others in random order: an interrupted search covers the whole
    space. A trial ends with its first failed fit. No fit starts once ``expired()``.
    """
    shuffled = [trials[i] for i in np.random.default_rng(seed).permutation(len(trials))]
    shuffled.sort(key=lambda trial: not trial.in_force)
    for number, trial in enumerate(shuffled, start=1):
        for fold in range(folds):
            result = store.get(trial, fold)
            if result is None:
                if expired():
                    continue
                result = _run_fit(fit, trial, fold)
                store.put(trial, fold, result)
                progress = f"trial {number} of {len(trials)}, fold {fold + 1}"
                log.info("%s %s: %s: %s", trial.search.name, progress, trial.parameters, result)
            trial.results.append(result)
            if result.figure is None:
                break


def _run_fit(fit: Fit, trial: Trial, fold: int) -> Result:
    started = time.perf_counter()
    try:
        return Result(fit(trial, fold), time.perf_counter() - started)
    except (DataError, ModelRejectedError) as error:
        return Result(None, time.perf_counter() - started, str(error))


def summarize(trials: Sequence[Trial], folds: int) -> dict[str, Any]:
    """Return one search's entry of the report, its complete trials best first."""
    measure = trials[0].search.measure
    table = [
        {
            "parameters": trial.parameters,
            "in_force": trial.in_force,
            "mean": fmean(trial.figures),
            "deviation": stdev(trial.figures) if folds > 1 else None,
            "folds": trial.figures,
            "seconds": sum(result.seconds for result in trial.results),
        }
        for trial in sorted(trials, key=lambda trial: not trial.in_force)
        if len(trial.figures) == folds
    ]
    failed = [(trial.parameters, trial.results[-1].reason) for trial in trials if trial.results]
    return {
        "measure": measure,
        "candidates": len(trials),
        "complete": len(table),
        "table": sorted(table, key=itemgetter("mean"), reverse=measure == "NDCG"),
        "failed": [{"parameters": p, "reason": reason} for p, reason in failed if reason],
    }
