"""Counts the users of each cluster of the published model in the current reviews."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recommender.clustering.published_model import PublishedModel, load_model
from recommender.core.errors import DataError
from recommender.core.logs import configure_logging
from recommender.core.mongo import connect, database
from recommender.core.script import READER_CODES, run_script, script_parser
from recommender.core.settings import load_settings
from recommender.data.ratings import Ratings
from recommender.data.reviews import read_ratings

_BAR_WIDTH = 40
_GIANT = 0.5
_LEAST_CLUSTERED = 0.5
_MOST_MOVED = 0.5


def count_users(model: PublishedModel, ratings: Ratings) -> tuple[NDArray[np.int64], int]:
    """Return the count of users in each cluster, int64 (k,), and in none."""
    counts = np.bincount(model.labels(ratings) + 1, minlength=len(model.centroids) + 1)
    return counts[1:], int(counts[0])


def check_belongs(counts: NDArray[np.int64], unclustered: int, model: PublishedModel) -> None:
    """Raise DataError if the model was trained on other reviews.

    That is, if the share of users in a cluster is less than half of that at the training, or if
    more than half of them would have to change clusters to match the sizes at the training.
    """
    clustered, trained = int(counts.sum()), sum(model.sizes)
    users, expected = clustered + unclustered, trained / max(trained + model.unclustered, 1)
    moved = np.abs(counts / max(clustered, 1) - np.array(model.sizes) / max(trained, 1)).sum() / 2
    if clustered < _LEAST_CLUSTERED * expected * users:
        problem = f"only {clustered:,} of {users:,} users are in a cluster"
    elif moved > _MOST_MOVED:
        problem = f"{moved:.0%} of the users are in other clusters than at the training"
    else:
        return
    raise DataError(
        f"{problem}: training {model.run_id} used other reviews; check MONGO_DB or train again"
    )


def report(counts: NDArray[np.int64], unclustered: int, model: PublishedModel) -> str:
    """Return one line per cluster, with its count, share and bar, and the totals."""
    total, widest = int(counts.sum()), max(int(counts.max()), 1)
    giant = _GIANT if len(counts) > 1 else 1.0
    lines = [f"{'cluster':>7} {'users':>10} {'share':>7} {'trained':>10}"]
    for cluster_id, (count, trained) in enumerate(zip(counts.tolist(), model.sizes, strict=True)):
        share = count / max(total, 1)
        bar = "#" * round(_BAR_WIDTH * count / widest)
        flag = " empty" if not count else " giant" if share > giant else ""
        lines.append(f"{cluster_id:>7} {count:>10,} {share:>7.1%} {trained:>10,} {bar}{flag}")
    changed = int(np.abs(counts - np.array(model.sizes)).sum())
    lines += [
        f"{total:,} users in {len(counts)} clusters of training {model.run_id}",
        f"{unclustered:,} users are in no cluster and get the fallback list",
        f"counts changed since the training: {changed:,}",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print how many users each cluster has."""
    parser = script_parser("Count the users of each cluster of the published model.", *READER_CODES)
    parser.parse_args(argv)
    settings = load_settings()
    configure_logging(settings)
    with connect(settings) as client:
        model = load_model(database(client, settings))
    counts, unclustered = count_users(model, read_ratings(settings))
    check_belongs(counts, unclustered, model)
    print(report(counts, unclustered, model))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
