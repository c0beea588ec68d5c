"""Reuse of the parameters that an earlier training chose, while they suit the ratings."""

from __future__ import annotations

import datetime
import logging
import math
from typing import Any

from recommender.als.bias import BiasDamping
from recommender.als.choose_alpha import Confidence
from recommender.als.fit import Chosen
from recommender.core.mongo import Document, mongo_errors
from recommender.core.mongo_collections import RECOMMENDATIONS
from recommender.core.settings import Settings
from recommender.runs.ledger import Ledger, now
from recommender.runs.run import TrainingRun

# The settings that decide what is chosen.
_DECIDED_BY = (
    *("als_objective", "als_alpha", "als_preference_rank", "als_preference_reg_param"),
    *("als_user_weight", "als_restaurant_weight", "als_preference_users", "als_top_n"),
    *("als_test_fraction", "als_test_split", "rating_min", "rating_max"),
    *("reviews_user_field", "reviews_restaurant_field", "reviews_rating_field"),
)
_MOST_AGE = datetime.timedelta(hours=24)
_MOST_CHANGE = 0.1

log = logging.getLogger(__name__)


def reused_choice(run: TrainingRun, ratings: int) -> Chosen | None:
    """Return the choice of the live run if it still holds for this many ratings, or None."""
    with mongo_errors("reading the choice of the live run"):
        live = run.db[RECOMMENDATIONS].find_one({"run_id": {"$type": "string"}}, {"run_id": 1})
        entry = Ledger(run.db).get(live["run_id"]) if live else None
    chosen = choice_of(entry or {}, run.settings, ratings, now())
    if chosen:
        log.info("parameters are those that %s chose: %s", chosen.from_run, chosen)
    return chosen


def choice_of(
    entry: Document, settings: Settings, ratings: int, at: datetime.datetime
) -> Chosen | None:
    """Return a ledger entry's choice if it is complete, recent, and of the same settings and size.

    Parameters
    ----------
    entry
        The run's document; one that lacks a field or has a malformed one has no choice.
    settings, ratings, at
        Those of the training that asks, and its time, in UTC.
    """
    try:
        choice, theirs, ours = entry["chosen"], entry["settings"], settings.public()
        chosen = Chosen(
            BiasDamping(**_positive(choice["weights"], "user", "restaurant")),
            Confidence(**_positive(choice["confidence"], "alpha", "reg_param", "rank")),
            at=choice["at"],
            from_run=choice["from_run"] or entry["run_id"],
        )
        same = all(theirs[name] == ours[name] for name in _DECIDED_BY)
        alike = abs(ratings - entry["ratings"]) < _MOST_CHANGE * entry["ratings"]
        recent = at - choice["at"] < _MOST_AGE
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    whole = isinstance(chosen.confidence.rank, int)
    return chosen if same and alike and recent and whole else None


def _positive(document: Document, *names: str) -> dict[str, Any]:
    """Return the named fields; ValueError if one is not a finite number above 0."""
    values = {name: document[name] for name in names}
    if not all(0 < value < math.inf for value in values.values()):
        raise ValueError(f"numbers above 0 were expected, found {values}")
    return values
