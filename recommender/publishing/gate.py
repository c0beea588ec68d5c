"""The gate: rejects a model that is worse than the live one."""

from __future__ import annotations

import argparse
import logging
import math
from typing import Any

import numpy as np

from recommender.core.errors import ModelRejectedError
from recommender.core.mongo import Document, mongo_errors
from recommender.core.mongo_collections import CLUSTERS_ID, METADATA, RECOMMENDATIONS
from recommender.core.settings import Settings, load_settings
from recommender.data.ratings import reader_shift
from recommender.runs.ledger import Ledger
from recommender.runs.run import TrainingRun

# Runs are compared only if they agree on these settings; their RMSE only on the objective, too.
_SAME = ("rating_min", "rating_max", "reviews_rating_field")
WRITTEN_BY_A_RUN: Document = {"run_id": {"$type": "string"}}
_WITH_A_LIST: Document = {"recommendations.0": {"$exists": True}}
# Two RMSEs of the same model differ by more than this in one of twenty cases.
_STANDARD_ERRORS = 2
_RMSE_TOLERANCE = 0.1

log = logging.getLogger(__name__)


def add_force_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--force``, which turns the gate off for one run, as ``GATE=off`` for all."""
    parser.add_argument(
        "--force", action="store_true", help="publish a model that the gate would reject (GATE=off)"
    )


def settings_with_force(arguments: argparse.Namespace) -> Settings:
    """Return the settings, with the gate off after ``--force``."""
    return load_settings(gate=False) if arguments.force else load_settings()


def check_finite(name: str, *arrays: Any, remedy: str) -> None:
    """Raise ModelRejectedError if a number is not finite, also with ``--force``.

    Readers could not rank by such a score, or find a user's nearest centroid.
    """
    broken = sum(int((~np.isfinite(array)).sum()) for array in arrays)
    if broken:
        raise ModelRejectedError(
            f"{broken:,} numbers of {name} are not finite, and readers cannot rank by them; "
            f"nothing was published; {remedy}"
        )


def check_recommendations(run: TrainingRun, stage: str) -> None:
    """Compare a collection of staged recommendations and their RMSE with the live ones.

    Raise ModelRejectedError if the users are too few or the RMSE is too high, and the gate is on.
    """
    with mongo_errors("comparing with the recommendations that are live"):
        live = run.db[RECOMMENDATIONS].find_one(WRITTEN_BY_A_RUN, {"run_id": 1})
        if live is None:
            log.info("no training has published Recommendations yet: the gate compares nothing")
            return
        users = run.db[stage].count_documents(_WITH_A_LIST)
        live_users = run.db[RECOMMENDATIONS].count_documents({**WRITTEN_BY_A_RUN, **_WITH_A_LIST})
        ours, theirs = (Ledger(run.db).get(each) or {} for each in (run.run_id, live["run_id"]))
    reasons = [
        *_too_few("recommendations", users, live_users, run.settings),
        *_too_far_off(ours, theirs, run.settings),
    ]
    _decide(run, "recommendations", live["run_id"], reasons)


def check_clusters(run: TrainingRun, users: int) -> None:
    """Compare the count of clustered users with that of the live clusters.

    Raise ModelRejectedError if they are too few, and the gate is on. They are not compared if the
    settings that select these users, or the shift of ratings, have changed since.
    """
    with mongo_errors("comparing with the clusters that are live"):
        live = run.db[METADATA].find_one({"_id": CLUSTERS_ID}) or {}
        theirs = Ledger(run.db).get(str(live.get("run_id"))) or {}
    same_shift = live.get("rating_shift", 0) == reader_shift(run.settings.reviews.rating_min)
    if not (same_shift and _same(run.settings, theirs, *_SAME)):
        log.info("the gate does not compare the clusters' users: no live run of the same limits")
        return
    reasons = _too_few("clusters", users, sum(live.get("sizes", [])), run.settings)
    _decide(run, "clusters", str(live["run_id"]), reasons)


def _too_few(name: str, users: int, live_users: int, settings: Settings) -> list[str]:
    share = settings.gate.min_users_share
    if users >= share * live_users:
        return []
    return [
        f"{name} for {users:,} users where {live_users:,} have them now, fewer than the share of "
        f"GATE_MIN_USERS_SHARE={share:g}"
    ]


def _too_far_off(ours: Document, theirs: Document, settings: Settings) -> list[str]:
    """Return the reasons against the RMSE; log why if it is not compared."""
    error, live_error = (each.get("metrics", {}).get("als") or {} for each in (ours, theirs))
    rmse, live_rmse = error.get("rmse"), live_error.get("rmse")
    if not _same(settings, theirs, "als_objective", *_SAME):
        log.warning("the gate does not compare the RMSE: no live run of the same objective, scale")
        return []
    if rmse is None or live_rmse is None:
        which = "this run" if rmse is None else f"the live run {theirs['run_id']}"
        log.warning("the gate does not compare the RMSE: %s has none", which)
        return []
    # The standard error of an RMSE on n ratings is about RMSE / sqrt(2 n).
    rows = (error.get("rows"), live_error.get("rows"))
    chance = _STANDARD_ERRORS * math.sqrt(sum(1 / (2 * n) for n in rows if n))
    limit = live_rmse * (1 + _RMSE_TOLERANCE + chance)
    if rmse <= limit:
        return []
    return [
        f"RMSE {rmse:.4g} where the live run {theirs['run_id']} has {live_rmse:.4g}, above "
        f"the limit of {limit:.4g} ({_RMSE_TOLERANCE:.0%} more and chance)"
    ]


def _same(settings: Settings, live_run: Document, *names: str) -> bool:
    ours, theirs = settings.public(), live_run.get("settings", {})
    return all(name in theirs and theirs[name] == ours[name] for name in names)


def _decide(run: TrainingRun, name: str, live_run: str, reasons: list[str]) -> None:
    """Record the verdict; raise an error if it is against the model and the gate is on."""
    passed = not reasons or not run.settings.gate.enabled
    verdict = {"compared_with": live_run, "passed": passed, "reasons": reasons}
    run.record(**{f"gate.{name}": verdict})
    if not passed:
        raise ModelRejectedError(
            f"the model is not published: {'; '.join(reasons)}; to publish it all the same, train "
            "with --force, by POST /train?force=true, or change the setting"
        )
    if reasons:
        log.warning("the gate is off, so this is published: %s", "; ".join(reasons))
