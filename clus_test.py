"""Shows a user's cluster and recommendations from the published model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dists import distances
from recommender.als.published_factors import PublishedFactors, load_factors
from recommender.clustering.published_model import PublishedModel, load_model
from recommender.core.errors import DataError
from recommender.core.logs import configure_logging, one_line
from recommender.core.mongo import Document, MongoDatabase, connect, database, mongo_errors
from recommender.core.script import READER_CODES, run_script, script_parser
from recommender.core.settings import load_settings
from recommender.data.ids import encode_id, keys_of, positions_in
from recommender.data.one_user import parse_rating, ratings_from_request, ratings_of_user
from recommender.data.ratings import Ratings
from recommender.data.users import rated_in_users

_NEAREST = 3
_FOLDED_IN = 13


def nearest_clusters(model: PublishedModel, ratings: Ratings) -> list[tuple[int, float]]:
    """Return the clusters nearest to the one user of ``ratings``, with their distances.

    Empty for a user without a common restaurant with any cluster.
    """
    to_centroids = distances(model.vectors(ratings), model.centroids)[0]
    order = np.argsort(to_centroids, kind="stable")[:_NEAREST]
    return [(int(i), float(to_centroids[i])) for i in order if to_centroids[i] < 1]


def unrated(recommendations: list[Document], keys: pa.StringArray) -> list[Document]:
    """Return the recommendations without the restaurants of these keys."""
    listed = keys_of(entry["gmap_id"] for entry in recommendations)
    rated = set(listed.filter(pa.array(positions_in(keys, listed) >= 0)).to_pylist())
    return [entry for entry in recommendations if encode_id(entry["gmap_id"]) not in rated]


def report(
    model: PublishedModel,
    factors: PublishedFactors | None,
    ratings: Ratings,
    also_rated: pa.StringArray,
    names: dict[Any, str],
) -> str:
    """Return the report on one user, of several lines.

    Parameters
    ----------
    factors
        Item factors to fold the user in with, if published.
    ratings
        One user's ratings.
    also_rated
        Keys of further restaurants that the user has rated, from ``Users``.
    names
        Known names of restaurants by id.
    """
    overlap = model.vectors(ratings).nnz
    lines = [
        f"Model         {model.run_id}: {len(model.centroids)} clusters of "
        f"{sum(model.sizes):,} users",
        f"Rated         {len(ratings)} restaurants, {overlap} of them among the model's "
        f"{len(model.columns):,}",
    ]
    if more := int((positions_in(ratings.restaurants, also_rated) < 0).sum()):
        lines.append(f"Excluded      {more} more, rated according to Users")
    of_cluster, recommendations = _of_cluster(model, ratings)
    lines += of_cluster
    rated = pa.concat_arrays([ratings.restaurants, also_rated])
    lines += _listed(unrated(recommendations, rated), names)
    if factors is not None:
        lines.append(f"Folded in     recommended by the item factors of {factors.fitted_by}:")
        lines += _listed(factors.recommend(ratings, _FOLDED_IN, also_rated), names)
    return "\n".join(lines)


def _of_cluster(model: PublishedModel, ratings: Ratings) -> tuple[list[str], list[Document]]:
    """Return the lines about the user's cluster, and its recommendations."""
    nearest = nearest_clusters(model, ratings)
    if not nearest:
        lines = [
            "Cluster       none: the user has no restaurant in common with any cluster",
            "Recommended   by the fallback list, without rated restaurants:",
        ]
        return lines, model.fallback
    cluster_id, distance = nearest[0]
    others = ", ".join(f"{other} at {distance:.5f}" for other, distance in nearest[1:]) or "none"
    lines = [
        f"Cluster       {cluster_id} of {model.sizes[cluster_id]:,} users, distance "
        f"{distance:.5f}; next: {others}",
        f"Recommended   by cluster {cluster_id}, without rated restaurants:",
    ]
    return lines, model.clusters[cluster_id]["recommendations"]


def _listed(entries: list[Document], names: dict[Any, str]) -> list[str]:
    lines = [] if entries else ["  none: the user has rated the whole list"]
    for rank, entry in enumerate(entries, start=1):
        gmap_id = entry["gmap_id"]
        name = f"  {one_line(names[gmap_id])}" if gmap_id in names else ""
        reasons = ", ".join(one_line(str(names.get(i, i))) for i in entry.get("because", []))
        because = f"  because of {reasons}" if reasons else ""
        lines.append(f"  {rank:>3}. {entry['score']:8.4f}  {one_line(str(gmap_id))}{name}{because}")
    return lines


def restaurant_names(db: MongoDatabase) -> dict[Any, str]:
    """Return the names in the collection ``Restaurants`` by id."""
    with mongo_errors("reading Restaurants"):
        rows = db["Restaurants"].find({"name": {"$type": "string"}}, {"gmap_id": 1, "name": 1})
        return {row["gmap_id"]: row["name"] for row in rows if "gmap_id" in row}


def parse_ratings(text: str) -> dict[str, str]:
    """Read ``gmap_id=rating,gmap_id=rating``.

    Raises
    ------
    argparse.ArgumentTypeError
        If a part is not of that form.
    """
    try:
        return dict(parse_rating(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Print the cluster and the recommendations of one user."""
    parser = script_parser(
        "Show a user's cluster and recommendations from the published model.", *READER_CODES
    )
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
            ratings = ratings_from_request(
                settings, arguments.ratings, set(model.columns.to_pylist())
            )
            also_rated = pa.array([], pa.string())
        else:
            ratings = ratings_of_user(settings, arguments.user_id)
            if len(ratings.users) > 1:
                raise DataError(
                    f"{arguments.user_id!r} matches {len(ratings.users)} users of different types; "
                    "give one user's ratings by --ratings"
                )
            also_rated = rated_in_users(db, ratings.users)
        print(report(model, load_factors(db), ratings, also_rated, restaurant_names(db)))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
