"""The summary of a training, printed at its end: a few lines from its ledger document."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from recommender.core.terminal import print_json, print_table
from recommender.runs.ledger import figure_at
from recommender.runs.run import TrainingRun

# Pieces of a line by the figure without which they are left out.
_Pieces = dict[str, str]
_LISTS: _Pieces = {
    "shown": "NDCG@{shown} {ndcg:.3f}",
    "ndcg_error": " ± {ndcg_error:.3f}",
    "users": " of {users:,} test users",
    "popular": "; popular list {popular[ndcg]:.3f}",
    "random": ", random {random[ndcg]:.3f}",
    "lift_error": "; lift {lift:.3f} ± {lift_error:.3f}",
}
# The pieces of each line, by its name and the path of its figures in the document.
_LINES: dict[tuple[str, str], _Pieces] = {
    ("reviews", ""): {
        "rows_read": "{rows_read:,} read; rejected: {rejected}; ",
        "rows_merged": "repeated and merged: {rows_merged:,}",
    },
    ("ratings", ""): {"ratings": "{ratings:,} of {restaurants:,} restaurants by {users:,} users"},
    ("chosen", "chosen"): {
        "confidence": "alpha {confidence[alpha]:g}, regularisation {confidence[reg_param]:g}, "
        "rank {confidence[rank]}, embedding weight {confidence[embedding_weight]:g}, "
        "item-item weight {confidence[item_item_weight]:g}; ",
        "weights": "bias damping: user {weights[user]:g}, restaurant {weights[restaurant]:g}",
    },
    ("RMSE", "metrics.als"): {
        "rmse": "{rmse:.3f} ± {rmse_error:.3f} on {rows:,} test ratings; "
        "their mean {mean_rmse:.3f}",
        "baseline_rmse": ", bias alone {baseline_rmse:.3f}",
        "cold": "; cold: {cold:,}",
    },
    ("lists", "metrics.lists"): _LISTS,
    ("hindsight", "metrics.hindsight"): {
        "reviews": "{hits:,} of {reviews:,} reviews since {run_id} were in their author's list",
        "popular_hits": "; in the popular list {popular_hits:,}",
    },
    ("clusters", "metrics.clusters"): {
        "k": "{k} of {space}, each of {smallest:,} to {largest:,} users; ",
        "tightness": "mean closeness {tightness:.3f} after {iterations} iterations",
    },
    ("their lists", "metrics.clusters.held_out"): _LISTS,
}

# Name of the line, path of the figure whose change it shows, format.
_CHANGES = (
    ("ratings", "users", "{:+,} users"),
    ("RMSE", "metrics.als.rmse", "{:+.4f}"),
    ("lists", "metrics.lists.ndcg", "{:+.4f}"),
    ("their lists", "metrics.clusters.held_out.ndcg", "{:+.4f}"),
    ("seconds", "seconds", "{:+.1f}"),
)


def print_summary(run: TrainingRun, *, as_json: bool) -> None:
    """Print the figures of a run that has succeeded, or its document of the ledger as JSON."""
    if as_json:
        print_json(run.document or {"run_id": run.run_id, "state": "succeeded"})
    elif run.document is None:
        print_table("Training succeeded; the ledger did not answer for its figures", [])
    else:
        print_table(*summary_of(run.document, run.earlier))


def summary_of(
    run: Mapping[str, Any], earlier: Iterable[Mapping[str, Any]] = ()
) -> tuple[str, Sequence[tuple[str, ...]], tuple[str, ...]]:
    """Return the table: a column shows the change since the latest success with the same steps."""
    kind = run["kind"].replace("_", " ").capitalize()
    title = f"{kind} {run['run_id']} {run['state']} in {_figure(run, 'seconds'):.1f} s"
    successes = (other for other in earlier if other["state"] == "succeeded")
    last = next((other for other in successes if _steps(other) == _steps(run)), None)
    if last is None:
        return title, list(_lines(run)), ()
    changes = {}
    for name, path, form in _CHANGES:
        figures = _figure(run, path), _figure(last, path)
        if None not in figures:
            changes[name] = form.format(figures[0] - figures[1])
    rows = [(name, changes.get(name, ""), text) for name, text in _lines(run)]
    return title, rows, ("", "change", f"since {last['run_id']}")


def _steps(run: Mapping[str, Any]) -> set[str]:
    return {"als", "clusters", "rollback"} & {*run["metrics"], *run}


def _figure(run: Mapping[str, Any], path: str) -> Any:
    """Return the figure at a dotted path of a run's document, or None; the whole for no path."""
    rejected = (f"{count:,} {reason}" for reason, count in run.get("rows_rejected", {}).items())
    seconds = (run["ended_at"] - run["started_at"]).total_seconds()
    figure: Any = {**run, "seconds": seconds, "rejected": ", ".join(rejected) or "none"}
    return figure_at(figure, path) if path else figure


def _lines(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for target, run_id in run.get("rollback", {}).items():
        yield "published", f"{target} of run {run_id}"
    for (name, path), pieces in _LINES.items():
        figures = _figure(run, path) or {}
        present = [text for key, text in pieces.items() if figures.get(key) is not None]
        if figures.get("reason"):
            yield name, f"none: {figures['reason']}"
        elif present:
            yield name, "".join(present).format_map(figures)
    for warning in run.get("warnings", ()):
        yield "warning", warning
    yield "seconds", ", ".join(f"{p['name']} {p['seconds']:.1f}" for p in run["phases"])
