"""Counts the users of each cluster of the published model, as the reviews are now."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dists import assign
from recommender.errors import DataError
from recommender.mongo import connect, database
from recommender.published import PublishedModel, load_model
from recommender.ratings import Ratings
from recommender.reviews import read_ratings
from recommender.scripts import configure_logging, run_script, script_parser
from recommender.settings import load_settings

_BAR_WIDTH = 40
_GIANT_SHARE = 0.5
_LEAST_SHARE_PLACED = 0.5
_MOST_MISPLACED = 0.5


def count_users(model: PublishedModel, ratings: Ratings) -> tuple[NDArray[np.int64], int]:
    """Place every user and count.

    Returns
    -------
    counts : int64 (k,)
        Users of each cluster.
    unplaced : int
        Users who share nothing with any cluster.
    """
    labels, nearest = assign(model.vectors(ratings), model.centroids)
    placed = nearest < 1
    counts = np.bincount(labels[placed], minlength=len(model.centroids))
    return counts, int((~placed).sum())


def check_belongs(counts: NDArray[np.int64], unplaced: int, model: PublishedModel) -> None:
    """Raise where the model and the reviews cannot be of the same city.

    Raises
    ------
    DataError
        If the model can place less than half as large a share of the users as in its training, or
        if half of those whom it places would have to be in other clusters for the sizes to fit,
        those aside whom limits left out of the training.
    """
    users = int(counts.sum()) + unplaced
    placed_trained = sum(model.sizes)
    trained = max(placed_trained + model.unplaced + model.left_out, 1)
    share_trained = placed_trained / trained
    if counts.sum() < _LEAST_SHARE_PLACED * share_trained * users:
        raise DataError(
            f"the model of training {model.run_id} can place {counts.sum():,} of {users:,} users "
            "only: it was not trained on these reviews; check MONGO_DB or train anew"
        )
    shares, sizes = counts / max(counts.sum(), 1), np.array(model.sizes) / max(placed_trained, 1)
    misplaced = np.abs(shares - sizes).sum() / 2
    if misplaced > _MOST_MISPLACED + model.left_out / trained:
        raise DataError(
            f"{misplaced:.0%} of the users are in other clusters than the sizes of training "
            f"{model.run_id} say: it was not trained on these reviews; check MONGO_DB or train anew"
        )


def report(counts: NDArray[np.int64], unplaced: int, model: PublishedModel) -> str:
    """Return a line for each cluster, with its count, share and bar, and what stands out."""
    total = int(counts.sum())
    giant = _GIANT_SHARE if len(counts) > 1 else 1.0
    widest = max(int(counts.max()), 1)
    lines = [f"{'cluster':>7} {'users':>10} {'share':>7} {'trained':>10}"]
    for cluster_id, (count, trained) in enumerate(zip(counts.tolist(), model.sizes, strict=True)):
        share = count / max(total, 1)
        bar = "#" * round(_BAR_WIDTH * count / widest)
        flag = " empty" if not count else " giant" if share > giant else ""
        lines.append(f"{cluster_id:>7} {count:>10,} {share:>7.1%} {trained:>10,} {bar}{flag}")
    if model.left_out:
        lines.append(f"counted are also {model.left_out:,} whom the training's limits left out")
    moved = int(np.abs(counts - np.array(model.sizes)).sum())
    lines += [
        f"{total:,} users in {len(counts)} clusters of training {model.run_id}",
        f"{unplaced:,} users share nothing with any cluster and get the city's list",
        "the counts are those of the training"
        if not moved
        else f"since the training, the counts have changed by {moved:,} in all",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print how many users each cluster has."""
    parser = script_parser("Count the users of each cluster of the published model.")
    parser.parse_args(argv)
    settings = load_settings()
    configure_logging(settings)
    with connect(settings) as client:
        model = load_model(database(client, settings))
    counts, unplaced = count_users(model, read_ratings(settings))
    check_belongs(counts, unplaced, model)
    print(report(counts, unplaced, model))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
