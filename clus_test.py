"""Shows what a user has rated, what the backend serves, and what the published model recommends."""

import argparse
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from dists import distances
from recommender.als.published_factors import load_factors
from recommender.clustering.published_model import PublishedModel, load_model
from recommender.core.errors import DataError
from recommender.core.logs import configure_logging, one_line
from recommender.core.mongo import Document, MongoDatabase, connected, mongo_errors
from recommender.core.mongo_collections import RECOMMENDATIONS
from recommender.core.script import READER_CODES, run_script, script_parser
from recommender.core.settings import load_settings
from recommender.core.terminal import print_json, print_table
from recommender.data.ids import READABLE, KeyIndex, decode_ids
from recommender.data.one_user import ratings_by_id, ratings_from_request, spelled_ids, split_rated
from recommender.data.ratings import Ratings
from recommender.data.restaurants import RestaurantNames, restaurant_names
from recommender.data.reviews import can_be_sent
from recommender.data.users import listed_entries, rated_in_users

_NEAREST = 3
_FOLDED_IN = 13
_RATED_SHOWN = 20
# The lists of a user's document, with their titles.
_LISTS = {
    "rated": "Rated, best first",
    "served": "Served, from the user's document in Recommendations",
    "recommendations": "Recommended by {source}, without rated restaurants",
    "folded_in": "Folded in, recommended by the item factors of training {fitted_by}",
}


def describe(
    db: MongoDatabase, model: PublishedModel, ratings: Ratings, also_rated: pa.StringArray
) -> Document:
    """Return the user of ``ratings`` as a document; ``also_rated`` are keys of more restaurants."""
    to_centroids = distances(model.vectors(ratings), model.centroids)[0]
    order = np.argsort(to_centroids, kind="stable")[:_NEAREST].tolist()
    nearest = [i for i in order if to_centroids[i] < 1]  # 1: no restaurant in common
    cluster = model.clusters[nearest[0]] if nearest else {"recommendations": model.fallback}
    already = KeyIndex(ratings.restaurants)
    for gmap_id in decode_ids(also_rated):
        already.add(gmap_id)
    with mongo_errors("reading Recommendations"):
        published = db.get_collection(RECOMMENDATIONS, READABLE)
        served = published.find_one({"user_id": decode_ids(ratings.users)[0]}) or {}
    factors = load_factors(db)
    lists = {
        "rated": [{"gmap_id": i, "rating": rating} for i, rating, _ in ratings.best_first()],
        "served": listed_entries(served),
        "recommendations": [e for e in listed_entries(cluster) if already.find(e["gmap_id"]) < 0],
        "folded_in": factors.recommend(ratings, _FOLDED_IN, also_rated) if factors else [],
    }
    ids = [entry["gmap_id"] for part in lists.values() for entry in part]
    names = RestaurantNames(ids, restaurant_names(db, ids))
    return {
        "run_id": model.run_id,
        "clusters": len(model.centroids),
        "users": sum(model.sizes),
        "columns": len(model.columns),
        "common": int(model.vectors(ratings).nnz),
        "also_rated": len(already.keys) - len(ratings.restaurants),
        "nearest": [
            {"cluster_id": i, "distance": float(to_centroids[i]), "size": model.sizes[i]}
            for i in nearest
        ],
        "source": f"cluster {nearest[0]}" if nearest else "the fallback list",
        "served_by": served.get("run_id"),
        "fitted_by": factors.fitted_by if factors else None,
    } | {
        name: [{**entry, "name": names.of(entry["gmap_id"])} for entry in part]
        for name, part in lists.items()
    }


def print_user(user: Document) -> None:
    """Print the document of :func:`describe`."""
    rated = f"{len(user['rated'])} restaurants, {user['common']} of the model's {user['columns']:,}"
    if user["also_rated"]:
        rated += f"; {user['also_rated']} more according to Users"
    form = "{cluster_id} of {size:,} users at distance {distance:.5f}"
    clusters = "; next ".join(map(form.format_map, user["nearest"]))
    facts = [
        ("rated", rated),
        ("cluster", clusters or "none: no restaurant in common with any cluster"),
        ("served", f"{len(user['served'])} restaurants by training {user['served_by'] or 'none'}"),
    ]
    print_table("Model {run_id}: {clusters} clusters of {users:,} users".format_map(user), facts)
    names = {str(entry["gmap_id"]): entry["name"] for entry in user["rated"]}
    for name, title in _LISTS.items():
        entries = user[name][:_RATED_SHOWN] if name == "rated" else user[name]
        if entries:
            rows = (_row(rank, entry, names) for rank, entry in enumerate(entries, start=1))
            header = ("", "restaurant", "rating", "score", "because")
            print_table(f"\n{title.format_map(user)}", rows, header, (0, 2, 3))


def _row(rank: int, entry: Document, names: Mapping[str, str | None]) -> Sequence[str]:
    numbers = (entry.get("rating"), entry.get("score"))
    shown = [f"{n:.4g}" if isinstance(n, int | float) else "" for n in numbers]
    because = ", ".join(names.get(str(i)) or str(i) for i in entry.get("because", []))
    return [str(rank), one_line(entry["name"] or entry["gmap_id"]), *shown, one_line(because)]


def rated_argument(text: str) -> dict[str, str]:
    """Read ``gmap_id=rating,gmap_id=rating``, as argparse's type of an argument."""
    try:
        return dict(split_rated(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Print the ratings, the cluster and the recommendations of one user."""
    parser = script_parser(__doc__ or "", *READER_CODES)
    user = parser.add_mutually_exclusive_group(required=True)
    user.add_argument("user_id", nargs="?", help="a user with ratings in Reviews or Users")
    ratings_help = "the ratings of a user who is not in the database"
    form = "GMAP_ID=RATING,..."
    user.add_argument("--ratings", type=rated_argument, metavar=form, help=ratings_help)
    arguments = parser.parse_args(argv)
    settings = load_settings()
    configure_logging(settings)
    with connected(settings.mongo) as db:
        model = load_model(db)
        if arguments.ratings:
            known = KeyIndex(model.columns)
            ratings = ratings_from_request(settings.reviews, arguments.ratings, known)
            also_rated = pa.array([], pa.string())
        else:
            same: Document = {"$in": spelled_ids(arguments.user_id)}
            if not can_be_sent(same):
                raise DataError(f"{arguments.user_id!r} is not valid UTF-8; check the id")
            ratings = ratings_by_id(db, settings.reviews, same)
            if len(ratings.users) > 1:
                raise DataError(
                    f"{arguments.user_id!r} matches {len(ratings.users)} users of different types; "
                    "give one user's ratings by --ratings"
                )
            also_rated = rated_in_users(db, ratings.users)
        described = describe(db, model, ratings, also_rated)
    show = print_json if arguments.json else print_user
    show(described)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
