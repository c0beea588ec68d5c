"""The check, before a training, that its documents can replace the published collections."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pymongo.errors import DuplicateKeyError

from recommender.core import mongo_collections as names
from recommender.core.errors import PublishError
from recommender.core.mongo import Document, mongo_errors
from recommender.core.mongo_collections import WRITTEN_BY_A_RUN, copy_indexes, count_misfits
from recommender.data.ids import encode_id
from recommender.data.reviews import reviews_collection
from recommender.publishing.staging import staged
from recommender.runs.run import TrainingRun

# Values of each target's unique field that are not equal to a reader.
_UNEQUAL: dict[str, Sequence[Any]] = {
    names.RECOMMENDATIONS: ("a", "A", "á", "1", "01", " a"),
    names.CLUSTERS: (0, 1),
    names.METADATA: (names.COLUMNS_ID, names.CENTROIDS_ID),
}


def check_targets(run: TrainingRun, targets: Iterable[str] = names.PUBLISHED) -> None:
    """Raise PublishError for a target that is a view or a time series, or refuses samples.

    A validator or a unique index refuses sample documents, which are staged for it and dropped.
    """
    for target in targets:
        with mongo_errors(f"checking {target}"):
            problem = _problem(run, target)
        if problem:
            raise PublishError(
                f"{target} {problem}; nothing was trained or published; change or drop it, or set "
                "another MONGO_DB"
            )


def _problem(run: TrainingRun, target: str) -> str | None:
    """Return why documents of a training cannot replace a collection, or None."""
    live = run.db[target]
    kinds = run.db.list_collections(filter={"name": target})
    kind = next(iter(kinds), {}).get("type", "collection")
    if kind != "collection":
        return f"is a {kind}, and only a plain collection can be replaced"
    sample = _sample(run, target)
    with staged(run.db, target, run.run_id, old=set()) as stage:
        rehearsed = run.db[stage.name]
        rehearsed.insert_one(dict(sample))
        # The documents of the last training are better samples.
        published = live.count_documents(WRITTEN_BY_A_RUN, limit=1)
        if count_misfits(live, live if published else rehearsed, WRITTEN_BY_A_RUN):
            return "has a validator that refuses a training's documents (collMod changes it)"
        rehearsed.delete_many({})
        rehearsed.insert_many([{**sample, stage.unique: value} for value in _UNEQUAL[target]])
        if any(rehearsed.count_documents({stage.unique: each}) > 1 for each in _UNEQUAL[target]):
            return "has a collation that takes different ids for equal"
        try:
            copy_indexes(live, rehearsed)
        except DuplicateKeyError as error:
            name = re.search(r"index: (\S+)", str(error))
            return f"has the unique index {name and name[1]}, which takes different ids for equal"
    return None


def _sample(run: TrainingRun, target: str) -> Document:
    """Return a document of the form that a training publishes, with ids of a review."""
    fields = run.settings.reviews.fields[:2]
    has_ids = {field: {"$ne": None} for field in fields}
    review = next(reviews_collection(run.db).aggregate([{"$match": has_ids}, {"$limit": 1}]), {})
    ids = (review.get(field) for field in fields)
    user, restaurant = (value if isinstance(encode_id(value), str) else "a" for value in ids)
    entry = {"gmap_id": restaurant, "score": 1.0}
    if target == names.METADATA:
        return {"_id": names.COLUMNS_ID, "columns": [restaurant], "run_id": run.run_id}
    if target == names.RECOMMENDATIONS:
        entries = [{**entry, "rating": 4.0}] * run.settings.als.top_n
        return {"user_id": user, "run_id": run.run_id, "recommendations": entries}
    return {
        **dict.fromkeys(("cluster_id", "size", "ratings"), 1),
        **dict.fromkeys(("mean_rating", "mean_distance", "tightness"), 0.5),
        "recommendations": [entry] * run.settings.clusters.top_n,
        "stands_out": [{"gmap_id": restaurant, "share": 0.5, "city_share": 0.1}],
        "run_id": run.run_id,
    }
