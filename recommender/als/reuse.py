"""The parameters of the fits: chosen by a training, or reused while they suit the ratings."""

import datetime
import logging
import math
from dataclasses import asdict, dataclass

from recommender.als.bias import BiasDamping
from recommender.als.choose_preference import PreferenceParameters, choose_preference_parameters
from recommender.core.mongo import Document, mongo_errors
from recommender.core.mongo_collections import RECOMMENDATIONS, run_of
from recommender.core.settings import Settings
from recommender.data.ratings import Ratings
from recommender.runs.ledger import Ledger, now
from recommender.runs.run import TrainingRun

# The settings that decide what is chosen.
_DECIDED_BY = (
    *("als_objective", "als_alpha", "als_preference_rank", "als_preference_reg_param"),
    *("als_user_weight", "als_restaurant_weight", "als_top_n"),
    *("als_test_fraction", "als_test_split", "rating_min", "rating_max", "reviews_time_field"),
    *("reviews_user_field", "reviews_restaurant_field", "reviews_rating_field"),
)
_MOST_AGE = datetime.timedelta(hours=24)
_MOST_CHANGE = 0.1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChosenParameters:
    """The parameters of both fits, chosen by this or by an earlier run."""

    damping: BiasDamping
    preference: PreferenceParameters
    at: datetime.datetime  # in UTC
    ratings: int  # of the run that chose, test ratings included
    from_run: str | None = None  # None if this run chose

    def document(self) -> Document:
        """Return the ledger's ``chosen``."""
        names = {"damping": "weights", "preference": "confidence"}
        return {names.get(name, name): value for name, value in asdict(self).items()}


def choose_parameters(
    train: Ratings, settings: Settings, damping: BiasDamping, ratings: int
) -> ChosenParameters:
    """Choose the parameters of the preference's fit, and add the damping of the rating's."""
    return ChosenParameters(damping, choose_preference_parameters(train, settings), now(), ratings)


def live_entry(run: TrainingRun) -> Document:
    """Return the ledger's document of the run whose recommendations are live, {} without one."""
    with mongo_errors("reading which run is live"):
        return Ledger(run.db).get(str(run_of(run.db[RECOMMENDATIONS]))) or {}


def reused_parameters(run: TrainingRun, ratings: int) -> ChosenParameters | None:
    """Return the parameters of the live run if they suit this number of ratings, or None."""
    chosen = parameters_of(live_entry(run), run.settings, ratings, now())
    if chosen:
        log.info("reusing the parameters that %s chose", chosen.from_run)
    return chosen


def parameters_of(
    entry: Document, settings: Settings, ratings: int, at: datetime.datetime
) -> ChosenParameters | None:
    """Return the parameters of a ledger entry, None if invalid, old or unsuitable."""
    try:
        document, theirs, ours = entry["chosen"], entry["settings"], settings.public()
        weights, confidence = document["weights"], document["confidence"]
        positive = [weights[name] for name in ("user", "restaurant")]
        positive += [confidence[name] for name in ("alpha", "reg_param", "rank")]
        valid = isinstance(confidence["rank"], int) and all(0 < v < math.inf for v in positive)
        blended = [confidence[f"{name}_weight"] for name in ("embedding", "item_item")]
        valid &= all(0 <= weight < math.inf for weight in blended)
        chosen = ChosenParameters(
            BiasDamping(**weights),
            PreferenceParameters(**confidence),
            at=document["at"],
            from_run=document["from_run"] or entry["run_id"],
            ratings=document["ratings"],
        )
        same = all(theirs[name] == ours[name] for name in _DECIDED_BY)
        alike = abs(ratings - document["ratings"]) < _MOST_CHANGE * document["ratings"]
        recent = abs(at - document["at"]) < _MOST_AGE
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return chosen if valid and same and alike and recent else None
