"""The gate: rejects a model that is worse than the live one."""

import argparse
import math
from typing import Any

import numpy as np

from recommender.core import mongo_collections as names
from recommender.core.errors import ModelRejectedError
from recommender.core.mongo import Document, mongo_errors
from recommender.core.settings import GateSettings, Settings, load_settings
from recommender.data.ratings import reader_shift
from recommender.publishing.lift import STANDARD_ERRORS, LiftVerdict, compare_lifts, lift_of
from recommender.runs.ledger import Ledger, figure_at
from recommender.runs.run import TrainingRun

# RMSEs, and the clusters' users, are compared only if the runs agree on these settings.
_SAME = ("rating_min", "rating_max", "reviews_rating_field")
# Lifts compare across objectives and scales, but not if the runs tested their lists differently.
_SAME_TEST = ("als_top_n", "als_test_split", "als_test_fraction")
_WITH_A_LIST: Document = {"recommendations.0": {"$exists": True}}
_RMSE_TOLERANCE = 0.1


def add_force_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--force``, which turns the gate off for one run, as ``GATE=off`` for all."""
    text = "publish what the gate would reject (GATE=off); als_training.py chooses parameters anew"
    parser.add_argument("--force", action="store_true", help=text)


def settings_with_force(arguments: argparse.Namespace) -> Settings:
    """Return the settings, with the gate off after ``--force``."""
    return load_settings(gate=False) if arguments.force else load_settings()


def check_finite(name: str, *arrays: Any, remedy: str) -> None:
    """Raise ModelRejectedError if a number is not finite, also with ``--force``."""
    broken = sum(int((~np.isfinite(array)).sum()) for array in arrays)
    if broken:
        raise ModelRejectedError(
            f"{broken:,} numbers of {name} are not finite, and readers cannot rank by them; "
            f"nothing was published; {remedy}"
        )


def check_recommendations(run: TrainingRun, stage_name: str) -> None:
    """Compare staged recommendations, and the run's figures of them, with the live ones.

    Raise ModelRejectedError, with the gate on, for too few users, a worse RMSE or a worse lift.
    """
    with mongo_errors("comparing with the recommendations that are live"):
        recommendations = run.db[names.RECOMMENDATIONS]
        users = run.db[stage_name].count_documents(_WITH_A_LIST)
        live_users = recommendations.count_documents({**names.WRITTEN_BY_A_RUN, **_WITH_A_LIST})
        ours, theirs = _entries(run, names.run_of(recommendations))
    reasons = _too_few(users, live_users, run.settings.gate)
    reasons += _too_far_off(ours, theirs, run.settings)
    lift = _lift_verdict(run.settings, ours, theirs, "metrics.lists")
    _decide(run, "recommendations", theirs, reasons, lift)


def check_clusters(run: TrainingRun, users: int) -> None:
    """Compare the clusters' users, and the run's figures of their lists, with the live ones.

    Raise ModelRejectedError, with the gate on, for too few users or a worse lift. The users are not
    compared if the settings that select them, or the shift of ratings, have changed since.
    """
    with mongo_errors("comparing with the clusters that are live"):
        live = run.db[names.METADATA].find_one({"_id": names.CLUSTERS_ID}) or {}
        ours, theirs = _entries(run, live.get("run_id"))
    same_shift = live.get("rating_shift", 0) == reader_shift(run.settings.reviews.rating_min)
    same = same_shift and _same(run.settings, theirs, *_SAME)
    live_users = sum(live.get("sizes", [])) if same else 0
    reasons = _too_few(users, live_users, run.settings.gate)
    lift = _lift_verdict(run.settings, ours, theirs, "metrics.clusters.held_out")
    _decide(run, "clusters", theirs, reasons, lift)


def _entries(run: TrainingRun, live_run: str | None) -> tuple[Document, Document]:
    """Return the ledger's documents of this run and of the live one, only an id if pruned."""
    ours, theirs = (Ledger(run.db).get(str(each)) for each in (run.run_id, live_run))
    return ours or {}, theirs or ({"run_id": live_run} if live_run else {})


def _too_few(users: int, live_users: int, gate: GateSettings) -> list[str]:
    if users >= gate.min_users_share * live_users:
        return []
    return [
        f"{users:,} users where {live_users:,} are served now, fewer than the share of "
        f"GATE_MIN_USERS_SHARE={gate.min_users_share:g}"
    ]


def _too_far_off(ours: Document, theirs: Document, settings: Settings) -> list[str]:
    """Return the reasons against the RMSE; none unless objective and scale are the live run's."""
    rmse, live_rmse = (figure_at(each, "metrics.als.rmse") for each in (ours, theirs))
    same = _same(settings, theirs, "als_objective", *_SAME)
    if not same or rmse is None or live_rmse is None:
        return []
    # The standard error of an RMSE on n ratings is about RMSE / sqrt(2 n).
    rows = (figure_at(each, "metrics.als.rows") for each in (ours, theirs))
    chance = STANDARD_ERRORS * math.sqrt(sum(1 / (2 * n) for n in rows if n))
    limit = live_rmse * (1 + _RMSE_TOLERANCE + chance)
    if rmse <= limit:
        return []
    return [
        f"RMSE {rmse:.4g} where the live run {theirs['run_id']} has {live_rmse:.4g}, above "
        f"the limit of {limit:.4g} ({_RMSE_TOLERANCE:.0%} more, and two standard errors)"
    ]


def _same(settings: Settings, live_run: Document, *compared: str) -> bool:
    ours, theirs = settings.public(), live_run.get("settings", {})
    return all(name in theirs and theirs[name] == ours[name] for name in compared)


def _lift_verdict(settings: Settings, ours: Document, theirs: Document, path: str) -> LiftVerdict:
    """Compare the lifts in the figures of lists at a ``path`` of the runs' documents."""
    lifts = (lift_of(figure_at(each, path) or {}) for each in (ours, theirs))
    same_test = _same(settings, theirs, *_SAME_TEST)
    tested = figure_at(ours, f"{path}.users") != 0
    return compare_lifts(*lifts, is_live=bool(theirs), same_test=same_test, tested=tested)


def _decide(
    run: TrainingRun, name: str, live: Document, reasons: list[str], lift: LiftVerdict
) -> None:
    """Record the verdict, warn, and raise ModelRejectedError for ``reasons`` or for the lift's."""
    reasons = reasons + lift.reasons
    passed = not reasons or not run.settings.gate.enabled
    verdict = {"compared_with": live.get("run_id"), "passed": passed, "reasons": reasons}
    for warning in lift.warnings:
        run.warn(f"{name}: {warning}")
    rejected = not passed and run.kind != "dry_run"
    if reasons and not rejected:
        run.warn(f"{name}: a training with the gate on would be rejected: {'; '.join(reasons)}")
    run.record(**{f"gate.{name}": {**verdict, "lift": lift.figures}, "warnings": run.warnings})
    if rejected:
        raise ModelRejectedError(
            f"the {name} are not published: {'; '.join(reasons)}; to publish such a model all the "
            "same, train once with --force, or by POST /train?force=true"
        )
