"""The summary of a training, printed at its end: a few lines from its ledger document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def summary_of(run: Mapping[str, Any] | None) -> str:
    """Return the summary of a succeeded run's document, of several lines.

    None: the ledger did not answer at the end.
    """
    if run is None:
        return "Training succeeded; the ledger did not answer for its figures"
    lines = [
        _headline(run),
        *_rows(run),
        *_chosen(run),
        *_als(run),
        *_lists(run),
        *_clusters(run),
        *_gate(run),
        _phases(run),
    ]
    return "\n".join(lines)


def _headline(run: Mapping[str, Any]) -> str:
    seconds = (run["ended_at"] - run["started_at"]).total_seconds()
    return f"Training {run['run_id']} {run['state']} in {seconds:.1f} s"


def _rows(run: Mapping[str, Any]) -> list[str]:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in run["rows_rejected"].items())
    return [
        f"  reviews      {run['rows_read']:,} read; rejected: {reasons or 'none'}; "
        f"repeated and merged: {run['rows_merged']:,}",
        f"  ratings      {run['ratings']:,} of {run['restaurants']:,} restaurants "
        f"by {run['users']:,} users",
    ]


def _chosen(run: Mapping[str, Any]) -> list[str]:
    chosen = run.get("chosen")
    if not chosen:
        return []
    weights, confidence = chosen["weights"], chosen["confidence"]
    return [
        f"  chosen       alpha {confidence['alpha']:g}, regularisation "
        f"{confidence['reg_param']:g}; bias damping: user {weights['user']:g}, restaurant "
        f"{weights['restaurant']:g}"
    ]


def _als(run: Mapping[str, Any]) -> list[str]:
    error = run["metrics"].get("als")
    if not error:
        return []
    if error["rmse"] is None:
        return [f"  RMSE         none: {error['reason']}"]
    offsets = error["baseline_rmse"]
    beside = "" if offsets is None else f", the users' and restaurants' offsets {offsets:.3f}"
    return [
        f"  RMSE         {error['rmse']:.3f} on {error['rows']:,} held-out ratings, where always "
        f"guessing the mean has {error['mean_rmse']:.3f}{beside}; cold and left out: "
        f"{error['cold']:,}"
    ]


def _lists(run: Mapping[str, Any]) -> list[str]:
    quality = run["metrics"].get("lists")
    if not quality:
        return []
    if quality["ndcg"] is None:
        return [f"  NDCG         none: {quality['reason']}"]
    return [
        f"  NDCG         {quality['ndcg']:.3f} of the lists of {quality['users']:,} users, where "
        f"the popular list has {quality['popular']['ndcg']:.3f} and chance "
        f"{quality['random']['ndcg']:.3f}"
    ]


def _clusters(run: Mapping[str, Any]) -> list[str]:
    figures = run["metrics"].get("clusters")
    if not figures:
        return []
    sizes = f"{figures['smallest']:,} to {figures['largest']:,} users"
    return [
        f"  clusters     {figures['k']} of {figures['space']}, each of {sizes}; mean closeness "
        f"{figures['tightness']:.3f} after {figures['iterations']} iterations",
        *_held_out(figures.get("held_out")),
    ]


def _held_out(quality: Mapping[str, Any] | None) -> list[str]:
    if not quality:
        return []
    if quality["ndcg"] is None:
        return [f"  NDCG         none: {quality['reason']}"]
    return [
        f"  NDCG         {quality['ndcg']:.3f} of the clusters' lists for {quality['users']:,} "
        f"users kept out, where one popular list for all has {quality['popular']['ndcg']:.3f}"
    ]


def _gate(run: Mapping[str, Any]) -> list[str]:
    verdicts = run.get("gate", {}).values()
    return [
        f"  gate         off, so this was published: {reason}"
        for verdict in verdicts
        for reason in verdict["reasons"]
    ]


def _phases(run: Mapping[str, Any]) -> str:
    return "  seconds      " + ", ".join(f"{p['name']} {p['seconds']:.1f}" for p in run["phases"])
