"""The summary of a training, printed at its end: a few lines from its ledger document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Pieces of a line by the figure without which they are left out.
_Pieces = dict[str, str]
_LISTS: _Pieces = {
    "shown": "NDCG@{shown} {ndcg:.3f}",
    "ndcg_error": " ± {ndcg_error:.3f}",
    "users": " of {users:,} test users",
    "popular": "; popular list {popular[ndcg]:.3f}",
    "random": ", random {random[ndcg]:.3f}",
}
# Name of the line, path of its figures in the document, pieces.
_LINES: tuple[tuple[str, str, _Pieces], ...] = (
    (
        "reviews",
        "",
        {
            "rows_read": "{rows_read:,} read; rejected: {rejected}; ",
            "rows_merged": "repeated and merged: {rows_merged:,}",
        },
    ),
    ("ratings", "", {"ratings": "{ratings:,} of {restaurants:,} restaurants by {users:,} users"}),
    (
        "chosen",
        "chosen",
        {
            "confidence": "alpha {confidence[alpha]:g}, regularisation {confidence[reg_param]:g}, "
            "rank {confidence[rank]}; ",
            "weights": "bias damping: user {weights[user]:g}, restaurant {weights[restaurant]:g}",
        },
    ),
    (
        "RMSE",
        "metrics.als",
        {
            "rmse": "{rmse:.3f} on {rows:,} test ratings; their mean {mean_rmse:.3f}",
            "baseline_rmse": ", bias alone {baseline_rmse:.3f}",
            "cold": "; cold: {cold:,}",
        },
    ),
    ("lists", "metrics.lists", _LISTS),
    (
        "clusters",
        "metrics.clusters",
        {
            "k": "{k} of {space}, each of {smallest:,} to {largest:,} users; ",
            "tightness": "mean closeness {tightness:.3f} after {iterations} iterations",
        },
    ),
    ("their lists", "metrics.clusters.held_out", _LISTS),
)


def summary_of(run: Mapping[str, Any] | None) -> str:
    """Return the summary of a succeeded run's document; None if the ledger did not answer."""
    if run is None:
        return "Training succeeded; the ledger did not answer for its figures"
    seconds = (run["ended_at"] - run["started_at"]).total_seconds()
    lines = [f"  {name:<12} {text}" for name, text in _lines(run)]
    return "\n".join([f"Training {run['run_id']} {run['state']} in {seconds:.1f} s", *lines])


def _lines(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in run["rows_rejected"].items())
    for name, path, pieces in _LINES:
        figures: Mapping[str, Any] = {**run, "rejected": reasons or "none"}
        for key in path.split(".") if path else ():
            figures = figures.get(key) or {}
        if figures.get("reason"):
            yield name, f"none: {figures['reason']}"
        elif figures:
            present = (text for key, text in pieces.items() if figures.get(key) is not None)
            yield name, "".join(present).format_map(figures)
    for verdict in run.get("gate", {}).values():
        for reason in verdict["reasons"]:
            yield "gate", f"off, so this was published: {reason}"
    yield "seconds", ", ".join(f"{p['name']} {p['seconds']:.1f}" for p in run["phases"])
