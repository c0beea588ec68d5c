"""What tuning keeps in MongoDB, in ``Tuning``: each fit's figure, and what has been adopted."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from recommender.grids import TUNABLE, valid
from recommender.ledger import now
from recommender.mongo import Document, MongoDatabase, mongo_errors
from recommender.ratings import Ratings
from recommender.runs import SideRun, TrainingRun
from recommender.settings import Settings
from recommender.tuning import Candidate, Outcome

COLLECTION = "Tuning"
ADOPTED_ID = "adopted"

# Raise it when the same parameters and ratings come to reach another figure.
_METHOD = 2
_BY_BOTH = {"als_preference_max_iter": "als_max_iter"}

log = logging.getLogger(__name__)


def fingerprint(ratings: Ratings) -> str:
    """Return what tells ratings from others."""
    digest = hashlib.blake2b(digest_size=16)
    for array in (ratings.user, ratings.restaurant, ratings.rating, ratings.time):
        digest.update(array.tobytes())
    return digest.hexdigest()


class KeptFits:
    """Remembers in MongoDB what each fit has reached, under a digest of what decides it.

    Parameters
    ----------
    db
        The database.
    run_id
        Whose fits are added.
    settings
        Those in force.
    data
        The :func:`fingerprint` of the ratings.
    """

    def __init__(self, db: MongoDatabase, run_id: str, settings: Settings, data: str) -> None:
        self._kept = db[COLLECTION]
        self._run_id = run_id
        self._settings = settings.public()
        self._data = data

    def get(self, candidate: Candidate, fold: int) -> Outcome | None:
        """Return what is known of a fit."""
        with mongo_errors(f"reading {COLLECTION}"):
            found = self._kept.find_one({"_id": self._digest(candidate, fold)})
        try:
            return None if found is None else _outcome(found)
        except (KeyError, TypeError, ValueError):
            log.warning("%s has a figure that cannot be read, %s: fitted again", COLLECTION, found)
            return None

    def put(self, candidate: Candidate, fold: int, outcome: Outcome) -> None:
        """Remember what a fit has reached."""
        document: Document = {
            "_id": self._digest(candidate, fold),
            "search": candidate.search.name,
            "parameters": candidate.parameters,
            "fold": fold,
            "figure": outcome.figure,
            "reason": outcome.reason,
            "seconds": outcome.seconds,
            "data": self._data,
            "run_id": self._run_id,
            "at": now(),
        }
        with mongo_errors(f"writing to {COLLECTION}"):
            self._kept.replace_one({"_id": document["_id"]}, document, upsert=True)

    def _digest(self, candidate: Candidate, fold: int) -> str:
        search = candidate.search
        decides = {name: self._settings[name] for name in search.decided_by}
        basis = [_METHOD, self._data, search.name, fold, decides, candidate.parameters]
        text = json.dumps(basis, sort_keys=True).encode()
        return hashlib.blake2b(text, digest_size=16).hexdigest()


def _outcome(found: Document) -> Outcome:
    figure, reason = found["figure"], found["reason"]
    if figure is None and not reason:
        raise ValueError("neither a figure nor a reason")
    return Outcome(
        None if figure is None else float(figure), float(found["seconds"]), reason and str(reason)
    )


def adopt(
    db: MongoDatabase,
    run_id: str,
    settings: Settings,
    winners: Sequence[tuple[Candidate, Sequence[str]]],
) -> dict[str, Any]:
    """Make the next trainings use what was found, and return all that they now use.

    What was adopted before of parameters that were not searched for stays.

    Parameters
    ----------
    run_id, settings
        Of the search.
    winners
        The best candidate of each search, and the names of the parameters searched for.
    """
    before = _adopted(db, settings) or {}
    parameters = dict(before.get("parameters", {}))
    figures = dict(before.get("figures", {}))
    for candidate, names in winners:
        parameters.update({name: candidate.parameters[name] for name in names})
        figures[candidate.search.name] = {
            "measure": candidate.search.measure,
            "mean": candidate.mean,
            "deviation": candidate.deviation,
            "folds": len(candidate.figures),
            "run_id": run_id,
        }
    document: Document = {
        "_id": ADOPTED_ID,
        "objective": settings.als_objective,
        "parameters": parameters,
        "figures": figures,
        "run_id": run_id,
        "at": now(),
    }
    with mongo_errors(f"writing to {COLLECTION}"):
        db[COLLECTION].replace_one({"_id": ADOPTED_ID}, document, upsert=True)
    return parameters


def forget(db: MongoDatabase) -> bool:
    """Make the next trainings use the settings alone; return False if they do already."""
    with mongo_errors(f"writing to {COLLECTION}"):
        return bool(db[COLLECTION].delete_one({"_id": ADOPTED_ID}).deleted_count)


def in_force(db: MongoDatabase, settings: Settings) -> tuple[Settings, dict[str, Any] | None]:
    """Return the settings with what was adopted, which those given by hand win over.

    Returns
    -------
    settings
        What a training is to use.
    adopted
        For the ledger: the parameters taken over, those ``by_hand`` that were not, and the
        ``run_id`` of the search. None where nothing was adopted.
    """
    found = _adopted(db, settings)
    if found is None:
        return settings, None
    given = settings.model_fields_set
    by_hand = sorted(n for n in found["parameters"] if n in given or _BY_BOTH.get(n) in given)
    taken = {name: v for name, v in found["parameters"].items() if name not in by_hand}
    log.info("adopted from the search %s: %s; by hand: %s", found["run_id"], taken, by_hand)
    adopted = {"run_id": found["run_id"], "parameters": taken, "by_hand": by_hand}
    return settings.model_copy(update=taken), adopted


def take_over_adopted(run: TrainingRun | SideRun) -> Settings:
    """Put what was adopted of a search into force; return the settings to train with."""
    run.settings, adopted = in_force(run.db, run.settings)
    if adopted:
        run.record(settings=run.settings.public(), adopted=adopted)
    return run.settings


def _adopted(db: MongoDatabase, settings: Settings) -> Document | None:
    """Return what was adopted for this objective, if it can be; else say why not."""
    with mongo_errors(f"reading {COLLECTION}"):
        found = db[COLLECTION].find_one({"_id": ADOPTED_ID})
    if found is None:
        return None
    try:
        parameters = _checked(found.get("parameters"))
    except ValueError as error:
        log.warning(
            "what was adopted is not used: %s; adopt again (als_training.py --tune --adopt), or "
            "forget it (als_training.py --forget)",
            error,
        )
        return None
    if found.get("objective") != settings.als_objective:
        log.info("what was adopted is not used: it is for ALS_OBJECTIVE=%s", found.get("objective"))
        return None
    figures = found.get("figures")
    return {
        "parameters": parameters,
        "figures": figures if isinstance(figures, dict) else {},
        "run_id": str(found.get("run_id")),
    }


def _checked(parameters: Any) -> dict[str, Any]:
    if not isinstance(parameters, Mapping):
        raise ValueError(f"its parameters are {parameters!r}, no document of names and values")
    unknown = [name for name in parameters if name not in TUNABLE]
    if unknown:
        raise ValueError(f"{', '.join(map(repr, unknown))} cannot be tuned")
    return {name: valid(name, value) for name, value in parameters.items()}
