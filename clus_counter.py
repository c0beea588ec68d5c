"""Counts the users of each cluster of the published model in the current reviews."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recommender.clustering.published_model import PublishedModel, load_model
from recommender.core.logs import configure_logging
from recommender.core.mongo import Document, connected
from recommender.core.script import READER_CODES, run_script, script_parser
from recommender.core.settings import load_settings
from recommender.core.terminal import print_json, print_table
from recommender.data.ratings import Ratings
from recommender.data.reviews import read_ratings

_BAR_WIDTH = 40
_GIANT = 0.5


def count_users(model: PublishedModel, ratings: Ratings) -> tuple[NDArray[np.int64], int]:
    """Return the count of users in each cluster, int64 (k,), and in none."""
    counts = np.bincount(model.labels(ratings) + 1, minlength=len(model.centroids) + 1)
    return counts[1:], int(counts[0])


def describe(counts: NDArray[np.int64], unclustered: int, model: PublishedModel) -> Document:
    """Return the counts as a document, with each cluster's share and its size at the training."""
    total, giant = int(counts.sum()), _GIANT if len(counts) > 1 else 1.0
    clusters = []
    for cluster_id, (count, trained) in enumerate(zip(counts.tolist(), model.sizes, strict=True)):
        share = count / max(total, 1)
        flag = "empty" if not count else "giant" if share > giant else ""
        figures = {"users": count, "share": share, "trained": trained, "flag": flag}
        clusters.append({"cluster_id": cluster_id, **figures})
    changed = int(np.abs(counts - np.array(model.sizes)).sum())
    totals = {"users": total, "unclustered": unclustered, "changed": changed}
    return {"run_id": model.run_id, **totals, "clusters": clusters}


def print_counts(counted: Document) -> None:
    """Print the document of :func:`describe`: a line per cluster with a bar, and the totals."""
    clusters = counted["clusters"]
    widest = max(1, *(cluster["users"] for cluster in clusters))
    form = "{cluster_id} {users:,} {share:.1%} {trained:,} {flag}"
    bars = ("#" * round(_BAR_WIDTH * cluster["users"] / widest) for cluster in clusters)
    rows = [(*form.format_map(c).split(" "), bar) for c, bar in zip(clusters, bars, strict=True)]
    title = f"{counted['users']:,} users in {len(rows)} clusters of training {counted['run_id']}"
    print_table(title, rows, ("id", "users", "share", "trained", "", ""), range(4))
    print(f"{counted['unclustered']:,} users are in no cluster and get the fallback list")
    print(f"counts changed since the training: {counted['changed']:,}")


def main(argv: Sequence[str] | None = None) -> int:
    """Print how many users each cluster has."""
    parser = script_parser("Count the users of each cluster of the published model.", *READER_CODES)
    arguments = parser.parse_args(argv)
    settings = load_settings()
    configure_logging(settings)
    with connected(settings.mongo) as db:
        model = load_model(db)
    counts, unclustered = count_users(model, read_ratings(settings))
    show = print_json if arguments.json else print_counts
    show(describe(counts, unclustered, model))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
