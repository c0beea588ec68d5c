"""Shows which cluster a user belongs to, and what the published model recommends there."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dists import distances
from recommender.errors import DataError
from recommender.factors import PublishedFactors, load_factors
from recommender.mongo import Document, MongoDatabase, connect, database, mongo_errors, one_line
from recommender.newcomers import more_rated
from recommender.published import PublishedModel, load_model
from recommender.ratings import Ratings, encode_id, keys_of, positions_in
from recommender.reviews import given_rating, ratings_given, ratings_of_user
from recommender.scripts import configure_logging, run_script, script_parser
from recommender.settings import load_settings

_NEAREST = 3
_FOLDED_IN = 13


def nearest_clusters(model: PublishedModel, ratings: Ratings) -> list[tuple[int, float]]:
    """Return the clusters nearest to the one user of ``ratings``, and their distances.

    Empty where the user has rated nothing that the model knows, or nothing that any cluster
    shares: every cluster is then equally far, and none is the user's.
    """
    rows = model.vectors(ratings)
    if not rows.nnz:
        return []
    found = distances(rows, model.centroids)[0]
    order = np.argsort(found, kind="stable")[:_NEAREST]
    return [(int(i), float(found[i])) for i in order if found[i] < 1]


def unrated(recommendations: list[Document], keys: pa.StringArray) -> list[Document]:
    """Return the recommendations less what the user has rated, given as keys."""
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
    """Return what a person reads about one user, of several lines.

    Parameters
    ----------
    factors
        What the user is folded in with, where it is published.
    ratings
        One user's ratings.
    also_rated
        Keys of restaurants that the user has rated besides, as ``Users`` says.
    names
        Names of restaurants by id, as far as known.
    """
    overlap = model.vectors(ratings).nnz
    lines = [
        f"Model         of training {model.run_id}: {len(model.centroids)} clusters of "
        f"{sum(model.sizes):,} users",
        f"Rated         {len(ratings)} restaurants, {overlap} of them among the model's "
        f"{len(model.columns):,}",
    ]
    if more := int((positions_in(ratings.restaurants, also_rated) < 0).sum()):
        lines.append(f"Left out      besides: {more} that Users says are rated")
    of_cluster, recommendations = _of_cluster(model, ratings)
    lines += of_cluster
    rated = pa.concat_arrays([ratings.restaurants, also_rated])
    lines += _listed(unrated(recommendations, rated), names)
    if factors is not None:
        lines.append(
            f"Folded in     by what is rated, with the factors of training {factors.fitted_by}:"
        )
        lines += _listed(factors.recommend(ratings, _FOLDED_IN, also_rated), names)
    return "\n".join(lines)


def _of_cluster(model: PublishedModel, ratings: Ratings) -> tuple[list[str], list[Document]]:
    """Return the lines that tell of the user's cluster, and what it recommends."""
    nearest = nearest_clusters(model, ratings)
    if not nearest:
        lines = [
            "Cluster       none: no cluster shares anything with this user",
            "Recommended   by the whole city, less what is rated:",
        ]
        return lines, model.fallback
    cluster_id, distance = nearest[0]
    others = ", ".join(f"{other} at {far:.5f}" for other, far in nearest[1:]) or "none"
    lines = [
        f"Cluster       {cluster_id} of {model.sizes[cluster_id]:,} users at distance "
        f"{distance:.5f}; next: {others}",
        f"Recommended   by cluster {cluster_id}, less what is rated:",
    ]
    return lines, model.clusters[cluster_id]["recommendations"]


def _listed(entries: list[Document], names: dict[Any, str]) -> list[str]:
    lines = [] if entries else ["  nothing: all of the list is rated"]
    for place, entry in enumerate(entries, start=1):
        gmap_id = entry["gmap_id"]
        name = f"  {one_line(names[gmap_id])}" if gmap_id in names else ""
        reasons = ", ".join(one_line(str(names.get(i, i))) for i in entry.get("because", []))
        because = f"  because of {reasons}" if reasons else ""
        lines.append(
            f"  {place:>3}. {entry['score']:8.4f}  {one_line(str(gmap_id))}{name}{because}"
        )
    return lines


def restaurant_names(db: MongoDatabase) -> dict[Any, str]:
    """Return the names that a collection ``Restaurants`` gives, where there is one."""
    with mongo_errors("reading Restaurants"):
        found = db["Restaurants"].find({"name": {"$type": "string"}}, {"gmap_id": 1, "name": 1})
        return {row["gmap_id"]: row["name"] for row in found if "gmap_id" in row}


def parse_ratings(text: str) -> dict[str, str]:
    """Read ``gmap_id=rating,gmap_id=rating``.

    Raises
    ------
    argparse.ArgumentTypeError
        If a part is not of that form.
    """
    try:
        return dict(given_rating(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Print the cluster and the recommendations of one user."""
    parser = script_parser("Show a user's cluster and what the published model recommends there.")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("user_id", nargs="?", help="a user with ratings in Reviews or Users")
    who.add_argument(
        "--ratings",
        type=parse_ratings,
        metavar="GMAP_ID=RATING,...",
        help="the ratings of somebody who is not in the database",
    )
    arguments = parser.parse_args(argv)
    settings = load_settings()
    configure_logging(settings)
    with connect(settings) as client:
        db = database(client, settings)
        model = load_model(db)
        if arguments.ratings:
            ratings = ratings_given(settings, arguments.ratings, set(model.columns.to_pylist()))
            also_rated = pa.array([], pa.string())
        else:
            ratings = ratings_of_user(settings, arguments.user_id)
            if len(ratings.users) > 1:
                raise DataError(f"{arguments.user_id!r} stands for {len(ratings.users)} users")
            also_rated = more_rated(db, ratings.users, settings)
        print(report(model, load_factors(db), ratings, also_rated, restaurant_names(db)))
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
