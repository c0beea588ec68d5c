"""Shows a user's cluster and recommendations from the published model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from dists import distances
from recommender.als.published_factors import load_factors
from recommender.clustering.published_model import PublishedModel, load_model
from recommender.core.errors import DataError
from recommender.core.logs import configure_logging, one_line
from recommender.core.mongo import Document, MongoDatabase, connect, database
from recommender.core.script import READER_CODES, run_script, script_parser
from recommender.core.settings import load_settings
from recommender.data.ids import KeyIndex, positions_in
from recommender.data.one_user import parse_rating, ratings_from_request, ratings_of_user
from recommender.data.ratings import Ratings
from recommender.data.restaurants import restaurant_names
from recommender.data.users import rated_in_users

_NEAREST = 3
_FOLDED_IN = 13


def nearest_clusters(model: PublishedModel, ratings: Ratings) -> list[tuple[int, float]]:
    """Return the user's nearest clusters with their distances; none without common restaurants."""
    to_centroids = distances(model.vectors(ratings), model.centroids)[0]
    order = np.argsort(to_centroids, kind="stable")[:_NEAREST]
    return [(int(i), float(to_centroids[i])) for i in order if to_centroids[i] < 1]


def report(
    db: MongoDatabase, model: PublishedModel, ratings: Ratings, also_rated: pa.StringArray
) -> Iterator[str]:
    """Yield the lines on the user of ``ratings``; ``also_rated`` are keys of more restaurants."""
    k, users, columns = len(model.centroids), sum(model.sizes), len(model.columns)
    common = model.vectors(ratings).nnz
    yield f"Model         {model.run_id}: {k} clusters of {users:,} users"
    yield f"Rated         {len(ratings)} restaurants, {common} of them of the model's {columns:,}"
    if more := int((positions_in(ratings.restaurants, also_rated) < 0).sum()):
        yield f"Excluded      {more} more, rated according to Users"
    nearest = nearest_clusters(model, ratings)
    if nearest:
        (cluster_id, distance), *others = nearest
        after = ", ".join(f"{other} at {d:.5f}" for other, d in others) or "none"
        size = model.sizes[cluster_id]
        yield f"Cluster       {cluster_id} of {size:,} users, distance {distance:.5f}, next {after}"
        source = f"cluster {cluster_id}"
        recommendations = model.clusters[cluster_id]["recommendations"]
    else:
        yield "Cluster       none: the user has no restaurant in common with any cluster"
        source, recommendations = "the fallback list", model.fallback
    rated = KeyIndex(pa.concat_arrays([ratings.restaurants, also_rated]))
    unrated = [entry for entry in recommendations if rated.find(entry["gmap_id"]) < 0]
    yield f"Recommended   by {source}, without rated restaurants:"
    yield from entry_lines(db, unrated)
    if factors := load_factors(db):
        yield f"Folded in     recommended by the item factors of training {factors.fitted_by}:"
        yield from entry_lines(db, factors.recommend(ratings, _FOLDED_IN, also_rated))


def entry_lines(db: MongoDatabase, entries: Sequence[Document]) -> Iterator[str]:
    """Yield a line per recommendation: rank, score, id, known name, and reasons if any."""
    if not entries:
        yield "  none: the user has rated the whole list"
    ids = {i for entry in entries for i in (entry["gmap_id"], *entry.get("because", []))}
    names = restaurant_names(db, ids)
    for rank, entry in enumerate(entries, start=1):
        gmap_id, reasons = entry["gmap_id"], entry.get("because")
        line = f"  {rank:>3}. {entry['score']:8.4f}  {one_line(str(gmap_id))}"
        if gmap_id in names:
            line += f"  {one_line(names[gmap_id])}"
        if reasons:
            line += f"  because of {', '.join(one_line(str(names.get(i, i))) for i in reasons)}"
        yield line


def parse_ratings(text: str) -> dict[str, str]:
    """Read ``gmap_id=rating,gmap_id=rating``, as argparse's type of an argument."""
    try:
        return dict(parse_rating(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Print the cluster and the recommendations of one user."""
    parser = script_parser(__doc__ or "", *READER_CODES)
    user = parser.add_mutually_exclusive_group(required=True)
    user.add_argument("user_id", nargs="?", help="a user with ratings in Reviews or Users")
    user.add_argument(
        "--ratings",
        type=parse_ratings,
        metavar="GMAP_ID=RATING,...",
        help="the ratings of a user who is not in the database",
    )
    arguments = parser.parse_args(argv)
    settings = load_settings()
    configure_logging(settings)
    with connect(settings) as client:
        db = database(client, settings)
        model = load_model(db)
        if arguments.ratings:
            known = set(model.columns.to_pylist())
            ratings = ratings_from_request(settings, arguments.ratings, known)
            also_rated = pa.array([], pa.string())
        else:
            ratings = ratings_of_user(settings, arguments.user_id)
            if len(ratings.users) > 1:
                raise DataError(
                    f"{arguments.user_id!r} matches {len(ratings.users)} users of different types; "
                    "give one user's ratings by --ratings"
                )
            also_rated = rated_in_users(db, ratings.users)
        print("\n".join(report(db, model, ratings, also_rated)))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
